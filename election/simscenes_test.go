package election

import "time"

// scene is one fault in a world at rest, and what must come of it.
type scene struct {
	name string
	do   func(w *world, h *node) // h holds
}

// scenes are the rows of ownership.md's table of targets, and more.
var scenes = []scene{
	{"power-off", powerOffScene},
	{"unplug", unplugScene},
	{"partition", partitionScene},
	{"one-way", oneWayScene},
	{"kill", killScene},
	{"restart", restartScene},
	{"freeze", freezeScene},
	{"pause", pauseScene},
	{"api-outage", apiOutageScene},
	{"api-holder", apiHolderScene},
	{"move", moveScene},
	{"chain", chainScene},
	{"stop", stopScene},
	{"target-dies", targetDiesScene},
	{"blocked", blockedScene},
	{"standby", standbyScene},
	{"cut-off", cutOffScene},
	{"lease", leaseScene},
	{"sick", sickScene},
	{"drain", drainScene},
	{"nuisance", nuisanceScene},
	{"cold", coldScene},
}

// The bounds of the table, with room for a lost announcement and slow clocks.
const (
	takeover = 300*ms + 80*ms
	orLost   = time.Second + 100*ms // a last word that was put off to the end of its second
)

// say what happens, as a headline.
func (w *world) title(format string, args ...any) {
	if !w.quiet && w.fault == "" {
		w.say("# "+format, args...)
	}
}

// expect makes a promise for the time to come; relax ends it.
func (w *world) expect(p promise) { w.look(); w.rules.promise = p }
func (w *world) relax()           { w.rules.promise = promise{} }

// pass lets time go by.
func (w *world) pass(d time.Duration) { w.runUntil(w.now + d) }

// outage lets d pass, in which the client may be without an answer for bound,
// and must have one in the end.
func (w *world) outage(name string, bound, d time.Duration) {
	w.client.mark()
	w.pass(d)
	w.client.tally()
	switch {
	case w.client.worst > bound:
		w.broken(name, "the client had no answer for %.3fs", w.client.worst.Seconds())
	case w.client.down || w.wire.mask == 0:
		w.broken(name, "%q answers, and the client gets no answer", w.who())
	}
}

// holding is the node that the record names.
func (w *world) holding() *node { return w.node(w.store.rec.Holder) }

// another is a node by chance, but not h.
func (w *world) another(h *node) *node {
	for {
		if n := w.nodes[w.rnd.IntN(len(w.nodes))]; n != h {
			return n
		}
	}
}

// between is a time by chance.
func (w *world) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

// odds is true once in n.
func (w *world) odds(n int) bool { return w.rnd.IntN(n) == 0 }

// ambient has the API servers misbehave, or not, before and while another fault
// happens. It says whether they work.
func (w *world) ambient() bool {
	if w.odds(2) {
		return true
	}
	w.failAPI(nil)
	w.pass(w.upTo(20 * time.Second))
	return false
}

// failAPI breaks the API servers, for one node or for all.
func (w *world) failAPI(n *node) {
	w.slow = w.between(100*ms, 3*time.Second)
	mode := []apiMode{apiRefuse, apiHang, apiSlow, apiMute}[w.rnd.IntN(4)]
	w.rules.harm()
	w.title("API servers %s%s", [...]string{"work", "refuse", "hang", "are slow", "take writes and do not answer"}[mode],
		map[bool]string{true: "", false: " for one node"}[n == nil])
	w.setAPI(mode, n)
}

// apiBack ends an API outage, which moves nothing.
func (w *world) apiBack() {
	if w.mode == apiUp {
		return
	}
	w.pass(500 * ms)
	w.title("API servers work again")
	w.rules.harm()
	late := w.late
	w.setAPI(apiUp, nil)
	switch {
	case late: // a claim that was given up long ago may be written after all
		w.expect(promise{name: "I4", unbroken: w.whole() && !w.client.down})
	case w.whole():
		w.expect(promise{name: "I4", still: w.wire.mask})
	}
	w.pass(5 * time.Second)
	w.relax()
}

// whole says whether no node is cut off: one that is may hold on its own until an
// API server tells it otherwise.
func (w *world) whole() bool {
	for i, n := range w.nodes {
		if !n.link || !w.bothWays(i, w.gate()) && n.power && !n.paused {
			return false
		}
	}
	return true
}

// gone begins a fault of the holder, after which another answers in time, and
// returns whether one may be expected at all: two nodes need a gateway.
func (w *world) gone(h *node, what string, fault func()) bool {
	works := w.ambient()
	if w.fault != "" {
		return false
	}
	w.title("%s %s", h.name, what)
	w.rules.harm()
	w.client.mark()
	fault()
	if len(w.nodes) == 2 && !w.gateway {
		w.pass(3 * time.Second)
		return false
	}
	bound := orLost
	if works {
		bound = takeover
	}
	w.outage("I3", bound, w.between(2*time.Second, 6*time.Second))
	return true
}

// comesBack ends a fault of a node that does not hold any more: it takes nothing.
func (w *world) comesBack(n *node, what string, end func()) {
	w.title("%s %s", n.name, what)
	w.rules.harm()
	end()
	w.pass(1500 * ms)
	w.rules.settled()
	w.expect(promise{name: "I7", still: w.wire.mask})
	w.pass(w.between(5*time.Second, 20*time.Second))
	w.relax()
}

func powerOffScene(w *world, h *node) {
	if w.odds(4) {
		// It was etcd's leader: no writes, no quorum reads for a while.
		w.setAPI(apiHang, nil)
		w.after(w.between(time.Second, 2*time.Second), func() { w.setAPI(apiUp, nil) })
	}
	took := w.gone(h, "loses power", h.powerOff)
	if took && w.odds(3) {
		w.title("%s is tainted out of service", h.name)
		w.taint(h.name)
		w.after(10*time.Second, func() { w.taint() })
	}
	w.apiBack()
	if took {
		w.comesBack(h, "boots", h.powerOn)
	}
}

func unplugScene(w *world, h *node) {
	took := w.gone(h, "is unplugged", func() { h.setLink(false) })
	if w.odds(2) {
		w.apiBack()
	}
	if took {
		w.comesBack(h, "is plugged in", func() { h.setLink(true) })
	}
	w.apiBack()
}

// partitionScene parts the holder from the others and, by chance, the client
// with it; who is with the holder sees no fault.
func partitionScene(w *world, h *node) {
	side := uint(1) << h.id
	if w.odds(3) {
		side |= 1 << w.client.id
	}
	took := true
	if side&(1<<w.client.id) == 0 {
		took = w.gone(h, "is parted from the others", func() { w.cut(side, false) })
	} else {
		// An API server may tell it that it holds no more, client or not.
		w.ambient()
		w.title("%s is parted from the others, the client with it", h.name)
		w.cut(side, false)
		w.pass(w.between(100*ms, 10*time.Second))
	}
	if w.odds(2) {
		w.apiBack()
	}
	if took {
		w.comesBack(h, "and the others are joined", w.join)
	}
	w.apiBack()
}

// oneWayScene: the holder hears, but is not heard.
func oneWayScene(w *world, h *node) {
	took := w.gone(h, "is not heard any more", func() { w.cut(1<<h.id, true) })
	w.apiBack()
	if took {
		w.comesBack(h, "is heard again", w.join)
	}
}

// killScene: the kernel serves until the fence, then another does.
func killScene(w *world, h *node) {
	works := w.ambient()
	w.title("the agent of %s is killed", h.name)
	w.rules.harm()
	h.kill()
	w.lateTakeover(works)
	w.apiBack()
	w.comesBack(h, "has an agent again", h.start)
}

// lateTakeover: nothing until the fence of a dead agent, then a takeover.
func (w *world) lateTakeover(works bool) {
	w.expect(promise{name: "I3", still: w.wire.mask})
	w.pass(2800 * ms)
	w.relax()
	if len(w.nodes) == 2 && !w.gateway {
		w.pass(4 * time.Second)
		return
	}
	bound := orLost
	if works {
		bound = takeover
	}
	w.outage("I3", bound, 4*time.Second)
}

// restartScene: an agent that is back within the fence loses nothing, whatever
// the API servers do.
func restartScene(w *world, h *node) {
	w.ambient()
	w.expect(promise{name: "I4", still: w.wire.mask, unbroken: true})
	for range 1 + w.rnd.IntN(3) {
		w.title("the agent of %s is killed and started again", h.name)
		w.rules.harm()
		h.kill()
		w.pass(w.between(10*ms, 2800*ms))
		h.start()
		w.pass(w.between(3*time.Second, 8*time.Second))
	}
	w.apiBack()
}

// freezeScene is SIGSTOP and SIGCONT.
func freezeScene(w *world, h *node) {
	works := w.ambient()
	w.title("the agent of %s freezes", h.name)
	w.rules.harm()
	h.freeze()
	if w.odds(3) {
		w.expect(promise{name: "I7", still: w.wire.mask, unbroken: true})
		w.pass(w.between(10*ms, 2800*ms))
		h.thaw()
		w.pass(3 * time.Second)
		w.relax()
		w.apiBack()
		return
	}
	w.lateTakeover(works)
	w.apiBack()
	if w.fault != "" || w.wire.mask == 0 {
		return
	}
	// Not for an instant two, and no frame of the one that slept.
	w.expect(promise{name: "I1", still: w.wire.mask})
	frames := h.frames
	w.comesBack(h, "thaws", h.thaw)
	if h.frames != frames {
		w.broken("I1", "%s announces the VIP after it slept past its fence", h.name)
	}
}

// pauseScene is a hypervisor that stops a node with its clock: when it goes on
// it believes that it holds.
func pauseScene(w *world, h *node) {
	works := w.ambient()
	w.title("%s is paused", h.name)
	w.rules.harm()
	w.client.mark()
	h.pause()
	bound := orLost
	if works {
		bound = takeover
	}
	d := []time.Duration{300 * ms, 3 * time.Second, 20 * time.Second}[w.rnd.IntN(3)]
	w.pass(w.between(20*ms, d))
	w.title("%s goes on", h.name)
	w.rules.split()
	h.resume()
	if len(w.nodes) > 2 || w.gateway {
		w.outage("I3", bound, 3*time.Second)
	}
	w.rules.settled()
	w.apiBack()
}

// apiOutageScene: nothing moves, also when the holder's agent restarts in it.
func apiOutageScene(w *world, h *node) {
	w.expect(promise{name: "I4", still: w.wire.mask, unbroken: true})
	w.failAPI(nil)
	w.pass(w.between(time.Second, 40*time.Second))
	if w.odds(3) {
		w.title("the agent of %s is killed and started again", h.name)
		h.kill()
		w.pass(w.between(10*ms, 2800*ms))
		h.start()
		w.pass(w.between(time.Second, 20*time.Second))
	}
	w.apiBack()
}

// apiHolderScene: the holder alone has no API server. For two leases, counted from
// its last renewal, nothing moves; then a planned move does it good.
func apiHolderScene(w *world, h *node) {
	w.title("the API servers are away for %s", h.name)
	w.rules.harm()
	w.setAPI([]apiMode{apiRefuse, apiHang}[w.rnd.IntN(2)], h)
	w.expect(promise{name: "I4", still: w.wire.mask, unbroken: true})
	if w.odds(2) { // and for a while for all: what nobody could write proves nothing
		w.pass(w.between(7*time.Second, 12*time.Second))
		w.title("the API servers hang for all")
		w.setAPI(apiHang, nil)
		w.pass(w.between(2*time.Second, 20*time.Second))
		w.title("the API servers are away for %s only", h.name)
		w.rules.harm()
		w.setAPI(apiUp, nil)
		w.pass(w.cfg.Renew)
	}
	w.pass(w.between(time.Second, 2*w.cfg.Lease-w.cfg.Renew-time.Second))
	w.expect(promise{name: "I6", unbroken: true, both: bothBound, alive: w.cfg.Drain > 0})
	w.client.reopen()
	if w.odds(2) {
		w.pass(2*w.cfg.Lease + w.upTo(20*time.Second))
	}
	w.title("the API servers are back for %s", h.name)
	w.rules.harm()
	w.setAPI(apiUp, h)
	w.pass(5 * time.Second)
	w.relax()
}
