package vip

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestArmRules: all that nft gets for one VIP, with two flows of our own.
func TestArmRules(t *testing.T) {
	at := netip.MustParseAddrPort
	own := []flow{{at("192.0.2.3:1000"), at("192.0.2.10:6443")}, {at("192.0.2.4:1001"), at("192.0.2.10:6443")}}
	got := armRules(fwd("192.0.2.10", "bond0.12", "192.0.2.1", 0), 90*second+second/2, own, 99)
	want := `add table netdev mooring-drain
add set netdev mooring-drain mine-192.0.2.10-bond0.12 { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic,timeout; timeout 1h; size 99; }
add set netdev mooring-drain for-192.0.2.10-bond0.12 { type ipv4_addr; flags timeout; }
flush set netdev mooring-drain for-192.0.2.10-bond0.12
add element netdev mooring-drain for-192.0.2.10-bond0.12 { 192.0.2.10 timeout 90s }
add chain netdev mooring-drain in-192.0.2.10-bond0.12
flush chain netdev mooring-drain in-192.0.2.10-bond0.12
delete chain netdev mooring-drain in-192.0.2.10-bond0.12
add chain netdev mooring-drain in-192.0.2.10-bond0.12 { type filter hook ingress device "bond0.12" priority -150; policy accept; }
add rule netdev mooring-drain in-192.0.2.10-bond0.12 meta protocol != ip accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 ip daddr != 192.0.2.10 accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 meta l4proto != tcp accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 tcp flags & (syn | ack) == syn add @mine-192.0.2.10-bond0.12 { ip saddr . tcp sport . ip daddr . tcp dport timeout 30s } accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 ip saddr . tcp sport . ip daddr . tcp dport @mine-192.0.2.10-bond0.12 update @mine-192.0.2.10-bond0.12 { ip saddr . tcp sport . ip daddr . tcp dport timeout 1h } accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 ip daddr != @for-192.0.2.10-bond0.12 accept
add rule netdev mooring-drain in-192.0.2.10-bond0.12 ip ttl > 8 ip ttl set 8
add rule netdev mooring-drain in-192.0.2.10-bond0.12 fwd ip to 192.0.2.1 device "bond0.12"
add element netdev mooring-drain mine-192.0.2.10-bond0.12 { 192.0.2.3 . 1000 . 192.0.2.10 . 6443 timeout 1h, 192.0.2.4 . 1001 . 192.0.2.10 . 6443 timeout 1h }
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	guarded := fwd("2001:db8::10", "eth0", "2001:db8::1", 0)
	guarded.MACs = "02:00:00:00:00:0b,02:00:00:00:00:0c"
	six := armRules(guarded, 0, nil, 99)
	for _, part := range []string{"ether saddr { 02:00:00:00:00:0b, 02:00:00:00:00:0c } drop",
		"mine-2001-db8--10-eth0 { type ipv6_addr . inet_service", "{ 2001:db8::10 timeout 1s }",
		"ip6 hoplimit > 8 ip6 hoplimit set 8", `fwd ip6 to 2001:db8::1 device "eth0"`} {
		if !strings.Contains(six, part) {
			t.Errorf("%q is missing from\n%s", part, six)
		}
	}
}

// TestMuteRules: an old holder is silent about its VIPs and about nothing else.
func TestMuteRules(t *testing.T) {
	const sweep = "add table arp mooring-mute\ndelete table arp mooring-mute\nadd table ip6 mooring-mute\ndelete table ip6 mooring-mute\n"
	four := copied{
		IP: netip.MustParseAddr("192.0.2.10"), Link: "eth0", Own: netip.MustParseAddr("192.0.2.1"), Until: 60 * second,
	}
	bare := copied{IP: netip.MustParseAddr("192.0.2.11"), Link: "eth1", Until: 60 * second}
	six := copied{IP: netip.MustParseAddr("2001:db8::10"), Link: "eth0", Until: 60 * second}
	for _, c := range []struct {
		name      string
		copies    []copied
		has, lack []string
	}{
		{"IPv4", []copied{four},
			[]string{"elements = { 192.0.2.10 timeout 52s }",
				"arp daddr ip @vips drop", "arp operation reply arp saddr ip @vips drop",
				`oifname "eth0" arp saddr ip 192.0.2.10 arp saddr ip set 192.0.2.1`, "arp saddr ip @vips arp saddr ip set 0.0.0.0"},
			[]string{"table ip6 mooring-mute {"}},
		{"no address of its own", []copied{bare}, []string{"arp saddr ip @vips arp saddr ip set 0.0.0.0"}, []string{"oifname"}},
		{"IPv6", []copied{six},
			[]string{"elements = { 2001:db8::10 timeout 52s }",
				"set asks-2001-db8--10-eth0 { type icmpv6_type; flags timeout; elements = { nd-neighbor-solicit timeout 52s } }",
				"icmpv6 type @asks-2001-db8--10-eth0 @th,64,128 0x20010db8000000000000000000000010 drop",
				"ip6 saddr @vips icmpv6 type"},
			[]string{"table arp mooring-mute {"}},
		{"both", []copied{four, six}, []string{"table arp mooring-mute {", "table ip6 mooring-mute {"}, nil},
		{"none", nil, nil, []string{"{"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := muteRules(c.copies, 10*second)
			if !strings.HasPrefix(text, sweep) {
				t.Errorf("the old tables stay: %s", text)
			}
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

// TestChainName: nft takes the names of every link that is let through.
func TestChainName(t *testing.T) {
	for _, a := range addrs(t, "10.7.0.9 eth0, fd07::9 bond0.12, fd07::9 veth1@x, 10.7.0.9 eth0:1+") {
		for _, r := range chainName(a) {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-_", r) {
				t.Errorf("%q in %s", r, chainName(a))
			}
		}
		must(t, nameable(a.Link))
	}
	for _, link := range []string{"", "e\"", "e f", "e;f", "e{", "e\n", "é"} {
		if nameable(link) == nil {
			t.Errorf("%q is taken", link)
		}
	}
}
