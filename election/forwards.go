package election

import "time"

// Forwarding: the new holder of a planned move sends frames of flows that it
// does not know to the old one, which may send them on to the one before. A
// frame is never sent back to where it came from, and a chain that comes back to
// the new holder is ended as soon as that one holds.

// forwardTo begins, changes or, with "", ends this node's forwarding.
func (m *Machine) forwardTo(node string) {
	if node == m.forwards {
		return
	}
	m.forwards, m.unheard = node, 0
	m.do(Forward{Node: node})
	m.due.clear(onForward, onUnloop, onPing)
	if node != "" {
		m.due.set(onForward, m.now+m.cfg.Drain)
	}
}

// skip leaves out a hop that may not be forwarded to any more: on to where it
// forwards itself, unless that is this node or the group's new holder.
func (m *Machine) skip(holder string) {
	next := ""
	if p := m.peers[m.forwards]; p != nil {
		next = p.onward // a hop that has become the holder forwards to this node by now
	}
	if next == m.cfg.Self || next == holder {
		next = ""
	}
	if next == "" {
		m.forwardTo("")
		return
	}
	m.forwards, m.unheard = next, 0
	m.do(Forward{Node: next})
}

// unloopSoon ends a forwarding to the node that holds now once the last client
// has heard of it: until then connections that live there still come here. Their
// frames cannot go to and fro, for none is sent back to where it came from.
func (m *Machine) unloopSoon() {
	if m.forwards != "" && m.forwards == m.known.Holder && m.due[onUnloop] == 0 {
		m.due.set(onUnloop, m.now+lateClients)
	}
}

// hopHolds notices that the node forwarded to has renewed the record, so it holds.
func (m *Machine) hopHolds(v verdict) {
	if v == same && m.known.From == "" && m.known.Holder == m.forwards {
		m.unloopSoon()
	}
}

// unloop ends a forwarding by which frames would go round: to the node that holds
// now, or into a ring that an agent which is gone should have opened.
func (m *Machine) unloop() {
	if m.forwards != "" && m.forwards == m.known.Holder {
		m.skip(m.known.Holder)
	} else if m.forwards != "" && !m.opens(m.forwards) {
		m.forwardTo("")
	}
}

// opens says whether frames sent to from end there: where the chain that begins
// at from comes back to this node, the node that sends them here must be heard,
// so that it learns of this holder and stops.
func (m *Machine) opens(from string) bool {
	for hop := range maxHops {
		p := m.peers[from]
		switch {
		case p == nil || p.say.Forwards == "":
			return true
		case p.say.Forwards == m.cfg.Self:
			// Of two that forward to each other neither sends a frame back.
			return hop == 0 || p.up()
		}
		from = p.say.Forwards
	}
	return false
}

// maxHops is the longest chain that is followed; candidates are a handful.
const maxHops = 8

// followHop watches the node that is forwarded to: an agent may end while its
// kernel goes on serving, so its silence is no death; the wire is asked.
func (m *Machine) followHop(node string) {
	if m.peers[node].state == PeerDown && m.forwards != "" && !m.opens(m.forwards) {
		// A ring that nobody else can open, unless that agent is back within its fence.
		if m.due[onUnloop] == 0 {
			m.due.set(onUnloop, m.now+m.cfg.ValidLft)
		}
		return
	}
	if node != m.forwards || node == "" {
		return
	}
	switch p := m.peers[node]; {
	case p.state == PeerDown:
		m.do(Ping{Node: node})
	case p.up() && p.say.Phase == Holding && m.phase == Standby:
		m.unloopSoon()
	default:
		m.unheard = 0
		m.due.clear(onPing)
	}
}

// onPinged: flows at a dead node end with a reset, not in silence.
func (m *Machine) onPinged(ev Pinged) {
	switch {
	case ev.Node != m.forwards || m.peers[ev.Node].up():
	case ev.Alive:
		m.unheard = 0
		m.due.set(onPing, m.now+time.Second)
	case m.unheard < deaf:
		// One that is not heard proves little on a busy node, and its flows are lost
		// for good.
		m.unheard++
		m.due.set(onPing, m.now+pingAgain)
	default:
		m.skip("")
	}
}

const (
	// deaf is how many questions in a row go unanswered by a node that may live.
	deaf      = 2
	pingAgain = 200 * time.Millisecond
)
