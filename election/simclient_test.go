package election

import (
	"fmt"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// What the client's ARP entry may be beside a node's number.
const nobody = -1

// client is a host on the wire that is no node. It has one ARP entry, the MAC of
// the last announcement that it heard, and a new connection every 10 ms: an
// outage is a spell in which that MAC leads nowhere.
type client struct {
	w     *world
	id    int
	arp   int
	conns []*conn
	// missed: the last announcement was lost.
	missed bool
	down   bool
	since  lb.Instant
	// worst is the longest outage since the last mark.
	worst time.Duration
	fresh int // counts outages, for the timer that asks anew
}

// conn is an established connection, to the node that accepted its first
// segment.
type conn struct {
	at     *node
	opened lb.Instant
	dead   bool
	why    string
	rounds spell // its frames go round
}

// hear takes an announcement.
func (c *client) hear(n *node) {
	c.arp = n.id
}

// look notes outages and follows the connections.
func (c *client) look() {
	if c.arp == nobody {
		c.ask()
	}
	up := c.arp != nobody && c.reaches(c.w.nodes[c.arp])
	if up == c.down {
		c.turn(!up)
	}
	for _, k := range c.conns {
		if !k.dead {
			c.follow(k)
		}
	}
}

// reaches says whether a new connection to the node is accepted there.
func (c *client) reaches(n *node) bool { return n.serves() && c.w.bothWays(c.id, n.id) }

// turn begins or ends an outage. A client that gets no answer for 20 s asks
// anew, as Linux does.
func (c *client) turn(down bool) {
	w := c.w
	if !down && c.since != 0 {
		w.say("  client served by %s after %.3fs", w.nodes[c.arp].name, (w.now - c.since).Seconds())
	}
	c.tally()
	c.down, c.since = down, w.now
	c.fresh++
	if !down {
		return
	}
	w.say("  client gets no answer")
	mine := c.fresh
	w.after(20*time.Second, func() {
		if mine == c.fresh && c.down {
			c.arp = nobody
		}
	})
}

func (c *client) tally() {
	if c.down {
		c.worst = max(c.worst, c.w.now-c.since)
	}
}

// mark forgets the outages so far.
func (c *client) mark() {
	c.tally()
	c.worst = 0
	if c.down {
		c.since = c.w.now
	}
}

// ask resolves the VIP: any node that answers will do.
func (c *client) ask() {
	for _, n := range c.w.nodes {
		if n.answers() && c.w.bothWays(c.id, n.id) {
			c.arp = n.id
			return
		}
	}
}

// open begins a connection, if one is accepted.
func (c *client) open() {
	if c.arp == nobody || !c.reaches(c.w.nodes[c.arp]) {
		return
	}
	if len(c.conns) > 8 {
		c.conns = c.conns[1:]
	}
	c.conns = append(c.conns, &conn{at: c.w.nodes[c.arp], opened: c.w.now})
}

// follow sends a frame of the connection: to the client's MAC, and from there by
// the chain, but a node drops what would go back to where it came from. It breaks where a node takes
// it as its own and knows no such flow.
func (c *client) follow(k *conn) {
	w := c.w
	from, at := c.id, c.arp
	var been uint
	for at != nobody && w.carries(from, at) && been&(1<<at) == 0 {
		n := w.nodes[at]
		switch {
		case n == k.at && n.serves():
			k.rounds.since = 0
			return
		case n == k.at:
			c.breaks(k, n.name+" has the VIP no more")
			return
		case n.forward != nil && n.forward.id == from:
			k.rounds.since = 0
			return // dropped: it is sent again
		case n.forward != nil:
			been |= 1 << at
			from, at = at, n.forward.id
			continue
		case n.serves():
			c.breaks(k, n.name+" knows it not and forwards to nobody")
			return
		}
		break
	}
	round := at != nobody && been&(1<<at) != 0
	if k.rounds.lasts(w, round, loopBound) {
		w.broken("loop", "frames of a connection to %s go round for %.3fs, %s", k.at.name, (w.now - k.rounds.since).Seconds(), w.names(been))
	}
}

// breaks ends a connection with a reset.
func (c *client) breaks(k *conn, why string) {
	k.dead, k.why = true, why
	c.w.say("  the connection to %s of %.3fs breaks: %s", k.at.name, k.opened.Seconds(), why)
	c.w.rules.broke(k)
}

// ended: the copy on a node has had its time, and with it its connections.
func (c *client) ended(n *node) {
	for _, k := range c.conns {
		if k.at == n && !n.serves() {
			k.dead, k.why = true, "drained"
		}
	}
}

// reopen forgets the connections so far and opens one.
func (c *client) reopen() {
	c.conns = nil
	c.open()
}

// state says how many of the connections that were opened live.
func (c *client) state() string {
	alive := 0
	for _, k := range c.conns {
		if !k.dead {
			alive++
		}
	}
	return fmt.Sprintf("%d of %d", alive, len(c.conns))
}
