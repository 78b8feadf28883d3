package election

import (
	"time"
)

// becomeHolding puts the addresses on their links. The record is renewed only
// once they are there and announced: that first renewal is the sign by which a
// hand-over's old holder lets go.
func (m *Machine) becomeHolding(cause Cause) {
	if m.phase == Draining {
		panic("election: holding again must go through undone")
	}
	from := m.known.From
	m.phase, m.sure, m.held = Holding, true, false
	m.claimed, m.byEvidence, m.won, m.provisional = false, false, false, false
	m.quarrel, m.failing, m.noted = quarrel{}, 0, ""
	m.hand, m.summon = handover{}, summons{}
	m.due = m.due.lasting()
	m.since = m.now
	m.how = cause
	m.due.set(onLease, m.now+m.cfg.Lease-time.Second)
	m.carryOver(from)
	if cause != CauseAdopted {
		m.do(Hold{NotAfter: m.now + time.Second})
		// Until the address is there this agent's own clock is the fence.
		m.due.set(onWake, m.now+m.cfg.ValidLft)
		m.due.set(onRefresh, m.now+refreshEvery)
	}
}

// refresh writes the addresses again, within the fence that the last write set.
func (m *Machine) refresh() {
	if m.phase != Holding && m.phase != Draining {
		return
	}
	notAfter := m.wake
	if !m.held {
		notAfter = m.now + time.Second
	}
	m.do(Hold{NotAfter: notAfter, Mute: m.phase == Draining})
	m.due.set(onRefresh, m.now+refreshEvery)
}

// onAddress moves the fence on, or notes that the kernel refused.
func (m *Machine) onAddress(ev AddressIs) {
	if m.phase != Holding && m.phase != Draining {
		return
	}
	switch {
	case ev.Late:
		m.becomeFenced(Frozen)
		return
	case !ev.Held:
		m.addressFailed(ev.Err)
		return
	}
	if ev.Begun+m.cfg.ValidLft <= m.now {
		m.becomeFenced(Frozen)
		return
	}
	m.failing = 0
	m.wake = ev.Begun + m.cfg.ValidLft
	m.due.set(onWake, m.wake)
	m.due.set(onRefresh, ev.Begun+refreshEvery)
	if m.phase == Draining {
		return
	}
	if !m.held && !m.carrier {
		return // nobody can hear that it holds: no sign for an old holder
	}
	if !m.held {
		m.held = true
		r := Became
		if m.how == CauseAdopted {
			r = Adopted
		}
		m.say(r, Note{Cause: m.how, Node: m.known.From, Took: m.now - m.began})
	}
	if !m.hand.active && !m.provisional {
		m.do(Lock{Mode: LockRenew, Record: m.mine(), NotAfter: m.wake})
	}
}

// carryOver lets flows under way at the old holder reach it through this node.
func (m *Machine) carryOver(from string) {
	switch {
	case from == "" || from == m.cfg.Self || m.cfg.Drain == 0:
		// Nobody handed over: what is known of old flows still holds.
	case !m.opens(from):
		m.say(NoForwarding, Note{Node: from, Detail: "the chain of old holders comes back to this node: " +
			"connections made before the move have ended"})
		m.forwardTo("")
	default:
		m.forwardTo(from)
	}
}

// addressFailed tries again, and asks another candidate after two seconds: a
// holder that cannot hold is no holder.
func (m *Machine) addressFailed(why string) {
	m.complain(AddressFailed, Note{Detail: why})
	m.due.set(onRefresh, m.now+refreshEvery/5)
	if !m.held {
		m.due.set(onWake, m.now+m.cfg.ValidLft)
	}
	if m.failing == 0 {
		m.failing = m.now
		return
	}
	if m.now-m.failing >= 2*time.Second && m.phase == Holding && !m.hand.active {
		m.failing = m.now
		m.onAsk(Ask{Cause: CauseAddress})
	}
}

// onAddressGone puts back what somebody deleted by hand, inside the fence.
func (m *Machine) onAddressGone() {
	if m.phase != Holding || !m.held {
		return
	}
	m.say(AddressBack, Note{})
	m.do(Hold{NotAfter: m.wake})
}

// holdingSaw: only a valid successor ends a term; everything else is repaired.
func (m *Machine) holdingSaw(ev Saw, v verdict) {
	switch v {
	case same:
		if ev.View.Record.Holder != m.cfg.Self {
			m.becomeFenced(Fenced)
			return
		}
		m.confirmed(ev)
	case successor:
		m.superseded(ev)
	case damage, missing:
		if m.disputed(ev) {
			m.believe(ev.View.Record)
			m.becomeFenced(Fenced)
			return
		}
		m.repair()
	}
}

// disputed: a quorum read gives this holder's term to another candidate, which is heard
// to hold it: that one claimed while this node was away, without knowing of its claim.
// What stands in the record counts.
func (m *Machine) disputed(ev Saw) bool {
	r := ev.View.Record
	return ev.Via == ByRead && ev.View.Sound && ev.View.Candidate && r.Transitions == m.known.Transitions &&
		m.peers[r.Holder].holds() && m.peers[r.Holder].say.Transitions == r.Transitions
}

// confirmed: a read or write begun after the loss names us. A watch may be old.
func (m *Machine) confirmed(ev Saw) {
	m.believe(ev.View.Record)
	if ev.Via == ByWrite {
		m.due.set(onLease, ev.Begun+m.cfg.Lease-time.Second)
	}
	if ev.Via == ByWatch || m.sure || ev.Begun <= m.unsure {
		return
	}
	m.sure = true
	m.due.clear(onRead)
	if lease := ev.Begun + 2*m.cfg.Renew; m.due[onLease] < lease {
		m.due.set(onLease, lease)
	}
	m.say(Sure, Note{Took: m.now - m.unsure})
	if m.quarrel.with != "" {
		m.quarrel = quarrel{}
		m.do(Announce{})
	}
	m.relock()
	if m.shutdown && !m.hand.active {
		m.onShutdown()
	}
}

// onRenewed: this node's member Lease, on which the record rests, was written. It
// confirms nothing that is in doubt: only the record itself does.
func (m *Machine) onRenewed(ev Renewed) {
	if m.phase == Holding && m.sure {
		m.due.set(onLease, max(m.due[onLease], ev.Begun+m.cfg.Lease-time.Second))
	}
}

// relock lets the elector renew the present term.
func (m *Machine) relock() {
	if m.phase == Holding && m.held && !m.hand.active && !m.provisional {
		m.do(Lock{Mode: LockRenew, Record: m.mine(), NotAfter: m.wake})
	}
}

// superseded: a later term. Ours by our own hand, or another's.
func (m *Machine) superseded(ev Saw) {
	r := ev.View.Record
	switch {
	case r.Holder == m.cfg.Self:
		m.believe(r)
		m.confirmed(ev)
		m.relock()
	case r.From == m.cfg.Self:
		// A swap of ours that was not answered was written after all.
		m.hand.active, m.hand.target = true, r.Holder
		m.becomeDraining(r)
	case m.held && m.notYet(r):
		m.yield(r)
	default:
		m.believe(r)
		m.becomeFenced(Fenced)
	}
}

// repair writes our record over damage, ten times a second at the most.
func (m *Machine) repair() {
	if m.hand.active {
		return
	}
	if at := m.due[onRepair]; at > m.now {
		return
	}
	if !m.ever {
		m.known = Record{Holder: m.cfg.Self, Transitions: 1, Cause: CauseRecreated}
		m.ever = true
	}
	m.say(Repaired, Note{})
	m.do(Repair{Record: m.mine()})
	// Look again then: damage seen meanwhile was not repaired.
	m.due.set(onRepair, m.now+repairEvery)
}

// becomeUnsure: the API server no longer confirms. The addresses stay.
func (m *Machine) becomeUnsure(why string) {
	if m.phase != Holding || !m.sure {
		return
	}
	m.sure, m.unsure = false, m.now
	m.due.clear(onLease)
	m.due.set(onRead, m.now)
	m.say(Unsure, Note{Detail: why})
}

// onClaimed: another host says it has the VIP.
func (m *Machine) onClaimed(mac string) {
	owner := ownerOf(m.members, mac)
	if m.phase == Draining && owner != "" && owner != m.cfg.Self {
		m.signed()
		return
	}
	if m.phase != Holding || owner == m.cfg.Self {
		return
	}
	switch {
	case owner == "":
		m.say(Foreign, Note{MAC: mac})
		m.do(Announce{})
	case owner == m.known.From && m.now-m.since < 2*time.Second:
		// The old holder's last words in a hand-over.
		m.do(Announce{})
	default:
		m.contend(owner, mac)
	}
}

// settleQuarrel decides without an API server. A term proved by a recent write
// stays; past its lease the worse rank yields at once, the better one only when
// the claims go on for seconds: exactly one remains.
func (m *Machine) settleQuarrel() {
	if m.now-m.quarrel.last > time.Second {
		m.quarrel = quarrel{}
		return
	}
	if m.settleByHello() {
		return
	}
	patience := 300 * time.Millisecond
	if m.outranks(m.quarrel.with) {
		patience = 1800 * time.Millisecond
	}
	if m.due[onLease] == 0 && m.now-m.quarrel.since >= patience {
		m.becomeFenced(Fenced)
		return
	}
	m.do(Announce{})
}

// becomeFenced lets go at once and waits for no one.
func (m *Machine) becomeFenced(why Reason) {
	m.do(LetGo{})
	m.say(why, Note{Cause: CauseFenced, Node: m.known.Holder})
	m.woke = m.now
	if m.provisional {
		m.yielded = m.claim.Transitions
	}
	if m.provisional && m.known.Holder == m.cfg.Self {
		// What was never written is not remembered: another has the group.
		m.known, m.ever = m.base, m.reached
		if m.shown.Transitions > m.base.Transitions {
			m.believe(m.shown)
		}
	}
	m.forwardTo("")
	m.due.clear(onSign)
	m.becomeStandby()
	if m.shutdown {
		return
	}
	// Nobody may have claimed meanwhile: the record may still name this node.
	m.do(Read{Timeout: readTimeout})
	m.due.set(onRead, m.now+readTimeout+50*time.Millisecond)
}
