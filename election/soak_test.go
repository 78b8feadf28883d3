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
	return []soakClass{{"crash", 11, 50 * ms, 0}, {"moves", 17, time.Second, 4500 * ms}, {"cuts", 21, 2500 * ms, 4500 * ms}}
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
		w.runUntil(w.now + time.Duration(w.rnd.Int64N(int64([]time.Duration{600 * ms, 3 * time.Second, 12 * time.Second}[w.rnd.IntN(3)]))))
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

// meddle does one thing to the world.
func meddle(w *world, picks int) {
	n := w.nodes[w.rnd.IntN(len(w.nodes))]
	if h := w.node(w.store.rec.Holder); h != nil && w.rnd.IntN(2) == 0 {
		n = h
	}
	pick := w.rnd.IntN(picks)
	w.say("# fault %d at %s", pick, n.name)
	switch pick {
	case 0:
		n.kill()
	case 1:
		n.kill()
		w.after(time.Duration(w.rnd.Int64N(int64(5*time.Second))), n.start)
	case 2:
		n.start()
	case 3:
		n.powerOff()
	case 4:
		n.powerOn()
	case 5, 6:
		n.freeze()
		w.after(time.Duration(w.rnd.Int64N(int64(9*time.Second))), n.thaw)
	case 7, 8, 9:
		w.slow = time.Duration(w.rnd.Int64N(int64(1500 * ms)))
		w.setAPI(apiMode(1+w.rnd.IntN(4)), nil)
	case 10:
		w.setAPI(apiUp, nil)
	case 11:
		n.send(Ask{Cause: CauseMove})
	case 12:
		n.send(Ask{To: w.nodes[w.rnd.IntN(3)].name, Cause: CauseMove})
	case 13:
		n.shutdown()
	case 14:
		w.meddle(func(s *store) { s.exists = false })
	case 15:
		w.meddle(func(s *store) { s.exists, s.sound = true, false })
	case 16:
		n.refuses = true
		w.after(time.Duration(w.rnd.Int64N(int64(5*time.Second))), func() { n.refuses = false })
	case 17, 18:
		n.setLink(false)
		w.after(time.Duration(w.rnd.Int64N(int64(12*time.Second))), func() { n.setLink(true) })
	case 19:
		w.setAPI(apiMode(1+w.rnd.IntN(2)), n)
	case 20:
		w.setAPI(apiUp, n)
	}
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
