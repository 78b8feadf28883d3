package election

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	soakRuns  = flag.Int("soak", defaultRuns, "random runs of TestSoak, of five simulated minutes each")
	soakFirst = flag.Uint64("first", 1, "the first seed of TestSoak")
	soakSeed  = flag.Uint64("seed", 0, "one run of TestSoak, told as a story")
	soakMost  = flag.Int("failures", 10, "TestSoak ends after so many")
	soakScene = flag.String("scene", "", "TestSoak: only this scene, or storm")
)

// TestSoak looks for what no story foresaw: every run is a world of its own with
// faults by chance, and every invariant of ownership.md holds all the time.
func TestSoak(t *testing.T) {
	if *soakSeed != 0 {
		fault, story := tell(*soakSeed)
		t.Log("\n" + story)
		if fault != "" {
			t.Fatal(fault)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // worlds are small and many
	begun := time.Now()
	var next, failed atomic.Uint64
	var simulated atomic.Int64
	next.Store(*soakFirst)
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for seed := next.Add(1) - 1; seed < *soakFirst+uint64(*soakRuns) && failed.Load() < uint64(*soakMost); seed = next.Add(1) - 1 {
				w := newRun(seed)
				w.run()
				simulated.Add(int64(w.now))
				if w.fault != "" {
					failed.Add(1)
					_, story := tell(seed)
					t.Errorf("seed %d: %s\n%s\nthe whole story: go test ./election -run TestSoak -seed %d -v%s",
						seed, w.fault, tail(story, 40), seed, onlyScene())
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d runs, %.0f simulated hours in %.1fs", *soakRuns, time.Duration(simulated.Load()).Hours(), time.Since(begun).Seconds())
}

func onlyScene() string {
	if *soakScene != "" {
		return " -scene " + *soakScene
	}
	return ""
}

// tell runs a seed again and writes down what happens.
func tell(seed uint64) (fault, story string) {
	var b strings.Builder
	w := newRun(seed)
	w.quiet = false
	w.say = func(f string, a ...any) { fmt.Fprintf(&b, "%9.3f  "+f+"\n", append([]any{w.now.Seconds()}, a...)...) }
	w.run()
	return w.fault, b.String()
}

// tail is the end of a story, from its last headline but one.
func tail(story string, lines int) string {
	all := strings.Split(strings.TrimRight(story, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{"      …"}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}

// newRun is the world of a seed: two to five nodes, each with a clock of its own.
func newRun(seed uint64) *world {
	w := newWorld([]int{3, 3, 3, 3, 3, 4, 5, 2}[seed%8], seed)
	w.cfg.Drain = []time.Duration{0, 20 * time.Second, 5 * time.Minute, 5 * time.Minute}[w.rnd.IntN(4)]
	w.remember = !w.odds(8)
	if seed%3 == 0 {
		w.asServices()
	}
	w.loss = []float64{0, 0, 0.02, 0.05}[w.rnd.IntN(4)]
	if w.odds(8) {
		w.gateway = len(w.nodes) == 2
	}
	for _, n := range w.nodes {
		n.skew = int64(w.rnd.IntN(40001)) - 20000
		n.setClock(time.Minute + w.upTo(time.Hour))
	}
	return w
}

// run is one life: the nodes start, faults come one by one in a world at rest or
// many at once, and in the end all is as it should be.
func (w *world) run() {
	for _, n := range w.nodes {
		w.after(w.upTo(500*ms), n.start)
	}
	w.runUntil(w.now + 12*time.Second)
	storm := *soakScene == "storm" || *soakScene == "" && w.odds(3)
	for w.fault == "" && w.now < 300*time.Second {
		w.atRest()
		if w.fault != "" {
			return
		}
		if storm {
			w.storm()
			continue
		}
		w.scene().do(w, w.holding())
		w.relax()
	}
	w.atRest()
}

// scene picks one by chance.
func (w *world) scene() scene {
	for {
		s := scenes[w.rnd.IntN(len(scenes))]
		if s.name == "cold" && (!w.remember || w.services) {
			continue // who knows nobody hears nobody, nor what groups there are: other stories
		}
		if *soakScene == "" || *soakScene == "storm" || s.name == *soakScene {
			return s
		}
	}
}

// atRest ends all faults, waits, and wants one holder that everybody agrees on
// and that stays.
func (w *world) atRest() {
	if w.fault != "" {
		return
	}
	w.title("all faults end")
	w.rules.harm()
	w.heal()
	w.pass(4 * time.Second)
	// Announcements come every 30 s, and two in a row may be lost.
	for range 100 {
		if w.fault != "" || w.unrest() == "" {
			break
		}
		w.pass(time.Second)
		for _, n := range w.nodes {
			n.start() // one that was told to end may just have done so
		}
	}
	if why := w.unrest(); why != "" && w.fault == "" {
		w.broken("rest", "104 s after the last fault %s", why)
	}
	w.expect(promise{name: "I7", still: w.wire.mask})
	w.pass(w.between(500*ms, 4*time.Second))
	w.relax()
}

// unrest says what is not as it should be in a world without faults.
func (w *world) unrest() string {
	r := w.store.rec
	n := w.node(r.Holder)
	switch {
	case !w.store.exists || !w.store.sound || n == nil:
		return fmt.Sprintf("there is no sound record: %s", r)
	case w.wire.mask != 1<<n.id:
		return fmt.Sprintf("the record says %s, but %q answers", r, w.who())
	case n.agent == nil || n.agent.phase != Holding || !n.agent.status.Confirmed:
		return fmt.Sprintf("the record says %s, whose agent is not confirmed", r)
	case w.client.down || w.client.arp != n.id:
		return fmt.Sprintf("%s holds, but the client's frames go elsewhere", n.name)
	case n.agent.status.Record.From != "" || r.From != "":
		return fmt.Sprintf("the hand-over %s has not ended", r)
	}
	for _, o := range w.nodes {
		for _, p := range w.nodes {
			if o != p && (o.agent == nil || o.agent.hears[p.id].state != PeerUp) {
				return fmt.Sprintf("%s does not hear %s", o.name, p.name)
			}
		}
	}
	return ""
}

// heal ends every fault.
func (w *world) heal() {
	w.out = nil
	for _, n := range w.nodes {
		n.refuses, n.lost, n.drain, n.excludes = false, false, false, nil
		n.resume()
		n.setLink(true)
		n.thaw()
		w.setAPI(apiUp, n)
		n.powerOn()
		n.start()
		n.setSick(false)
	}
	w.join()
	for _, row := range w.blocked {
		clear(row)
	}
	w.rehear()
	w.setAPI(apiUp, nil)
	w.taint()
}
