package lb

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// modeless is a Service of these ports whose mode the API server dropped.
func modeless(key string, addr string, ports ...uint16) Service {
	s := Service{Key: ServiceKey(key), DataPath: DataPathProxy, Modeless: true}
	s.Has = []netip.Addr{netip.MustParseAddr(addr)}
	for _, p := range ports {
		s.Ports = append(s.Ports, ServicePort{Protocol: TCP, Port: p})
	}
	return s
}

// TestShifts: the mapping is part of what two versions of agents in one cluster agree
// on, so it is written down here.
func TestShifts(t *testing.T) {
	a, b := "192.0.2.1", "2001:db8::1"
	udp := modeless("x/udp", a)
	udp.Ports = []ServicePort{{Protocol: UDP, Port: 61080}}
	whole := modeless("x/whole", a, 61080)
	whole.Modeless = false
	for _, c := range []struct {
		name string
		all  []Service
		want string
	}{
		{"common ports", []Service{modeless("x/web", a, 80, 443, 8080, 8443)},
			"192.0.2.1:80>61080 192.0.2.1:443>61443 192.0.2.1:8080>61102 192.0.2.1:8443>61465"},
		{"two families", []Service{modeless("x/web", a, 80), modeless("x/six", b, 80)},
			"192.0.2.1:80>61080 [2001:db8::1]:80>61080"},
		{"two want one", []Service{modeless("x/late", a, 80+3989), modeless("x/early", a, 80)},
			"192.0.2.1:80>61080 192.0.2.1:4069>61081"},
		{"a Service has the port itself", []Service{modeless("x/web", a, 80), whole}, "192.0.2.1:80>61081"},
		{"datagrams are no matter", []Service{modeless("x/web", a, 80), udp}, "192.0.2.1:80>61080"},
		{"the last one goes on at the first", []Service{modeless("x/web", a, 3988, 3988+3989)},
			"192.0.2.1:3988>64988 192.0.2.1:7977>61000"},
		{"a port within the range", []Service{modeless("x/web", a, 61000)}, "192.0.2.1:61000>62165"},
		{"with a mode", []Service{whole}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := printed(shiftsOf(c.all)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			slices.Reverse(c.all)
			if got := printed(shiftsOf(c.all)); got != c.want {
				t.Errorf("in another order: got %s, want %s", got, c.want)
			}
		})
	}
}

func printed(shifts map[netip.AddrPort]uint16) string {
	var from []netip.AddrPort
	for at := range shifts {
		from = append(from, at)
	}
	slices.SortFunc(from, netip.AddrPort.Compare)
	out := ""
	for i, at := range from {
		if i > 0 {
			out += " "
		}
		out += fmt.Sprintf("%s>%d", at, shifts[at])
	}
	return out
}

// TestShiftsRunOut: no address has two ports at one place, and what finds no place is
// left as it was.
func TestShiftsRunOut(t *testing.T) {
	s := modeless("x/many", "192.0.2.1")
	for p := range uint16(ShiftPorts + 10) {
		s.Ports = append(s.Ports, ServicePort{Protocol: TCP, Port: p + 1})
	}
	shifts := shiftsOf([]Service{s})
	used := map[uint16]bool{}
	for at, to := range shifts {
		if used[to] || to < ShiftFirst || to >= ShiftFirst+ShiftPorts {
			t.Fatalf("%s leads to %d", at, to)
		}
		used[to] = true
	}
	if len(shifts) != ShiftPorts {
		t.Errorf("%d ports of %d have a place", len(shifts), ShiftPorts)
	}
	if shifts[netip.MustParseAddrPort("192.0.2.1:3999")] != 0 {
		t.Error("one too many")
	}
}

// TestShiftRange: where NodePorts, clients and our own ports are not.
func TestShiftRange(t *testing.T) {
	for _, port := range []int{6443, 7443, 7445, 30000, 32767, 32768, 60999} {
		if port >= ShiftFirst && port < ShiftFirst+ShiftPorts {
			t.Errorf("port %d is in the range", port)
		}
	}
	if ShiftFirst+ShiftPorts > 1<<16 {
		t.Error("the range does not end below 65536")
	}
}

// TestShiftedFrontends: both ports are listened at, and a redirect leads from the one
// to the other; source ranges are kube-proxy's on other nodes.
func TestShiftedFrontends(t *testing.T) {
	web, plain := modeless("x/web", "192.0.2.1", 80), modeless("x/plain", "192.0.2.2", 80)
	web.Front.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	plain.Modeless = false
	other := modeless("x/other", "192.0.2.3", 80)
	direct := modeless("x/direct", "192.0.2.4", 80)
	direct.DataPath, direct.Modeless = DataPathDirect, false
	pools := []Pool{{Name: "lan", Ranges: []Range{{From: netip.MustParseAddr("192.0.2.1"), To: netip.MustParseAddr("192.0.2.9")}}}}
	got := map[string]Frontend{}
	for _, f := range Frontends([]Service{web, plain, other, direct}, pools, "n1") {
		got[f.Name] = f
	}
	if len(got) != 3 {
		t.Fatalf("%d frontends", len(got))
	}
	for key, want := range map[ServiceKey]string{
		"x/web":   "[192.0.2.1:80 192.0.2.1:61080] [{192.0.2.1 80 61080 false}]",
		"x/other": "[192.0.2.3:80 192.0.2.3:61080] [{192.0.2.3 80 61080 true}]",
		"x/plain": "[192.0.2.2:80] []",
	} {
		f := got[FrontendName(key, 80)]
		if is := fmt.Sprint(f.Binds, f.Redirects); is != want {
			t.Errorf("%s: %s, want %s", key, is, want)
		}
	}
}

// TestRedirects: a redirect stands only while HAProxy listens where it leads.
func TestRedirects(t *testing.T) {
	r := func(ip string) Redirect { return Redirect{VIP: netip.MustParseAddr(ip), From: 80, To: 61080} }
	fronts := []Frontend{
		{Name: "a", Redirects: []Redirect{r("192.0.2.1"), r("2001:db8::1")}},
		{Name: "b", Redirects: []Redirect{r("192.0.2.2")}},
		{Name: "c", Redirects: []Redirect{r("192.0.2.1")}}, // of a quarrel
		{Name: "d"},
	}
	for _, c := range []struct {
		name  string
		state ProxyState
		want  []Redirect
	}{
		{"all", ProxyState{Serving: true}, []Redirect{r("192.0.2.1"), r("2001:db8::1"), r("192.0.2.2")}},
		{"none serves", ProxyState{}, nil},
		{"one waits", ProxyState{Serving: true, Pending: []string{"a", "c"}}, []Redirect{r("192.0.2.2")}},
		{"one is left out", ProxyState{Serving: true, Skipped: map[string]string{"b": "", "c": "bound twice"}},
			[]Redirect{r("192.0.2.1"), r("2001:db8::1")}},
	} {
		if got := Redirects(fronts, c.state); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
