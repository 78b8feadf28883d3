package election

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	soakRuns    = flag.Int("soak", 3000, "random runs in TestSoak")
	soakMembers = flag.Bool("members", true, "TestSoak: members are kept on disk")
	soakSeed    = flag.Uint64("seed", 0, "one run of TestSoak, printed")
)

// soakClass is a set of faults and for how long two nodes may answer in it.
type soakClass struct {
	name  string
	picks int
	both  time.Duration
	dead  time.Duration // the same, when one is only the kernel of an agent that ended or is frozen
}

// soakClasses, harmless first. Agents that crash, freeze and come back, with
// API outages for all: never two. Planned moves and damage besides: a hand-over
// long. Nodes cut off from the wire or the API besides: until they meet again.
func soakClasses() []soakClass {
	return []soakClass{
		// A node that comes back, named by the record, and one that claims may
		// both have asked the wire at the same instant.
		{"crash", 11, 50 * ms, 0},
		{"moves", 17, time.Second, 4500 * ms},
		{"cuts", 21, 2500 * ms, 4500 * ms},
	}
}

// TestSoak looks for what no story foresaw.
func TestSoak(t *testing.T) {
	if *soakSeed != 0 {
		fault, log := soak(*soakSeed)
		t.Log("\n" + log)
		if fault != "" {
			t.Fatal(fault)
		}
		return
	}
	failed := 0
	for seed := uint64(1); seed <= uint64(*soakRuns) && failed < 10; seed++ {
		if fault, _ := soak(seed); fault != "" {
			failed++
			t.Errorf("seed %d (%s): %s", seed, soakClasses()[seed%3].name, fault)
		}
	}
}

// soak is one run: three nodes, some faults, then quiet.
func soak(seed uint64) (fault, log string) {
	var b strings.Builder
	w := newWorld(3, seed)
	if *soakSeed != 0 {
		w.say = func(f string, a ...any) { fmt.Fprintf(&b, "%8.3f ", w.now.Seconds()); fmt.Fprintf(&b, f+"\n", a...) }
	}
	w.remember = *soakMembers
	class := soakClasses()[seed%3]
	for _, n := range w.nodes {
		w.after(time.Duration(w.rnd.Int64N(int64(500*ms))), n.start)
	}
	w.runUntil(8 * time.Second)
	for range 1 + w.rnd.IntN(6) {
		meddle(w, class.picks)
		w.runUntil(w.now + w.atMost([]time.Duration{600 * ms, 3 * time.Second, 12 * time.Second}[w.rnd.IntN(3)]))
		w.checkBoth(class)
	}
	heal(w)
	w.runUntil(w.now + 20*time.Second)
	w.checkBoth(class)
	moves := w.moves
	w.checkQuiet()
	w.runUntil(w.now + 10*time.Second)
	w.checkQuiet()
	if w.moves != moves {
		w.broken("the group moved in a quiet world")
	}
	return w.fault, b.String()
}

func (w *world) checkBoth(c soakClass) {
	x := &w.wire
	x.tally(w.now)
	if x.both > c.both {
		w.broken("two answered for %.3fs, now %s", x.both.Seconds(), x.who)
	}
	if x.withDead > c.dead {
		w.broken("two answered for %.3fs, one of them dead, now %s", x.withDead.Seconds(), x.who)
	}
}

func (w *world) checkQuiet() {
	r := w.store.rec
	n := w.node(r.Holder)
	switch {
	case !w.store.exists || !w.store.sound || n == nil:
		w.broken("no sound record in a quiet world: %s", r)
	case w.wire.who != n.name:
		w.broken("record %s, but %q answers", r, w.wire.who)
	case n.agent == nil || n.agent.m.Status().Phase != Holding || !n.agent.m.Status().Confirmed:
		w.broken("record %s, whose agent is not confirmed", r)
	}
}

// faults are what may happen to a node and the world, the harmless first.
var faults = []func(w *world, n *node){
	func(_ *world, n *node) { n.kill() },
	func(w *world, n *node) { n.kill(); w.after(w.atMost(5*time.Second), n.start) },
	func(_ *world, n *node) { n.start() },
	func(_ *world, n *node) { n.powerOff() },
	func(_ *world, n *node) { n.powerOn() },
	freezeAWhile, freezeAWhile,
	someAPI, someAPI, someAPI,
	func(w *world, _ *node) { w.setAPI(apiUp, nil) },
	func(_ *world, n *node) { n.send(Ask{Cause: CauseMove}) },
	func(w *world, n *node) { n.send(Ask{To: w.nodes[w.rnd.IntN(3)].name, Cause: CauseMove}) },
	func(_ *world, n *node) { n.shutdown() },
	func(w *world, _ *node) { w.meddle(func(s *store) { s.exists = false }) },
	func(w *world, _ *node) { w.meddle(func(s *store) { s.exists, s.sound = true, false }) },
	func(w *world, n *node) {
		n.refuses = true
		w.after(w.atMost(5*time.Second), func() { n.refuses = false })
	},
	unplugAWhile, unplugAWhile,
	func(w *world, n *node) { w.setAPI([]apiMode{apiRefuse, apiHang}[w.rnd.IntN(2)], n) },
	func(w *world, n *node) { w.setAPI(apiUp, n) },
}

func (w *world) atMost(d time.Duration) time.Duration { return time.Duration(w.rnd.Int64N(int64(d))) }

func freezeAWhile(w *world, n *node) {
	n.freeze()
	w.after(w.atMost(9*time.Second), n.thaw)
}

func unplugAWhile(w *world, n *node) {
	n.setLink(false)
	w.after(w.atMost(12*time.Second), func() { n.setLink(true) })
}

func someAPI(w *world, _ *node) {
	w.slow = w.atMost(1500 * ms)
	w.setAPI([]apiMode{apiRefuse, apiHang, apiSlow, apiMute}[w.rnd.IntN(4)], nil)
}

// meddle does one of the first picks faults, often to the holder.
func meddle(w *world, picks int) {
	n := w.nodes[w.rnd.IntN(len(w.nodes))]
	if h := w.node(w.store.rec.Holder); h != nil && w.rnd.IntN(2) == 0 {
		n = h
	}
	pick := w.rnd.IntN(picks)
	w.say("# fault %d at %s", pick, n.name)
	faults[pick](w, n)
}

// heal ends every fault.
func heal(w *world) {
	w.say("# all faults end")
	for _, n := range w.nodes {
		n.refuses = false
		n.setLink(true)
		n.thaw()
		w.setAPI(apiUp, n)
		n.powerOn()
	}
	w.setAPI(apiUp, nil)
}
