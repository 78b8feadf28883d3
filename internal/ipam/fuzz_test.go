package ipam

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// FuzzAllocator does random things to a cluster: Services come, change and go,
// pools too, addresses go into quarantine and out, the agent restarts. After each
// of them world.check holds, and what else is asserted here. Two Allocators that are
// told the same do the same.
func FuzzAllocator(f *testing.F) {
	for seed := range uint64(16) {
		rng := rand.New(rand.NewPCG(seed, 3))
		steps := make([]byte, 300)
		for i := range steps {
			steps[i] = byte(rng.IntN(256))
		}
		f.Add(seed, steps)
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps []byte) {
		steps = steps[:min(len(steps), 600)]
		first := live(t, seed, steps)
		if again := live(t, seed, steps); !bytes.Equal(first, again) {
			t.Fatalf("told the same twice it did\n%s\nand\n%s", first, again)
		}
	})
}

// live runs one story and returns what happened.
func live(t *testing.T, seed uint64, steps []byte) []byte {
	w, rng := newWorld(t), rand.New(rand.NewPCG(seed, 4))
	var story bytes.Buffer
	for _, step := range steps {
		had := w.holders()
		said := w.step(step, rng)
		fmt.Fprintf(&story, "%s\n", said)
		w.check(said)
		w.noneNewlyQuarantined(said, had)
		w.countsAgree(said)
	}
	return story.Bytes()
}

// step does one thing.
func (w *world) step(step byte, rng *rand.Rand) string {
	i := int(step>>3) % 20
	s := stray(w.t, rng, i)
	switch step % 8 {
	case 0:
		w.pools, _ = crowd(w.t, rng)
		evicted, early := w.SetPools(w.pools), w.all()
		slices.SortFunc(early, func(s, u lb.Service) int { return strings.Compare(string(s.Key), string(u.Key)) })
		for _, s := range early { // also those that came before any pools
			_, _ = w.Assign(s)
		}
		return fmt.Sprint("pools evict ", evicted)
	case 1:
		delete(w.services, s.Key)
		return fmt.Sprint("drop ", s.Key, w.Release(s.Key))
	case 2:
		addr := netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", rng.IntN(12)))
		if rng.IntN(3) == 0 {
			w.Absolve(addr)
			return fmt.Sprint("absolve ", addr)
		}
		return fmt.Sprint("quarantine ", addr, w.Quarantine(addr, "02:00:00:00:00:01"))
	case 3:
		return w.restartSettled()
	}
	w.services[s.Key] = s
	g, err := w.Assign(s)
	again, same := w.Assign(s)
	if !slices.Equal(g.Addresses, again.Addresses) || fmt.Sprint(err) != fmt.Sprint(same) {
		w.t.Fatalf("%+v was given %v, %v, and again %v, %v", s, g, err, again, same)
	}
	w.asked(s, g, err)
	return fmt.Sprint("svc ", s.Key, g, err)
}

// asked asserts that who is not refused has what it asks for.
func (w *world) asked(s lb.Service, g Grant, err error) {
	if err != nil {
		return
	}
	for _, addr := range s.Addresses {
		if !slices.Contains(g.Addresses, addr) {
			w.t.Fatalf("%s asks for %s and has %v", s.Key, addr, g.Addresses)
		}
	}
	if s.Pool != "" && g.Pool != s.Pool || len(g.Addresses) == 0 {
		w.t.Fatalf("%s asks for pool %s and has %v", s.Key, s.Pool, g)
	}
	for i, addr := range g.Addresses {
		if s.Policy != lb.PreferDualStack && lb.FamilyOf(addr) != s.Families[i] {
			w.t.Fatalf("%s of families %v has %v", s.Key, s.Families, g.Addresses)
		}
	}
	if s.Policy == lb.RequireDualStack && len(g.Addresses) < 2 {
		w.t.Fatalf("%s requires two families and has %v", s.Key, g.Addresses)
	}
}

// restartSettled restarts once nobody waits for what is free: then it must change
// nothing, whatever else the old one remembered.
func (w *world) restartSettled() string {
	settle(w.t, w.Allocator, w.all())
	old := w.Allocator
	changed := w.restart()
	if changed != "" && old.loaded {
		w.t.Fatalf("after a restart: %s", changed)
	}
	return fmt.Sprint("restart", changed)
}

// all are the Services, in no order.
func (w *world) all() []lb.Service { return slices.Collect(maps.Values(w.services)) }

// holders is who has which address.
func (w *world) holders() map[string]bool {
	out := make(map[string]bool)
	for key := range w.services {
		g, _ := w.Lookup(key)
		for _, addr := range g.Addresses {
			out[string(key)+addr.String()] = true
		}
	}
	return out
}

// noneNewlyQuarantined asserts that a quarantined address has only those who had it.
func (w *world) noneNewlyQuarantined(after string, had map[string]bool) {
	w.t.Helper()
	for key := range w.services {
		g, _ := w.Lookup(key)
		for _, addr := range g.Addresses {
			if _, bad := w.foreign[addr]; bad && !had[string(key)+addr.String()] {
				w.t.Fatalf("after %s: %s was given %s, which is in quarantine", after, key, addr)
			}
		}
	}
}

// countsAgree asserts that the counters are those of the Grants, and that nothing
// is kept of Services and addresses that are gone.
func (w *world) countsAgree(after string) {
	w.t.Helper()
	used, ports, listed := make(map[string]map[netip.Addr]bool), 0, 0
	for key, s := range w.services {
		g, _ := w.Lookup(key)
		for _, addr := range g.Addresses {
			if used[g.Pool] == nil {
				used[g.Pool] = make(map[netip.Addr]bool)
			}
			used[g.Pool][addr] = true
			ports += len(s.Ports)
		}
	}
	for _, s := range w.Stats() {
		if int(s.Used) != len(used[s.Pool]) || s.Free > s.Size {
			w.t.Fatalf("after %s: %+v, and in use are %v", after, s, used[s.Pool])
		}
	}
	for _, p := range w.Allocator.pools {
		listed += p.four.live + p.six.live
	}
	if len(w.slots) != ports || listed > len(w.releases) {
		w.t.Fatalf("after %s: %d slots of %d ports; %d of %d releases", after, len(w.slots), ports, listed, len(w.releases))
	}
	for addr := range w.releases {
		if w.uses[addr] != nil {
			w.t.Fatalf("after %s: %s is in use and free", after, addr)
		}
	}
}
