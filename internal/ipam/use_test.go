package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// TestJoinModel: over random Services that come and go, one with a shared key joins
// the lowest address that a model finds by looking at all of them, and takes one
// that nobody has when there is none.
func TestJoinModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 5))
		a, there := New(), make(map[lb.ServiceKey]lb.Service)
		a.SetPools([]lb.Pool{parsePool(t, "a=10.0.0.0/24")})
		for step := range 500 {
			s := sharer(rng)
			if _, ok := there[s.Key]; ok {
				a.Release(s.Key)
				delete(there, s.Key)
				continue
			}
			if rng.IntN(4) == 0 {
				s.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + rng.IntN(20))})}
				if _, err := a.Assign(s); err != nil {
					a.Release(s.Key)
					continue
				}
				there[s.Key] = s
				continue
			}
			want, got := lowestShared(a, there, s), mustAssign(t, a, s)
			if want.IsValid() && got != want || !want.IsValid() && slices.ContainsFunc(values(a, there),
				func(b netip.Addr) bool { return b == got }) {
				t.Fatalf("seed %d, step %d: %+v was given %s, and may join %v", seed, step, s, got, want)
			}
			there[s.Key] = s
		}
	}
}

// sharer is a random Service with one of two keys and some of five ports.
func sharer(rng *rand.Rand) lb.Service {
	s := lb.Service{Key: lb.ServiceKey(fmt.Sprintf("d/%d", rng.IntN(60))), Families: []lb.Family{lb.IPv4},
		SharedKey: []string{"k", "m"}[rng.IntN(2)]}
	for p := range uint16(5) {
		if rng.IntN(4) == 0 {
			s.Ports = append(s.Ports, lb.ServicePort{Protocol: lb.TCP, Port: 80 + p})
		}
	}
	return s
}

// values are all addresses in use.
func values(a *Allocator, there map[lb.ServiceKey]lb.Service) []netip.Addr {
	var out []netip.Addr
	for key := range there {
		g, _ := a.Lookup(key)
		out = append(out, g.Addresses...)
	}
	return out
}

// lowestShared is the first address on which all Services may share with s.
func lowestShared(a *Allocator, there map[lb.ServiceKey]lb.Service, s lb.Service) netip.Addr {
	bad, good := make(map[netip.Addr]bool), []netip.Addr(nil)
	for key, other := range there {
		g, _ := a.Lookup(key)
		if apart(s, other) != "" {
			bad[g.Addresses[0]] = true
		}
		good = append(good, g.Addresses[0])
	}
	good = slices.DeleteFunc(good, func(addr netip.Addr) bool { return bad[addr] })
	if len(good) == 0 {
		return netip.Addr{}
	}
	return slices.MinFunc(good, netip.Addr.Compare)
}

// TestSharersKeepOneAddress: 300 Services of one key and different ports have one
// address; the ports that are given back find their next owner there.
func TestSharersKeepOneAddress(t *testing.T) {
	a := New()
	a.SetPools([]lb.Pool{parsePool(t, "a=10.0.0.0/24")})
	at := func(i int) lb.Service {
		return lb.Service{Key: lb.ServiceKey(fmt.Sprintf("d/%d", i)), Families: []lb.Family{lb.IPv4}, SharedKey: "k",
			Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: uint16(i)}, {Protocol: lb.UDP, Port: uint16(i)}}}
	}
	for i := range 300 {
		if addr := mustAssign(t, a, at(i)); addr.String() != "10.0.0.0" {
			t.Fatalf("no. %d has %s", i, addr)
		}
	}
	twin := at(7)
	twin.Key = "d/twin"
	if addr := mustAssign(t, a, twin); addr.String() != "10.0.0.1" {
		t.Errorf("one with ports that are taken has %s", addr)
	}
	a.Release("d/7")
	again := at(7)
	if addr := mustAssign(t, a, again); addr.String() != "10.0.0.0" {
		t.Errorf("the ports given back lead to %s", addr)
	}
	for i := range 300 {
		a.Release(at(i).Key)
	}
	a.Release("d/twin")
	if len(a.uses)+len(a.slots)+len(a.groups) > 0 {
		t.Errorf("left behind: %d uses, %d slots, %d groups", len(a.uses), len(a.slots), len(a.groups))
	}
}
