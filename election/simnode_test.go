package election

import (
	"fmt"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// carryOut is the agent's loop and its sinks.
func (a *agent) carryOut(act Action) {
	w, n := a.n.w, a.n
	switch act := act.(type) {
	case Hold:
		a.post(wish{hold: &act})
	case LetGo:
		a.post(wish{})
	case Drain:
		a.post(wish{drain: act.For})
	case Announce:
		a.announceOnce()
	case Probe:
		a.probe(act.Quick)
	case Ping:
		a.ping(act.Node)
	case Forward:
		a.to = act.Node
		a.later(w.vary(ms), func() { n.setForward(a.to) })
	case Remember:
		n.disk, n.kept, n.told = act.Record, true, n.boot
	case Note:
		if !w.quiet {
			w.say("%s %s", n.name, noteText(act))
		}
	case Done:
		w.say("%s ends%s", n.name, map[bool]string{true: ", the kernel keeps the address"}[act.Kept])
		a.later(5*ms, func() { n.leave() })
	case Repair:
		w.repairs++
		a.el.do(act)
	default:
		a.el.do(act)
	}
}

// noteText prints a decision as the log would.
func noteText(n Note) string {
	s := string(n.Reason) + " " + n.Record.String()
	for _, f := range []struct{ k, v string }{{"cause", string(n.Cause)}, {"node", n.Node}, {"mac", n.MAC}} {
		if f.v != "" {
			s += " " + f.k + "=" + f.v
		}
	}
	if n.Took != 0 {
		s += fmt.Sprintf(" took=%.3fs", n.Took.Seconds())
	}
	if n.Detail != "" {
		s += " (" + n.Detail + ")"
	}
	return s
}

// wish is what the links and lo shall have: the addresses, mute copies, or
// neither.
type wish struct {
	hold  *Hold
	drain time.Duration
}

// post replaces the wish that the address sink has not taken yet.
func (a *agent) post(x wish) {
	a.wish = x
	a.seq++
	if !a.busy {
		a.busy = true
		a.later(a.n.w.vary(ms), a.takeWish)
	}
}

// takeWish is the address sink: begin, write a millisecond later, report.
func (a *agent) takeWish() {
	x, seq, begun := a.wish, a.seq, a.n.clock()
	a.later(a.n.w.vary(ms), func() {
		a.write(x, seq, begun)
		a.busy = a.seq != seq
		if a.busy {
			a.takeWish()
		}
	})
}

// write changes the kernel. Forwards go in before an address does.
func (a *agent) write(x wish, seq int, begun lb.Instant) {
	n, w := a.n, a.n.w
	ev := AddressIs{Begun: begun}
	n.setForward(a.to)
	switch {
	case x.drain > 0:
		n.setCopy(x.drain)
		n.until, a.until = 0, 0
		return
	case x.hold == nil:
		n.until, a.until = 0, 0
		return
	case x.hold.NotAfter != 0 && n.clock() >= x.hold.NotAfter:
		n.until, a.until = 0, 0
		ev.Late = true
	case n.refuses:
		ev.Err = "operation not permitted"
		if x.hold.Mute {
			a.burst++
			a.still = true
		}
	default:
		fresh := n.until <= n.clock()
		n.setUntil(begun + w.cfg.ValidLft)
		n.copies = 0
		a.until = begun + w.cfg.ValidLft
		ev.Held = true
		switch {
		case x.hold.Mute:
			a.burst++
		case fresh || a.still:
			a.startBurst()
		}
		a.still = x.hold.Mute
	}
	if seq == a.seq {
		a.later(w.vary(ms), func() {
			if seq == a.seq {
				a.deliver(ev)
			}
		})
	}
}

// setUntil is the kernel: it removes an address up to half a second late.
func (n *node) setUntil(until lb.Instant) {
	n.until = until + 300*ms
	if n.w.rnd != nil {
		n.until = until + n.w.vary(250*ms)
	}
	n.after(n.until-n.clock(), nil)
}

// setCopy leaves a mute copy on lo; its lifetime is set once.
func (n *node) setCopy(d time.Duration) {
	if n.copies > n.clock() || n.until <= n.clock() {
		return
	}
	n.copies, n.gave = n.clock()+d, n.clock()
	n.after(d, func() { n.w.client.ended(n) })
}

// setForward changes the chain; its own timer ends it if no agent does.
func (n *node) setForward(to string) {
	o := n.w.node(to)
	if o == n.forward {
		return
	}
	n.forward, n.chained = o, n.clock()+n.w.cfg.Drain
	if o != nil {
		n.after(n.w.cfg.Drain, n.expire)
	}
	n.w.say("%s forwards to %s", n.name, map[bool]string{true: "nobody"}[o == nil]+to)
}

// expire is the agent's room for the chain: it removes one that has had its time.
func (n *node) expire() {
	if n.forward != nil && n.clock() >= n.chained && n.agent != nil && !n.agent.frozen {
		n.forward = nil
	}
}

// serves says whether the kernel takes frames for the VIP as its own.
func (n *node) serves() bool {
	if !n.power || n.paused {
		return false
	}
	now := n.clock()
	return n.until > now || n.copies > now
}

// answers says whether the node answers an ARP request for the VIP.
func (n *node) answers() bool {
	return n.power && n.link && !n.paused && n.until > n.clock() && !n.mute
}

// orphan says that no agent is at work on the node: only its kernel is.
func (n *node) orphan() bool { return n.agent == nil || n.agent.frozen }

// announceOnce is a defence, one a second: what comes too soon is sent then.
func (a *agent) announceOnce() {
	now := a.n.clock()
	switch {
	case now >= a.until || a.defend > now:
	case now-a.defend < time.Second:
		a.defend += time.Second
		a.later(a.defend-now, func() {
			if a.n.clock() < a.until && !a.still {
				a.n.announce()
			}
		})
	default:
		a.defend = now
		a.n.announce()
	}
}

// steadily is the announcer's period after its burst.
const steadily = 30 * time.Second

// startBurst announces as the real announcer does, and then every 30 s.
func (a *agent) startBurst() {
	a.burst++
	for _, d := range []time.Duration{0, 50 * ms, 150 * ms, 500 * ms, time.Second, 2 * time.Second} {
		a.announceIn(d, a.burst, 0)
	}
	a.announceIn(steadily, a.burst, steadily)
}

func (a *agent) announceIn(d time.Duration, burst int, every time.Duration) {
	a.later(d, func() {
		if burst != a.burst || a.n.clock() >= a.until {
			return
		}
		a.n.announce()
		if every > 0 {
			a.announceIn(every, burst, every)
		}
	})
}
