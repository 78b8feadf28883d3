package election

import "time"

// moving promises what a planned move must keep.
func (w *world) moving() {
	w.client.reopen()
	w.expect(promise{name: "I6", unbroken: true, both: bothBound, alive: w.cfg.Drain > 0})
}

// move asks the holder and waits.
func (w *world) move(to string, d time.Duration) {
	if h := w.holding(); h != nil {
		w.title("%s is asked to move the group to %s", h.name, map[bool]string{true: "the best"}[to == ""]+to)
		w.rules.harm()
		h.send(Ask{To: to, Cause: CauseMove})
		w.pass(d)
	}
}

func moveScene(w *world, _ *node) {
	w.moving()
	for range 1 + w.rnd.IntN(3) {
		to := ""
		if w.odds(2) {
			to = w.another(w.holding()).name
		}
		w.move(to, w.between(1500*ms, 8*time.Second))
		w.client.open()
	}
	w.relax()
}

// chainScene moves the group round and round while connections live on, and
// restarts agents in between.
func chainScene(w *world, h *node) {
	w.moving()
	at := h
	for range 2 + w.rnd.IntN(5) {
		at = w.another(at)
		w.move(at.name, w.between(700*ms, 3*time.Second))
		w.client.open()
		if n := w.nodes[w.rnd.IntN(len(w.nodes))]; w.odds(4) {
			w.title("the agent of %s is killed and started again", n.name)
			n.kill()
			w.pass(w.between(10*ms, 2500*ms))
			n.start()
			w.pass(w.between(time.Second, 2*time.Second))
		}
	}
	w.relax()
}

// stopScene is SIGTERM, and the next agent.
func stopScene(w *world, h *node) {
	w.moving()
	w.title("the agent of %s is told to end", h.name)
	w.rules.harm()
	h.shutdown()
	w.pass(w.between(2*time.Second, 5*time.Second))
	w.rules.harm()
	h.start()
	w.pass(3 * time.Second)
	w.relax()
}

// targetDiesScene: a hand-over whose target goes away half-way. Until the target
// has shown itself nobody notices; after that it is a holder that dies.
func targetDiesScene(w *world, h *node) {
	n := w.another(h)
	w.title("%s hands over to %s, which dies", h.name, n.name)
	w.rules.harm()
	w.client.mark()
	h.send(Ask{To: n.name, Cause: CauseMove})
	w.pass(w.upTo(300 * ms))
	showed := n.agent.phase == Holding
	freezes := false
	switch w.rnd.IntN(3) {
	case 0:
		n.powerOff()
	case 1:
		n.setLink(false)
	default:
		n.freeze()
		freezes = true
	}
	w.rules.split()
	switch {
	case !showed:
		w.expect(promise{name: "I6", unbroken: true})
		w.pass(3 * time.Second)
		w.relax()
	case len(w.nodes) <= 2 && !w.gateway:
	case freezes:
		// Its kernel answers until the fence: a client that missed the only
		// announcement waits for it.
		w.outage("I6", 4*time.Second+takeover, 8*time.Second)
	default:
		w.outage("I6", takeover, 8*time.Second)
	}
	if !freezes || showed {
		w.pass(3 * time.Second)
	}
	w.comesBack(n, "is back", func() { n.powerOn(); n.setLink(true); n.thaw() })
}
