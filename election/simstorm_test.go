package election

import "time"

// storm is some minutes in which faults overlap at random; only what must hold at
// every instant is asked, and rest in the end.
func (w *world) storm() {
	for range 2 + w.rnd.IntN(8) {
		if w.fault != "" {
			return
		}
		n := w.nodes[w.rnd.IntN(len(w.nodes))]
		if h := w.holding(); h != nil && w.odds(2) {
			n = h
		}
		s := strikes[w.rnd.IntN(len(strikes))]
		w.title("%s: %s", n.name, s.what)
		w.rules.harm()
		s.do(w, n)
		w.client.open()
		w.pass(w.upTo([]time.Duration{200 * ms, 2 * time.Second, 15 * time.Second}[w.rnd.IntN(3)]))
	}
}

// strikes are single faults and wishes, each with its own end where it has one.
var strikes = []struct {
	what string
	do   func(w *world, n *node)
}{
	{"agent killed", func(_ *world, n *node) { n.kill() }},
	{"agent killed, back soon", func(w *world, n *node) { n.kill(); w.after(w.upTo(5*time.Second), n.start) }},
	{"agent started", func(_ *world, n *node) { n.start() }},
	{"power off", func(_ *world, n *node) { n.powerOff() }},
	{"power on", func(_ *world, n *node) { n.powerOn() }},
	{"agent frozen", func(w *world, n *node) { n.freeze(); w.after(w.upTo(9*time.Second), n.thaw) }},
	{"paused", func(w *world, n *node) {
		n.pause()
		w.after(w.upTo(9*time.Second), func() { w.rules.split(); n.resume(); n.start() })
	}},
	{"unplugged", func(w *world, n *node) {
		n.setLink(false)
		w.after(w.upTo(12*time.Second), func() { n.setLink(true) })
	}},
	{"parted", func(w *world, n *node) {
		side := uint(1) << n.id
		for host := range w.deaf {
			if w.odds(4) {
				side |= 1 << host
			}
		}
		w.cut(side, w.odds(3))
		w.after(w.upTo(12*time.Second), w.join)
	}},
	{"joined", func(w *world, _ *node) { w.join() }},
	{"API servers fail for all", func(w *world, _ *node) { w.failAPI(nil) }},
	{"API servers fail for all for a moment", func(w *world, _ *node) {
		w.failAPI(nil)
		w.after(w.upTo(2*time.Second), func() { w.setAPI(apiUp, nil) })
	}},
	{"API servers fail for it", func(w *world, n *node) { w.failAPI(n) }},
	{"API servers work for it", func(w *world, n *node) { w.setAPI(apiUp, n) }},
	{"API servers work", func(w *world, _ *node) { w.setAPI(apiUp, nil) }},
	{"asked to move", func(_ *world, n *node) { n.send(Ask{Cause: CauseMove}) }},
	{"asked to move to one", func(w *world, n *node) { n.send(Ask{To: w.another(nil).name, Cause: CauseMove}) }},
	{"told to end", func(_ *world, n *node) { n.shutdown() }},
	{"shall be empty", func(w *world, n *node) {
		n.setDrain(true)
		w.after(w.upTo(10*time.Second), func() { n.setDrain(false) })
	}},
	{"Lease deleted", func(w *world, _ *node) { w.meddle(func(s *store) { s.exists = false }) }},
	{"Lease scribbled on", func(w *world, _ *node) { w.meddle(func(s *store) { s.exists, s.sound = true, false }) }},
	{"member Lease deleted", func(w *world, n *node) {
		n.setLost(true)
		w.after(w.upTo(10*time.Second), func() { n.setLost(false) })
	}},
	{"kernel refuses", func(w *world, n *node) {
		n.refuses = true
		w.after(w.upTo(5*time.Second), func() { n.refuses = false })
	}},
	{"sick", func(w *world, n *node) {
		n.setSick(true)
		w.after(w.upTo(10*time.Second), func() { n.setSick(false) })
	}},
	{"its candidates differ", func(w *world, n *node) { w.differ(n, w.nodes[w.rnd.IntN(len(w.nodes))]) }},
	{"hello missed", func(w *world, n *node) { w.hiccup(n, w.another(n)); w.hiccup(w.another(n), n) }},
	{"hellos blocked", func(w *world, n *node) { w.block(n, w.another(n), true) }},
	{"hellos pass", func(w *world, _ *node) { w.unblock() }},
	{"a stranger claims", func(w *world, _ *node) { w.strangerClaims() }},
	{"gateway gone", func(w *world, _ *node) {
		was := w.gateway
		w.gateway = false
		w.after(w.upTo(10*time.Second), func() { w.gateway = was })
	}},
}
