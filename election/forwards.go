package election

import "time"

// Forwarding: the new holder of a planned move sends frames of flows that it
// does not know to the old one, which may send them on to the one before. The
// chain must never come back to where it began.

// forwardTo begins, changes or, with "", ends this node's forwarding.
func (m *Machine) forwardTo(node string) {
	if node == m.forwards {
		return
	}
	m.forwards = node
	m.do(Forward{Node: node})
	m.due.clear(onForward, onPing)
	if node != "" {
		m.due.set(onForward, m.now+m.cfg.Drain)
	}
}

// skip leaves out a hop that may not be forwarded to any more: on to where it
// forwards itself, unless that is this node or the group's new holder.
func (m *Machine) skip(holder string) {
	next := ""
	if p := m.peers[m.forwards]; p != nil {
		next = p.say.Forwards
	}
	if next == m.cfg.Self || next == holder {
		next = ""
	}
	if next == "" {
		m.forwardTo("")
		return
	}
	m.forwards = next
	m.do(Forward{Node: next})
}

// unloop ends a forwarding to the node that is about to hold: frames would go
// round.
func (m *Machine) unloop() {
	if m.forwards != "" && m.forwards == m.known.Holder {
		m.skip(m.known.Holder)
	}
}

// leadsHere names the node at which the chain that begins at from comes back to
// this node, or "".
func (m *Machine) leadsHere(from string) string {
	for range maxHops {
		p := m.peers[from]
		if p == nil || p.say.Forwards == "" {
			return ""
		}
		if p.say.Forwards == m.cfg.Self {
			return from
		}
		from = p.say.Forwards
	}
	return from
}

// maxHops is the longest chain that is followed; candidates are a handful.
const maxHops = 8

// followHop watches the node that is forwarded to: an agent may end while its
// kernel goes on serving, so its silence is no death; the wire is asked.
func (m *Machine) followHop(node string) {
	if node != m.forwards || node == "" {
		return
	}
	if p := m.peers[node]; p.state == PeerDown {
		m.do(Ping{Node: node})
	} else {
		m.due.clear(onPing)
	}
}

// onPinged: flows at a dead node end with a reset, not in silence.
func (m *Machine) onPinged(ev Pinged) {
	switch {
	case ev.Node != m.forwards || m.peers[ev.Node].up():
	case ev.Alive:
		m.due.set(onPing, m.now+time.Second)
	default:
		m.skip("")
	}
}
