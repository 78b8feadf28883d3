package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// deaf hears nothing.
type deaf struct{}

func (deaf) Say(map[string]election.Say) {}
func (deaf) Beat(lb.Instant)             {}

// shopServices are services of a node n1 that nobody runs, with one TCP Service.
func shopServices(t *testing.T) (*services, *node) {
	t.Helper()
	n := &node{log: slog.New(slog.NewTextHandler(t.Output(), nil)), complaints: map[string]string{}}
	n.cfg.Node, n.cfg.RunDir, n.cfg.StateDir = "n1", t.TempDir(), t.TempDir()
	n.cfg.Services.PeersPort = 7445
	n.voices = newVoices(deaf{})
	proxy, err := haproxy.New(haproxy.Options{Dir: "/run/mooring-test-none"})
	must(t, err)
	s := newServices(n, proxy, nil)
	n.services = s
	s.onService("shop/web", &lb.Service{
		Key: "shop/web", DataPath: lb.DataPathProxy, Has: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80, Endpoints: []lb.Endpoint{
			{Addr: netip.MustParseAddrPort("10.244.1.2:8080"), Node: "n1", Ready: true},
			{Addr: netip.MustParseAddrPort("10.244.2.2:8080"), Node: "n2", Serving: true, Terminating: true},
		}}},
	})
	s.onPools([]lb.Pool{{Name: "lan", Shards: 1, Ranges: []lb.Range{
		{From: netip.MustParseAddr("192.0.2.1"), To: netip.MustParseAddr("192.0.2.9")}}}})
	return s, n
}

// TestNothingBeforeAllIsKnown: half of what there is may say the opposite of the whole.
func TestNothingBeforeAllIsKnown(t *testing.T) {
	s, _ := shopServices(t)
	if _, _, ready := s.snapshot(); ready {
		t.Error("ready before the lists are whole")
	}
	s.onSynced()
	if _, _, ready := s.snapshot(); ready {
		t.Error("ready before this node's labels are known")
	}
	s.onLabels(nil, false)
	all, pools, ready := s.snapshot()
	if !ready || len(all) != 1 || len(pools) != 1 {
		t.Errorf("%d Services, %d pools, ready %t", len(all), len(pools), ready)
	}
	s.onService("shop/web", nil)
	if all, _, _ := s.snapshot(); len(all) != 0 {
		t.Errorf("a Service that is gone is still there: %v", all)
	}
	s.leaving = true
	if _, _, ready := s.snapshot(); ready {
		t.Error("ready while everything is handed over")
	}
}

// TestFrontendsFollow: what was made of a Service before is used as long as it is what
// would be made now; only what moves an address has the groups looked at.
func TestFrontendsFollow(t *testing.T) {
	s, n := shopServices(t)
	if _, _, ready := s.frontends(); ready {
		t.Error("ready before all is known")
	}
	s.onSynced()
	s.onLabels(nil, false)
	look := func(what string, groups bool) {
		t.Helper()
		all, known, _ := s.snapshot()
		got, pools, ready := s.frontends()
		if want := lb.Frontends(all, known, n.cfg.Node); !ready || !pools || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
		if woken := len(s.wake) > 0; woken != groups {
			t.Errorf("%s: groups looked at: %t", what, woken)
		}
		for _, c := range []chan struct{}{s.wake, s.fronts} {
			select {
			case <-c:
			default:
			}
		}
	}
	look("at first", true)
	change := func(f func(*lb.Service)) {
		v := *s.known["shop/web"]
		v.Ports = slices.Clone(v.Ports)
		f(&v)
		s.onService("shop/web", &v)
	}
	change(func(v *lb.Service) { v.Ports[0].Endpoints = v.Ports[0].Endpoints[:1] })
	look("an endpoint gone", false)
	change(func(v *lb.Service) { v.Front.MaxConn = 7 })
	look("another limit", false)
	change(func(v *lb.Service) { v.Has = []netip.Addr{netip.MustParseAddr("192.0.2.2")} })
	look("another address", true)
	change(func(v *lb.Service) { v.Modeless = true })
	look("an API server without ipMode", false)
	change(func(v *lb.Service) { v.Modeless = false })
	look("and with it again", false)
	s.onPools(s.pools[:1:1])
	look("pools told again", true)
	s.onService("shop/web", nil)
	look("gone", true)
}

// TestCertificateOfAService: without its certificate a Service is not served in the
// clear; a Secret that becomes bad leaves the former certificate in use, and says so.
func TestCertificateOfAService(t *testing.T) {
	s, n := shopServices(t)
	v := *s.known["shop/web"]
	v.TLSSecret = "web-tls"
	s.onService("shop/web", &v)
	s.onSynced()
	s.onLabels(nil, false)
	fronts := func() []lb.Frontend {
		all, _, _ := s.frontends()
		return all
	}
	if got := fronts(); len(got) != 0 {
		t.Fatalf("served without certificate: %+v", got)
	}
	s.onCertificate("shop/web-tls", []byte("certificate and key\n"), nil)
	got := fronts()
	if len(got) != 1 || !strings.HasPrefix(got[0].Front.TLS, n.cfg.RunDir) {
		t.Fatalf("with the certificate: %+v", got)
	}
	file := got[0].Front.TLS
	text, err := os.ReadFile(file)
	must(t, err)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 || string(text) != "certificate and key\n" {
		t.Errorf("the file holds %q: %v, %v", text, st, err)
	}
	s.onCertificate("shop/web-tls", nil, errors.New("certificate and key do not fit"))
	if got := fronts(); len(got) != 1 || got[0].Front.TLS != file {
		t.Errorf("after a bad one: %+v", got)
	}
	if r := s.reports(t.Context(), "shop/web"); len(r) != 1 || len(r[0].Issues) != 1 || !strings.Contains(r[0].Issues[0].Problem, "do not fit") {
		t.Errorf("and it says %+v", r)
	}
}

// TestPeersOf: the HAProxies that tell each other, this node's among them.
func TestPeersOf(t *testing.T) {
	s, _ := shopServices(t)
	member := func(node string, addrs ...string) election.Member { return election.Member{Node: node, Addrs: addrs} }
	for _, c := range []struct {
		name    string
		members []election.Member
		want    string
	}{
		{"three", []election.Member{member("n2", "10.0.0.2"), member("n1", "fd00::1", "10.0.0.1"), member("n3", "10.0.0.3")},
			"n1: n1=10.0.0.1:7445 n2=10.0.0.2:7445 n3=10.0.0.3:7445"},
		{"alone", []election.Member{member("n1", "10.0.0.1")}, ":"},
		{"this one unknown", []election.Member{member("n2", "10.0.0.2"), member("n3", "10.0.0.3")}, ":"},
		{"without addresses", []election.Member{member("n1", "10.0.0.1"), member("n2"), member("n3", "nonsense")}, ":"},
		{"an address that two have", []election.Member{member("n1", "10.0.0.1"), member("n2", "10.0.0.2"), member("old", "10.0.0.2")},
			"n1: n1=10.0.0.1:7445 n2=10.0.0.2:7445"},
	} {
		peers, local := s.peersOf(c.members)
		got := local + ":"
		for _, p := range peers {
			got += fmt.Sprintf(" %s=%s", p.Name, p.Addr)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestSkipped: what HAProxy leaves out is told by the Service's name.
func TestSkipped(t *testing.T) {
	s, n := shopServices(t)
	if got := s.skipped(nil); got != "" {
		t.Errorf("nothing left out: %q", got)
	}
	why := map[string]string{lb.FrontendName("shop/web", 80): "port 80 is taken by process 17"}
	want := "Service shop/web, port 80 is not served here: port 80 is taken by process 17"
	if got := s.skipped(why); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range 9 {
		key := lb.ServiceKey(fmt.Sprintf("shop/s%d", i))
		s.onService(key, &lb.Service{Key: key, Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}}})
		why[lb.FrontendName(key, 80)] = "taken"
	}
	if got := s.skipped(why); strings.Count(got, ";") != 5 || !strings.HasSuffix(got, "and 5 more") {
		t.Errorf("many: %q", got)
	}
	n.onServicesProxy(lb.ProxyState{Skipped: why})
	if n.complaints["services-skipped"] == "" {
		t.Error("nobody complains")
	}
	n.onServicesProxy(lb.ProxyState{})
	if n.complaints["services-skipped"] != "" {
		t.Error("the complaint stays")
	}
}

// TestConditions: what a Service's status says.
func TestConditions(t *testing.T) {
	one := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	if c := addressCondition(agent.Verdict{Addresses: one, Pool: "lan"}); !c.True || c.Message != "192.0.2.1, 2001:db8::1 from pool lan" {
		t.Errorf("with addresses: %+v", c)
	}
	if c := acceptedCondition(agent.Verdict{}); !c.True {
		t.Errorf("nothing wrong: %+v", c)
	}
	c := acceptedCondition(agent.Verdict{Issues: []lb.Issue{{Field: "a", Problem: "is bad"}, {Field: "b", Problem: "too"}}})
	if c.True || c.Message != "a: is bad; b: too" {
		t.Errorf("two issues: %+v", c)
	}
}

// TestKeptAddresses: a start spares what the groups of the run before had.
func TestKeptAddresses(t *testing.T) {
	s, n := shopServices(t)
	must(t, keep(s.keptFile(), []kept{
		{Group: "pool-lan-0", VIPs: []lb.Address{{IP: netip.MustParseAddr("192.0.2.1"), Link: "eth0"}}},
		{Group: "pool-lan-1"},
	}))
	if got := fmt.Sprint(keptAddresses(n.file(groupsFile))); got != "[192.0.2.1 dev eth0]" {
		t.Errorf("kept %s", got)
	}
	must(t, os.WriteFile(s.keptFile(), []byte("{"), 0o600))
	if got := keptAddresses(s.keptFile()); got != nil {
		t.Errorf("of a broken file: %v", got)
	}
}
