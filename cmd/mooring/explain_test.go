package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// pod is an endpoint.
func pod(addr, node string) endpoint { return endpoint{netip.MustParseAddrPort(addr), node} }

// aReport is a Service that another node serves.
func aReport() serviceReport {
	return serviceReport{
		Service: "shop/web", Node: "n1", Path: lb.DataPathProxy, Proxied: true,
		Front: &lb.Front{Check: lb.ServiceCheck{Kind: lb.CheckHTTP, Path: "/healthz"}},
		Addresses: []addressOn{{
			IP: netip.MustParseAddr("192.0.2.1"), Pool: "lan", Group: "pool-lan-3", Holder: "n2", State: "Standby",
			Asked: "the Service asks for this address", With: []lb.ServiceKey{"shop/mail"}, Since: noon().Add(-5 * time.Minute),
			Cause: election.CauseMove, Candidates: []string{"n1", "n2"}, Preferred: "n1",
			Last: &agent.Move{At: noon().Add(-5 * time.Minute), Reason: election.GaveUp, Cause: election.CauseMove,
				Took: 146 * time.Millisecond},
		}},
		Ports: []portReport{{
			Protocol: lb.TCP, Port: 80, Asked: true,
			Ready:    []endpoint{pod("10.244.1.2:8080", "n1"), pod("10.244.3.2:8080", "")},
			Draining: []endpoint{pod("10.244.2.2:8080", "n2")},
			Servers: []haproxy.ServerState{
				{Name: "s-10-244-1-2-8080", Status: "UP", Check: "L7OK", Sessions: 3},
				{Name: "s-10-244-2-2-8080", Status: "DRAIN"},
				{Name: "s-10-244-9-9-8080", Status: "MAINT", Sessions: 1},
			},
		}},
		Issues: []lb.Issue{{Field: "mooring.dev/balance",
			Problem: `"fast" is none of leastconn, roundrobin, source, random`}},
	}
}

// TestExplain: sentences that tell a user what is so, why, and what to do.
func TestExplain(t *testing.T) {
	r := aReport()
	r.Clients = r.clients()
	var b strings.Builder
	explain(&b, r, noon())
	want := `Service shop/web, asked on n1
  192.0.2.1 from pool lan: the Service asks for this address
    is shared with shop/mail
    is held by n2 since 5m (move), as Lease pool-lan-3 says
    may be held by n1, n2; at first by n1, so that the groups are spread evenly
    this node is Standby; its last move: HandedOver 5m ago (move), took 146ms
  HAProxy serves it on its holder: leastconn, check by http for /healthz
  port 80/TCP: 2 ready
    ready     10.244.1.2:8080 on n1  HAProxy: UP, check L7OK, 3 connections
    ready     10.244.3.2:8080        HAProxy does not use it here
    draining  10.244.2.2:8080 on n2  HAProxy: DRAIN, 0 connections
    gone      s-10-244-9-9-8080      HAProxy: MAINT, 1 connections
  clients of 192.0.2.1 port 80/TCP: answered (as far as n1 knows; HAProxy on the holder knows it: run this on n2)
! mooring.dev/balance: "fast" is none of leastconn, roundrobin, source, random
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	for name, c := range map[string]struct {
		edit func(*serviceReport)
		want string
	}{
		"no address": {func(r *serviceReport) { r.Addresses = nil }, "has no address yet: its Events"},
		"no pools":   {func(r *serviceReport) { r.Addresses, r.Unread = nil, true }, "mooring manifest addresspools"},
		"no pool":    {func(r *serviceReport) { r.Addresses[0].Pool = "" }, "from pool none"},
		"no candidate": {func(r *serviceReport) { r.Addresses[0].State, r.Addresses[0].Barred = "", "has no link" },
			"not by this node: has no link"},
		"no move yet": {func(r *serviceReport) { r.Addresses[0].Last = nil }, "this node is Standby\n"},
		"direct":      {func(r *serviceReport) { r.Path = lb.DataPathDirect }, "kube-proxy serves it on its holder\n"},
		"local":       {func(r *serviceReport) { r.Path, r.Local = lb.DataPathDirect, true }, "from pods there alone"},
		"no HAProxy":  {func(r *serviceReport) { r.Proxied, r.Why = false, "it starts" }, "does not serve: it starts"},
		"TLS": {func(r *serviceReport) { *r.Front = lb.Front{TLS: "/x", Affinity: time.Hour, Balance: lb.Source} },
			"source, no check: readiness says who serves, a client stays with its pod for 1h0m0s, ends TLS"},
		"skipped": {func(r *serviceReport) { r.Ports[0].Skipped = "taken" }, "2 ready; HAProxy here leaves it out: taken\n"},
		"pending": {func(r *serviceReport) { r.Ports[0].Pending = true }, "2 ready; HAProxy here has it as it is now with"},
		"tcp":     {func(r *serviceReport) { r.Front.Check.Kind = lb.CheckTCP }, "check by connection"},
		"not asked": {func(r *serviceReport) { r.Ports[0].Asked, r.Ports[0].Servers = false, nil },
			"10.244.1.2:8080 on n1\n"},
	} {
		r := aReport()
		c.edit(&r)
		var b strings.Builder
		explain(&b, r, noon())
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("%s: want %q in\n%s", name, c.want, b.String())
		}
	}
}

// TestStatusServices: a line for each address.
func TestStatusServices(t *testing.T) {
	one, none, far := aReport(), aReport(), aReport()
	one.Ports[0].Skipped = "taken"
	none.Service, none.Addresses, none.Issues = "shop/new", nil, nil
	far.Service, far.Issues = "shop/far", nil
	far.Addresses[0].State, far.Addresses[0].Since, far.Addresses[0].Holder = "", time.Time{}, ""
	var b strings.Builder
	if err := printServices(&b, []serviceReport{one, none, far}, noon()); err != nil {
		t.Fatal(err)
	}
	want := `SERVICE   ADDRESS    HOLDER  SINCE  STATE HERE    PATH   ENDPOINTS  NOTES
shop/web  192.0.2.1  n2      5m     Standby       proxy  2          2, see mooring explain service shop/web
shop/new  none yet   -       -      -             proxy  2          -
shop/far  192.0.2.1  none    -      no candidate  proxy  2          -
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestMeets: what a client meets, on the holder by HAProxy's word, elsewhere by what is
// known there.
func TestMeets(t *testing.T) {
	servers := func(status ...string) func(*serviceReport) {
		return func(r *serviceReport) {
			r.Addresses[0].State = "Holding"
			r.Ports[0].Servers = nil
			for _, s := range status {
				r.Ports[0].Servers = append(r.Ports[0].Servers, haproxy.ServerState{Status: s})
			}
		}
	}
	ten := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	here := func(edit func(*serviceReport)) func(*serviceReport) {
		return func(r *serviceReport) { r.Addresses[0].State = "Holding"; edit(r) }
	}
	direct := func(edit func(*serviceReport)) func(*serviceReport) {
		return func(r *serviceReport) { r.Path, r.Front = lb.DataPathDirect, nil; edit(r) }
	}
	nobody := func(r *serviceReport) { r.Ports[0].Ready, r.Ports[0].Draining = nil, nil }
	for name, c := range map[string]struct {
		edit func(*serviceReport)
		want meeting
		why  string
	}{
		"another's":               {func(*serviceReport) {}, isAnswered, "run this on n2"},
		"another's without pods":  {nobody, isClosed, "readiness"},
		"another's, all pods end": {func(r *serviceReport) { r.Ports[0].Ready = nil }, isAnswered, "n2"},
		"in no pool": {func(r *serviceReport) { r.Addresses[0].Pool = "" },
			isUnanswered, "in no AddressPool"},
		"no holder": {func(r *serviceReport) { r.Addresses[0].Holder = "" },
			isUnanswered, "nobody holds"},
		"no candidate": {func(r *serviceReport) { r.Addresses[0].Holder, r.Addresses[0].Candidates = "", nil },
			isUnanswered, "no node may"},
		"UDP by HAProxy": {func(r *serviceReport) { r.Ports[0].Protocol = lb.UDP },
			isUnserved, "data-path: direct"},
		"no certificate":    {func(r *serviceReport) { r.NoCertificate = true }, isRefused, "tls-secret"},
		"one up":            {servers("DOWN", "UP 1/2"), isAnswered, ""},
		"unchecked":         {servers("no check"), isAnswered, ""},
		"all down":          {servers("DOWN", "DOWN 1/2"), isUncertain, "tries all"},
		"none":              {servers(), isClosed, "readiness"},
		"only switched off": {servers("MAINT", "DRAIN"), isClosed, "readiness"},
		"port taken": {here(func(r *serviceReport) { r.Ports[0].Skipped = "taken by 17" }),
			isUnserved, "taken by 17"},
		"waits for a reload": {here(func(r *serviceReport) { r.Ports[0].Asked, r.Ports[0].Pending = false, true }),
			isUnserved, "next reload"},
		"waits, and is served as it was": {here(func(r *serviceReport) { r.Ports[0].Pending = true }), isAnswered, ""},
		"HAProxy is silent": {here(func(r *serviceReport) { r.Ports[0].Asked, r.Why = false, "it starts" }),
			isUnserved, "it starts"},
		"some clients only": {here(func(r *serviceReport) { r.Front.Sources = ten }),
			isAnswered, "only those from 10.0.0.0/8"},
		"direct":                   {direct(func(*serviceReport) {}), isAnswered, ""},
		"direct without pods":      {direct(nobody), isRefused, "readiness"},
		"Local, pod on the holder": {direct(func(r *serviceReport) { r.Local = true }), isAnswered, ""},
		"Local, pods elsewhere": {direct(func(r *serviceReport) {
			r.Local,
				r.Addresses[0].Holder = true, "n3"
		}), isUnanswered,
			"no pod on n3"},
		"proxied and Local, pods elsewhere": {func(r *serviceReport) { r.Local, r.Addresses[0].Holder = true, "n3" },
			isClosed, "readiness"},
	} {
		r := aReport()
		c.edit(&r)
		got := r.clients()
		if len(got) != 1 ||
			got[0].Meets != c.want || !strings.Contains(got[0].Why, c.why) || c.why == "" && got[0].Why != "" {
			t.Errorf("%s: %+v, want %s (%s)", name, got, c.want, c.why)
		}
	}
}
