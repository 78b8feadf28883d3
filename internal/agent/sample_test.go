package agent

import (
	"net/netip"
	"slices"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// TestSample: few VIPs are all asked for, of many some from end to end, each once.
func TestSample(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.0")
	var all []lb.Address
	for range 1000 {
		all, ip = append(all, lb.Address{IP: ip, Link: "eth0"}), ip.Next()
	}
	for _, n := range []int{1, 31, 32, 33, 100, 1000} {
		got := sample(all[:n])
		if len(got) != min(n, sampleSize) || got[0] != all[0] {
			t.Errorf("of %d: %d from %v", n, len(got), got[0])
		}
		seen := map[lb.Address]bool{}
		for _, a := range got {
			seen[a] = true
		}
		if len(seen) != len(got) || !slices.Contains(all[:n], got[len(got)-1]) {
			t.Errorf("of %d: %v", n, got)
		}
	}
	if last := sample(all)[sampleSize-1]; last.IP.Less(all[900].IP) {
		t.Errorf("the last is %v", last)
	}
}

// TestQuickProbeAsksForSome: a holder of many addresses that falls silent is asked for
// some of them until it is replaced, and before a first claim for all.
func TestQuickProbeAsksForSome(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		many := vips()
		for range 99 {
			many = append(many, lb.Address{IP: many[len(many)-1].IP.Next(), Link: "eth0"})
		}
		n := s.add(standby)
		n.agent.vips.Store(&many)
		n.agent.askWire(t.Context(), nil, true)
		n.agent.askWire(t.Context(), nil, false)
		for i, want := range []int{sampleSize, len(many)} {
			if got := n.links.asked[i]; got != want {
				t.Errorf("probe %d for %d addresses, want %d", i, got, want)
			}
		}
	})
}
