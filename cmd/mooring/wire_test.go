package main

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// TestStrangers: a candidate's answer is no other host's.
func TestStrangers(t *testing.T) {
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	answers := []lb.Answer{
		{IP: netip.MustParseAddr("192.0.2.1"), MAC: mac(1)},
		{IP: netip.MustParseAddr("192.0.2.2"), MAC: mac(0xab)},
		{IP: netip.MustParseAddr("192.0.2.3"), MAC: mac(1)}, {IP: netip.MustParseAddr("192.0.2.3"), MAC: mac(0xab)},
	}
	members := []election.Member{{Node: "n1", MACs: []string{"02:00:00:00:00:07", "02:00:00:00:00:01"}}, {Node: "n2"}}
	want := "map[192.0.2.2:02:00:00:00:00:ab 192.0.2.3:02:00:00:00:00:ab]"
	if got := fmt.Sprint(strangers(answers, members)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := strangers(nil, members); len(got) != 0 {
		t.Errorf("silence: %v", got)
	}
}

// TestPlaced: only what this node would announce can be asked for here.
func TestPlaced(t *testing.T) {
	s, _ := shopServices(t)
	lo := lb.Pool{Name: "here", Interfaces: []string{"lo"}, Ranges: []lb.Range{
		{From: netip.MustParseAddr("198.51.100.1"), To: netip.MustParseAddr("198.51.100.9")}}}
	here, err := vip.Look()
	must(t, err)
	_, pools, _ := s.snapshot()
	var addrs []netip.Addr
	for _, ip := range []string{"192.0.2.1", "203.0.113.1", "198.51.100.1"} {
		addrs = append(addrs, netip.MustParseAddr(ip))
	}
	if got := s.placed(addrs, append(pools, lo), here); len(got) != 0 {
		t.Errorf("the loopback announces nothing, and no link is in the others' subnets: %v", got)
	}
}
