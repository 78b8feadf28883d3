package election

import (
	"fmt"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// apiMode is how the API servers treat a node's requests.
type apiMode uint8

const (
	apiUp     apiMode = iota
	apiRefuse         // connection refused
	apiHang           // no answer; some requests may still be carried out later
	apiSlow           // answers after w.slow
	apiMute           // carries out, but the answer is lost
)

// store is the group's Lease as the API servers have it.
type store struct {
	exists, sound bool
	rec           Record
	version       uint64
	made          int
}

func (s *store) view(w *world) (View, uint64) {
	v := View{Exists: s.exists, Sound: s.exists && s.sound}
	if s.exists {
		v.Record = s.rec
		v.Record.UID, v.Record.Version = fmt.Sprint("u", s.made), fmt.Sprint(s.version)
		v.Candidate = w.node(s.rec.Holder) != nil // also one whose member Lease was deleted a moment ago
	}
	return v, s.version
}

// commit is compare-and-swap on the version; base 0 creates.
func (w *world) commit(by *node, r Record, base uint64) bool {
	s := &w.store
	if base == 0 && s.exists || base != 0 && (!s.exists || s.version != base) {
		return false
	}
	if base == 0 {
		s.made++
	}
	if !s.exists || !s.sound || !s.rec.term(r) || s.rec.From != r.From {
		if w.holder != "" && w.holder != r.Holder {
			w.moves++
		}
		w.holder = r.Holder
		w.say("= %s writes %s%s", by.name, r, map[bool]string{true: " cause=" + string(r.Cause)}[r.Cause != ""])
	}
	s.exists, s.sound, s.rec = true, true, r
	s.version++
	w.wroteAt = w.now
	w.rules.wrote(by, r)
	w.changed()
	return true
}

func (w *world) changed() {
	v, version := w.store.view(w)
	for _, n := range w.nodes {
		if a := n.agent; a != nil && n.reaches() {
			a.reached(w.vary(3*ms), false, func() { a.el.seen(v, version, ByWatch, a.n.clock()) })
		}
	}
}

// meddle changes the Lease from outside.
func (w *world) meddle(f func(s *store)) {
	f(&w.store)
	w.store.version++
	w.rules.meddled(&w.store)
	w.changed()
}

func (n *node) modeNow() apiMode {
	if n.api != apiUp {
		return n.api
	}
	if !n.power {
		return apiHang
	}
	return n.w.mode
}

// reaches says whether a watch of this node is served.
func (n *node) reaches() bool { m := n.modeNow(); return m != apiHang && m != apiRefuse }

// setAPI changes the mode for all nodes, or for one.
func (w *world) setAPI(mode apiMode, n *node) {
	before := map[*node]bool{}
	for _, o := range w.nodes {
		before[o] = o.reaches()
		if o.modeNow() != apiUp {
			o.apiless = w.now
		}
	}
	if n != nil {
		n.api = mode
	} else {
		w.mode = mode
	}
	if mode != apiHang {
		for _, f := range w.stuck {
			if w.rnd != nil && w.rnd.IntN(3) == 0 {
				f()
			}
		}
		w.stuck = nil
		w.late = false
	}
	for _, o := range w.nodes {
		if o.agent != nil && !before[o] && o.reaches() {
			o.agent.relist(w.vary(300 * ms))
		}
	}
	w.tellMembers()
}

// relist starts the watch anew.
func (a *agent) relist(d time.Duration) {
	a.reached(d, false, func() {
		if !a.n.reaches() {
			return
		}
		w := a.n.w
		a.tellMembers(w.membersFor(a.n))
		a.el.relistMembers()
		v, version := w.store.view(w)
		a.el.seen(v, version, ByWatch, a.n.clock())
		if len(w.out) > 0 {
			a.deliver(Taints{Out: w.out})
		}
	})
}

// members are the nodes as their member Leases say.
func (w *world) members() []Member {
	var all []Member
	for _, n := range w.nodes {
		if n.lost {
			continue
		}
		live := !n.left && !n.drain && (n.died == 0 || w.now-n.died < memberDead)
		all = append(all, Member{Node: n.name, MACs: []string{n.mac}, Live: live, Drain: n.drain})
	}
	return all
}

func (w *world) tellMembers() {
	for _, n := range w.nodes {
		if a := n.agent; a != nil && n.reaches() {
			a.reached(w.vary(3*ms), false, func() { a.tellMembers(w.membersFor(n)) })
		}
	}
}

// tellMembers delivers the members when they differ from what was told.
func (a *agent) tellMembers(all []Member) {
	if !a.knows || !equalMembers(a.told, all) {
		a.told, a.n.met = all, all
		a.deliver(Members{All: all})
	}
}

// taint tells everybody which nodes the operators declared out of service.
func (w *world) taint(out ...string) {
	w.out = out
	for _, n := range w.nodes {
		if a := n.agent; a != nil && n.reaches() {
			a.reached(w.vary(3*ms), false, func() { a.deliver(Taints{Out: out}) })
		}
	}
}

// request carries serve out at the server, and done with whether it was
// answered within the timeout; cancel ends the waiting.
func (a *agent) request(timeout time.Duration, serve func(), done func(answered bool)) (cancel func()) {
	w := a.n.w
	w.requests++
	over := false
	finish := func(ok bool) {
		if !over {
			over = true
			done(ok)
		}
	}
	takes := w.vary(4 * ms)
	switch a.n.modeNow() {
	case apiRefuse:
		a.later(ms, func() { finish(false) })
	case apiHang:
		w.stuck = append(w.stuck, serve)
	case apiMute:
		w.after(takes/2, serve)
	case apiSlow:
		takes = w.vary(w.slow)
		fallthrough
	case apiUp:
		w.after(takes/2, func() {
			serve()
			a.reached(takes/2, false, func() { finish(true) })
		})
	}
	a.later(timeout, func() { finish(false) })
	return func() { finish(false) }
}

// electorModel is lock.go and elector.go as the machine sees them.
type electorModel struct {
	a       *agent
	wish    Lock
	poll    int // the one poll that counts
	renewAt lb.Instant
	backoff time.Duration
	view    View
	version uint64
	at      lb.Instant
	synced  bool
	writing bool
	waiting []func()
	cancel  func()         // ends the elector's own write
	reads   [2]int         // in flight: quick and patient ones
	beats   map[string]int // of the members, as known here
}

// seen is leases.seen.
func (e *electorModel) seen(v View, version uint64, via Via, begun lb.Instant) {
	stale := e.synced && version < e.version
	if stale && via == ByRead && begun > e.at {
		stale = false
	}
	switch {
	case stale && via != ByRead:
		return
	case stale:
		v = e.view
	default:
		e.view, e.version, e.at, e.synced = v, version, e.a.n.clock(), true
	}
	e.a.deliver(Saw{View: e.dated(v), Via: via, Begun: begun})
}

func (e *electorModel) do(act Action) {
	switch act := act.(type) {
	case Lock:
		old := e.wish
		e.wish = act
		if act.Mode == LockClosed && e.cancel != nil {
			e.cancel()
		}
		if act.Mode == LockRenew && old.Mode != LockRenew {
			e.renewAt = 0
		}
		e.plan(e.a.n.w.vary(10 * ms))
	case Read:
		e.read(act.Timeout)
	case Repair:
		e.alone(func() {
			if v := e.view; !v.Sound || !v.Candidate || v.Record.Transitions <= act.Record.Transitions {
				e.put(act.Record, swapTimeout, func(ok, won bool) { e.wrote(ok && won) })
			}
		})
	case Swap:
		e.alone(func() { e.swap(act) })
	}
}

// alone is the mutex around writes.
func (e *electorModel) alone(f func()) {
	if e.writing {
		e.waiting = append(e.waiting, f)
		return
	}
	f()
}

func (e *electorModel) plan(d time.Duration) {
	e.poll++
	mine := e.poll
	e.a.later(d, func() {
		if mine == e.poll {
			e.update()
		}
	})
}

// update is lock.Update, called at the LeaderElector's looks and when something is
// urgent; while it would do nothing the model waits for the time at which it would.
func (e *electorModel) update() {
	now := e.a.n.clock()
	if e.wish.Mode == LockClosed || e.wish.NotAfter != 0 && now >= e.wish.NotAfter {
		return
	}
	again := func() { e.plan(e.a.n.w.vary(20 * ms)) }
	ours := e.view.Sound && e.view.Record.term(e.wish.Record)
	switch {
	case e.writing:
		again()
		return
	case e.wish.Mode == LockClaim && ours:
		return
	case e.wish.Mode == LockClaim && e.view.Sound && e.view.Record.Version != e.wish.Record.Version,
		e.wish.Mode == LockRenew && !ours:
		again()
		return
	case e.wish.Mode == LockRenew && e.renewAt == neverAgain:
		return
	case e.wish.Mode == LockRenew && now < e.renewAt:
		wait := e.renewAt - now
		if e.backoff == 0 {
			wait += e.a.n.w.upTo(lookEvery) // what is not urgent waits for the next look
		}
		e.plan(wait)
		return
	}
	e.cancel = e.put(e.wish.Record, swapTimeout, func(ok, won bool) {
		e.cancel = nil
		e.wrote(ok && won)
		again()
	})
}

func (e *electorModel) wrote(ok bool) {
	now := e.a.n.clock()
	if ok {
		e.renewAt, e.backoff = now-4*ms+e.a.n.w.cfg.Renew, 0
		if e.a.n.w.services {
			e.renewAt = neverAgain
		}
		return
	}
	e.backoff = min(max(2*e.backoff, 50*ms), time.Second)
	e.renewAt = now + e.backoff
}

// put sends one write and delivers what came of it.
func (e *electorModel) put(r Record, timeout time.Duration, done func(answered, won bool)) (cancel func()) {
	w, begun := e.a.n.w, e.a.n.clock()
	base := uint64(0)
	if e.view.Exists {
		base = e.version
	}
	var won bool
	var v View
	var version uint64
	e.writing = true
	if w.store.exists && r.Holder != w.store.rec.Holder && e.a.n.modeNow() == apiHang {
		w.late = true
	}
	return e.a.request(timeout, func() {
		won = w.commit(e.a.n, r, base)
		v, version = w.store.view(w)
	}, func(answered bool) {
		e.writing = false
		switch {
		case answered && won:
			e.seen(v, version, ByWrite, begun)
		case answered:
			e.read(readTimeout)
		}
		done(answered, answered && won)
		for len(e.waiting) > 0 && !e.writing {
			next := e.waiting[0]
			e.waiting = e.waiting[1:]
			next()
		}
	})
}

// swap is elector.swap.
func (e *electorModel) swap(act Swap) {
	if !e.view.Sound || e.view.Record.Version != act.Record.Version {
		e.read(readTimeout)
		e.a.later(0, func() { e.a.deliver(Swapped{To: act.Record.Holder, Result: SwapLost}) })
		return
	}
	e.put(act.Record, act.Timeout, func(answered, won bool) {
		r := SwapUnanswered
		switch {
		case won:
			r = SwapWon
		case answered:
			r = SwapLost
		}
		e.a.deliver(Swapped{To: act.Record.Holder, Result: r})
	})
}

// read is readSoon: one quick and a few patient reads in flight.
func (e *electorModel) read(timeout time.Duration) {
	w, begun := e.a.n.w, e.a.n.clock()
	flight, most := &e.reads[0], 1
	if timeout > readTimeout {
		flight, most = &e.reads[1], 5
	}
	if *flight >= most {
		return
	}
	*flight++
	var v View
	var version uint64
	e.a.request(timeout, func() { v, version = w.store.view(w) }, func(answered bool) {
		*flight--
		if answered {
			e.dating(v, func() { e.seen(v, version, ByRead, begun) })
			return
		}
		e.a.deliver(ReadFailed{Begun: begun})
	})
}
