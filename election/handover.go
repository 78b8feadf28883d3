package election

import (
	"slices"
	"time"
)

// onAsk begins a planned move: swap the record, keep answering, let go when the
// target shows itself.
func (m *Machine) onAsk(ev Ask) {
	drop := func(why string) { m.say(MoveDropped, Note{Node: ev.To, Cause: ev.Cause, Detail: why}) }
	switch {
	case m.phase != Holding:
		drop("this node does not hold the group")
		return
	case m.provisional && !m.shutdown:
		drop("no API server confirms this node")
		return
	case m.provisional:
		m.hand.cause = ev.Cause
		m.nobody()
		return
	case m.hand.active:
		drop("another move is under way")
		return
	case ev.To == m.cfg.Self:
		drop("this node holds the group already")
		return
	case ev.To != "" && !m.live(ev.To):
		drop("node " + ev.To + " is no live candidate")
		return
	}
	m.hand = handover{active: true, cause: ev.Cause, target: ev.To, tried: []string{m.cfg.Self}}
	if ev.To == "" {
		m.hand.target = m.bestUntried()
	}
	if m.hand.target == "" {
		m.nobody()
		return
	}
	m.began = m.now
	m.swapTo(m.hand.target)
}

// live says whether a node could take over now, as far as is known.
func (m *Machine) live(node string) bool {
	return slices.ContainsFunc(m.members, func(c Member) bool { return c.Node == node && m.present(c) })
}

// bestUntried is the best-ranked live candidate this hand-over has not tried;
// one whose load balancer does not serve comes last.
func (m *Machine) bestUntried() string {
	untried := func(node string) bool { return !slices.Contains(m.hand.tried, node) }
	if best := m.bestWell(untried); best != "" {
		return best
	}
	for _, c := range Ranked(m.cfg.Group, m.members) {
		if m.present(c) && untried(c.Node) {
			return c.Node
		}
	}
	return ""
}

// nobody ends a hand-over that has no target: the kernel expires the address
// when the agent ends, a restart within the fence adopts it.
func (m *Machine) nobody() {
	m.say(NoCandidate, Note{Cause: m.hand.cause})
	m.hand = handover{}
	if m.shutdown {
		m.do(Done{Kept: true})
		return
	}
	m.relock()
}

// swapTo latches the lock, or the elector's next renewal would steal the group
// back, and writes the record that names the target.
func (m *Machine) swapTo(node string) {
	m.hand.target = node
	m.hand.tried = append(m.hand.tried, node)
	r := m.known
	r.Holder, r.Transitions, r.From, r.Cause = node, m.known.Transitions+1, m.cfg.Self, m.hand.cause
	if node == m.cfg.Self {
		r.From, r.Cause = "", CauseUndone
	}
	m.hand.record, m.hand.cut = r, false
	m.due.clear(onSign)
	m.due.set(onSwap, m.now+swapTimeout+swapTimeout/2)
	m.do(Lock{Mode: LockClosed}, Swap{Record: r, Timeout: swapTimeout})
}

// onSwapped goes on with a hand-over whose swap was answered, or not.
func (m *Machine) onSwapped(ev Swapped) {
	if !m.hand.active || ev.To != m.hand.target {
		return
	}
	m.due.clear(onSwap)
	switch {
	case ev.Result == SwapLost:
		// A conflict decides nothing: read, then try again or give in.
		m.hand.lost++
		m.do(Read{Timeout: readTimeout})
		m.due.set(onSign, m.now+readTimeout)
		if m.hand.lost > 3 && m.phase == Holding {
			m.dropMove("the record keeps changing")
		}
	case ev.Result == SwapWon && ev.To == m.cfg.Self:
		m.believe(m.hand.record)
		m.undone()
	case ev.Result == SwapWon && m.known.term(m.hand.record):
		// The watch was quicker, and may have shown the target's sign.
	case ev.Result == SwapWon:
		m.becomeDraining(m.hand.record)
	case m.phase == Draining && m.known.term(m.hand.record):
		// The watch has shown that it was written.
	case m.phase == Draining:
		// The API server went away half-way: go on answering, look again.
		m.hand.cut, m.unsure = true, m.now
		m.due.set(onRead, m.now)
		m.due.set(onSign, m.now+2*signWait)
	default:
		m.dropMove("no API server answered the swap within 1 s")
	}
}

// dropMove gives a planned move up; a shutdown goes on without a target.
func (m *Machine) dropMove(why string) {
	m.say(MoveDropped, Note{Node: m.hand.target, Cause: m.hand.cause, Detail: why})
	m.hand = handover{}
	m.due.clear(onSign, onSwap)
	if m.shutdown {
		m.do(Done{Kept: true})
		return
	}
	m.relock()
	m.becomeUnsure("a swap was not answered")
}

// becomeDraining: the record names the target; this node answers until the
// target shows that it holds.
func (m *Machine) becomeDraining(r Record) {
	if m.phase != Holding && m.phase != Draining {
		panic("election: draining from " + m.phase.String())
	}
	m.phase = Draining
	m.believe(r)
	if !slices.Contains(m.hand.tried, r.Holder) {
		// Swapped by an earlier run, or given up for unanswered.
		m.hand.tried, m.hand.cause, m.began = []string{m.cfg.Self, r.Holder}, r.Cause, m.now
	}
	// As it is written now: a late answer to an older swap changes nothing.
	m.hand.target, m.hand.record, m.hand.cut = r.Holder, r, false
	m.say(HandingOver, Note{Node: r.Holder, Cause: r.Cause})
	m.due.clear(onLease, onRead, onRepair)
	m.due.set(onSign, m.now+signWait)
	// An announcement that is due would call back the target's first clients.
	m.do(Lock{Mode: LockClosed})
	m.refresh()
}

// drainingSaw looks for the target's sign: its first renewal of the record.
func (m *Machine) drainingSaw(ev Saw, v verdict) {
	r := ev.View.Record
	switch {
	case v == damage, v == missing:
		// Nobody else would write it again before the target holds.
		if m.due[onRepair] <= m.now {
			m.due.set(onRepair, m.now+repairEvery)
			m.do(Repair{Record: m.known})
		}
	case r.Holder == m.cfg.Self:
		m.believe(r)
		m.undone()
	case v == successor && r.From == m.cfg.Self:
		m.becomeDraining(r)
	case r.From == m.cfg.Self, m.hand.yields && r.term(m.known) && r.Version == m.known.Version:
		// Of a group of Services also when the target has renewed its member Lease.
		m.known.Version = r.Version
		if m.hand.cut && ev.Via == ByRead && ev.Begun >= m.unsure {
			m.tryNext() // an API server answers again, and the target has had its time
		}
	case v == same:
		m.believe(r)
		m.signed()
	default:
		m.believe(r)
		m.due.clear(onSign)
		m.becomeFenced(Fenced)
	}
}

// tryNext: no sign in time. The next candidate, or back to this node.
func (m *Machine) tryNext() {
	if !m.hand.active {
		return
	}
	if m.hand.yields {
		m.signed()
		return
	}
	if m.phase == Holding {
		// The swap was refused and the read has shown our own term again.
		m.swapTo(m.hand.target)
		return
	}
	next := m.bestUntried()
	if next == "" {
		next = m.cfg.Self
	}
	m.swapTo(next)
}

// undone: the record names this node again; it never stopped answering.
func (m *Machine) undone() {
	if m.phase != Draining {
		return
	}
	m.phase, m.sure, m.held = Holding, true, true
	cause := m.hand.cause
	m.hand = handover{}
	m.due.clear(onSign, onSwap, onRead)
	m.due.set(onLease, m.now+m.cfg.Lease-time.Second)
	m.say(MoveUndone, Note{Cause: cause})
	m.refresh()
	if m.shutdown {
		m.do(Done{Kept: true})
		return
	}
	m.relock()
}

// signed ends a hand-over: the target has shown that it answers, by its hello,
// its first renewal or by announcing the VIP. Connections made here live on.
func (m *Machine) signed() {
	if m.phase != Draining {
		return
	}
	m.due.clear(onSign, onSwap, onRead)
	m.unloopSoon()
	keep := m.cfg.Drain + copySpare
	if m.cfg.Drain == 0 || m.hand.cause == CauseUnhealthy {
		// Some have not heard of the target. What does not serve keeps no connection
		// either, and its copy would catch the node's own clients.
		keep = time.Second
	}
	m.do(Drain{For: keep})
	m.say(GaveUp, Note{Node: m.known.Holder, Cause: m.hand.cause, Took: m.now - m.began})
	m.woke = m.now
	m.becomeStandby()
}

// onShutdown hands the group over and ends the agent.
func (m *Machine) onShutdown() {
	first := !m.shutdown
	m.shutdown = true
	switch {
	case m.phase == Standby || m.phase == Claiming:
		m.do(Lock{Mode: LockClosed}, Done{})
	case m.phase == Holding && !m.hand.active:
		if first || m.sure {
			m.onAsk(Ask{Cause: CauseShutdown})
		}
	}
}

// notYet says whether a record's holder is heard to come, and not yet to hold.
func (m *Machine) notYet(r Record) bool {
	p := m.peers[r.Holder]
	return p.up() && (p.say.Phase == Standby || p.say.Phase == Claiming)
}

// yield goes on answering, mute, for a claim that was written when nobody waited
// for it any more, until its node holds: half a second at most.
func (m *Machine) yield(r Record) {
	m.began, m.provisional = m.now, false
	m.hand = handover{active: true, yields: true, target: r.Holder, cause: r.Cause, tried: []string{m.cfg.Self, r.Holder}}
	m.becomeDraining(r)
}

// obey: another candidate has swapped the record to itself and asks this node,
// which reaches no API server, to drain. Its hello is the sign as well.
func (m *Machine) obey(node string, s Say) {
	m.began = m.now
	m.hand = handover{active: true, target: node, cause: CauseStale, tried: []string{m.cfg.Self, node}}
	r := m.known
	r.Holder, r.Transitions, r.From, r.Cause, r.Version = node, s.Transitions, m.cfg.Self, CauseStale, ""
	m.provisional = false
	m.becomeDraining(r)
	m.signed()
}
