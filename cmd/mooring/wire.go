package main

import (
	"context"
	"net/netip"
	"slices"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// probesAtOnce bounds the addresses asked for together: three frames each within
// 60 ms.
const probesAtOnce = 64

// wire asks this node's links who has addresses that are about to be given.
type wire struct{ s *services }

// Ask implements agent.Wire. It asks as a neighbour does, so that a host that is
// just taking an address is not told to give it up.
func (w wire) Ask(ctx context.Context, addrs []netip.Addr) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	here, err := vip.Look()
	if err != nil {
		w.s.n.log.Warn("links of this node not known, addresses are given unasked", "err", err)
		return out
	}
	w.s.mu.Lock()
	pools := w.s.pools
	w.s.mu.Unlock()
	for some := range slices.Chunk(w.s.placed(addrs, pools, here), probesAtOnce) {
		answers, err := w.s.n.links.Links.Probe(ctx, some)
		if err != nil {
			// It names those that could not be asked for, but not as values.
			w.s.n.log.Warn("not all new addresses could be asked for", "err", err)
		} else {
			for _, a := range some {
				out[a.IP] = ""
			}
		}
		for ip, mac := range strangers(answers, w.s.n.members()) {
			out[ip] = mac
		}
	}
	return out
}

// placed gives addresses the links on which they would be announced here; those
// without are left out.
func (s *services) placed(addrs []netip.Addr, pools []lb.Pool, here vip.Inventory) []lb.Address {
	var out []lb.Address
	for _, ip := range addrs {
		i := slices.IndexFunc(pools, func(p lb.Pool) bool { return p.Contains(ip) })
		if i < 0 {
			continue
		}
		if link := s.linkOf(ip, pools[i], here); link != "" {
			out = append(out, lb.Address{IP: ip, Link: link})
		}
	}
	return out
}

// strangers are the answers of hosts that are no candidates: one of these may still
// have an address of a Service that is gone.
func strangers(answers []lb.Answer, members []election.Member) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, a := range answers {
		mac := a.MAC.String()
		if !slices.ContainsFunc(members, func(m election.Member) bool { return slices.Contains(m.MACs, mac) }) {
			out[a.IP] = mac
		}
	}
	return out
}
