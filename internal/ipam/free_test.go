package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// plainService is a Service without wishes.
func plainService(i int, f lb.Family) lb.Service {
	return lb.Service{Key: lb.ServiceKey(fmt.Sprintf("d/s%06d", i)), Families: []lb.Family{f},
		Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}}}
}

// mustAssign assigns and returns the only address.
func mustAssign(t testing.TB, a *Allocator, s lb.Service) netip.Addr {
	t.Helper()
	g, err := a.Assign(s)
	if err != nil {
		t.Fatal(err)
	}
	return g.Addresses[0]
}

// TestQueueIsBounded: a Service that comes and goes with one address for a year
// leaves one entry, not one for each time.
func TestQueueIsBounded(t *testing.T) {
	a := New()
	a.SetPools([]lb.Pool{parsePool(t, "a=10.0.0.0/24")})
	s := plainService(1, lb.IPv4)
	s.Addresses = parseAddrs("10.0.0.77")
	for range 10_000 {
		mustAssign(t, a, s)
		a.Release(s.Key)
	}
	l := &a.pools["a"].four
	if len(l.queue) > 200 || l.live != 1 || len(a.releases) != 1 {
		t.Errorf("the queue has %d entries, %d live, %d releases", len(l.queue), l.live, len(a.releases))
	}
}

// TestEndlessPool: an IPv6 /64 gives an address never used, until as many as are
// remembered were released; then the first of these comes back. Nothing grows.
func TestEndlessPool(t *testing.T) {
	a := New()
	a.SetPools([]lb.Pool{parsePool(t, "a=2001:db8::/64")})
	first := mustAssign(t, a, plainService(0, lb.IPv6))
	a.Release("d/s000000")
	seen := map[netip.Addr]bool{first: true}
	for i := 1; i < remembered; i++ {
		s := plainService(i, lb.IPv6)
		addr := mustAssign(t, a, s)
		if seen[addr] {
			t.Fatalf("the Service no. %d gets %s again", i, addr)
		}
		seen[addr] = true
		a.Release(s.Key)
	}
	if addr := mustAssign(t, a, plainService(1, lb.IPv6)); addr != first {
		t.Errorf("got %s, want the one released first, %s", addr, first)
	}
	for i := range 3 * remembered {
		s := plainService(i, lb.IPv6)
		mustAssign(t, a, s)
		a.Release(s.Key)
	}
	l := &a.pools["a"].six
	// One more: the last one was in use when the rest was at its bound.
	if len(a.releases) > remembered+1 || len(l.queue) > 3*remembered || l.live != len(a.releases) {
		t.Errorf("%d releases, %d in the queue, %d live", len(a.releases), len(l.queue), l.live)
	}
}

// TestStraysAreForgotten: addresses of pools that are gone are remembered for the
// case that they come back, the last ones released, and not without end.
func TestStraysAreForgotten(t *testing.T) {
	a := New()
	for i := range remembered + 10 {
		a.turn++
		a.releases[netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})] = release{turn: a.turn}
	}
	a.SetPools([]lb.Pool{parsePool(t, "a=192.0.2.0/24")})
	if len(a.releases) != remembered {
		t.Errorf("%d are remembered, want %d", len(a.releases), remembered)
	}
	if _, ok := a.releases[netip.MustParseAddr("10.0.0.9")]; ok {
		t.Error("the oldest was kept")
	}
	if _, ok := a.releases[netip.MustParseAddr("10.0.0.10")]; !ok {
		t.Error("one of the last was forgotten")
	}
}

// TestFreeListModel: over random allocations, releases, requests and quarantines the
// address given is that of a model that looks at every address: the first never
// used, else the one released longest ago.
func TestFreeListModel(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a := New()
		a.SetPools([]lb.Pool{parsePool(t, "a=10.0.0.20-10.0.0.30,10.0.0.0-10.0.0.12;avoid")})
		model := newFreeModel(t)
		for step := range 400 {
			s := plainService(rng.IntN(25), lb.IPv4)
			switch rng.IntN(8) {
			case 0:
				addr := model.all[rng.IntN(len(model.all))]
				a.Quarantine(addr, "02:00:00:00:00:01")
				model.bad[addr] = true
			case 1:
				addr := model.all[rng.IntN(len(model.all))]
				a.Absolve(addr)
				if model.bad[addr] {
					delete(model.bad, addr)
					model.release(addr)
				}
			case 2, 3, 4:
				if g, ok := a.Lookup(s.Key); ok {
					a.Release(s.Key)
					delete(model.used, g.Addresses[0])
					model.release(g.Addresses[0])
				}
			default:
				if _, ok := a.Lookup(s.Key); ok {
					continue
				}
				want := model.next()
				g, _ := a.Assign(s)
				var got netip.Addr
				if len(g.Addresses) > 0 {
					got = g.Addresses[0]
				}
				if got != want {
					t.Fatalf("seed %d, step %d: got %v, want %v", seed, step, got, want)
				}
				model.used[got] = true
				delete(model.released, got)
			}
		}
	}
}

// freeModel is a pool as a list.
type freeModel struct {
	all       []netip.Addr
	used, bad map[netip.Addr]bool
	released  map[netip.Addr]int
	turn      int
}

func newFreeModel(t *testing.T) *freeModel {
	m := &freeModel{used: map[netip.Addr]bool{}, bad: map[netip.Addr]bool{}, released: map[netip.Addr]int{}}
	for _, text := range []string{"10.0.0.20-10.0.0.30", "10.0.0.1-10.0.0.12"} {
		for r := parseRange(t, text); !r.To.Less(r.From); r.From = r.From.Next() {
			m.all = append(m.all, r.From)
		}
	}
	return m
}

func (m *freeModel) release(addr netip.Addr) {
	if m.turn++; !m.used[addr] && !m.bad[addr] {
		m.released[addr] = m.turn
	}
}

func (m *freeModel) next() netip.Addr {
	free := slices.DeleteFunc(slices.Clone(m.all), func(a netip.Addr) bool { return m.used[a] || m.bad[a] })
	// Those never used have turn 0, and keep their order.
	slices.SortStableFunc(free, func(a, b netip.Addr) int { return m.released[a] - m.released[b] })
	if len(free) == 0 {
		return netip.Addr{}
	}
	return free[0]
}
