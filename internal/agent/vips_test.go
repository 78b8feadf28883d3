package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// TestAddressesKeepComing: a group whose addresses change all the time, each change
// before the one before was carried out, holds all of them and is never fenced.
func TestAddressesKeepComing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby)
		n.links.slow = 20 * time.Millisecond
		n.run()
		list := vips()
		for range 1200 {
			ip := list[len(list)-1].IP.Next()
			list = append(slices.Clone(list), lb.Address{IP: ip, Link: "eth0"})
			n.agent.SetVIPs(list)
			pass(10 * time.Millisecond)
		}
		pass(100 * time.Millisecond)
		s.want("a", "Holding confirmed")
		n.decided(election.Claims, election.Became)
		last := n.links.holds[len(n.links.holds)-1]
		if !slices.Equal(last.Addresses, list) {
			t.Errorf("%d addresses are on the link, want %d", len(last.Addresses), len(list))
		}
	})
}

// TestAddressesAfterFreeze: addresses that change while the fence has passed revive
// nothing.
func TestAddressesAfterFreeze(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(5500 * time.Millisecond)
		s.api.outage(true)
		n.took()
		n.ahead.Store(int64(10 * time.Second))
		n.agent.SetVIPs(append(vips(), lb.Address{IP: netip.MustParseAddr("192.0.2.11"), Link: "eth0"}))
		pass(20 * time.Second)
		s.want("", "Standby")
		if calls := n.took("hold"); len(calls) > 1 {
			t.Errorf("after the sleep: %v", calls)
		}
	})
}
