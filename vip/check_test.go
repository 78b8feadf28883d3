package vip

import (
	"net/netip"
	"testing"
)

// nodeLinks is an inventory with two ordinary links, a loopback and one without
// addresses.
func nodeLinks() []nodeLink {
	own := func(all ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	return []nodeLink{
		{name: "lo", loopback: true, own: own("127.0.0.1/8", "::1/128", "192.0.2.1/32")},
		{name: "eth0", own: own("10.0.0.11/24", "fd00::11/64", "fe80::1/64")},
		{name: "eth1", own: own("10.0.1.11/16", "10.9.0.0/31", "fe80::2/64")},
		{name: "eth2"},
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		story   string
		addr    string
		outside bool
		fault   string // "" is none
	}{
		{"a free host address", "10.0.0.9 eth0", false, ""},
		{"IPv6", "fd00::9 eth0", false, ""},
		{"second subnet of the link", "10.9.0.1 eth1", false, ""},
		{"no such link", "10.0.0.9 eth9", false,
			`link "eth9" does not exist: create it, or set ` + "`interface` to one of eth0, eth1, eth2, lo"},
		{"this node's own", "10.0.0.11 eth0", false, "an address of this node itself (10.0.0.11/24 on eth0)"},
		{"this node's own on another link", "10.0.1.11 eth0", true, "(10.0.1.11/16 on eth1)"},
		{"this node's own on lo", "192.0.2.1 eth0", true, "(192.0.2.1/32 on lo)"},
		{"outside", "192.168.7.9 eth0", false, "in no subnet of eth0 (10.0.0.0/24, fd00::/64)"},
		{"outside, on a link without any", "192.168.7.9 eth2", false, "in no subnet of eth2 (it has none)"},
		{"outside, allowed", "192.168.7.9 eth0", true, ""},
		{"on the loopback", "127.0.0.9 lo", false, "it is a loopback address"},
		{"a good address on the loopback", "10.0.0.9 lo", false, `link "lo" is the loopback`},
		{"unspecified", "0.0.0.0 eth0", true, `it means "any address"`},
		{"multicast", "224.0.0.9 eth0", true, "multicast or broadcast"},
		{"multicast IPv6", "ff02::9 eth0", true, "multicast or broadcast"},
		{"limited broadcast", "255.255.255.255 eth0", true, "multicast or broadcast"},
		{"link-local IPv6", "fe80::9 eth0", false, "link-local address"},
		{"zone", "fd00::9%eth0 eth0", false, "link-local address"},
		{"network address", "10.0.0.0 eth0", false, "the network address of 10.0.0.0/24"},
		{"broadcast address", "10.0.0.255 eth0", false, "the broadcast address of 10.0.0.0/24"},
		{"a /31 has neither", "10.9.0.1 eth1", false, ""},
		{".255 inside a larger subnet", "10.0.5.255 eth1", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			err := check(addrs(t, tt.addr), nodeLinks(), tt.outside)
			if tt.fault == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, tt.fault)
			wantError(t, err, "virtual IP "+addr(t, tt.addr).IP.String())
		})
	}
}

func TestCheckJoinsAllFaults(t *testing.T) {
	err := check(addrs(t, "10.0.0.9 eth0, 10.0.0.11 eth0, fd00::9 eth9"), nodeLinks(), false)
	wantError(t, err, "10.0.0.11: it is an address of this node")
	wantError(t, err, `fd00::9: link "eth9"`)
}

func TestLinkFor(t *testing.T) {
	for ip, want := range map[string]string{
		"10.0.0.9":    "eth0", // /24 before eth1's /16
		"10.0.7.9":    "eth1",
		"fd00::9":     "eth0",
		"10.9.0.1":    "eth1",
		"127.0.0.9":   "error: virtual IP 127.0.0.9: no link has a subnet with it: set `interface`",
		"192.168.0.9": "error: virtual IP 192.168.0.9: no link has a subnet with it: set `interface`",
		"fe80::9": "error: virtual IP fe80::9: the links eth0, eth1 are all in its subnet: " +
			"set `interface` to one of them",
	} {
		got, err := linkFor(netip.MustParseAddr(ip), nodeLinks())
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
}
