package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/internal/lb"
)

// endpointSlice is a slice of addresses with one port, as the API server
// writes it.
func endpointSlice(port string, number int32, addresses ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{Ports: []discovery.EndpointPort{{Name: &port, Port: &number}}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{a}})
	}
	return s
}

func TestTranslate(t *testing.T) {
	udp := endpointSlice("https", 6443, "10.0.0.1")
	udp.Ports[0].Protocol = ptr(corev1.ProtocolUDP)
	many := endpointSlice("https", 6443, "10.0.0.1")
	many.Ports = append([]discovery.EndpointPort{{Name: ptr("metrics"), Port: ptr(int32(1))}}, many.Ports...)
	ready := endpointSlice("https", 6443, "10.0.0.1", "10.0.0.2", "10.0.0.3")
	ready.Endpoints[0].Conditions.Ready = ptr(true)
	ready.Endpoints[1].Conditions.Ready = ptr(false)
	stories := []struct {
		name    string
		slices  []*discovery.EndpointSlice
		never   string
		want    string // NAME=ADDRESS
		ignored string // ADDRESS:CAUSE
	}{
		{"none", nil, "", "", ""},
		{"sorted as addresses", []*discovery.EndpointSlice{endpointSlice("https", 6443, "10.0.0.13", "10.0.0.2")}, "",
			"s-10-0-0-2-6443=10.0.0.2:6443 s-10-0-0-13-6443=10.0.0.13:6443", ""},
		{"both families, twice the same", []*discovery.EndpointSlice{
			endpointSlice("https", 6443, "2001:db8::11", "2001:db8:0::11"), endpointSlice("https", 6443, "10.0.0.1"),
			endpointSlice("https", 6443, "10.0.0.1", "::ffff:10.0.0.1"),
		}, "", "s-10-0-0-1-6443=10.0.0.1:6443 s-2001-db8--11-6443=[2001:db8::11]:6443", ""},
		{"two ports of one address", []*discovery.EndpointSlice{
			endpointSlice("https", 6443, "10.0.0.1"), endpointSlice("https", 16443, "10.0.0.1"),
		}, "", "s-10-0-0-1-6443=10.0.0.1:6443 s-10-0-0-1-16443=10.0.0.1:16443", ""},
		{"nobody says ready, one does, one denies", []*discovery.EndpointSlice{ready}, "",
			"s-10-0-0-1-6443=10.0.0.1:6443 s-10-0-0-3-6443=10.0.0.3:6443", "10.0.0.2:is not ready"},
		{"the port named https", []*discovery.EndpointSlice{many}, "", "s-10-0-0-1-6443=10.0.0.1:6443", ""},
		{"an only port needs no name", []*discovery.EndpointSlice{endpointSlice("", 6443, "10.0.0.1")}, "",
			"s-10-0-0-1-6443=10.0.0.1:6443", ""},
		{"another name, another protocol, no port", []*discovery.EndpointSlice{
			endpointSlice("http", 80, "10.0.0.1"), udp,
			endpointSlice("https", 0, "10.0.0.1"), endpointSlice("https", 65536, "10.0.0.1"),
		}, "", "", "10.0.0.1:has no TCP port named https between 1 and 65535"},
		{"nonsense", []*discovery.EndpointSlice{endpointSlice("https", 1, "", "h.example", "fe80::1%e", "fe80::1",
			"127.0.0.1", "::", "0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255", "10.0.0.1\n")}, "", "",
			":is not an IP address 0.0.0.0:U 10.0.0.1\n:is not an IP address 127.0.0.1:U 224.0.0.1:U " +
				"255.255.255.255:U :::U fe80::1:U fe80::1%e:has a zone ff02::1:U h.example:is not an IP address"},
		{"a virtual IP: a loop", []*discovery.EndpointSlice{endpointSlice("https", 6443, "192.0.2.10", "10.0.0.1")},
			"192.0.2.10", "s-10-0-0-1-6443=10.0.0.1:6443",
			"192.0.2.10:is a virtual IP; give the API server an --advertise-address of its own node"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			var never []netip.Addr
			if s.never != "" {
				never = append(never, netip.MustParseAddr(s.never))
			}
			backends, ignored := Translate(s.slices, never)
			var got, not []string
			for _, b := range backends {
				got = append(got, b.Name+"="+b.Addr.String())
			}
			for _, i := range ignored {
				not = append(not, i.Address+":"+i.Cause.String())
			}
			if diff := cmp.Diff(s.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("backends: %s", diff)
			}
			want := strings.ReplaceAll(s.ignored, ":U", ":"+CauseNotReachable.String())
			if diff := cmp.Diff(want, strings.Join(not, " ")); diff != "" {
				t.Errorf("ignored: %s", diff)
			}
		})
	}
	if got := Cause(99).String(); got != "Cause(99)" {
		t.Error(got)
	}
}

// FuzzTranslate: whatever the API holds, names are safe and unique, addresses
// reachable and sorted, and no virtual IP is among them.
func FuzzTranslate(f *testing.F) {
	f.Add(`{"ports":[{"name":"https","port":6443}],"endpoints":[{"addresses":["10.0.0.1","2001:db8::1"]}]}`)
	f.Add(`{"ports":[{"port":1}],"endpoints":[{"addresses":["192.0.2.10"],"conditions":{"ready":false}}]}`)
	safe := regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	vip := netip.MustParseAddr("192.0.2.10")
	f.Fuzz(func(t *testing.T, text string) {
		var s discovery.EndpointSlice
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		backends, _ := Translate([]*discovery.EndpointSlice{&s}, []netip.Addr{vip})
		names := make(map[string]bool)
		for _, b := range backends {
			a := b.Addr.Addr()
			if !safe.MatchString(b.Name) || names[b.Name] || a == vip || !a.IsGlobalUnicast() || b.Addr.Port() == 0 {
				t.Errorf("backend %v", b)
			}
			names[b.Name] = true
		}
		if !slices.IsSortedFunc(backends, func(a, b lb.Backend) int { return a.Addr.Compare(b.Addr) }) {
			t.Errorf("not sorted: %v", backends)
		}
	})
}

// FuzzBackendName: different addresses have different names.
func FuzzBackendName(f *testing.F) {
	f.Add("10.0.0.1:1", "[::a:0:0:1]:1")
	f.Fuzz(func(t *testing.T, x, y string) {
		a, err1 := netip.ParseAddrPort(x)
		b, err2 := netip.ParseAddrPort(y)
		odd := a.Addr().Zone()+b.Addr().Zone() != "" || a.Addr().Is4In6() || b.Addr().Is4In6()
		if err1 != nil || err2 != nil || odd {
			return
		}
		if (lb.BackendAt(a).Name == lb.BackendAt(b).Name) != (a == b) {
			t.Error(fmt.Sprint(a, b, lb.BackendAt(a).Name, lb.BackendAt(b).Name))
		}
	})
}
