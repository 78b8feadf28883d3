package vip

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

// addr reads "10.0.0.9 eth0".
func addr(t testing.TB, s string) lb.Address {
	t.Helper()
	ip, link, _ := strings.Cut(s, " ")
	a, err := netip.ParseAddr(ip)
	if err != nil {
		t.Fatal(err)
	}
	return lb.Address{IP: a, Link: link}
}

// addrs reads several, separated by commas; "" is none.
func addrs(t testing.TB, s string) []lb.Address {
	t.Helper()
	var all []lb.Address
	for part := range strings.SplitSeq(s, ", ") {
		if part != "" {
			all = append(all, addr(t, part))
		}
	}
	return all
}

func TestDiff(t *testing.T) {
	tests := []struct {
		story string
		held  string
		want  string
		found map[string]form
		steps []string
	}{
		{"nothing held, nothing wanted", "", "", nil, nil},
		{"taken over", "", "10.0.0.9 eth0, fd00::9 eth0", nil,
			[]string{"create 10.0.0.9 dev eth0", "create fd00::9 dev eth0"}},
		{"held: refreshed without a look", "10.0.0.9 eth0", "10.0.0.9 eth0",
			map[string]form{"10.0.0.9 eth0": otherForm}, []string{"refresh 10.0.0.9 dev eth0"}},
		{"a predecessor's is adopted", "", "10.0.0.9 eth0", map[string]form{"10.0.0.9 eth0": hostForm},
			[]string{"refresh 10.0.0.9 dev eth0"}},
		{"IPv6 in another form is replaced", "", "fd00::9 eth0", map[string]form{"fd00::9 eth0": otherForm},
			[]string{"replace fd00::9 dev eth0"}},
		{"let go", "10.0.0.9 eth0, fd00::9 eth0", "", nil,
			[]string{"remove 10.0.0.9 dev eth0", "remove fd00::9 dev eth0"}},
		{"to another link", "10.0.0.9 eth0", "10.0.0.9 eth1", nil,
			[]string{"remove 10.0.0.9 dev eth0", "create 10.0.0.9 dev eth1"}},
		{"removals first, then refreshes, new ones last", "10.0.0.3 eth0, 10.0.0.2 eth0",
			"10.0.0.1 eth0, 10.0.0.3 eth0, fd00::1 eth0", map[string]form{"fd00::1 eth0": otherForm},
			[]string{"remove 10.0.0.2 dev eth0", "refresh 10.0.0.3 dev eth0",
				"replace fd00::1 dev eth0", "create 10.0.0.1 dev eth0"}},
		{"wanted twice, written once", "", "10.0.0.1 eth0, 10.0.0.1 eth0", nil, []string{"create 10.0.0.1 dev eth0"}},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			held := map[lb.Address]bool{}
			for _, a := range addrs(t, tt.held) {
				held[a] = true
			}
			found := func(a lb.Address) form { return tt.found[a.IP.String()+" "+a.Link] }
			steps := diff(held, addrs(t, tt.want), found)
			var got []string
			for _, s := range steps {
				got = append(got, s.String())
			}
			if d := cmp.Diff(tt.steps, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDiffOfManyIsFast(t *testing.T) {
	held := map[lb.Address]bool{}
	var want []lb.Address
	for i := range 10_000 {
		a := lb.Address{IP: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Link: "eth0"}
		held[a] = true
		want = append(want, a)
	}
	begun := time.Now()
	steps := diff(held, want, func(lb.Address) form { return absent })
	// Comparing each with each takes seconds; this takes milliseconds.
	if took := time.Since(begun); took > 500*time.Millisecond || len(steps) != 10_000 {
		t.Errorf("%d steps in %v", len(steps), took)
	}
}

func TestPlain(t *testing.T) {
	tests := []struct {
		story string
		in    lb.Holding
		want  lb.Holding
		err   string
	}{
		{"empty needs no lifetime", lb.Holding{}, lb.Holding{}, ""},
		{"sorted, unmapped, each once, whole seconds",
			lb.Holding{ValidLft: 4900 * time.Millisecond,
				Addresses: addrs(t, "fd00::9 a, ::ffff:10.0.0.9 a, 10.0.0.9 a")},
			lb.Holding{Addresses: addrs(t, "10.0.0.9 a, fd00::9 a"), ValidLft: 4 * time.Second}, ""},
		{"too short a life", lb.Holding{Addresses: addrs(t, "10.0.0.9 a"), ValidLft: 900 * time.Millisecond},
			lb.Holding{}, "lifetime 900ms of the addresses: give at least 1s"},
		{"not an address", lb.Holding{Addresses: []lb.Address{{Link: "a"}}, ValidLft: time.Second},
			lb.Holding{}, "no IP address is given"},
		{"nobody's address", lb.Holding{Addresses: addrs(t, "127.0.0.1 a"), ValidLft: time.Second},
			lb.Holding{}, "127.0.0.1 dev a: it is a loopback address"},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			got, err := plain(tt.in)
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if d := cmp.Diff(fmt.Sprint(tt.want), fmt.Sprint(got)); d != "" || err != nil {
				t.Error(d, err)
			}
		})
	}
}

// wantError fails unless the error's text contains the part.
func wantError(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want one with %q", err, part)
	}
}

func TestFormOf(t *testing.T) {
	all := []ifAddr{
		{index: 2, ip: netip.MustParseAddr("10.0.0.9"), bits: 24},
		{index: 2, ip: netip.MustParseAddr("fd00::9"), bits: 64},
		{index: 2, ip: netip.MustParseAddr("10.0.0.8"), bits: 24},
		{index: 2, ip: netip.MustParseAddr("10.0.0.8"), bits: 32},
		{index: 3, ip: netip.MustParseAddr("10.0.0.7"), bits: 32},
	}
	for a, want := range map[string]form{
		"10.0.0.9 x": absent, // /24 beside which a /32 can stand
		"fd00::9 x":  otherForm,
		"10.0.0.8 x": hostForm,
		"10.0.0.7 x": absent, // on another link
	} {
		if got := formOf(addr(t, a), 2, all); got != want {
			t.Errorf("%s: %d, want %d", a, got, want)
		}
	}
}
