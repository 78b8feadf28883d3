package election

import (
	"slices"
	"time"
)

// start runs the agent, as after a boot or a restart.
func (n *node) start() {
	if n.agent != nil || !n.power || n.paused {
		return
	}
	w := n.w
	cfg := w.cfg
	cfg.Self, cfg.MAC = n.name, n.mac
	a := &agent{n: n, m: New(cfg), since: w.now}
	a.el.a = a
	n.agent, n.left, n.died = a, false, 0
	now := n.clock()
	ev := Started{Last: n.disk, Known: n.kept, SameBoot: n.told == n.boot, Begun: now}
	if n.until > now {
		ev.Alive = true
		n.setUntil(now + w.cfg.ValidLft)
		a.until = now + w.cfg.ValidLft
		a.announceIn(steadily, a.burst, steadily) // as the announcer does with an address it did not add
	}
	if n.forward != nil {
		ev.Forwards, ev.Until = n.forward.name, n.chained
		a.to = n.forward.name
	}
	a.deliver(ev)
	switch {
	case w.remember: // from the configuration
		a.tellMembers(w.membersFor(n))
	case n.met != nil:
		a.tellMembers(n.met)
	}
	if n.sick {
		a.deliver(Health{})
	}
	if w.services {
		a.keepMember()
	}
	if n.reaches() {
		a.relist(w.vary(5 * ms))
		w.tellMembers()
	}
	if !n.link {
		a.later(ms, func() { a.deliver(Carrier{Up: false}) })
	}
	w.rehear()
}

// kill ends the agent at once; the kernel knows nothing of it.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	n.w.rules.orphaned(n)
	n.agent.ended = true
	n.agent = nil
	n.stopped, n.died = n.clock(), n.w.now
	n.w.rehear()
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
	n.power, n.until, n.copies, n.forward, n.paused, n.held = false, 0, 0, nil, false, nil
	n.boot++
	n.w.rehear()
}

// powerOn boots, which sets the clock to a minute in a random world.
func (n *node) powerOn() {
	if n.power {
		return
	}
	n.power = true
	if n.w.rnd != nil {
		n.setClock(time.Minute)
	}
	n.start()
}

// pause stops the whole node, its clock and its kernel's lifetimes too, as a
// hypervisor does.
func (n *node) pause() {
	if !n.power || n.paused {
		return
	}
	n.setClock(n.clock())
	n.paused = true
	n.w.rehear()
}

func (n *node) resume() {
	if !n.paused {
		return
	}
	n.paused = false
	n.setClock(n.base)
	held := n.held
	n.held = nil
	n.w.release(held)
	n.w.rehear()
}

// freeze is SIGSTOP.
func (n *node) freeze() {
	if n.agent == nil || n.agent.frozen {
		return
	}
	n.w.rules.orphaned(n)
	n.agent.frozen, n.stopped = true, n.clock()
	n.w.rehear()
}

// thaw lets the agent go on with what came meanwhile.
func (n *node) thaw() {
	a := n.agent
	if a == nil || !a.frozen {
		return
	}
	a.frozen = false
	asleep := slices.Clone(a.asleep)
	a.asleep = nil
	n.w.release(asleep)
	n.w.rehear()
}

func (n *node) setLink(up bool) {
	if n.link == up {
		return
	}
	n.link = up
	n.w.rules.split()
	n.w.rehear()
	if a := n.agent; a != nil {
		// As it is by then: the kernel tells in order, a frozen agent's events come late.
		a.later(n.w.vary(ms), func() { a.deliver(Carrier{Up: n.link}) })
	}
}

// setSick is the node's own load balancer.
func (n *node) setSick(sick bool) {
	if n.sick != sick {
		n.sick = sick
		if a := n.agent; a != nil {
			// As it is when it is told: health is looked at again and again.
			n.w.push(happening{at: n.w.now, do: func() { a.deliver(Health{OK: !n.sick}) }, on: n, by: a, pair: inOrder})
		}
	}
}

// cut parts hosts from all others, or, one way, lets them hear but not speak.
func (w *world) cut(side uint, oneWay bool) {
	for a := range w.deaf {
		for b := range w.deaf {
			if in, other := side&(1<<a) != 0, side&(1<<b) != 0; in && !other {
				w.deaf[b][a] = true
				w.deaf[a][b] = w.deaf[a][b] || !oneWay
			}
		}
	}
	w.rules.split()
	w.rehear()
}

// join ends every cut.
func (w *world) join() {
	for _, row := range w.deaf {
		clear(row)
	}
	w.rules.split()
	w.rehear()
}

// block keeps the hellos between two nodes back, as a firewall does.
func (w *world) block(a, b *node, on bool) {
	w.blocked[a.id][b.id], w.blocked[b.id][a.id] = on, on
	w.rehear()
}

// setLost deletes a node's member Lease, or has its agent write it again.
func (n *node) setLost(lost bool) {
	n.lost = lost
	n.w.tellMembers()
}

// send gives an event to the agent, if one runs.
func (n *node) send(ev Event) {
	if a := n.agent; a != nil {
		n.w.push(happening{at: n.w.now, do: func() { a.deliver(ev) }, on: n, by: a, pair: inOrder})
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
	a := n.agent
	a.later(10*ms, func() { a.deliver(Shutdown{}) })
}

// setDrain is the operator's wish that the node be empty.
func (n *node) setDrain(on bool) {
	n.drain = on
	n.w.tellMembers()
}
