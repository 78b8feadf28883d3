package election

import (
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// becomeStandby ends whatever this node did for the group. The addresses must
// have been let go already, or never been held.
func (m *Machine) becomeStandby() {
	if m.phase == Draining && m.due[onSign] != 0 {
		panic("election: standby with a hand-over pending")
	}
	m.phase, m.sure, m.held = Standby, false, false
	m.claimed, m.byEvidence, m.won, m.provisional = false, false, false, false
	m.quarrel, m.failing = quarrel{}, 0
	m.hand, m.summon = handover{}, summons{}
	m.due = m.due.lasting()
	m.age = ageing{}
	m.age.saw(m.now, m.known.stamp())
	m.do(Lock{Mode: LockClosed})
	m.due.set(onRead, m.now+m.missed())
	if m.shutdown {
		m.do(Done{})
	}
}

// missed is how long without a change is one missed renewal.
func (m *Machine) missed() time.Duration { return m.cfg.Renew + m.cfg.Renew/4 }

// standbySaw follows the record, measures its age and answers its summons.
func (m *Machine) standbySaw(ev Saw, v verdict) {
	if v == damage && m.rewritten(ev.View) {
		v = successor
	}
	sound := v == same || v == successor
	changed := m.follow(ev.View.Record, sound)
	named := sound && m.known.Version != "" && m.known.Holder == m.cfg.Self
	switch {
	case named && m.showsClaim(ev):
		m.claimWon()
		return
	case named:
		m.summoned(ev)
		return
	case m.phase == Claiming && m.byEvidence:
		m.claimedMeanwhile(ev, v)
		return
	case changed && m.phase == Claiming:
		m.say(ClaimAbandoned, Note{Node: m.known.Holder, Detail: "the record was written meanwhile"})
		m.becomeStandby()
	}
	m.hopHolds(v)
	m.summon = summons{}
	if ev.Via == ByRead {
		m.age.answered(m.now, ev.Begun)
		m.considerBackstop(ev.Begun)
	}
}

// showsClaim says whether a record that names this node is its claim. The watch may
// be quicker than the answer to the very write it shows.
func (m *Machine) showsClaim(ev Saw) bool {
	return m.phase == Claiming && m.claimed && (ev.Via != ByWatch || m.known.Transitions == m.claim.Transitions)
}

// follow takes the record, if it is sound, and begins its age anew when it was
// written since the last look.
func (m *Machine) follow(r Record, sound bool) (changed bool) {
	version := ""
	if sound {
		m.believe(r)
		version = m.known.stamp()
	}
	m.actual = r.Version
	if m.age.seen != 0 && version == m.age.version {
		return false
	}
	m.age.saw(m.now, version)
	m.noted = ""
	// Unsound or gone: nobody renews it, so look at once.
	wait := m.missed()
	if version == "" {
		wait = 0
	}
	m.due.set(onRead, m.now+wait)
	return true
}

// rewritten says whether a Lease that was deleted or scribbled on was written anew
// by a node that is heard to hold by it, with fewer transitions than it had.
func (m *Machine) rewritten(v View) bool {
	p := m.peers[v.Record.Holder]
	return v.Sound && v.Candidate && p.holds() &&
		p.say.Transitions == v.Record.Transitions && !m.peers[m.known.Holder].holds()
}

// considerBackstop claims a record that nobody has renewed for leaseDuration,
// counted by own reads; a read that comes just at that age is asked for.
func (m *Machine) considerBackstop(begun lb.Instant) {
	if m.phase != Standby || m.shutdown {
		return
	}
	need := m.needAge()
	if m.age.at(begun) < need {
		m.due.set(onRead, max(min(m.age.since+need, begun+time.Second), m.now))
		return
	}
	m.due.set(onRead, m.now+time.Second)
	if !m.carrier {
		m.complain(NoWitness, Note{Detail: "own link has no carrier"})
		return
	}
	m.becomeClaiming(begun)
}

// needAge is the age at which this node may claim: later the worse its rank,
// so that candidates do not all write at once, and twice as old while the
// holder, cut off from the API servers only, still answers.
func (m *Machine) needAge() time.Duration {
	need := m.lease()
	if !m.ever && !m.past {
		need = firstClaim
	}
	if m.noted == HolderAlive {
		need += m.lease()
	}
	rank := 0
	for _, c := range Ranked(m.cfg.Group, m.members) {
		if c.Node == m.cfg.Self {
			break
		}
		if c.Live && c.Node != m.known.Holder {
			rank++
		}
	}
	return need + time.Duration(rank)*rankStep
}

// lease is the longer of this node's and the holder's: while a configuration is
// rolled out they differ, and the dead holder's kernel goes by its own.
func (m *Machine) lease() time.Duration { return max(m.cfg.Lease, min(m.known.Lease, maxLease)) }

// becomeClaiming asks the wire before it asks for the record.
func (m *Machine) becomeClaiming(begun lb.Instant) {
	if m.phase != Standby {
		panic("election: claiming from " + m.phase.String())
	}
	m.phase, m.claimed, m.read = Claiming, false, begun
	m.began = m.age.seen
	m.due.set(onClaim, begun+time.Second)
	m.do(Probe{})
}

// abandon ends a claim whose time is over. A swap that was written all the
// same is found by the read and answered as a summons.
func (m *Machine) abandon() {
	if m.phase != Claiming {
		return
	}
	m.say(ClaimAbandoned, Note{Detail: "no answer to the claim in time"})
	age := m.age
	m.becomeStandby()
	m.age = age
	m.do(Read{Timeout: ageTimeout})
}

// onProbed goes on with a claim or a summons.
func (m *Machine) onProbed(ev Probed) {
	switch {
	case ev.Quick:
		m.suspectProbed(ev)
	case m.boot && m.phase == Standby && !m.summon.active:
		m.bootProbed(ev)
	case m.phase == Holding && !m.sure:
		m.othersAnswer(ev)
	case m.phase == Claiming && !m.claimed:
		m.claimProbed(ev)
	case m.phase == Standby && m.summon.active:
		if ev.Err != "" {
			m.complain(NoWitness, Note{Detail: ev.Err})
			m.summon = summons{}
			m.due.set(onRead, m.now+time.Second)
			return
		}
		m.summon.probed, m.summon.answers = true, ev.Answers
		m.answerSummons()
	}
}

// claimProbed opens the lock when the wire is silent and a witness proves that
// it is not this node that is cut off.
func (m *Machine) claimProbed(ev Probed) {
	peer, mac := m.sortAnswers(ev.Answers)
	retry := func(r Reason, n Note) {
		m.phase = Standby
		m.due.clear(onClaim)
		m.complain(r, n)
	}
	switch {
	case ev.Err != "":
		retry(NoWitness, Note{Detail: ev.Err})
	case mac != "":
		retry(Stranger, Note{MAC: mac, Detail: "a host of no candidate answers for the VIP"})
	case !ev.Witness:
		retry(NoWitness, Note{Detail: "neither gateway nor another candidate answers"})
	case peer != "" && (m.age.at(m.read) < 2*m.lease() || m.fencing(peer)):
		retry(HolderAlive, Note{Node: peer})
	case m.claimant(m.known.Holder, m.known.Transitions) != "":
		retry(HolderAlive, Note{Node: m.claimant(m.known.Holder, m.known.Transitions)})
	default:
		r := Record{
			Holder: m.cfg.Self, Transitions: m.known.Transitions + 1, Cause: CauseExpired,
			UID: m.known.UID, Version: m.actual,
		}
		switch {
		case !m.ever && !m.past:
			r.Cause = CauseFirst
		case peer != "" && m.peers[peer].holds():
			// It lives without API servers, and its endpoints grow stale: it is
			// told by hello, and drains.
			r.Cause, r.From = CauseStale, peer
		}
		m.claimed, m.claim, m.base = true, r, m.known
		m.say(Claims, Note{Cause: r.Cause})
		m.do(Lock{Mode: LockClaim, Record: r, NotAfter: m.due[onClaim]})
		// The answer to a write sent in time may come later.
		m.due.set(onClaim, m.due[onClaim]+swapTimeout)
	}
}

// fencing says whether a node's agent was heard until so lately that its kernel
// may answer without it: its fence will end that.
func (m *Machine) fencing(node string) bool {
	return m.silent(node) && m.now-m.peers[node].since < m.cfg.ValidLft+time.Second
}

// sortAnswers tells candidates' MACs from strangers'.
func (m *Machine) sortAnswers(macs []string) (peer, stranger string) {
	for _, mac := range macs {
		switch owner := ownerOf(m.members, mac); owner {
		case m.cfg.Self:
		case "":
			stranger = mac
		default:
			peer = owner
		}
	}
	return peer, stranger
}

// summoned: the record names this node. A watch is a hint only; a quorum read
// begun after the last wake-up and the wire decide.
func (m *Machine) summoned(ev Saw) {
	if m.phase != Standby {
		return
	}
	fresh := ev.Via != ByWatch && ev.Begun > m.woke
	if !m.summon.active {
		m.summon = summons{active: true}
		m.began = m.now
		m.do(Probe{})
		if !fresh {
			m.do(Read{Timeout: readTimeout})
		}
		m.due.set(onRead, m.now+readTimeout+50*time.Millisecond)
	}
	if fresh {
		m.summon.read = true
		m.answerSummons()
	}
}

// answerSummons holds when the record was read and nobody answers for the VIP
// but the node that handed it over in this very term.
func (m *Machine) answerSummons() {
	if !m.summon.read || !m.summon.probed || m.shutdown {
		return
	}
	if !m.carrier {
		m.complain(NoWitness, Note{Detail: "own link has no carrier"})
		m.summon = summons{}
		m.due.set(onRead, m.now+time.Second)
		return
	}
	others := slices.DeleteFunc(slices.Clone(m.summon.answers), func(mac string) bool {
		owner := ownerOf(m.members, mac)
		// Who handed over still answers.
		return owner == m.cfg.Self || owner != "" && owner == m.known.From && m.mayDrain(owner) || m.drainsHere(owner)
	})
	peer, mac := m.sortAnswers(others)
	if peer == "" {
		peer = m.overtaken()
	}
	if mac != "" || peer != "" {
		r := Stranger
		if peer != "" {
			r = HolderAlive
		}
		m.complain(r, Note{MAC: mac, Node: peer, Detail: "the record names this node, another answers"})
		m.summon = summons{}
		m.due.set(onRead, m.now+time.Second)
		return
	}
	cause := m.known.Cause
	if m.known.From == "" {
		cause = CauseNamed
	}
	m.becomeHolding(cause)
}

// overtaken names a peer that is heard to hold in a later term than the record that
// was read, "" for none.
func (m *Machine) overtaken() string {
	for _, name := range m.names {
		if p := m.peers[name]; p.up() && p.say.Phase == Holding && p.say.Transitions > m.known.Transitions {
			return name
		}
	}
	return ""
}

// mayDrain says whether the node that handed over may let go at this node's sign:
// not with a dead agent, nor while it says that it knows nothing of the swap.
func (m *Machine) mayDrain(node string) bool {
	p := m.peers[node]
	unaware := p.up() && p.say.Phase == Holding && p.say.Transitions < m.known.Transitions
	return !unaware && !m.silent(node)
}

// drainsHere says whether a node says that it hands this very term over to this
// node.
func (m *Machine) drainsHere(node string) bool {
	p := m.peers[node]
	return p.up() && p.say.Phase == Draining && p.say.To == m.cfg.Self && p.say.Transitions == m.known.Transitions
}

// othersAnswer counts candidates that answer for the VIP beside this unsure
// holder; when nobody does the quarrel is over, unless the other is heard to hold:
// it may not hear this node's questions.
func (m *Machine) othersAnswer(ev Probed) {
	if peer, _ := m.sortAnswers(ev.Answers); peer == "" && ev.Err == "" && !m.beside(m.peers[m.quarrel.with]) {
		m.quarrel = quarrel{}
	}
	for _, mac := range ev.Answers {
		if ownerOf(m.members, mac) != "" {
			m.onClaimed(mac)
		}
	}
}
