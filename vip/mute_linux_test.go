package vip

import (
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// TestMuteRules: an old holder is silent about its VIPs and about nothing else.
func TestMuteRules(t *testing.T) {
	mute := func(ip string) lb.Forward {
		return lb.Forward{VIP: lb.Address{IP: netip.MustParseAddr(ip), Link: "eth0"}}
	}
	forward := mute("192.0.2.10")
	forward.To = netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name      string
		want      []lb.Forward
		has, lack []string
	}{
		{"IPv4", []lb.Forward{mute("192.0.2.10")},
			[]string{"table arp mooring-mute {", "arp daddr ip 192.0.2.10 drop", "arp saddr ip 192.0.2.10 drop"},
			[]string{"table ip6 mooring-mute {", "fwd"}},
		{"IPv6", []lb.Forward{mute("2001:db8::10")},
			[]string{"@th,64,128 0x20010db8000000000000000000000010 drop", "ip6 saddr 2001:db8::10 icmpv6 type"},
			[]string{"table arp mooring-mute {"}},
		{"a forward mutes nothing", []lb.Forward{forward}, []string{"fwd ip to 192.0.2.1"},
			[]string{"table arp mooring-mute {", "drop"}},
		{"nothing wanted", nil, []string{"delete table arp mooring-mute", "delete table ip6 mooring-mute"},
			[]string{"{"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := forwardRules(c.want)
			for _, s := range c.has {
				if !strings.Contains(text, s) {
					t.Errorf("%q is missing from\n%s", s, text)
				}
			}
			for _, s := range c.lack {
				if strings.Contains(text, s) {
					t.Errorf("%q should not be in\n%s", s, text)
				}
			}
		})
	}
}
