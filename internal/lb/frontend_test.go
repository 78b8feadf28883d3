package lb

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"testing"
)

// TestBackendAt: the name is part of state that other nodes and later versions
// read (HAProxy's server state, stick tables), so it is written down here.
func TestBackendAt(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.11:6443":                        "s-10-0-0-11-6443",
		"10.0.0.11:443":                         "s-10-0-0-11-443",
		"[2001:db8::11]:6443":                   "s-2001-db8--11-6443",
		"[::1]:1":                               "s---1-1",
		"[2001:db8:1:2:3:4:5:6]:65535":          "s-2001-db8-1-2-3-4-5-6-65535",
		"[::ffff:10.0.0.11]:6443":               "s-10-0-0-11-6443",
		"[fe80:1111:2222:3333:4444::1111]:6443": "s-fe80-1111-2222-3333-4444--1111-6443",
	} {
		a := netip.MustParseAddrPort(addr)
		if got := BackendAt(a); got.Name != want || got.Addr != a {
			t.Errorf("%s is named %s at %s, want %s", addr, got.Name, got.Addr, want)
		}
	}
}

// serverName is what HAProxy and its socket take without quoting, within the
// length that Backend.Name promises.
var serverName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// FuzzBackendAt: every address has a name, two addresses never share one.
func FuzzBackendAt(f *testing.F) {
	add := func(a, b string) {
		x, y := netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)
		f.Add(x.Addr().AsSlice(), x.Port(), y.Addr().AsSlice(), y.Port())
	}
	add("10.0.0.11:6443", "10.0.0.1:16443")
	add("10.0.0.1:6443", "10.0.0.16:443")
	add("[1::2:3]:4", "[1:2::3]:4")
	add("[1::]:23", "[1::2]:3")
	add("[::1:2]:3", "[::1]:23")
	add("1.2.3.4:5", "[1:2:3:4::]:5")
	add("10.0.0.11:6443", "[::ffff:10.0.0.11]:6443")
	f.Fuzz(func(t *testing.T, a []byte, p uint16, b []byte, q uint16) {
		x, ok := netip.AddrFromSlice(a)
		y, also := netip.AddrFromSlice(b)
		if !ok || !also {
			t.Skip("no addresses")
		}
		one, two := BackendAt(netip.AddrPortFrom(x, p)), BackendAt(netip.AddrPortFrom(y, q))
		for _, s := range []Backend{one, two} {
			if !serverName.MatchString(s.Name) {
				t.Fatalf("%s is named %q", s.Addr, s.Name)
			}
		}
		// An IPv4 address in IPv6 form is the same address.
		same := x.Unmap() == y.Unmap() && p == q
		if (one.Name == two.Name) != same {
			t.Fatalf("%s and %s are named %q and %q", one.Addr, two.Addr, one.Name, two.Name)
		}
	})
}

// TestAddressString: as ip-address(8) prints it; logs and errors show it.
func TestAddressString(t *testing.T) {
	for want, a := range map[string]Address{
		"192.0.2.10 dev eth0":       {netip.MustParseAddr("192.0.2.10"), "eth0"},
		"2001:db8::10 dev bond0.12": {netip.MustParseAddr("2001:db8::10"), "bond0.12"},
	} {
		if got := a.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestProxyStateJSON: the API servers' state has no words of Services.
func TestProxyStateJSON(t *testing.T) {
	for want, st := range map[string]ProxyState{
		`{"Serving":true,"Up":["a"],"Why":""}`: {Serving: true, Up: []string{"a"}},
		`{"Serving":true,"Up":null,"Why":"","Skipped":{"a":"x"},"Pending":["b"]}`: {
			Serving: true, Skipped: map[string]string{"a": "x"}, Pending: []string{"b"}},
	} {
		if got, err := json.Marshal(st); err != nil || string(got) != want {
			t.Errorf("%s, want %s, %v", got, want, err)
		}
	}
}
