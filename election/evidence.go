package election

import (
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// suspicion is what this node has seen of a holder that does not answer.
type suspicion struct {
	// node is suspected in term; "" is nobody.
	node string
	term int64
	// down is since when it is known silent; 0 while only one hello is missing.
	down lb.Instant
	// asking says that a probe is under way, sent at asked.
	asking bool
	asked  lb.Instant
	// silent counts probes in a row that no candidate answered; kernel says that
	// the last one was: the agent died and its kernel still serves.
	silent int
	kernel bool
	// proved is since when enough of them were: the ranks count from here.
	proved lb.Instant
	// witness says that somebody else was heard in the last round; alone that
	// nobody was in some round since the last that counted.
	witness, alone bool
}

// silence is what hellos and taints say of the owner: none (0), late, or down
// since an instant. Condition (a) of a claim.
func (m *Machine) silence(node string, term int64) (late bool, down lb.Instant) {
	p := m.peers[node]
	switch {
	case slices.Contains(m.taints.Out, node):
		return true, m.tainted
	case p == nil || p.term != term || !m.ever:
		return false, 0
	case p.state == PeerDown:
		return true, p.since
	case p.idle != 0:
		// In this term, that is: a hand-over's target is idle for a moment.
		from := max(p.idle, m.age.seen) + idleWait
		if m.now < from {
			m.due.set(onIdle, from)
			return false, 0
		}
		return true, from
	}
	return p.state == PeerLate, 0
}

// suspect begins, goes on with or ends the suspicion against the group's owner.
// Probing starts at the first missed hello, so that it is over when the third is.
func (m *Machine) suspect() {
	if m.phase != Standby && m.phase != Claiming || m.shutdown {
		m.doubt = suspicion{}
		return
	}
	node, term := m.owner()
	late, down := m.silence(node, term)
	if node == "" || node == m.cfg.Self || !late {
		if m.doubt.node != "" && (node != m.cfg.Self || m.phase != Claiming) {
			m.acquit()
		}
		return
	}
	m.doubt.against(node, term, down)
	s := &m.doubt
	if !s.asking && m.due[onProbe] == 0 {
		m.askWire()
	}
}

// against goes on with a suspicion, or begins another one.
func (s *suspicion) against(node string, term int64, down lb.Instant) {
	if s.node != node || s.term != term {
		*s = suspicion{node: node, term: term, asking: s.asking}
	}
	if s.down == 0 {
		s.down = down
	}
}

// acquit ends a suspicion: the holder was heard again, or it is another one. A
// claim that rested on it is given up.
func (m *Machine) acquit() {
	m.doubt = suspicion{asking: m.doubt.asking}
	m.due.clear(onProbe)
	if m.noted == HelloBlocked {
		m.noted = ""
	}
	if m.phase == Claiming && m.byEvidence {
		m.say(ClaimAbandoned, Note{Node: m.known.Holder, Detail: "the holder is heard again"})
		m.becomeStandby()
		m.do(Read{Timeout: readTimeout}) // the swap may have been written all the same
	}
}

// askWire sends the next single probe.
func (m *Machine) askWire() {
	m.doubt.asking, m.doubt.asked = true, m.now
	m.due.clear(onProbe)
	m.do(Probe{Quick: true})
}

// askOn sends the next probe: at once after a silent one, which has had its time,
// else not before that time is over.
func (m *Machine) askOn() {
	if !m.doubt.kernel {
		m.askWire()
		return
	}
	m.due.set(onProbe, max(m.now, m.doubt.asked+claimWait))
}

// suspectProbed takes a probe's result: conditions (b) and (c).
func (m *Machine) suspectProbed(ev Probed) {
	s := &m.doubt
	s.asking = false
	if s.node == "" {
		return
	}
	m.weighAnswers(ev)
	switch {
	case m.phase == Claiming && s.kernel && m.now-s.down < m.patience():
		m.acquit()
	case m.phase == Claiming && m.won:
		m.becomeHolding(m.claim.Cause)
	case m.phase == Claiming:
		m.askOn() // so that the last question is young when the address is added
	default:
		m.weigh()
	}
}

// weighAnswers notes who answered a probe, and whether anybody witnessed it.
func (m *Machine) weighAnswers(ev Probed) {
	s := &m.doubt
	peer, stranger := m.sortAnswers(ev.Answers)
	if peer == "" && stranger != "" && !m.knows(s.node) {
		peer = s.node // its MACs are unknown, so any may be its
	}
	switch {
	case ev.Err != "":
		s.silent, s.witness = 0, false
		m.complain(NoWitness, Note{Detail: ev.Err})
	case peer != "":
		s.silent, s.kernel = 0, true
	default:
		s.silent, s.kernel = s.silent+1, false
		if s.silent == silentProbes {
			s.proved = m.now
		}
	}
	s.witness = ev.Err == "" && m.carrier && (ev.Witness || m.othersUp(s.node))
	if s.witness && s.alone && s.down != 0 {
		// Back from a cut of its own: what it missed meanwhile proves nothing.
		s.down, s.silent = m.now, min(s.silent, 1)
	}
	s.alone = !s.witness
}

// knows says whether a node's MACs are known.
func (m *Machine) knows(node string) bool {
	return slices.ContainsFunc(m.members, func(c Member) bool { return c.Node == node && len(c.MACs) > 0 })
}

// patience is how long a kernel may answer without a living agent behind it: a
// renewal that was just written, the time to the next one, and the fence of an
// agent that died before it.
func (m *Machine) patience() time.Duration {
	return max(m.cfg.Renew, m.known.Lease/3) + m.cfg.ValidLft + 2*time.Second
}

// weigh claims when all conditions of ownership.md hold, or looks again.
func (m *Machine) weigh() {
	s := &m.doubt
	again := func(r Reason, n Note) {
		if r != "" {
			m.complain(r, n)
		}
		m.due.set(onProbe, m.now+m.probePause())
	}
	switch {
	case s.node == "" || !m.mayClaim():
	case s.down == 0:
		m.askOn()
	case !m.carrier:
		again(NoWitness, Note{Detail: "own link has no carrier"})
	case s.kernel && m.renewing():
		again(HelloBlocked, Note{Node: s.node,
			Detail: "it answers and renews its record, but its hellos do not come: " +
				"is the UDP port blocked, or the key another?"})
	case s.kernel && m.mayLive():
		again("", Note{})
	case !s.kernel && s.silent < silentProbes:
		m.askWire()
	case !s.witness:
		again(NoWitness, Note{Detail: "neither gateway nor another candidate answers"})
	case m.claimant(s.node, s.term) != "":
		again("", Note{})
	case m.now < max(s.down, s.proved)+time.Duration(m.place(s.node))*rankStep:
		m.askWire()
	default:
		m.claimByEvidence()
	}
}

// renewing says whether the suspect has renewed its record since it fell silent.
func (m *Machine) renewing() bool {
	return m.age.seen > m.doubt.down+time.Second && m.known.Holder == m.doubt.node
}

// mayLive says whether a suspect whose kernel answers may have an agent at work. A
// record that nobody could renew proves nothing: its age is counted by reads.
func (m *Machine) mayLive() bool {
	return m.now-m.doubt.down < m.patience() || m.age.at(m.now) < m.patience()
}

// mayClaim says whether this node may begin to claim.
func (m *Machine) mayClaim() bool { return m.phase == Standby && !m.shutdown }

// probePause is the time between two questions while nothing is urgent.
func (m *Machine) probePause() time.Duration {
	if m.now-m.doubt.down > 10*time.Second {
		return time.Second
	}
	return rankStep
}

// claimByEvidence swaps the record from the dead holder. A slow API server is
// not waited for: 20 ms later this node holds provisionally.
func (m *Machine) claimByEvidence() {
	if m.phase != Standby {
		panic("election: claiming from " + m.phase.String())
	}
	m.phase, m.claimed, m.byEvidence, m.won = Claiming, true, true, false
	m.base = m.known
	m.claim = Record{
		Holder: m.cfg.Self, Transitions: m.doubt.term + 1, Cause: CauseSilent, UID: m.known.UID, Version: m.actual,
	}
	m.began = m.doubt.down
	if p := m.peers[m.doubt.node]; p != nil && p.heard != 0 {
		m.began = p.heard
	}
	m.say(Claims, Note{Cause: CauseSilent, Node: m.doubt.node})
	m.swapClaim()
	m.due.clear(onRead, onIdle)
	m.due.set(onClaim, m.now+claimTime)
	m.due.set(onProvisional, m.now+claimWait)
	m.askWire()
}

// swapClaim lets the lock swap the record that is there now to this node.
func (m *Machine) swapClaim() {
	m.claim.Version = m.actual
	m.do(Lock{Mode: LockClaim, Record: m.claim, NotAfter: m.now + swapTimeout})
}

// claimWon: the record names this node. The address follows a question that is
// at most 20 ms old, or one more.
func (m *Machine) claimWon() {
	if m.byEvidence && m.now-m.doubt.asked > probeFresh {
		m.won = true
		if !m.doubt.asking {
			m.askWire()
		}
		return
	}
	m.becomeHolding(m.known.Cause)
}

// claimedMeanwhile goes on with a claim by evidence whose record was written by
// another hand: the dead holder's last renewal is swapped again.
func (m *Machine) claimedMeanwhile(ev Saw, v verdict) {
	r := ev.View.Record
	switch {
	case v == same && r.Holder == m.base.Holder, v == damage, v == missing:
		if ev.Via != ByWatch {
			m.swapClaim()
		}
	case v == successor:
		m.say(ClaimAbandoned, Note{Node: r.Holder, Detail: "the record was written meanwhile"})
		m.becomeStandby()
	}
}

// goProvisional: the API server is silent, the wire has spoken.
func (m *Machine) goProvisional() {
	if m.phase != Claiming || !m.byEvidence || m.won {
		return
	}
	if m.doubt.kernel {
		// Somebody answers for the VIP: without an API server's word a switch that
		// answers for the dead looks like a firewall between the living.
		m.due.set(onProvisional, m.now+claimWait)
		return
	}
	if m.now-m.doubt.asked > probeFresh {
		// This node slept: the wire may have another holder by now.
		m.due.set(onProvisional, m.now+claimWait)
		if !m.doubt.asking {
			m.askWire()
		}
		return
	}
	m.becomeProvisional(m.claim)
}

// becomeProvisional holds without an API server's word, until one names this
// node or another. lock stays open for the swap that is under way.
func (m *Machine) becomeProvisional(r Record) {
	m.base.UID, m.base.Version = m.known.UID, m.actual
	m.known, m.ever, m.shown = r, true, Record{}
	m.known.Version, m.known.Unwritten = "", true
	m.do(Remember{Record: m.known})
	evidence := m.byEvidence
	m.becomeHolding(r.Cause)
	m.byEvidence = evidence
	m.sure, m.provisional, m.unsure = false, true, m.now
	m.due.clear(onLease)
	m.due.set(onRead, m.now+readTimeout)
}

// provisionalSaw: only the record of the group ends it.
func (m *Machine) provisionalSaw(ev Saw) {
	r, sound := ev.View.Record, ev.View.Exists && ev.View.Sound
	m.actual = r.Version
	switch {
	case ev.Via == ByWatch:
		// A watch may show what was true before: it is a hint to read. Once this
		// node has let go it is the last that is known.
		if judge(m.base, true, ev.View) == successor && r.Transitions > m.shown.Transitions {
			m.shown = r
		}
		if r.Transitions >= m.known.Transitions {
			m.do(Read{Timeout: readTimeout})
		}
	case sound && r.Holder == m.cfg.Self && r.Transitions >= m.known.Transitions:
		m.provisional = false
		m.unsure = min(m.unsure, ev.Begun-1) // our own swap was sent before we went on without its answer
		m.believe(r)
		m.do(Remember{Record: r})
		m.confirmed(ev)
	case !sound:
		m.takeRecord()
	case m.replaced(r) && m.mayTake(r):
		m.takeRecord()
	case r.Holder != m.cfg.Self && m.idle(r.Holder):
		// Another claim was written after all, whose node has yielded to this one.
		m.base = r
		m.takeRecord()
	default:
		m.believe(r)
		m.becomeFenced(Fenced)
	}
}

// replaced says whether a record is the one in whose place this node holds. A
// bootstrap did not know it, an adopted claim only remembers its term.
func (m *Machine) replaced(r Record) bool {
	return m.known.Transitions == 0 ||
		r.Transitions == m.base.Transitions && (m.base.Holder == "" || r.Holder == m.base.Holder)
}

// mayTake says whether the record's holder is still gone: not heard to hold,
// and, where no hello was ever heard of it, not renewing either.
func (m *Machine) mayTake(r Record) bool {
	renewed := m.base.term(r) && m.base.Version != "" && m.base.stamp() != r.stamp()
	if m.peers[r.Holder].holds() || renewed && !m.byEvidence {
		return false
	}
	m.base = r
	return true
}

// mayClaim says whether a node is heard to hold nothing.
func (m *Machine) idle(node string) bool {
	p := m.peers[node]
	return p.up() && p.say.Phase == Standby
}

// takeRecord swaps the record to this provisional holder, or makes one.
func (m *Machine) takeRecord() {
	m.claim = m.known
	m.claim.Transitions = max(m.known.Transitions, m.base.Transitions+1, 1)
	m.claim.UID = m.base.UID
	m.swapClaim()
}
