package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// serviceReport is what the agent's socket says of one Service.
type serviceReport struct {
	Service lb.ServiceKey `json:"service"`
	// Node is the one that says this.
	Node      string       `json:"node"`
	Addresses []addressOn  `json:"addresses"`
	Path      lb.DataPath  `json:"dataPath"`
	Local     bool         `json:"local,omitempty"`
	Ports     []portReport `json:"ports"`
	Issues    []lb.Issue   `json:"issues,omitempty"`
	// Proxied says whether this node's HAProxy runs with what is wanted, Why why not.
	Proxied bool   `json:"proxied,omitempty"`
	Why     string `json:"why,omitempty"`
	// Front is how HAProxy serves it; NoCertificate says that it does not, for want of
	// the certificate that clients expect.
	Front         *lb.Front `json:"front,omitempty"`
	NoCertificate bool      `json:"noCertificate,omitempty"`
	// Unread says that the pools or Services have not been read whole, so that nobody
	// who asks this node gets an address.
	Unread bool `json:"unread,omitempty"`
	// Clients are what they meet, by address and port.
	Clients []clientView `json:"clients,omitempty"`
}

// addressOn is one of a Service's addresses.
type addressOn struct {
	IP    netip.Addr `json:"ip"`
	Pool  string     `json:"pool,omitempty"`
	Group string     `json:"group,omitempty"`
	// Asked says what of the Service asks for this address or pool, "" for nothing;
	// With are the Services that share it.
	Asked string          `json:"asked,omitempty"`
	With  []lb.ServiceKey `json:"with,omitempty"`
	// Holder as this node's agent knows it, State what this node is to the group; that
	// is "" where it is no candidate, and then Barred says why.
	Holder string `json:"holder,omitempty"`
	State  string `json:"state,omitempty"`
	Barred string `json:"barred,omitempty"`
	// Since is when the holder took it, Cause why; only a candidate knows.
	Since time.Time      `json:"since,omitzero"`
	Cause election.Cause `json:"cause,omitempty"`
	// Last is when this node last took, kept or gave up the group.
	Last *agent.Move `json:"last,omitempty"`
	// Candidates may hold it now, Preferred is the one that would begin with it.
	Candidates []string `json:"candidates,omitempty"`
	Preferred  string   `json:"preferred,omitempty"`
}

// here says whether this node holds the address, or still does.
func (a addressOn) here() bool {
	return a.State == election.Holding.String() || a.State == election.Draining.String()
}

// portReport is one port with its endpoints.
type portReport struct {
	Protocol lb.Protocol `json:"protocol"`
	Port     uint16      `json:"port"`
	// Behind is where HAProxy listens for it, if that is another port.
	Behind uint16     `json:"behind,omitempty"`
	Ready  []endpoint `json:"ready,omitempty"`
	// Draining keep the connections that they have.
	Draining []endpoint `json:"draining,omitempty"`
	// Servers are those of this node's HAProxy, also such as are no endpoints any more;
	// Asked says that it was asked and answered.
	Servers []haproxy.ServerState `json:"servers,omitempty"`
	Asked   bool                  `json:"asked,omitempty"`
	// Skipped is why this node's HAProxy leaves the port out, Pending that it waits for
	// a reload.
	Skipped string `json:"skipped,omitempty"`
	Pending bool   `json:"pending,omitempty"`
}

// endpoint is a pod's address and port.
type endpoint struct {
	Addr netip.AddrPort `json:"addr"`
	Node string         `json:"node,omitempty"`
}

// reports describes the Services, in order, or the one of a name, for which HAProxy is
// asked.
func (s *services) reports(ctx context.Context, only lb.ServiceKey) []serviceReport {
	all, pools, ready := s.snapshot()
	tell := s.telling(all, pools)
	state := s.proxy.State()
	behind := map[string]uint16{}
	for _, f := range lb.Frontends(all, pools, s.n.cfg.Node) {
		for _, r := range f.Redirects {
			behind[f.Name] = r.To
		}
	}
	out := []serviceReport{}
	for i := range all {
		v := &all[i]
		if only != "" && v.Key != only {
			continue
		}
		r := serviceReport{
			Service: v.Key, Node: s.n.cfg.Node, Path: v.DataPath, Local: v.Local, Issues: v.Issues,
			Ports: portsOf(v), Unread: !ready && !s.leaves(),
		}
		for _, ip := range v.Has {
			r.Addresses = append(r.Addresses, tell.address(v, ip))
		}
		if v.DataPath == lb.DataPathProxy {
			r.Front, r.NoCertificate = &v.Front, v.TLSSecret != "" && v.Front.TLS == ""
			r.Proxied, r.Why = state.Serving, state.Why
			for j, p := range r.Ports {
				r.Ports[j].Behind = behind[lb.FrontendName(v.Key, p.Port)]
			}
			s.proxied(ctx, &r, state, only != "")
		}
		if only != "" {
			r.Clients = r.clients()
		}
		out = append(out, r)
	}
	return out
}

// proxied adds what HAProxy says of each port.
func (s *services) proxied(ctx context.Context, r *serviceReport, state lb.ProxyState, asking bool) {
	for i := range r.Ports {
		p := &r.Ports[i]
		name := lb.FrontendName(r.Service, p.Port)
		p.Skipped, p.Pending = state.Skipped[name], slices.Contains(state.Pending, name)
		if !asking || p.Protocol != lb.TCP {
			continue
		}
		servers, err := s.proxy.Servers(ctx, name)
		p.Servers, p.Asked = servers, err == nil
	}
}

// leaves says that this node gives all its groups away.
func (s *services) leaves() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving
}

// telling is what describes addresses.
type telling struct {
	s       *services
	groups  map[netip.Addr]lb.Group
	shares  map[string]*share
	users   map[netip.Addr][]lb.ServiceKey
	prefer  map[string]string
	members []election.Member
}

func (s *services) telling(all []lb.Service, pools []lb.Pool) telling {
	groups := lb.Groups(all, pools)
	t := telling{
		s: s, groups: map[netip.Addr]lb.Group{}, shares: map[string]*share{}, users: map[netip.Addr][]lb.ServiceKey{},
		prefer: s.preferred(groups), members: s.n.members(),
	}
	for _, g := range groups {
		for _, ip := range g.VIPs {
			t.groups[ip] = g
		}
	}
	for _, sh := range *s.open.Load() {
		t.shares[sh.name] = sh
	}
	for i := range all {
		for _, ip := range all[i].Has {
			t.users[ip] = append(t.users[ip], all[i].Key)
		}
	}
	return t
}

// address describes one address of a Service.
func (t telling) address(v *lb.Service, ip netip.Addr) addressOn {
	g := t.groups[ip]
	a := addressOn{IP: ip, Pool: g.Pool, Group: g.Name, Preferred: t.prefer[g.Name]}
	switch {
	case slices.Contains(v.Addresses, ip):
		a.Asked = "the Service asks for this address"
	case v.Pool != "" && v.Pool == g.Pool:
		a.Asked = "the Service asks for this pool"
	}
	a.With = slices.DeleteFunc(slices.Clone(t.users[ip]), func(k lb.ServiceKey) bool { return k == v.Key })
	if g.Name == "" {
		return a
	}
	for _, m := range t.members {
		if barred(g, m) == "" {
			a.Candidates = append(a.Candidates, m.Node)
		}
	}
	slices.Sort(a.Candidates)
	if t.s.n.elector != nil {
		a.Holder = t.s.n.elector.HolderOf(g.Name)
	}
	sh := t.shares[g.Name]
	if sh == nil {
		a.Barred = t.barredHere(g)
		return a
	}
	st := sh.agent.Status()
	a.Holder, a.State, a.Cause, a.Last = st.Holder, st.State, st.Cause, st.Last
	if sh.elector != nil {
		a.Since, _ = sh.elector.Acquired()
	}
	return a
}

// barredHere says why this node is no candidate for a group.
func (t telling) barredHere(g lb.Group) string {
	for _, m := range t.members {
		if m.Node == t.s.n.cfg.Node {
			return barred(g, m)
		}
	}
	return "its agent has not said yet what it may hold"
}

// barred says why a node may not take a group over, "" if it may.
func barred(g lb.Group, m election.Member) string {
	switch {
	case m.Drain:
		return "it is drained; end that with mooring drain --undo " + m.Node
	case !m.Live:
		return "its agent is not alive, or ending"
	case !slices.Contains(m.Pools, g.Rule) && len(g.NodeSelector) > 0:
		return "its labels are not those that the Service wants of its nodes, or it may not announce pool " + g.Pool +
			" (a link in its subnet, the pool's nodeSelector, the label " + labelExclude + ")"
	case !slices.Contains(m.Pools, g.Rule):
		return "it may not announce pool " + g.Pool + ": it has no link in its subnet, the pool's nodeSelector does not " +
			"choose it, or it has the label " + labelExclude
	case g.Local && !slices.Contains(g.Nodes, m.Node):
		return "it has no endpoint that takes connections, which externalTrafficPolicy: Local asks for"
	}
	return ""
}

// portsOf lists a Service's endpoints by port.
func portsOf(v *lb.Service) []portReport {
	var out []portReport
	for _, p := range v.Ports {
		r := portReport{Protocol: p.Protocol, Port: p.Port}
		for _, e := range p.Endpoints {
			switch at := (endpoint{e.Addr, e.Node}); {
			case e.Ready:
				r.Ready = append(r.Ready, at)
			case e.Serving && e.Terminating:
				r.Draining = append(r.Draining, at)
			}
		}
		byAddr := func(a, b endpoint) int { return a.Addr.Compare(b.Addr) }
		slices.SortFunc(r.Ready, byAddr)
		slices.SortFunc(r.Draining, byAddr)
		out = append(out, r)
	}
	return out
}
