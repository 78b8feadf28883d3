package hello

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// meet replaces the peers by those of the targets.
func (w *worker) meet(now lb.Instant, targets []Target) {
	known := map[string]*peer{}
	for _, p := range w.peers {
		known[p.target.Node] = p
	}
	w.peers, w.faults = nil, nil
	// Who stays is entered anew; a channel left without peers is closed by openAll.
	for _, c := range w.channels {
		clear(c.peers)
	}
	for _, t := range targets {
		t.Addr = t.Addr.Unmap()
		c, err := w.place(t)
		if err != nil {
			w.faults = append(w.faults, fmt.Sprintf("no hellos to node %q at %v: %v", t.Node, t.Addr, err))
			continue
		}
		p := w.welcome(now, t, known[t.Node], c)
		delete(known, t.Node) // what is left in known has gone
		c.peers[t.Addr] = p
		w.peers = append(w.peers, p)
	}
	for _, p := range w.peers {
		p.listenAlso()
	}
	w.due = 0
	w.openAll(now)
	w.publish()
	for _, p := range known {
		if p.det.State() != election.PeerUnknown {
			w.opt.Changed(Change{Node: p.target.Node})
		}
	}
}

// place finds the channel for a target, or says what is wrong with it.
func (w *worker) place(t Target) (*channel, error) {
	switch {
	case !validName(t.Node):
		return nil, errName
	case t.Node == w.opt.Node:
		return nil, fmt.Errorf("it has this node's own name: every node needs its own")
	case !t.Addr.IsValid() || t.Addr.IsUnspecified() || t.Addr.IsMulticast() || t.Addr.IsLinkLocalUnicast() || t.Addr.Zone() != "":
		return nil, fmt.Errorf("not a global unicast address")
	}
	// Two addresses for one node would be two views of one incarnation.
	for _, p := range w.peers {
		if p.target.Node == t.Node {
			return nil, fmt.Errorf("the node stands among the peers twice")
		}
	}
	at := place{t.Link, t.Addr.Is6()}
	c := w.channels[at]
	if c == nil {
		c = &channel{at: at, sock: socket{fd: -1}, peers: map[netip.Addr]*peer{}}
		w.channels[at] = c
	}
	// A datagram's source must tell whose it is.
	if other := c.peers[t.Addr]; other != nil {
		return nil, fmt.Errorf("node %s has this address too", other.target.Node)
	}
	return c, nil
}

// listenAlso takes hellos from the peer's further addresses too, but for one to
// which another is sent to. Name and key are checked all the same.
func (p *peer) listenAlso() {
	for _, a := range p.target.Also {
		if a.IsValid() && p.via.peers[a] == nil {
			p.via.peers[a] = p
		}
	}
}

// welcome makes the target a peer; one known before keeps what is known of it.
func (w *worker) welcome(now lb.Instant, t Target, old *peer, c *channel) *peer {
	// The first hello goes at once: it tells the peer whom to echo.
	p := &peer{det: NewDetector(w.self), send: now}
	if old != nil {
		*p = *old
	}
	// Counters speak of one address; what is known of the run outlives a change.
	if old == nil || old.target != t {
		p.tally = &tally{target: t}
		p.state.Store(uint32(p.det.State()))
		p.since.Store(int64(now))
		p.heard.Store(int64(p.det.Heard()))
	}
	p.via, p.to = c, sockaddr(netip.AddrPortFrom(t.Addr, w.opt.Port))
	return p
}

// openAll opens sockets that are missing, whose link was made anew, and closes
// those that nobody needs.
func (w *worker) openAll(now lb.Instant) {
	w.look = now + lookAgain
	moved := false // whether the list for ppoll is out of date
	for at, c := range w.channels {
		if c.sock.fd >= 0 && (len(c.peers) == 0 || c.sock.stale(at.link)) {
			c.shut()
			moved = true
		}
		if len(c.peers) == 0 {
			delete(w.channels, at)
			continue
		}
		if c.sock.fd < 0 {
			w.open(c)
			moved = moved || c.sock.fd >= 0
		}
		c.tell() // also to peers that are new to it
	}
	if moved {
		w.poll()
	}
}

// open opens the channel's socket; the same trouble ten times a second is said
// once.
func (w *worker) open(c *channel) {
	sock, err := openSocket(c.at, w.opt.Port)
	if err != nil {
		if c.err != err.Error() {
			c.err = err.Error()
			w.note("no hellos over a link, trying again", "link", c.at.link, "err", err)
		}
		return
	}
	c.sock, c.err = sock, ""
}

// shut closes the channel's socket.
func (c *channel) shut() {
	if c.sock.fd >= 0 {
		unix.Close(c.sock.fd)
		c.sock.fd = -1
	}
}

// tell publishes the channel's trouble as its peers'.
func (c *channel) tell() {
	var why *string
	if c.err != "" {
		// A copy: readers keep it while c.err changes.
		text := c.err
		why = &text
	}
	for _, p := range c.peers {
		p.socketErr.Store(why)
	}
}

// poll lists the open sockets for ppoll(2).
func (w *worker) poll() {
	w.fds, w.polled = w.fds[:1], nil // the bell stays
	for _, c := range w.channels {
		if c.sock.fd >= 0 {
			w.fds = append(w.fds, unix.PollFd{Fd: int32(c.sock.fd), Events: unix.POLLIN})
			w.polled = append(w.polled, c)
		}
	}
}
