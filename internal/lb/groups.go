package lb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Group is virtual IPs of Services that always move together: one Lease, one
// holder.
type Group struct {
	// Name is the Lease's, a DNS label.
	Name string
	// Pool names the pool of all its addresses.
	Pool string
	VIPs []netip.Addr
	// Local: only Nodes may hold it, those with an endpoint that takes connections.
	Local bool
	Nodes []string
	// Proxied: HAProxy serves some of its addresses.
	Proxied bool
	// NodeSelector restricts the nodes further; from the Services, all alike. Rule
	// names pool and selector together.
	NodeSelector map[string]string
	Rule         string
}

// RuleOf names a pool together with a selector of nodes: a node says by these names
// what it may hold, so that nobody needs to know its labels.
func RuleOf(pool string, selector map[string]string) string {
	if len(selector) == 0 {
		return pool
	}
	return pool + "/" + digest(fmt.Sprint(selector))[:16] // fmt sorts a map's keys
}

// maxPoolName is what of a pool's name a Lease's name has room for.
const maxPoolName = 40

// Groups spreads the addresses of Services over groups: those of a pool with the
// same rule of placement over its shards, by a hash of the address, so that no
// Service's coming or going moves another; those of a Local Service have one of
// their own. Services without an address, and addresses of no pool, are in none.
// The order of the input does not matter.
func Groups(services []Service, pools []Pool) []Group {
	byName := map[string]*Group{}
	taken := map[netip.Addr]string{}
	services = slices.Clone(services)
	slices.SortFunc(services, func(a, b Service) int { return strings.Compare(string(a.Key), string(b.Key)) })
	for i := range services {
		s := &services[i]
		for _, ip := range s.Has {
			pool := poolOf(ip, pools)
			if pool == nil {
				continue
			}
			name, shared := taken[ip]
			if !shared {
				name = groupName(s, ip, pool)
				taken[ip] = name
			}
			g := byName[name]
			if g == nil {
				g = &Group{Name: name, Pool: pool.Name, Local: s.Local, NodeSelector: s.NodeSelector,
					Rule: RuleOf(pool.Name, s.NodeSelector)}
				byName[name] = g
			}
			if !shared {
				g.VIPs = append(g.VIPs, ip)
			}
			g.Proxied = g.Proxied || s.DataPath == DataPathProxy
			if s.Local {
				g.Nodes = append(g.Nodes, servingNodes(s)...)
			}
		}
	}
	out := make([]Group, 0, len(byName))
	for _, g := range byName {
		slices.SortFunc(g.VIPs, netip.Addr.Compare)
		slices.Sort(g.Nodes)
		g.Nodes = slices.Compact(g.Nodes)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// poolOf is the pool that has the address, the first by priority and name.
func poolOf(ip netip.Addr, pools []Pool) *Pool {
	var found *Pool
	for i := range pools {
		if pools[i].Contains(ip) && (found == nil || pools[i].before(found)) {
			found = &pools[i]
		}
	}
	return found
}

// Contains says whether the address is in one of the pool's ranges.
func (p *Pool) Contains(ip netip.Addr) bool {
	ip = ip.Unmap()
	return slices.ContainsFunc(p.Ranges, func(r Range) bool {
		return r.From.Is4() == ip.Is4() && r.From.Compare(ip) <= 0 && ip.Compare(r.To) <= 0
	})
}

// before orders pools: the least priority first, 0 last, then by name.
func (p *Pool) before(q *Pool) bool {
	if p.Priority != q.Priority && p.Priority != 0 {
		return q.Priority == 0 || p.Priority < q.Priority
	}
	return p.Priority == q.Priority && p.Name < q.Name
}

// groupName names the group of a Service's address.
func groupName(s *Service, ip netip.Addr, pool *Pool) string {
	short := strings.ReplaceAll(pool.Name, ".", "-")
	if len(short) > maxPoolName || short != pool.Name {
		short = short[:min(len(short), maxPoolName-9)] + "-" + digest(pool.Name)[:8]
	}
	if s.Local {
		return "local-" + digest(pool.Name + " " + ip.String())[:16]
	}
	rule := ""
	if len(s.NodeSelector) > 0 {
		rule = "-" + digest(fmt.Sprint(s.NodeSelector))[:8] // fmt sorts a map's keys
	}
	h := fnv.New32a()
	_, _ = h.Write(ip.AsSlice())
	return fmt.Sprintf("pool-%s%s-%d", short, rule, h.Sum32()%uint32(max(pool.Shards, 1)))
}

// digest is a short name for a text.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// servingNodes are the nodes with an endpoint of the Service that takes
// connections; where none is ready, those that serve while they end (KEP-1669).
func servingNodes(s *Service) []string {
	var ready, ending []string
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			switch {
			case e.Node == "":
			case e.Ready:
				ready = append(ready, e.Node)
			case e.Serving && e.Terminating:
				ending = append(ending, e.Node)
			}
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return ending
}

// SamePlace says that what Groups makes of the one Service it makes of the other:
// most changes of Services are of endpoints alone.
func SamePlace(a, b *Service) bool {
	nodes := func(s *Service) []string {
		if !s.Local {
			return nil
		}
		out := servingNodes(s)
		slices.Sort(out)
		return slices.Compact(out)
	}
	return a.Key == b.Key && a.Local == b.Local && a.DataPath == b.DataPath && a.TLSSecret == b.TLSSecret && slices.Equal(a.Has, b.Has) &&
		maps.Equal(a.NodeSelector, b.NodeSelector) && slices.Equal(nodes(a), nodes(b))
}

// Frontends are what HAProxy shall serve of the Services: one frontend for each
// TCP port of each Service in the proxy data path that has an address of a pool:
// whatever else a status says, another load balancer's nodes for example, nobody
// listens there. node is this one, to whose own endpoints Local Services are
// restricted.
func Frontends(services []Service, pools []Pool, node string) []Frontend {
	var out []Frontend
	shifts := shiftsOf(services)
	for i := range services {
		s := services[i]
		s.Has = slices.DeleteFunc(slices.Clone(s.Has), func(ip netip.Addr) bool {
			return !slices.ContainsFunc(pools, func(p Pool) bool { return p.Contains(ip) })
		})
		if s.DataPath != DataPathProxy || len(s.Has) == 0 {
			continue
		}
		if s.TLSSecret != "" && s.Front.TLS == "" {
			continue // its clients want TLS; without the certificate they get nothing
		}
		for _, p := range s.Ports {
			if p.Protocol == TCP {
				f := frontend(&s, p, node)
				if s.Modeless {
					shift(&f, shifts)
				}
				out = append(out, f)
			}
		}
	}
	slices.SortFunc(out, func(a, b Frontend) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// FrontendName names the frontend of a Service's port after namespace, name and port,
// "shop_web_80", so that they can be read in HAProxy's metrics. None of the three has
// an underscore (they are DNS labels), so that two Services never have one name.
func FrontendName(key ServiceKey, port uint16) string {
	namespace, name, _ := strings.Cut(string(key), "/")
	return namespace + "_" + name + "_" + strconv.Itoa(int(port))
}

// frontend is one port.
func frontend(s *Service, p ServicePort, node string) Frontend {
	front := s.Front
	f := Frontend{Name: FrontendName(s.Key, p.Port), Front: &front}
	for _, ip := range s.Has {
		f.Binds = append(f.Binds, netip.AddrPortFrom(ip, p.Port))
	}
	f.Backends = backendsOf(p.Endpoints, func(e Endpoint) bool { return !s.Local || e.Node == node })
	return f
}

// backendsOf are the endpoints that take connections. While one is ready, those
// that end keep what they have; when none is, they take all (KEP-1669).
func backendsOf(all []Endpoint, here func(Endpoint) bool) []Backend {
	anyReady := slices.ContainsFunc(all, func(e Endpoint) bool { return here(e) && e.Ready })
	seen := map[netip.AddrPort]bool{}
	var out []Backend
	for _, e := range all {
		takes := e.Ready || e.Serving && e.Terminating
		if !here(e) || seen[e.Addr] || !takes {
			continue
		}
		seen[e.Addr] = true
		b := BackendAt(e.Addr)
		b.Drain = anyReady && !e.Ready
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	return out
}
