package election

import (
	"time"

	"mooring.dev/mooring/internal/lb"
)

// The hellos' interval, and when the detector calls a peer late and down after
// the last one that came.
const (
	helloEvery = 50 * ms
	helloLate  = 90 * ms
	helloDown  = 150 * ms
)

// session is how one agent hears one other node: no datagrams, only what the
// detector makes of them (hello.Detector). Its verdict follows whether they come.
type session struct {
	state PeerState
	comes bool       // hellos arrive
	run   *agent     // that shook hands: another one has to do so anew
	gen   int        // of the verdict under way
	last  lb.Instant // when the last one came; 0: not counted
	free  lb.Instant // when the next contents may arrive: none overtakes another
	say   Say        // as last heard
	// backlog is what waits in the socket of a frozen agent.
	backlog []Say
}

// rehear looks again at who hears whom; call it whenever that may have changed.
func (w *world) rehear() {
	for _, o := range w.nodes {
		a := o.agent
		if a == nil || a.ended {
			continue
		}
		if a.hears == nil {
			a.hears = make([]session, len(w.nodes))
		}
		for _, p := range w.nodes {
			if p != o {
				a.rehear(p)
			}
		}
	}
}

// speaks says whether an agent runs its state loop and knows whom to greet.
func (n *node) speaks() bool {
	return n.agent != nil && !n.agent.ended && !n.agent.frozen && !n.paused && n.agent.knows
}

// passes says whether a hello gets from one node to another.
func (w *world) passes(from, to *node) bool {
	return w.carries(from.id, to.id) && !w.blocked[to.id][from.id]
}

func (a *agent) rehear(p *node) {
	s, w := &a.hears[p.id], a.n.w
	comes := a.n.speaks() && p.speaks() && w.passes(p, a.n)
	if comes && s.run != p.agent {
		comes = w.passes(a.n, p) // a handshake: each has to be heard
	}
	switch {
	case a.frozen || a.n.paused:
		// Its own sleep is no silence of the others.
		s.gen++
		s.comes, s.last = false, 0
	case comes && (!s.comes || s.run != p.agent):
		a.hellosCome(p, s)
	case !comes && (s.comes || s.last == 0 && s.state != PeerUnknown):
		a.hellosStop(p, s)
	}
}

// hellosCome: the next one is at most an interval away; another run of the peer
// is up after a handshake, and may be found down before that.
func (a *agent) hellosCome(p *node, s *session) {
	w := a.n.w
	wait := w.upTo(helloEvery)
	if s.run != p.agent {
		wait += helloEvery
	}
	if s.last == 0 {
		s.last = w.now
	}
	s.comes = true
	s.gen++
	gen, run := s.gen, p.agent
	a.silence(p, s)
	for _, old := range s.backlog {
		a.helloIn(ms, p, func() { a.tell(p, s, old) })
	}
	s.backlog = nil
	a.helloIn(wait, p, func() {
		if gen == s.gen {
			s.gen++
			s.run, s.say = run, run.said
			a.verdict(p, s, PeerUp)
		}
	})
}

// hellosStop: the last one came up to an interval ago.
func (a *agent) hellosStop(p *node, s *session) {
	switch {
	case s.last == 0:
		s.last = a.n.w.now
	case s.state == PeerUp:
		s.last = a.n.w.now - a.n.w.upTo(helloEvery)
	}
	s.comes = false
	s.gen++
	a.silence(p, s)
}

// silence plans the detector's verdicts, counted from the last hello.
func (a *agent) silence(p *node, s *session) {
	if s.state == PeerUnknown || s.state == PeerDown {
		return
	}
	gen := s.gen
	for _, v := range []struct {
		after time.Duration
		state PeerState
	}{{helloLate, PeerLate}, {helloDown, PeerDown}} {
		a.later(max(s.last+v.after-a.n.w.now, 0), func() {
			if gen == s.gen && s.state < v.state {
				a.verdict(p, s, v.state)
			}
		})
	}
}

// verdict tells the machine what became of a peer.
func (a *agent) verdict(p *node, s *session, v PeerState) {
	w := a.n.w
	if v != s.state && v != PeerLate && s.state != PeerLate || v == PeerDown {
		if !w.quiet {
			w.say("%s hears %s %s", a.n.name, p.name, v)
		}
	}
	s.state = v
	if v == PeerUp {
		s.last = w.now
	}
	a.tell(p, s, s.say)
}

func (a *agent) tell(p *node, s *session, say Say) {
	a.deliver(Peer{Node: p.name, State: s.state, Say: say, Heard: a.n.clock() - (a.n.w.now - s.last)})
}

// helloIn is a hello on its way: never before one that was sent earlier.
func (a *agent) helloIn(d time.Duration, p *node, f func()) {
	w, s := a.n.w, &a.hears[p.id]
	s.free = max(s.free, w.now+d)
	w.push(happening{at: s.free, do: f, on: a.n, by: a, lossy: true, pair: p.id + 1})
}

// spread sends what the machine says of itself to whoever hears it, when that
// has changed.
func (a *agent) spread() {
	w := a.n.w
	now := a.m.Say()
	if now == a.said {
		return
	}
	a.said = now
	for _, n := range w.nodes {
		o := n.agent
		if o == nil || o == a || o.hears == nil {
			continue
		}
		s := &o.hears[a.n.id]
		switch {
		case o.frozen && w.passes(a.n, n) && s.run == a && len(s.backlog) < 8:
			s.backlog = append(s.backlog, now)
		case s.comes && (s.state == PeerUp || s.state == PeerLate):
			wait := w.vary(500 * time.Microsecond)
			if w.unlucky(w.loss) {
				wait += helloEvery // the next one says it again
			}
			gen := s.gen
			o.helloIn(wait, a.n, func() {
				if gen == s.gen && s.comes {
					s.say, s.last = now, w.now
					s.state = PeerUp
					o.tell(a.n, s, now)
				}
			})
		}
	}
}

// hiccup loses one or two hellos of a pair: late, then up again.
func (w *world) hiccup(o, p *node) {
	a := o.agent
	if a == nil || a.hears == nil || !a.hears[p.id].comes || a.hears[p.id].state != PeerUp {
		return
	}
	s := &a.hears[p.id]
	gen := s.gen
	s.last = w.now
	a.later(helloLate, func() {
		if gen == s.gen && s.state == PeerUp {
			a.verdict(p, s, PeerLate)
			a.helloIn(w.upTo(20*ms), p, func() {
				if gen == s.gen {
					a.verdict(p, s, PeerUp)
				}
			})
		}
	})
}
