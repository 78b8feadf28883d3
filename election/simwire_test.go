package election

import (
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// carries says whether the wire brings frames from one host to another. Hosts
// beyond the nodes are the client and the gateway.
func (w *world) carries(from, to int) bool {
	for _, h := range [2]int{from, to} {
		if h < len(w.nodes) {
			if n := w.nodes[h]; !n.power || !n.link || n.paused {
				return false
			}
		}
	}
	return !w.deaf[to][from]
}

// bothWays says whether two hosts hear each other.
func (w *world) bothWays(a, b int) bool { return w.carries(a, b) && w.carries(b, a) }

// gate is the gateway's number, client's the client's.
func (w *world) gate() int { return len(w.nodes) + 1 }

// announce is heard by every agent on the wire and by the client.
func (n *node) announce() {
	w := n.w
	n.frames++
	w.rules.announced(n)
	if w.carries(n.id, w.client.id) {
		w.client.missed = !w.client.missed && w.unlucky(w.loss) // never two in a row
		if !w.client.missed {
			w.after(w.vary(300*time.Microsecond), func() { w.client.hear(n) })
		}
	}
	if w.now-n.claimed < 100*ms && n.claimed != 0 {
		return // a listener reports one MAC ten times a second
	}
	n.claimed = w.now
	for _, o := range w.nodes {
		if o != n && o.agent != nil && w.carries(n.id, o.id) && !w.unlucky(w.loss) {
			a := o.agent
			a.reached(w.vary(ms), true, func() { a.deliver(Claimed{MAC: n.mac}) })
		}
	}
}

// strangerClaims is an announcement by a host of no candidate.
func (w *world) strangerClaims() {
	for _, n := range w.nodes {
		if a := n.agent; a != nil && n.link {
			a.reached(w.vary(ms), true, func() { a.deliver(Claimed{MAC: "mac-stranger"}) })
		}
	}
}

// probe asks three times in 60 ms, or once; a quick one is over as soon as
// somebody answered for the VIP and a witness did.
func (a *agent) probe(quick bool) {
	w := a.n.w
	ev := &Probed{Quick: quick, Begun: a.n.clock(), Asked: a.n.clock()}
	if !a.n.link && !w.unlucky(0.5) {
		ev.Err = "network is down"
		a.later(ms, func() { a.deliver(*ev) })
		return
	}
	holder := a.status.Record.Holder
	over := false
	finish := func() {
		if !over {
			over = true
			a.deliver(*ev)
		}
	}
	if quick {
		a.later(w.vary(300*time.Microsecond), func() {
			a.ask(ev, holder)
			if len(ev.Answers) > 0 && ev.Witness {
				a.later(w.vary(ms), finish)
			}
		})
		a.later(20*ms, finish)
		return
	}
	for i := range 3 {
		a.later(time.Duration(i)*20*ms+w.vary(ms), func() {
			if i == 2 {
				ev.Asked = a.n.clock()
			}
			a.ask(ev, holder)
		})
	}
	a.later(60*ms, finish)
}

// ask is one round: who answers for the VIP, and whether any witness answers.
func (a *agent) ask(ev *Probed, holder string) {
	w := a.n.w
	answer := func(mac string) {
		if !slices.Contains(ev.Answers, mac) {
			ev.Answers = append(ev.Answers, mac)
		}
	}
	heard := func(host int) bool { return w.bothWays(a.n.id, host) && !w.unlucky(w.loss/50) }
	ev.Witness = ev.Witness || w.gateway && heard(w.gate())
	for _, o := range w.nodes {
		if o == a.n || !w.carries(a.n.id, o.id) {
			continue
		}
		o.rivaled(a.n)
		if o.answers() && heard(o.id) {
			answer(o.mac)
		}
		ev.Witness = ev.Witness || o.name != holder && heard(o.id)
	}
	if w.stranger && a.n.link {
		answer("mac-stranger")
	}
}

// rivaled: an RFC 5227 probe is heard as the wish of another to take the VIP.
func (n *node) rivaled(by *node) {
	if a := n.agent; a != nil && n.w.now-by.asked >= 100*ms {
		a.reached(n.w.vary(ms), true, func() { a.deliver(Rival{MAC: by.mac}) })
		n.w.after(0, func() { by.asked = n.w.now })
	}
}

// ping asks one node for its own address: its kernel answers, agent or not.
func (a *agent) ping(name string) {
	w := a.n.w
	o := w.node(name)
	a.later(60*ms, func() {
		a.deliver(Pinged{Node: name, Alive: o != nil && w.bothWays(a.n.id, o.id)})
	})
}

// wire keeps who answered when.
type wire struct {
	mask         uint // of nodes that answer
	dead         bool // one of them is only the kernel of an agent that ended or is frozen
	since        lb.Instant
	both, nobody time.Duration // the longest spell since the last mark
	withDead     time.Duration // of two, one of them dead
	seen         uint
}

// look notes who answers now and checks what must hold.
func (w *world) look() {
	var mask uint
	dead := false
	for _, n := range w.nodes {
		if n.answers() {
			mask |= 1 << n.id
			dead = dead || n.orphan()
		}
	}
	x := &w.wire
	if mask != x.mask || dead != x.dead {
		x.tally(w.now)
		changed := mask != x.mask
		x.mask, x.since, x.dead = mask, w.now, dead
		if changed && !w.quiet {
			w.say("~ %s", map[bool]string{true: "nobody answers", false: w.names(mask) + " answers"}[mask == 0])
		}
	}
	x.seen |= mask
	w.client.look()
	w.rules.look()
}

// names prints a set of nodes.
func (w *world) names(mask uint) string {
	var s []string
	for _, n := range w.nodes {
		if mask&(1<<n.id) != 0 {
			s = append(s, n.name)
		}
	}
	return strings.Join(s, "+")
}

// who names the nodes that answer.
func (w *world) who() string { return w.names(w.wire.mask) }

func (x *wire) tally(now lb.Instant) {
	d := now - x.since
	switch two := x.mask&(x.mask-1) != 0; {
	case x.mask == 0:
		x.nobody = max(x.nobody, d)
	case two && x.dead:
		x.withDead = max(x.withDead, d)
	case two:
		x.both = max(x.both, d)
	}
}

// mark forgets the spells so far.
func (x *wire) mark(now lb.Instant) { *x = wire{mask: x.mask, dead: x.dead, since: now} }
