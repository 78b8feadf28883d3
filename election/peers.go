package election

import (
	"maps"
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// peer is another node as its hellos show it.
type peer struct {
	state PeerState
	say   Say
	// since is when state began, heard when its last hello came.
	since, heard lb.Instant
	// term is the newest term of the owner in which it was Up: only who was heard
	// in a term can be missed in it.
	term int64
	// idle is since when it is Up and says Standby, well since when it says that
	// its load balancer serves; 0 is not.
	idle, well lb.Instant
	// onward is where it forwarded to before it came to hold again.
	onward string
	// assured is since when its word counts that an API server confirms it as
	// holder: one who was away first has to ask again.
	assured lb.Instant
}

// up says whether both nodes hear each other; one hello missed is no silence.
func (p *peer) up() bool { return p != nil && (p.state == PeerUp || p.state == PeerLate) }

// holds says whether it says that it has the VIPs.
func (p *peer) holds() bool { return p.up() && (p.say.Phase == Holding || p.say.Phase == Draining) }

// take notes what a peer's hellos show at an instant, and says whether it came: it
// is up again, or for the first time.
func (p *peer) take(ev Peer, now lb.Instant) (came bool) {
	came = ev.State == PeerUp && (p.state == PeerDown || p.state == PeerUnknown)
	if ev.State != p.state {
		p.since = now
	}
	p.state, p.say, p.heard = ev.State, ev.Say, ev.Heard
	p.idle = since(p.idle, now, p.state == PeerUp && p.say.Phase == Standby)
	p.well = since(p.well, now, p.up() && p.say.Healthy)
	if p.say.Phase == Standby || p.say.Phase == Draining {
		p.onward = p.say.Forwards
	}
	p.assured = since(p.assured, now, p.up() && p.say.Phase == Holding && p.say.API)
	if came && p.assured != 0 {
		p.assured = now + 2*readTimeout
	}
	return came
}

// silent says that a peer was heard and is not any more.
func (m *Machine) silent(node string) bool {
	p := m.peers[node]
	return p != nil && p.state == PeerDown
}

// onPeer takes what the hellos of one node show.
func (m *Machine) onPeer(ev Peer) {
	p := m.peers[ev.Node]
	if p == nil {
		p = &peer{}
		m.peers[ev.Node] = p
		m.names = slices.Sorted(maps.Keys(m.peers))
	}
	old := p.say
	came := p.take(ev, m.now)
	m.noteUp()
	m.followHop(ev.Node)
	switch m.phase {
	case Holding:
		m.holdingHeard(ev.Node, p, old)
		if came && m.phase == Holding {
			m.do(Announce{}) // a part of the wire is back, whose clients may know another holder
		}
	case Draining:
		m.drainingHeard(ev.Node, p)
	case Standby:
		m.standbyHeard(p)
	case Claiming:
	}
	m.suspect()
}

// drainingHeard looks for the target's sign, or for its end: nobody waits for a
// target that has fallen silent.
func (m *Machine) drainingHeard(node string, p *peer) {
	switch {
	case node != m.known.Holder:
	case p.up() && p.say.Phase == Holding && p.say.Transitions == m.known.Transitions:
		m.signed()
	case p.state == PeerDown && !m.hand.yields && m.due[onSign] > m.now:
		m.due.set(onSign, m.now)
	}
}

// since is when a state began: kept while it lasts, 0 when it does not.
func since(was, now lb.Instant, on bool) lb.Instant {
	switch {
	case !on:
		return 0
	case was == 0:
		return now
	}
	return was
}

// standbyHeard goes on with what waits for a peer's word.
func (m *Machine) standbyHeard(p *peer) {
	if p.up() && p.say.Phase == Draining && p.say.To == m.cfg.Self && !m.summon.active &&
		p.say.Transitions >= m.known.Transitions {
		m.do(Read{Timeout: readTimeout}) // handed over to this node; the watch may be slow
	}
}

// owner is who has the group as far as this node knows, and in which term: the
// record's holder, or a provisional one that says so in its hellos and has not
// been heard otherwise since.
func (m *Machine) owner() (node string, term int64) {
	node, term = m.known.Holder, m.known.Transitions
	for _, name := range m.names {
		if say := m.peers[name].say; (say.Phase == Holding || say.Phase == Draining) && say.Transitions > term {
			node, term = name, say.Transitions
		}
	}
	return node, term
}

// noteUp remembers that the owner was heard in its term.
func (m *Machine) noteUp() {
	node, term := m.owner()
	if p := m.peers[node]; p.up() {
		p.term = term
	}
}

// present says whether a member could hold now, as far as its Lease, its taints
// and its hellos tell. One that was never heard may be behind a firewall.
func (m *Machine) present(c Member) bool {
	p := m.peers[c.Node]
	return c.Live && !slices.Contains(m.taints.Out, c.Node) && !slices.Contains(m.taints.Leave, c.Node) &&
		(p == nil || p.state != PeerDown)
}

// place is this node's rank among the candidates that could take over from node:
// 0 is the best. One that is told to leave, or whose load balancer does not
// serve, comes last.
func (m *Machine) place(from string) int {
	rank, mine := 0, -1
	for _, c := range Ranked(m.cfg.Group, m.members) {
		switch {
		case c.Node == m.cfg.Self:
			if m.present(c) && !m.sick() {
				mine = rank
			}
		case c.Node != from && m.present(c):
			rank++
		}
	}
	if mine < 0 {
		return rank
	}
	return mine
}

// sick says that this node's load balancer has not served for a while.
func (m *Machine) sick() bool { return m.ill != 0 && m.now-m.ill >= sickWait }

// claimant names a candidate that is heard to claim or hold in a later term than
// the holder's, or another that is heard to hold in the same: of two that held
// provisionally in one term the one that yielded may be the one that was written.
func (m *Machine) claimant(holder string, term int64) string {
	for _, name := range m.names {
		p := m.peers[name]
		beside := name != holder && p.holds() && p.say.Transitions == term
		if beside || p.up() && p.say.Phase != Standby && p.say.Transitions > term {
			return name
		}
	}
	return ""
}

// othersUp says whether any candidate but node is heard: it proves that this
// node is not the one cut off.
func (m *Machine) othersUp(node string) bool {
	for name, p := range m.peers {
		if name != node && p.state == PeerUp {
			return true
		}
	}
	return false
}

// holdingHeard: a peer that says it holds in another term. A planned asker is
// obeyed at once; else the API server decides, and without one the terms.
func (m *Machine) holdingHeard(node string, p *peer, old Say) {
	if !m.beside(p) {
		yields := p.say.Phase == Standby && p.say.From == m.cfg.Self && p.say.Transitions > old.Transitions
		if p.up() && (old.Phase == Holding || yields) {
			// It has yielded, perhaps before this node, frozen for a moment, heard it
			// hold: the last word on the wire is the true holder's. A quarrel with another
			// goes on.
			if m.quarrel.with == node {
				m.quarrel = quarrel{}
			}
			m.do(Announce{})
			m.hearBeside()
		}
		return
	}
	if p.say.From == m.cfg.Self && p.say.Transitions > m.known.Transitions {
		m.obey(node, p.say)
		return
	}
	if m.known.From == node && m.known.Transitions > p.say.Transitions {
		return // the old holder has not heard of its own hand-over yet
	}
	m.contend(node, "")
}

// hearBeside takes a quarrel up with whoever still holds beside this node, once none
// goes on.
func (m *Machine) hearBeside() {
	for _, name := range m.names {
		if p := m.peers[name]; m.phase == Holding && m.quarrel.with == "" && m.beside(p) {
			m.holdingHeard(name, p, p.say)
		}
	}
}

// beside says whether a peer answers for the VIPs beside this holder: it holds, or
// it hands over a term that this node, perhaps frozen, knows nothing of.
func (m *Machine) beside(p *peer) bool {
	return p.holds() && (p.say.Phase == Holding || p.say.Transitions > m.known.Transitions)
}

// contend is what a holder does when it learns of another one: doubt, read, and
// compare by hello only when no API server answers.
func (m *Machine) contend(node, mac string) {
	if m.quarrel.with == "" || !m.beside(m.peers[m.quarrel.with]) && m.beside(m.peers[node]) {
		m.quarrel = quarrel{with: node, since: m.now}
	}
	m.quarrel.last = m.now
	m.complain(PeerClaim, Note{MAC: mac, Node: node})
	proved := m.due[onLease]
	m.becomeUnsure("candidate " + node + " claims the VIP")
	// The term stays proved as long as its last write is young.
	m.due.set(onLease, proved)
	m.do(Read{Timeout: readTimeout})
	m.due.set(onRead, m.now+readTimeout+50*time.Millisecond)
}

// settleByHello compares the two holders' words: the greater term keeps, then
// the better rank. False: the other is not heard, or does not hold any more.
func (m *Machine) settleByHello() bool {
	p := m.peers[m.quarrel.with]
	switch {
	case !p.up():
		return false
	case !m.beside(p):
		m.quarrel = quarrel{}
	case !m.sure && m.assuredSince(p):
		m.becomeFenced(Fenced)
	case p.say.Transitions > m.known.Transitions,
		p.say.Transitions == m.known.Transitions && !m.outranks(m.quarrel.with):
		m.becomeFenced(Fenced)
	default:
		m.do(Announce{})
	}
	return true
}

// assuredSince says whether an API server has told the other holder, after it
// could know of this one, that the group is its own: it has asked by the time that
// it still says so.
func (m *Machine) assuredSince(p *peer) bool {
	return p.assured != 0 && m.now >= p.assured && (p.assured > m.quarrel.since || m.now-m.quarrel.since > 2*readTimeout)
}

// outranks says whether this node ranks before another.
func (m *Machine) outranks(other string) bool {
	find := func(node string) Member {
		for _, c := range m.members {
			if c.Node == node {
				return c
			}
		}
		return Member{Node: node}
	}
	return byRank(m.cfg.Group)(find(m.cfg.Self), find(other)) < 0
}

// Say is what this node's hellos say of the group. Holding is said only once
// the address was reached and announced: it is a hand-over's sign.
func (m *Machine) Say() Say {
	s := Say{
		Phase: m.phase, Transitions: m.known.Transitions, Forwards: m.forwards, Healthy: m.ill == 0,
		API: m.sure || m.phase == Standby && !m.age.broken && m.reached,
	}
	switch {
	case m.phase == Standby && m.yielded > s.Transitions:
		s.Transitions, s.From = m.yielded, m.known.Holder
	case m.phase == Claiming:
		s.Transitions = m.claim.Transitions
	case m.phase == Holding && !m.held:
		s.Phase = Claiming
	case m.phase == Holding && m.how == CauseStale:
		s.From = m.claim.From
	case m.phase == Draining:
		s.To = m.known.Holder
	}
	return s
}
