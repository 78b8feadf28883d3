package ipam

import (
	"net/netip"

	"mooring.dev/mooring/internal/lb"
)

// remembered is how many released addresses of a pool and family are kept back in
// favour of ones that were never used. It bounds the memory of a pool that has no
// end: an IPv6 /64 would otherwise grow by every Service that ever was.
const remembered = 1 << 16

// freeList finds a free address of one pool and family in constant time, over all
// allocations, without a list of the pool's addresses: a cursor that passes each
// address once, and a queue of those that came back. What the cursor has passed is
// in use, in the queue or in quarantine.
type freeList struct {
	// ranges in the order of the specification, disjoint.
	ranges []lb.Range
	// at is the cursor's range, next its address there; the zero Addr is the first.
	at   int
	next netip.Addr
	// queue from head on has the released addresses, the first released first, with
	// stale entries; live counts the others.
	queue []returned
	head  int
	live  int
}

// returned is an entry of the queue: stale unless the address was last released
// at that turn.
type returned struct {
	addr netip.Addr
	turn uint64
}

// release is when an address was last released, and whose queue has it, nil while
// it is in no pool.
type release struct {
	turn uint64
	list *freeList
}

// fresh is the first address that was never used; it stays first until it is not
// usable any more.
func (l *freeList) fresh(usable func(netip.Addr) bool) (netip.Addr, bool) {
	for l.at < len(l.ranges) {
		r := l.ranges[l.at]
		if !l.next.IsValid() {
			l.next = r.From
		}
		if usable(l.next) {
			return l.next, true
		}
		if l.next == r.To {
			// Not by Next: after the last address of all comes none.
			l.at, l.next = l.at+1, netip.Addr{}
			continue
		}
		l.next = l.next.Next()
	}
	return netip.Addr{}, false
}

// oldest is the address that was released first.
func (l *freeList) oldest(releases map[netip.Addr]release) (netip.Addr, bool) {
	for ; l.head < len(l.queue); l.head++ {
		e := l.queue[l.head]
		if releases[e.addr].turn == e.turn {
			return e.addr, true
		}
	}
	l.queue, l.head = l.queue[:0], 0
	return netip.Addr{}, false
}

// push puts an address at the end of the queue.
func (l *freeList) push(addr netip.Addr, turn uint64, releases map[netip.Addr]release) {
	const slack = 64
	if len(l.queue) > 2*l.live+slack {
		l.compact(releases)
	}
	l.queue = append(l.queue, returned{addr, turn})
	l.live++
}

// compact drops stale entries: an address asked for by name again and again would
// make the queue grow for ever.
func (l *freeList) compact(releases map[netip.Addr]release) {
	kept := l.queue[:0]
	for _, e := range l.queue[l.head:] {
		if releases[e.addr].turn == e.turn {
			kept = append(kept, e)
		}
	}
	l.queue, l.head = kept, 0
}

// peek is the address that the next Service of a pool and family gets: one never
// used, else the one released longest ago, so that what still knows an old owner
// (DNS caches, firewalls) does not meet a stranger.
func (a *Allocator) peek(p *pool, f lb.Family) (netip.Addr, bool) {
	l := p.list(f)
	if l.live >= remembered {
		return l.oldest(a.releases)
	}
	usable := func(addr netip.Addr) bool {
		if a.uses[addr] != nil || p.avoids(addr) {
			return false
		}
		_, was := a.releases[addr]
		_, foreign := a.foreign[addr]
		return !was && !foreign
	}
	if addr, ok := l.fresh(usable); ok {
		return addr, true
	}
	return l.oldest(a.releases)
}

// giveBack makes an address free that nobody uses any more.
func (a *Allocator) giveBack(addr netip.Addr) {
	if _, foreign := a.foreign[addr]; foreign || a.uses[addr] != nil {
		return
	}
	a.turn++
	a.queueUp(addr, a.turn)
}

// queueUp puts a released address into its pool's queue, if it has one.
func (a *Allocator) queueUp(addr netip.Addr, turn uint64) {
	r := release{turn: turn}
	if p := a.owner(addr); p != nil && !p.avoids(addr) {
		r.list = p.list(lb.FamilyOf(addr))
		r.list.push(addr, turn, a.releases)
	}
	a.releases[addr] = r
}

// reclaim takes an address out of its queue.
func (a *Allocator) reclaim(addr netip.Addr) {
	if r, ok := a.releases[addr]; ok {
		if r.list != nil {
			r.list.live--
		}
		delete(a.releases, addr)
	}
}
