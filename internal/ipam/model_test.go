package ipam

import (
	"fmt"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// check asserts what holds at every moment, from the outside only: whatever the
// pools, no two Services are on one port of an address, or on one address without
// the right to share it, and nobody is outside the one pool that its Grant names.
func (w *world) check(after string) {
	w.t.Helper()
	on := make(map[netip.Addr][]lb.Service)
	for key, s := range w.services {
		g, ok := w.Lookup(key)
		if ok != (len(g.Addresses) > 0) {
			w.t.Fatalf("after %s: Lookup of %s says %t and %v", after, key, ok, g.Addresses)
		}
		for i, addr := range g.Addresses {
			on[addr] = append(on[addr], s)
			if at := poolOwning(w.pools, addr); at != g.Pool {
				w.t.Fatalf("after %s: %s has %s of pool %q, which is in %q", after, key, addr, g.Pool, at)
			}
			if i > 0 && lb.FamilyOf(addr) == lb.FamilyOf(g.Addresses[0]) {
				w.t.Fatalf("after %s: %s has two of a family: %v", after, key, g.Addresses)
			}
		}
	}
	for addr, services := range on {
		for i, s := range services {
			for _, u := range services[i+1:] {
				if why := apart(s, u); why != "" {
					w.t.Fatalf("after %s: %s and %s are both on %s: %s", after, s.Key, u.Key, addr, why)
				}
			}
		}
	}
}

// poolOwning is the model of ownership: the pool that comes first and has it.
func poolOwning(pools []lb.Pool, addr netip.Addr) string {
	best := -1
	for i, p := range pools {
		inside := slices.ContainsFunc(p.Ranges, func(r lb.Range) bool {
			return r.From.BitLen() == addr.BitLen() && !addr.Less(r.From) && !r.To.Less(addr)
		})
		if inside && (best < 0 || earlier(p, pools[best])) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	if b := addr.AsSlice(); pools[best].AvoidBuggy && addr.Is4() && (b[3] == 0 || b[3] == 255) {
		return ""
	}
	return pools[best].Name
}

// earlier is the model of the pools' order.
func earlier(p, q lb.Pool) bool {
	if p.Priority != q.Priority {
		return q.Priority == 0 || p.Priority != 0 && p.Priority < q.Priority
	}
	return p.Name < q.Name
}

// apart says why two Services must not share an address.
func apart(s, u lb.Service) string {
	if s.SharedKey == "" || s.SharedKey != u.SharedKey {
		return "their keys differ"
	}
	if s.Local != u.Local || s.Local && s.Selector != u.Selector {
		return "one is Local"
	}
	for _, p := range s.Ports {
		for _, q := range u.Ports {
			if p.Port == q.Port && p.Protocol == q.Protocol {
				return fmt.Sprintf("%s/%d", p.Protocol, p.Port)
			}
		}
	}
	return ""
}
