package vip

import (
	"net"
	"net/netip"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

func TestClaims(t *testing.T) {
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	c := claims{}
	for _, tt := range []struct {
		story string
		ip    string
		mac   byte
		at    lb.Instant
		want  bool
	}{
		{"the first", "10.0.0.9", 1, 0, true},
		{"the same at once", "10.0.0.9", 1, ms, false},
		{"another MAC", "10.0.0.9", 2, ms, true},
		{"another IP", "10.0.0.8", 1, ms, true},
		{"still within 100 ms", "10.0.0.9", 1, 99 * ms, false},
		{"after 100 ms", "10.0.0.9", 1, 100 * ms, true},
	} {
		claim := lb.Claim{IP: netip.MustParseAddr(tt.ip), MAC: mac(tt.mac)}
		if got := c.news(claim, tt.at); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.story, got, tt.want)
		}
	}
}

func TestClaimsOfInventedMACsAreBounded(t *testing.T) {
	c := claims{}
	reported := 0
	for i := range 100_000 {
		invented := net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		claim := lb.Claim{IP: netip.MustParseAddr("10.0.0.9"), MAC: invented}
		if c.news(claim, second) {
			reported++
		}
	}
	if reported != claimMax || len(c) != claimMax {
		t.Errorf("%d reported, %d remembered, want %d", reported, len(c), claimMax)
	}
	again := lb.Claim{IP: netip.MustParseAddr("10.0.0.9"), MAC: net.HardwareAddr{2, 9, 9, 9, 9, 9}}
	if !c.news(again, 2*second) {
		t.Error("a claim a second later is not reported: the flood was not forgotten")
	}
}
