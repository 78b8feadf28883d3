package main

import (
	"maps"
	"net/netip"
	"slices"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// preferred spreads the groups of each pool evenly over the nodes that announce it.
func (s *services) preferred(groups []lb.Group) map[string]string {
	byPool := map[string][]string{}
	for _, g := range groups {
		if !g.Local {
			byPool[g.Rule] = append(byPool[g.Rule], g.Name)
		}
	}
	out := map[string]string{}
	members := s.n.members()
	for pool, names := range byPool {
		var nodes []string
		for _, m := range members {
			if m.Live && slices.Contains(m.Pools, pool) {
				nodes = append(nodes, m.Node)
			}
		}
		maps.Copy(out, election.Spread(names, nodes))
	}
	return out
}

// labelExclude on a Node keeps load balancers' addresses off it (KEP-1143).
const labelExclude = "node.kubernetes.io/exclude-from-external-load-balancers"

// onLabels takes the labels of this node, and whether k3s' label chooses nodes.
func (s *services) onLabels(labels map[string]string, listed bool) {
	s.mu.Lock()
	s.labels, s.listed, s.labelled = labels, listed, true
	s.mu.Unlock()
	knock(s.wake)
}

// rules are what this node says it may hold: pools, and pools together with the
// selectors of Services that choose it. As under k3s, selectors count while nodes are
// listed at all.
func (s *services) rules(groups []lb.Group, pools []string) []string {
	s.mu.Lock()
	labels, listed := s.labels, s.listed
	s.mu.Unlock()
	out := slices.Clone(pools)
	for _, g := range groups {
		chosen := !listed || (lb.Selector{Labels: g.NodeSelector}).Matches(labels)
		if len(g.NodeSelector) > 0 && slices.Contains(pools, g.Pool) && chosen {
			out = append(out, g.Rule)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rulesFile keeps what this node says it may hold for its next run of this boot: a
// member Lease without it would have the node give its groups away.
const rulesFile = "pools.json"

// setPools says in the member Lease what this node may hold.
func (s *services) setPools(rules []string) {
	s.n.elector.SetPools(rules)
	if slices.Equal(rules, s.rulesTold) && s.published {
		return
	}
	s.rulesTold = rules
	if err := keep(s.n.file(rulesFile), rules); err != nil {
		s.n.log.Warn("pools of this node not kept on disk: a restart may move its Services", "err", err)
	}
}

// announceable names the pools that this node may announce: they choose it, and have
// an address on a link of it.
func (s *services) announceable(pools []lb.Pool, here vip.Inventory) []string {
	s.mu.Lock()
	labels, listed := s.labels, s.listed
	s.mu.Unlock()
	var out []string
	if !mayServe(labels, listed) {
		return out
	}
	for _, p := range pools {
		if !p.NodeSelector.Matches(labels) {
			continue
		}
		on := func(r lb.Range) bool { return s.linkOf(r.From, p, here) != "" || s.linkOf(r.To, p, here) != "" }
		if slices.ContainsFunc(p.Ranges, on) {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}

// mayServe says whether a node with these labels may hold addresses of Services at all;
// listed: some node has k3s' label.
func mayServe(labels map[string]string, listed bool) bool {
	_, excluded := labels[labelExclude]
	return !excluded && (!listed || labels[kube.LabelEnable] == "true")
}

// linkOf is the link that announces the pool's address here, "" for none. Of several
// in its subnet it is the configuration's.
func (s *services) linkOf(ip netip.Addr, p lb.Pool, here vip.Inventory) string {
	allowed := func(name string) bool { return len(p.Interfaces) == 0 || slices.Contains(p.Interfaces, name) }
	link, err := here.LinkFor(ip)
	switch {
	case err == nil && allowed(link):
		return link
	case err != nil && len(p.Interfaces) == 0 && here.Covers(s.n.cfg.Interface, ip):
		return s.n.cfg.Interface
	}
	for _, name := range p.Interfaces {
		if here.Has(name) {
			return name // outside every subnet: the operator says that routers know
		}
	}
	return ""
}

// onLinks gives each address of the group its link; what has none is left out.
func (s *services) onLinks(g lb.Group, pools []lb.Pool, here vip.Inventory) []lb.Address {
	i := slices.IndexFunc(pools, func(p lb.Pool) bool { return p.Name == g.Pool })
	var out []lb.Address
	for _, ip := range g.VIPs {
		if link := s.linkOf(ip, pools[i], here); link != "" {
			out = append(out, lb.Address{IP: ip, Link: link})
		}
	}
	return out
}
