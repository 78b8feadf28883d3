package ipam

import (
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// record is a Service that Assign has seen.
type record struct {
	claim
	// addrs are those it has, all of one pool, in the order of wanted.
	addrs []netip.Addr
	// had are those that a change of the pools last took from it: they come first
	// when they can be had again, as when a pool is deleted and made anew.
	had []netip.Addr
	// lost is said of these by the next Assign.
	lost []lb.Issue
	// waits: a released address or a changed pool may give it more than it has.
	waits bool
}

// use is an address that Services have.
type use struct {
	// pool is nil only while SetPools is at work.
	pool *pool
	// share is that of all its users.
	share share
	users []*record
	// first is where users begins: most have one, and need no memory besides.
	first [1]*record
}

// slot is a port on an address; it has one Service.
type slot struct {
	addr netip.Addr
	port port
}

// groupKey chooses the addresses of one pool and family that a Service with a
// shared key might join.
type groupKey struct {
	share  share
	pool   *pool
	family lb.Family
}

// group are these addresses.
type group struct {
	// addrs are sorted, so that who joins which does not depend on history.
	addrs []netip.Addr
	// ports counts the addresses on which a port is taken: one that is taken on all
	// of them need not be looked for.
	ports map[port]int
	// from is, of a port that was looked for, where to look next: all addresses before
	// it have the port.
	from map[port]netip.Addr
}

// clash says why a Service may not have an address beside those who have it.
func (a *Allocator) clash(rec *record, c *claim, addr netip.Addr) clash {
	u := a.uses[addr]
	other := u.other(rec)
	if other == nil {
		return clash{} // a sole user may change what it shares in place
	}
	switch {
	case c.share.key == "" || c.share.key != u.share.key:
		return clash{kind: keyClash, with: other.key}
	case c.share != u.share:
		return clash{kind: backendClash, with: other.key}
	}
	for _, p := range c.ports {
		if who := a.slots[slot{addr, p}]; who != nil && who != rec {
			return clash{kind: portClash, with: who.key, port: p}
		}
	}
	return clash{}
}

// other is a user of an address besides the Service, or nil.
func (u *use) other(rec *record) *record {
	if u == nil {
		return nil
	}
	for _, r := range u.users {
		if r != rec {
			return r
		}
	}
	return nil
}

// join is an address of a pool and family that others have and that the Service
// may share with them.
func (a *Allocator) join(rec *record, c *claim, p *pool, f lb.Family) (netip.Addr, bool) {
	g := a.groups[groupKey{c.share, p, f}]
	if c.share.key == "" || g == nil {
		return netip.Addr{}, false
	}
	at := 0
	for _, port := range c.ports {
		if !rec.in(g) {
			at = max(at, a.skip(g, port))
		}
	}
	for _, addr := range g.addrs[at:] {
		if a.open(rec, c, addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// skip is the index of the first address of a group that may lack a port. It looks
// at each address once, as long as none before is given back.
func (a *Allocator) skip(g *group, p port) int {
	switch g.ports[p] {
	case 0:
		return 0
	case len(g.addrs):
		return len(g.addrs)
	}
	i, _ := slices.BinarySearchFunc(g.addrs, g.from[p], netip.Addr.Compare)
	for i < len(g.addrs) && a.slots[slot{g.addrs[i], p}] != nil {
		i++
	}
	if i < len(g.addrs) {
		g.from[p] = g.addrs[i]
	}
	return i
}

// back lets the next search for a port begin no later than at an address.
func (g *group) back(p port, addr netip.Addr) {
	if addr.Less(g.from[p]) {
		g.from[p] = addr
	}
}

// in says whether the Service has an address of the group.
func (r *record) in(g *group) bool {
	return slices.ContainsFunc(r.addrs, func(addr netip.Addr) bool {
		_, ok := slices.BinarySearchFunc(g.addrs, addr, netip.Addr.Compare)
		return ok
	})
}

// place gives a Service exactly these addresses, which it may have, and notes what
// it claims now. What it leaves and nobody else has is free afterwards.
func (a *Allocator) place(rec *record, c *claim, addrs []netip.Addr) {
	if slices.Equal(rec.addrs, addrs) && slices.Equal(rec.ports, c.ports) && rec.share == c.share {
		rec.claim = *c
		return
	}
	old := rec.addrs
	a.detach(rec)
	rec.claim, rec.addrs = *c, addrs
	a.attach(rec)
	for _, addr := range old {
		a.giveBack(addr)
	}
	if len(old) > 0 {
		a.freed++ // an address, or a port of a shared one
	}
}

// attach makes the Service a user of its addresses.
func (a *Allocator) attach(rec *record) {
	for _, addr := range rec.addrs {
		u := a.uses[addr]
		if u == nil {
			u = &use{pool: a.owner(addr), share: rec.share}
			u.users = u.first[:0]
			a.uses[addr] = u
			u.pool.used++
			a.reclaim(addr)
		}
		u.users = append(u.users, rec)
		for _, p := range rec.ports {
			a.slots[slot{addr, p}] = rec
		}
		a.enlist(addr, u, rec)
	}
}

// detach ends its use of its addresses.
func (a *Allocator) detach(rec *record) {
	for _, addr := range rec.addrs {
		u := a.uses[addr]
		u.users = slices.DeleteFunc(u.users, func(r *record) bool { return r == rec })
		for _, p := range rec.ports {
			delete(a.slots, slot{addr, p})
		}
		a.delist(addr, u, rec)
		if len(u.users) > 0 {
			continue
		}
		delete(a.uses, addr)
		if u.pool != nil {
			u.pool.used--
		}
	}
}

// enlist notes a user of an address in the address's group.
func (a *Allocator) enlist(addr netip.Addr, u *use, rec *record) {
	if u.share.key == "" {
		return
	}
	key := groupKey{u.share, u.pool, lb.FamilyOf(addr)}
	g := a.groups[key]
	if g == nil {
		g = &group{ports: make(map[port]int), from: make(map[port]netip.Addr)}
		a.groups[key] = g
	}
	if i, ok := slices.BinarySearchFunc(g.addrs, addr, netip.Addr.Compare); !ok {
		g.addrs = slices.Insert(g.addrs, i, addr)
		for p := range g.from {
			g.back(p, addr)
		}
	}
	for _, p := range rec.ports {
		g.ports[p]++
	}
}

// delist takes a user out of its group, and its address with the last one.
func (a *Allocator) delist(addr netip.Addr, u *use, rec *record) {
	key := groupKey{u.share, u.pool, lb.FamilyOf(addr)}
	g := a.groups[key]
	if g == nil {
		return
	}
	for _, p := range rec.ports {
		g.back(p, addr)
		if g.ports[p]--; g.ports[p] == 0 {
			delete(g.ports, p)
			delete(g.from, p)
		}
	}
	if i, ok := slices.BinarySearchFunc(g.addrs, addr, netip.Addr.Compare); ok && len(u.users) == 0 {
		g.addrs = slices.Delete(g.addrs, i, i+1)
	}
	if len(g.addrs) == 0 {
		delete(a.groups, key)
	}
}
