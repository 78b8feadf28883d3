package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// parcel is a range that one pool owns.
type parcel struct {
	lb.Range
	pool *pool
}

// Overlap is a range that two pools have: First owns it, Second does not give it.
type Overlap struct {
	First, Second string
	Range         lb.Range
}

// SetPools takes all pools anew, in any order, and returns the Services that lost
// an address, sorted: their pool does not have it any more, leaves it out, or is not
// for them any more. A Service whose address is in another pool now keeps it. Those
// that lost one are Waiting; until Assign they have what is left. Ranges that are
// reversed or of two families are left out, and a pool whose name came before.
func (a *Allocator) SetPools(pools []lb.Pool) (evicted []lb.ServiceKey) {
	a.loaded = true
	a.freed++
	a.pools, a.turns = make(map[string]*pool, len(pools)), nil
	for _, spec := range pools {
		if a.pools[spec.Name] == nil {
			p := newPool(spec)
			a.pools[spec.Name], a.turns = p, append(a.turns, p)
		}
	}
	slices.SortFunc(a.turns, byPriority)
	a.land, a.overlaps = nil, nil
	for _, p := range a.turns {
		for _, r := range p.Ranges {
			a.settle(p, r)
		}
	}
	slices.SortFunc(a.turns, byTurn)
	a.resettle()
	for _, key := range a.keys() {
		rec := a.records[key]
		held, lost := a.staying(rec, &rec.claim, rec.addrs)
		if len(lost) == 0 {
			continue
		}
		evicted = append(evicted, key)
		rec.had, rec.lost, rec.waits = rec.addrs, lost, true
		a.place(rec, &rec.claim, held)
	}
	return evicted
}

// settle gives a pool what of a range no earlier pool owns.
func (a *Allocator) settle(p *pool, r lb.Range) {
	at, to := r.From.Unmap().WithZone(""), r.To.Unmap().WithZone("")
	if !at.IsValid() || at.BitLen() != to.BitLen() || to.Less(at) {
		return // the pool's condition says it
	}
	for _, gap := range a.gaps(p, at, to) {
		p.own(gap)
		i := sort.Search(len(a.land), func(i int) bool { return gap.To.Less(a.land[i].From) })
		a.land = slices.Insert(a.land, i, parcel{gap, p})
	}
}

// gaps are the parts of a range that no pool owns; it notes those that a pool other
// than p does.
func (a *Allocator) gaps(p *pool, at, to netip.Addr) (gaps []lb.Range) {
	i := sort.Search(len(a.land), func(i int) bool { return !a.land[i].To.Less(at) })
	for ; at.IsValid() && i < len(a.land) && !to.Less(a.land[i].From); i++ {
		there := a.land[i]
		if at.Less(there.From) {
			gaps = append(gaps, lb.Range{From: at, To: there.From.Prev()})
			at = there.From
		}
		if there.pool != p {
			both := lb.Range{From: at, To: lesser(to, there.To)}
			a.overlaps = append(a.overlaps, Overlap{there.pool.Name, p.Name, both})
		}
		at = there.To.Next()
	}
	if at.IsValid() && !to.Less(at) {
		gaps = append(gaps, lb.Range{From: at, To: to})
	}
	return gaps
}

// lesser is the address that comes first.
func lesser(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

// resettle brings what is used and what was released to the pools that own it now.
func (a *Allocator) resettle() {
	a.groups = make(map[groupKey]*group)
	for addr, u := range a.uses {
		if u.pool = a.owner(addr); u.pool != nil {
			u.pool.used++
		}
		for _, rec := range u.users {
			a.enlist(addr, u, rec)
		}
	}
	old := slices.SortedFunc(maps.Keys(a.releases), func(x, y netip.Addr) int {
		return cmp.Compare(a.releases[x].turn, a.releases[y].turn)
	})
	for _, addr := range old {
		a.queueUp(addr, a.releases[addr].turn)
	}
	a.forget(old)
}

// forget drops released addresses that no pool gives, the oldest first, beyond
// those worth remembering for the case that their pool comes back.
func (a *Allocator) forget(old []netip.Addr) {
	strays := 0
	for _, addr := range slices.Backward(old) {
		if a.releases[addr].list != nil {
			continue
		}
		if strays++; strays > remembered {
			delete(a.releases, addr)
		}
	}
}

// owner is the pool that has an address in its ranges, also when it leaves it out,
// or nil.
func (a *Allocator) owner(addr netip.Addr) *pool {
	i := sort.Search(len(a.land), func(i int) bool { return !a.land[i].To.Less(addr) })
	if i == len(a.land) || addr.Less(a.land[i].From) {
		return nil
	}
	return a.land[i].pool
}

// poolOf is the pool of addresses that a Service has, nil for none.
func (a *Allocator) poolOf(addrs []netip.Addr) *pool {
	if len(addrs) == 0 {
		return nil
	}
	return a.owner(addrs[0])
}

// names are those of all pools, sorted.
func (a *Allocator) names() []string { return slices.Sorted(maps.Keys(a.pools)) }

// Overlaps are the ranges that two pools have, sorted by both names and the range:
// for each pool's condition.
func (a *Allocator) Overlaps() []Overlap {
	out := slices.Clone(a.overlaps)
	slices.SortFunc(out, func(x, y Overlap) int {
		return cmp.Or(strings.Compare(x.First, y.First), strings.Compare(x.Second, y.Second),
			x.Range.From.Compare(y.Range.From))
	})
	return out
}
