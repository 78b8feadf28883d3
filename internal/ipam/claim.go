package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// port is one port of a Service.
type port struct {
	protocol lb.Protocol
	number   uint16
}

// share is what Services on one address must have in common. Local is part of it,
// because a Local Service without selector is no Cluster one.
type share struct {
	key      string
	local    bool
	selector string
}

// claim is what of a Service matters here; the rest of it is not kept.
type claim struct {
	key                     lb.ServiceKey
	born                    int64
	labels, namespaceLabels map[string]string
	// wanted are the families of its addresses, in order, none twice.
	wanted []lb.Family
	policy lb.FamilyPolicy
	// ports are sorted, none twice.
	ports []port
	share share
	// asked are the addresses and pool the names that the user gave, has what the
	// status says.
	asked []netip.Addr
	pool  string
	has   []netip.Addr
	fatal string
}

// claimOf reads a Service. Its maps are kept, not copied.
func claimOf(s lb.Service) claim {
	c := claim{
		key: s.Key, born: s.Born, labels: s.Labels, namespaceLabels: s.NamespaceLabels,
		wanted: wanted(s), policy: s.Policy, ports: make([]port, 0, len(s.Ports)),
		share: share{key: s.SharedKey, local: s.Local}, pool: s.Pool, asked: plain(s.Addresses),
	}
	if s.Local {
		c.share.selector = s.Selector
	}
	for _, p := range s.Ports {
		c.ports = append(c.ports, port{p.Protocol, p.Port})
	}
	slices.SortFunc(c.ports, func(a, b port) int {
		return cmp.Or(strings.Compare(string(a.protocol), string(b.protocol)), cmp.Compare(a.number, b.number))
	})
	c.ports = slices.Compact(c.ports)
	if has := plain(s.Has); !s.Foreign && !twice(has) {
		c.has = has
	}
	for _, i := range s.Issues {
		if i.Fatal {
			c.fatal = i.Field + ": " + i.Problem
			break
		}
	}
	return c
}

// wanted are the families in which a Service shall have an address.
func wanted(s lb.Service) []lb.Family {
	var out []lb.Family
	for _, f := range s.Families {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	if len(out) > 1 && s.Policy != lb.PreferDualStack && s.Policy != lb.RequireDualStack {
		out = out[:1]
	}
	return out
}

// plain takes zones and the IPv6 form of IPv4 off, and what is no address out.
func plain(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range addrs {
		if addr.IsValid() && !slices.Contains(out, addr.Unmap().WithZone("")) {
			out = append(out, addr.Unmap().WithZone(""))
		}
	}
	return out
}

// twice says whether two of the addresses are of one family. No allocator gives
// that: such a status is a list of nodes (klipper-lb).
func twice(addrs []netip.Addr) bool {
	for i, addr := range addrs {
		if ofFamily(addrs[i+1:], lb.FamilyOf(addr)).IsValid() {
			return true
		}
	}
	return false
}

// ofFamily is the first address of a family, or the zero Addr.
func ofFamily(addrs []netip.Addr, f lb.Family) netip.Addr {
	for _, addr := range addrs {
		if lb.FamilyOf(addr) == f {
			return addr
		}
	}
	return netip.Addr{}
}

// inOrder sorts one address per family as the Service's families stand.
func (c *claim) inOrder(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, f := range c.wanted {
		if addr := ofFamily(addrs, f); addr.IsValid() {
			out = append(out, addr)
		}
	}
	return out
}

// namespace is the part of the key before the slash.
func (c *claim) namespace() string {
	ns, _, _ := strings.Cut(string(c.key), "/")
	return ns
}

// unfit refuses a claim that no pool can satisfy.
func (c *claim) unfit() *Refusal {
	switch {
	case c.fatal != "":
		return refuse(Invalid, "no address is given until this is mended: %s", c.fatal)
	case len(c.wanted) == 0:
		return refuse(NoClusterIPs, "the Service has no cluster IP, so its address family is not known; "+
			"remove clusterIP: None from its spec")
	case c.policy == lb.RequireDualStack && len(c.wanted) < 2:
		return refuse(NotDualStack, "ipFamilyPolicy is RequireDualStack and the Service has cluster IPs of one family "+
			"only; enable dual stack in the cluster, or use PreferDualStack")
	}
	return nil
}

// choices are the sets of families to try, the best first (KEP-563): a Service
// that only prefers dual stack takes one family rather than none.
func (c *claim) choices() [][]lb.Family {
	if len(c.wanted) == 2 && c.policy == lb.PreferDualStack {
		return [][]lb.Family{c.wanted, c.wanted[:1], c.wanted[1:]}
	}
	return [][]lb.Family{c.wanted}
}

// content says whether a Service needs no other addresses than these of one pool:
// for the sake of a second family that it only prefers it does not leave a pool.
func (c *claim) content(held []netip.Addr) bool {
	return len(held) == len(c.wanted) || len(held) > 0 && c.policy == lb.PreferDualStack
}

// likes says whether the Service names the pool, or none.
func (c *claim) likes(p *pool) bool { return c.pool == "" || c.pool == p.Name }

// before orders Services by age, then name: it must not depend on the order in
// which a list or a watch delivers them.
func (c *claim) before(d *claim) int {
	return cmp.Or(cmp.Compare(c.born, d.born), cmp.Compare(c.key, d.key))
}
