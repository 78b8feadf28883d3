package election

import "slices"

// start runs the agent, as after a boot or a restart.
func (n *node) start() {
	if n.agent != nil || !n.power {
		return
	}
	w := n.w
	cfg := w.cfg
	cfg.Self = n.name
	a := &agent{n: n, m: New(cfg)}
	a.el.a = a
	n.agent, n.left, n.died = a, false, 0
	ev := Started{Last: n.disk, Known: n.kept, SameBoot: n.told == n.boot, Begun: w.now}
	if n.until > w.now {
		ev.Alive = true
		n.setUntil(w.now + w.cfg.ValidLft)
		a.until = w.now + w.cfg.ValidLft
	}
	a.deliver(ev)
	if w.remember {
		a.deliver(Members{All: w.members()})
	}
	if n.reaches() {
		a.relist(w.vary(5 * ms))
		w.tellMembers()
	}
	if !n.link {
		a.later(ms, func() { a.deliver(Carrier{Up: false}) })
	}
}

// kill ends the agent at once; the kernel knows nothing of it.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	n.agent.ended = true
	n.agent = nil
	n.died = n.w.now
	n.w.after(memberDead, n.w.tellMembers)
}

// leave ends the agent in good order.
func (n *node) leave() {
	if n.agent == nil {
		return
	}
	n.kill()
	n.left = true
	n.w.tellMembers()
}

func (n *node) powerOff() {
	n.kill()
	n.power, n.until = false, 0
	n.boot++
}

func (n *node) powerOn() {
	n.power = true
	n.start()
}

func (n *node) freeze() {
	if n.agent != nil {
		n.agent.frozen = true
	}
}

// thaw lets the agent go on with what came meanwhile, in any order in a random
// world: goroutines do not wake in the order of their timers.
func (n *node) thaw() {
	a := n.agent
	if a == nil || !a.frozen {
		return
	}
	a.frozen = false
	work := slices.Clone(a.asleep)
	a.asleep = nil
	if n.w.rnd != nil {
		n.w.rnd.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
	}
	for _, f := range work {
		a.later(0, f)
	}
}

func (n *node) setLink(up bool) {
	if n.link == up {
		return
	}
	n.link = up
	if a := n.agent; a != nil {
		a.later(n.w.vary(ms), func() { a.deliver(Carrier{Up: up}) })
	}
}

// send gives an event to the agent, if one runs.
func (n *node) send(ev Event) {
	if a := n.agent; a != nil {
		a.later(0, func() { a.deliver(ev) })
	}
}

// shutdown is SIGTERM: the member Lease says so first, if it can be written.
func (n *node) shutdown() {
	if n.agent == nil {
		return
	}
	if n.reaches() {
		n.left = true
		n.w.tellMembers()
	}
	n.agent.later(10*ms, func() { n.agent.deliver(Shutdown{}) })
}
