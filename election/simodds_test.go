package election

import "time"

// blockedScene: a firewall keeps hellos back, between two nodes or all. Nothing
// moves for that; a holder that dies then is found dead by its record's age.
func blockedScene(w *world, h *node) {
	w.title("hellos are blocked")
	w.rules.harm()
	w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
	all := w.odds(2)
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a != b && (all || a == h) {
				w.block(a, b, true)
			}
		}
		if !all && a == h {
			break
		}
	}
	if w.odds(2) {
		w.failAPI(nil)
	}
	if w.odds(2) { // a blocked port and a fresh agent: never heard at all
		n := w.another(h)
		n.kill()
		w.pass(w.between(10*ms, 3*time.Second))
		n.start()
	}
	w.pass(w.between(10*time.Second, 30*time.Second))
	works := w.mode == apiUp
	w.apiBack()
	w.relax()
	if works && w.odds(2) && (len(w.nodes) > 2 || w.gateway) {
		w.title("%s loses power", h.name)
		w.rules.harm()
		h.powerOff()
		w.outage("I3", w.cfg.Lease+w.cfg.Renew+5*time.Second, w.cfg.Lease+w.cfg.Renew+6*time.Second)
		w.rules.harm()
		h.powerOn()
	}
	w.unblock()
}

// unblock opens every firewall.
func (w *world) unblock() {
	for _, row := range w.blocked {
		clear(row)
	}
	w.rules.harm()
	w.rehear()
	w.pass(2 * time.Second)
}

// standbyScene: whatever befalls who does not hold, nothing moves.
func standbyScene(w *world, h *node) {
	w.ambient()
	n := w.another(h)
	w.rules.harm()
	w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
	what := w.rnd.IntN(6)
	w.title("%s: %s", n.name, [...]string{"loses power", "is killed", "freezes", "is paused", "has no API server", "loses its member Lease"}[what])
	var end func()
	switch what {
	case 0:
		n.powerOff()
		end = n.powerOn
	case 1:
		n.kill()
		end = n.start
	case 2:
		n.freeze()
		end = n.thaw
	case 3:
		n.pause()
		end = n.resume
	case 4:
		w.setAPI(apiHang, n)
		end = func() { w.setAPI(apiUp, n) }
	default:
		n.setLost(true)
		end = func() { n.setLost(false) }
	}
	w.pass(w.between(50*ms, 20*time.Second))
	w.title("%s is back", n.name)
	w.rules.harm()
	end()
	w.pass(5 * time.Second)
	w.apiBack()
	w.relax()
}

// cutOffScene: a standby that hears nobody, not even the gateway, stays quiet.
func cutOffScene(w *world, h *node) {
	w.ambient()
	n := w.another(h)
	w.rules.harm()
	w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
	if w.odds(3) {
		w.title("%s is unplugged", n.name)
		n.setLink(false)
	} else {
		oneWay := w.odds(3)
		w.title("%s is cut off, it alone%s", n.name, map[bool]string{true: ", but hears the others"}[oneWay])
		w.cut(1<<n.id, oneWay)
	}
	w.pass(w.between(100*ms, 40*time.Second))
	w.title("%s is back", n.name)
	n.setLink(true)
	w.join()
	w.pass(4 * time.Second)
	w.apiBack()
	w.relax()
}

// leaseScene: the Lease is deleted or scribbled on, over and over.
func leaseScene(w *world, _ *node) {
	w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
	w.title("the Lease is deleted and scribbled on")
	for range 1 + w.rnd.IntN(8) {
		w.rules.harm()
		w.meddle(func(s *store) {
			switch s.exists = true; w.rnd.IntN(3) {
			case 0:
				s.exists = false
			case 1:
				s.sound = false
			default: // by hand, without the proof of the term
				s.sound, s.rec = false, Record{Holder: "n2", Transitions: s.rec.Transitions + 1}
			}
		})
		w.pass(w.between(10*ms, 2*time.Second))
	}
	w.pass(3 * time.Second)
	w.relax()
}

// sickScene: the holder's load balancer does not serve while another's does, or
// nobody's does.
func sickScene(w *world, h *node) {
	if w.odds(2) {
		w.title("all load balancers are sick")
		w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
		for _, n := range w.nodes {
			n.setSick(true)
		}
		w.rules.harm()
		w.pass(w.between(3*time.Second, 20*time.Second))
		w.relax()
	} else {
		w.moving()
		w.title("the load balancer of %s is sick", h.name)
		w.rules.harm()
		h.setSick(true)
		w.pass(8 * time.Second)
		if w.holding() == h {
			w.broken("health", "%s still holds, and its load balancer does not serve for 8 s", h.name)
		}
	}
	for _, n := range w.nodes {
		n.setSick(false)
	}
	w.rules.harm()
	w.pass(5 * time.Second)
	w.relax()
}

// drainScene: the operator wants the holder empty.
func drainScene(w *world, h *node) {
	w.moving()
	w.title("%s shall be empty", h.name)
	w.rules.harm()
	h.setDrain(true)
	w.pass(w.between(3*time.Second, 10*time.Second))
	if w.holding() == h {
		w.broken("drain", "%s still holds", h.name)
	}
	w.title("%s may hold again", h.name)
	w.rules.harm()
	h.setDrain(false)
	w.pass(5 * time.Second)
	w.relax()
}

// nuisanceScene: what must not matter at all.
func nuisanceScene(w *world, h *node) {
	w.ambient()
	w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
	w.rules.harm()
	for range 3 + w.rnd.IntN(10) {
		n := w.nodes[w.rnd.IntN(len(w.nodes))]
		switch w.rnd.IntN(4) {
		case 0:
			w.hiccup(n, w.another(n))
		case 1:
			w.strangerClaims()
		case 2:
			h.until = 0
			w.rules.promise.still, w.rules.promise.unbroken = 0, false
			h.send(AddressGone{})
			w.pass(100 * ms)
			w.expect(promise{name: "I7", still: 1 << h.id})
		default:
			w.agentProbes(n)
		}
		w.pass(w.between(10*ms, time.Second))
	}
	w.pass(2 * time.Second)
	w.relax()
	w.apiBack()
}

// agentProbes: a strange host asks for the VIP, as its own detection of duplicates.
func (w *world) agentProbes(n *node) { n.send(Rival{MAC: "mac-stranger"}) }

// coldScene: everything was dark and comes back with no API server.
func coldScene(w *world, _ *node) {
	w.title("all nodes lose power")
	for _, n := range w.nodes {
		n.powerOff()
	}
	w.setAPI(apiRefuse, nil)
	w.pass(w.between(time.Second, 60*time.Second))
	w.title("all nodes boot, and no API server does")
	w.rules.harm()
	w.client.arp = nobody
	var last time.Duration
	for _, n := range w.nodes {
		d := w.upTo(time.Second)
		last = max(last, d)
		w.after(d, n.powerOn)
	}
	w.pass(last + 3*time.Second)
	if m := w.wire.mask; m == 0 || m&(m-1) != 0 {
		w.broken("bootstrap", "%q answers 3 s after all booted", w.who())
	}
	w.expect(promise{name: "I4", still: w.wire.mask})
	w.pass(w.between(time.Second, 30*time.Second))
	w.apiBack()
	w.relax()
}
