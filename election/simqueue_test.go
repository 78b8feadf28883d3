package election

import (
	"time"

	"mooring.dev/mooring/internal/lb"
)

// happening is one thing that happens at an instant of the world.
type happening struct {
	at  lb.Instant
	seq int
	do  func()
	// on is the machine on whose clock it is due, by the agent that does it.
	on  *node
	by  *agent
	due lb.Instant // by the node's clock; 0: it comes from outside
	// lossy: a frame, that nobody keeps for a node which is paused.
	lossy bool
	// pair: hellos of one sender stay in order; 0 is anything else.
	pair int
}

// inOrder is the pair of what one goroutine of the node itself tells.
const inOrder = -1

// slot is a place in the queue. It holds no pointer, so that sorting costs the
// garbage collector nothing.
type slot struct {
	at       lb.Instant
	seq, key int
}

func (s slot) before(o slot) bool { return s.at < o.at || s.at == o.at && s.seq < o.seq }

// queue is a binary heap of slots, and what happens in each.
type queue struct {
	heap []slot
	all  []happening
	free []int
}

func (q *queue) push(h happening) {
	key := len(q.all)
	if n := len(q.free); n > 0 {
		key, q.free = q.free[n-1], q.free[:n-1]
		q.all[key] = h
	} else {
		q.all = append(q.all, h)
	}
	q.heap = append(q.heap, slot{h.at, h.seq, key})
	x := q.heap
	for i := len(x) - 1; i > 0; {
		up := (i - 1) / 2
		if !x[i].before(x[up]) {
			break
		}
		x[i], x[up] = x[up], x[i]
		i = up
	}
}

// due says whether something happens until t.
func (q *queue) due(t lb.Instant) bool { return len(q.heap) > 0 && q.heap[0].at <= t }

func (q *queue) pop() happening {
	x := q.heap
	first, last := x[0], len(x)-1
	x[0] = x[last]
	x = x[:last]
	q.heap = x
	for i := 0; ; {
		least, kid := i, 2*i+1
		for k := kid; k <= kid+1 && k < last; k++ {
			if x[k].before(x[least]) {
				least = k
			}
		}
		if least == i {
			break
		}
		x[i], x[least] = x[least], x[i]
		i = least
	}
	h := q.all[first.key]
	q.all[first.key] = happening{}
	q.free = append(q.free, first.key)
	return h
}

func (w *world) push(h happening) {
	w.count++
	h.seq = w.count
	w.queue.push(h)
}

// after plans something in the world's time that nothing prevents; a nil f makes
// the world look.
func (w *world) after(d time.Duration, f func()) { w.push(happening{at: w.now + d, do: f}) }

// after plans something of the node's kernel, by the node's clock.
func (n *node) after(d time.Duration, f func()) {
	n.w.push(happening{at: n.w.now + n.outside(d), do: f, on: n, due: n.clock() + d})
}

// later plans something that this run of the agent does, by its node's clock;
// not after its end, and while it is frozen not before it thaws.
func (a *agent) later(d time.Duration, f func()) {
	a.n.w.push(happening{at: a.n.w.now + a.n.outside(d), do: f, on: a.n, by: a, due: a.n.clock() + d})
}

// reached plans what comes to this agent from outside: an answer over TCP, which
// waits for a paused node, or, lossy, a frame.
func (a *agent) reached(d time.Duration, lossy bool, f func()) {
	a.n.w.push(happening{at: a.n.w.now + d, do: f, on: a.n, by: a, lossy: lossy})
}

// ready says whether it may happen now, or puts it where it waits.
func (w *world) ready(h *happening) bool {
	n := h.on
	switch {
	case h.by != nil && h.by.ended:
		return false
	case n.paused && h.lossy:
		return false
	case n.paused:
		n.held = append(n.held, *h)
		return false
	case h.due > n.clock():
		h.at = w.now + max(n.outside(h.due-n.clock()), 1)
		w.push(*h)
		return false
	case h.by != nil && h.by.frozen:
		h.by.asleep = append(h.by.asleep, *h)
		return false
	}
	return true
}

// release lets happen what waited: at once and in any order (goroutines do not
// wake in the order of their timers), but for hellos of one sender.
func (w *world) release(all []happening) {
	last := map[int]lb.Instant{}
	for _, h := range all {
		h.at = w.now
		if w.rnd != nil && h.pair != inOrder {
			h.at += w.upTo(2 * ms)
		}
		if h.due > h.on.clock() {
			h.at = w.now + h.on.outside(h.due-h.on.clock())
		}
		if h.pair != 0 {
			h.at = max(h.at, last[h.pair])
			last[h.pair] = h.at
		}
		w.push(h)
	}
}
