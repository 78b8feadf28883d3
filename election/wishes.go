package election

import (
	"slices"
	"time"
)

// Reasons for which a holder asks for a planned move by itself: its load
// balancer does not serve, its operator wants it empty, or a better-ranked node
// is back and preemption is asked for.

// onHealth follows this node's own load balancer.
func (m *Machine) onHealth(ok bool) {
	m.ill = since(m.ill, m.now, !ok)
	if ok {
		m.due.clear(onSick)
	} else if m.due[onSick] == 0 {
		m.due.set(onSick, m.ill+sickWait)
	}
}

// sickHolder hands over to a candidate that serves, if any does: where
// everything is sick nobody moves.
func (m *Machine) sickHolder() {
	if m.ill == 0 {
		return
	}
	m.due.set(onSick, m.now+sickWait)
	if m.phase != Holding || !m.sure || !m.held || m.hand.active {
		return
	}
	if to := m.bestWell(nil); to != "" {
		m.onAsk(Ask{To: to, Cause: CauseUnhealthy})
	}
}

// bestWell is the best-ranked candidate that is heard and whose load balancer
// has served for a while; among those that pass the filter, if one is given.
func (m *Machine) bestWell(pass func(node string) bool) string {
	for _, c := range Ranked(m.cfg.Group, m.members) {
		p := m.peers[c.Node]
		if c.Node != m.cfg.Self && p.up() && m.present(c) && p.well != 0 && m.now-p.well >= sickWait &&
			(pass == nil || pass(c.Node)) {
			return c.Node
		}
	}
	return ""
}

// onTaints takes what the cluster's operators say of nodes.
func (m *Machine) onTaints(ev Taints) {
	m.taints, m.tainted = ev, m.now
	m.considerDrain()
}

// onMembers takes who may hold. A holder whose member Lease has vanished, or a
// node that is still heard, is remembered for its MACs: its kernel may answer.
func (m *Machine) onMembers(all []Member) {
	all = slices.Clone(all)
	for _, c := range m.members {
		gone := !slices.ContainsFunc(all, func(o Member) bool { return o.Node == c.Node })
		if gone && (c.Node == m.known.Holder || c.Node == m.doubt.node || m.peers[c.Node].up()) {
			c.Live = false
			all = append(all, c)
		}
	}
	m.members = all
	m.considerDrain()
}

// unwanted says whether this node shall be empty.
func (m *Machine) unwanted() bool {
	for _, c := range m.members {
		if c.Node == m.cfg.Self && c.Drain {
			return true
		}
	}
	return slices.Contains(m.taints.Leave, m.cfg.Self)
}

// considerDrain hands over when this node shall be empty. Without a candidate,
// or without an API server, it waits and tries again.
func (m *Machine) considerDrain() {
	if !m.unwanted() {
		m.due.clear(onDrain)
		return
	}
	if m.phase != Holding || m.hand.active || m.shutdown {
		m.due.set(onDrain, m.now+time.Second)
		return
	}
	m.due.set(onDrain, m.now+drainAgain)
	m.onAsk(Ask{Cause: CauseDrain})
}

// considerPreempt hands over to a better-ranked candidate that has been well for
// preemptDelay, as this holder has held for.
func (m *Machine) considerPreempt() {
	if !m.cfg.Preempt {
		return
	}
	m.due.set(onPreempt, m.now+preemptEvery)
	if m.phase != Holding || !m.sure || !m.held || m.hand.active || m.shutdown || m.now-m.since < m.cfg.PreemptDelay {
		return
	}
	to := m.bestWell(func(node string) bool { return m.now-m.peers[node].well >= m.cfg.PreemptDelay })
	if to != "" && !m.outranks(to) {
		m.onAsk(Ask{To: to, Cause: CausePreempt})
	}
}
