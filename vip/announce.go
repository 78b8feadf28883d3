package vip

import (
	"container/heap"

	"mooring.dev/mooring/internal/lb"
)

// burst lists when a new address is announced, counted from its arrival. RFC
// 5227 §2.3 asks for two announcements 2 s apart; the early ones cover a lost
// frame and switches that need more than one.
func burst() []lb.Instant {
	const ms = second / 1000
	return []lb.Instant{0, 50 * ms, 150 * ms, 500 * ms, second, 2 * second}
}

// schedule says which address is to be announced when. It is told the time
// and owns no clock, lock or socket.
type schedule struct {
	rate    int        // frames in any window of one second, per link
	refresh lb.Instant // steady period
	links   map[string]*queue
	entries map[lb.Address]*entry
}

// entry is one address that is announced.
type entry struct {
	addr     lb.Address
	start    lb.Instant // its burst is counted from here
	next     int        // index into burst(), len(burst()) in the steady phase
	due      lb.Instant
	until    lb.Instant // the kernel may have removed the address from here on
	defended lb.Instant // last defence, 0 is never
	at       int        // place in its queue
}

// newSchedule is an empty schedule: rate ≥ 1 frames a second over one link.
func newSchedule(rate int, refresh lb.Instant) *schedule {
	return &schedule{rate: rate, refresh: refresh, links: map[string]*queue{}, entries: map[lb.Address]*entry{}}
}

// put says that the kernel has the address until the given instant. fresh
// starts a burst; otherwise an address not yet known begins with the steady
// phase, and a known one goes on where it was.
func (s *schedule) put(a lb.Address, now, until lb.Instant, fresh bool) {
	e, known := s.entries[a]
	if !known {
		e = &entry{addr: a}
		s.entries[a] = e
	}
	e.until = until
	switch {
	case fresh:
		e.start, e.next, e.due = now, 0, now
	case !known:
		e.next = len(burst())
		e.due = now + s.refresh
	}
	q := s.queue(a.Link)
	if known {
		heap.Fix(q, e.at)
		return
	}
	heap.Push(q, e)
}

// drop forgets the address; it is not announced again.
func (s *schedule) drop(a lb.Address) {
	e, known := s.entries[a]
	if !known {
		return
	}
	delete(s.entries, a)
	heap.Remove(s.queue(a.Link), e.at)
}

// take gives the most urgent address that is due on any link whose rate
// allows a frame now, and counts it as sent. Addresses whose lifetime has
// passed are forgotten on the way: an agent that was frozen must not announce
// what its kernel has already let go.
func (s *schedule) take(now lb.Instant) (lb.Address, bool) {
	for _, q := range s.links {
		for q.Len() > 0 && q.all[0].due <= now && q.free(now) <= now {
			e := q.all[0]
			if e.until <= now {
				s.drop(e.addr)
				continue
			}
			q.count(now)
			s.advance(e, now)
			return e.addr, true
		}
	}
	return lb.Address{}, false
}

// defend says whether the address may be announced out of turn now, and then
// counts it as sent. RFC 5227 §2.4(c) limits defence; ours is one a second.
func (s *schedule) defend(a lb.Address, now lb.Instant) bool {
	e, known := s.entries[a]
	if !known || e.until <= now {
		return false
	}
	q := s.queue(a.Link)
	if e.defended != 0 && now-e.defended < second {
		// Not yet, but not never: the last word on the wire is to be the holder's.
		if again := e.defended + second; again < e.due {
			e.due = again
			heap.Fix(q, e.at)
		}
		return false
	}
	if q.free(now) > now {
		return false
	}
	e.defended = now
	q.count(now)
	return true
}

// wait gives the instant at which take may have something again, and false
// when nothing is scheduled at all.
func (s *schedule) wait() (lb.Instant, bool) {
	var soonest lb.Instant
	found := false
	for _, q := range s.links {
		if q.Len() == 0 {
			continue
		}
		at := max(q.all[0].due, q.free(q.all[0].due))
		if !found || at < soonest {
			soonest, found = at, true
		}
	}
	return soonest, found
}

// advance plans the next announcement. Steps of the burst that a full queue
// made late are skipped, not sent in a row.
func (s *schedule) advance(e *entry, now lb.Instant) {
	q := s.queue(e.addr.Link)
	steps := burst()
	e.next++
	for e.next < len(steps) && e.start+steps[e.next] <= now {
		e.next++
	}
	if e.next < len(steps) {
		e.due = e.start + steps[e.next]
	} else {
		// With more addresses than the rate can serve in one period the
		// period grows, instead of the queue.
		e.due = now + max(s.refresh, lb.Instant(q.Len())*second/lb.Instant(s.rate))
	}
	heap.Fix(q, e.at)
}

// queue is the queue of the link, made at its first use.
func (s *schedule) queue(link string) *queue {
	q, known := s.links[link]
	if !known {
		q = &queue{sent: make([]lb.Instant, s.rate)}
		s.links[link] = q
	}
	return q
}

// queue is the heap of one link's addresses, most urgent first, and the ring
// of the instants of its last frames. It implements heap.Interface.
type queue struct {
	all  []*entry
	sent []lb.Instant // ring of the last rate frames
	used int          // frames ever counted
}

// free is the instant from which another frame fits into the rate: one second
// after the frame that is rate frames back.
func (q *queue) free(now lb.Instant) lb.Instant {
	if q.used < len(q.sent) {
		return now
	}
	return q.sent[q.used%len(q.sent)] + second
}

// count notes a frame sent now.
func (q *queue) count(now lb.Instant) {
	q.sent[q.used%len(q.sent)] = now
	q.used++
}

// Len implements sort.Interface.
func (q *queue) Len() int { return len(q.all) }

// Less implements sort.Interface: an address never announced goes before all
// repetitions, since its clients still talk to the old node.
func (q *queue) Less(i, j int) bool {
	x, y := q.all[i], q.all[j]
	if (x.next == 0) != (y.next == 0) {
		return x.next == 0
	}
	if x.due != y.due {
		return x.due < y.due
	}
	return compareAddresses(x.addr, y.addr) < 0
}

// Swap implements sort.Interface.
func (q *queue) Swap(i, j int) {
	q.all[i], q.all[j] = q.all[j], q.all[i]
	q.all[i].at, q.all[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(q.all)
	q.all = append(q.all, e)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(q.all) - 1
	e := q.all[last]
	q.all[last] = nil
	q.all = q.all[:last]
	return e
}
