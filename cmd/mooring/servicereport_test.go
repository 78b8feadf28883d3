package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// candidate is a member that may announce pools.
func candidate(node string, pools ...string) election.Member {
	return election.Member{Node: node, Live: true, Pools: pools}
}

// TestReports: what the socket says of a Service.
func TestReports(t *testing.T) {
	s, n := shopServices(t)
	all := []election.Member{candidate("n2", "lan"), candidate("n3", "dmz"), candidate("n1", "dmz")}
	n.all.Store(&all)
	s.onService("shop/dns", &lb.Service{Key: "shop/dns", DataPath: lb.DataPathDirect, Local: true})
	s.onService("shop/mail", &lb.Service{Key: "shop/mail", DataPath: lb.DataPathDirect, SharedKey: "k", Pool: "lan",
		Has: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	got := s.reports(t.Context(), "")
	if len(got) != 3 ||
		got[0].Service != "shop/dns" || len(got[0].Addresses) != 0 || !got[0].Unread || len(got[2].Clients) != 0 {
		t.Fatalf("all, before all is known: %+v", got)
	}
	s.onSynced()
	s.onLabels(nil, false)
	web := s.reports(t.Context(), "shop/web")
	if len(web) != 1 || web[0].Unread || web[0].Node != "n1" || web[0].Front == nil {
		t.Fatalf("one: %+v", web)
	}
	a := web[0].Addresses[0]
	if a.Pool != "lan" || a.Group != "pool-lan-0" || a.State != "" || fmt.Sprint(a.With) != "[shop/mail]" ||
		fmt.Sprint(a.Candidates) != "[n2]" || a.Preferred != "n2" || !strings.Contains(a.Barred, "no link in its subnet") {
		t.Errorf("its address: %+v", a)
	}
	if a := s.reports(t.Context(), "shop/mail")[0].Addresses[0]; !strings.Contains(a.Asked, "pool") {
		t.Errorf("one that asks for the pool: %+v", a)
	}
	p := web[0].Ports[0]
	if len(p.Ready) != 1 || p.Ready[0] != pod("10.244.1.2:8080", "n1") || len(p.Draining) != 1 ||
		p.Draining[0].Node != "n2" || p.Asked {
		t.Errorf("its endpoints: %+v", p)
	}
	if c := web[0].Clients; len(c) != 1 || c[0].Meets != isUnanswered {
		t.Errorf("its clients: %+v", c)
	}
	if got := s.reports(t.Context(), "shop/none"); len(got) != 0 {
		t.Errorf("one that is not there: %+v", got)
	}
}

// TestBarred: why a node may not hold a group, in words that lead on.
func TestBarred(t *testing.T) {
	pool := lb.Group{Name: "pool-lan-0", Pool: "lan", Rule: "lan"}
	local, chosen := pool, pool
	local.Local, local.Nodes = true, []string{"n2"}
	chosen.NodeSelector = map[string]string{"zone": "a"}
	chosen.Rule = lb.RuleOf("lan", chosen.NodeSelector)
	drained, dead := candidate("n1", "lan"), candidate("n1", "lan")
	drained.Drain, drained.Live, dead.Live = true, false, false
	for _, c := range []struct {
		g    lb.Group
		m    election.Member
		want string
	}{
		{pool, candidate("n1", "lan"), ""},
		{pool, candidate("n1", "dmz"), "may not announce pool lan"},
		{pool, drained, "mooring drain --undo n1"},
		{pool, dead, "not alive"},
		{chosen, candidate("n1", "lan"), "its labels"},
		{chosen, candidate("n1", "lan", chosen.Rule), ""},
		{local, candidate("n1", "lan"), "no endpoint"},
		{local, candidate("n2", "lan"), ""},
	} {
		if got := barred(c.g, c.m); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s in %s: %q, want %q", c.m.Node, c.g.Name, got, c.want)
		}
	}
}

// TestMoveService: a Service's addresses move with their group, from the node that holds
// them to one that may; all else is refused with the reason.
func TestMoveService(t *testing.T) {
	members := []election.Member{candidate("n1", "lan"), candidate("n2", "lan"), candidate("n3", "dmz"), candidate("n4",
		"lan")}
	members[3].Live, members[3].Drain = false, true
	for _, c := range []struct {
		name, key, to string
		holds         bool
		edit          func(*services)
		said, err     string
	}{
		{name: "moved", key: "shop/web", to: "n2", holds: true,
			said: "group pool-lan-0 (192.0.2.1 of shop/web): moved to n2 in 5"},
		{name: "to the best one", key: "shop/web", holds: true, said: "moved to n2 in"},
		{name: "no candidate", key: "shop/web", to: "n3", holds: true,
			err: "n3 may not hold 192.0.2.1: it may not announce pool lan"},
		{name: "drained", key: "shop/web", to: "n4", holds: true, err: "mooring drain --undo n4"},
		{name: "not there", key: "shop/web", to: "n9", holds: true,
			err: `no agent runs on a node "n9": known are n1, n2, n3, n4`},
		{name: "to itself", key: "shop/web", to: "n1", holds: true, err: "n1 holds 192.0.2.1 already"},
		{name: "held elsewhere", key: "shop/web", to: "n2", err: "n1 does not hold 192.0.2.1: run this on"},
		{name: "unknown", key: "shop/none", to: "n2", holds: true, err: "no Service shop/none"},
		{name: "nobody else", key: "shop/web", holds: true, err: "no other node may hold 192.0.2.1",
			edit: func(s *services) { all := members[:1]; s.n.all.Store(&all) }},
		{name: "no address yet", key: "shop/web", holds: true, err: "mooring explain service shop/web says why",
			edit: func(s *services) { s.onService("shop/web", &lb.Service{Key: "shop/web"}) }},
		{name: "in no pool", key: "shop/web", holds: true, err: "in no AddressPool",
			edit: func(s *services) { s.onPools(nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inStand(t, c.holds, func(t *testing.T, st *stand) {
				st.swap = st.won(50 * time.Millisecond)
				s, n := shopServices(t)
				n.all.Store(&members)
				s.open.Store(&[]*share{{name: "pool-lan-0", agent: st.agent}})
				if c.edit != nil {
					c.edit(s)
				}
				said, err := n.move(t.Context(), lb.ServiceKey(c.key), c.to)
				if c.err == "" && (err != nil || !strings.Contains(said, c.said)) {
					t.Errorf("said %q, %v, want %q", said, err, c.said)
				}
				if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("error %v, want %q", err, c.err)
				}
			})
		})
	}
}

// TestMoveAwaitsServing: a node that does not serve all of a group yet is waited for,
// for a while.
func TestMoveAwaitsServing(t *testing.T) {
	inStand(t, true, func(t *testing.T, st *stand) {
		st.swap = st.won(50 * time.Millisecond)
		s, n := shopServices(t)
		n.all.Store(&[]election.Member{candidate("n1", "lan"), candidate("n2", "lan")})
		s.open.Store(&[]*share{{name: "pool-lan-0", agent: st.agent}})
		says := func(well bool) {
			st.agent.Deliver(election.Peer{Node: "n2", State: election.PeerUp, Heard: st.now(),
				Say: election.Say{Phase: election.Standby, Healthy: well}})
		}
		says(false)
		time.Sleep(time.Second)
		if _, err := n.move(t.Context(), "shop/web", "n2"); err == nil || !strings.Contains(err.Error(), "does not serve all of it") {
			t.Errorf("said %v", err)
		}
		time.AfterFunc(servingWait/2, func() { says(true) })
		if said, err := n.move(t.Context(), "shop/web", "n2"); err != nil || !strings.Contains(said, "moved to n2") {
			t.Errorf("said %q, %v", said, err)
		}
	})
}

// TestHoldBack: who does not hold a group says that it does not serve it while a port
// of it waits for a reload; who holds it goes on.
func TestHoldBack(t *testing.T) {
	for _, c := range []struct {
		holds   bool
		pending []string
		healthy bool
	}{
		{false, []string{"other", lb.FrontendName("shop/web", 80)}, false},
		{false, []string{lb.FrontendName("shop/web", 81)}, true},
		{false, nil, true},
		{true, []string{lb.FrontendName("shop/web", 80)}, true},
	} {
		inStand(t, c.holds, func(t *testing.T, st *stand) {
			s, n := shopServices(t)
			s.onService("shop/web", &lb.Service{Key: "shop/web", Has: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, // the stand's
				Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}}})
			sh := &share{name: "pool-lan-0", agent: st.agent}
			sh.proxied.Store(true)
			s.open.Store(&[]*share{sh})
			n.onServicesProxy(lb.ProxyState{Serving: true, Pending: c.pending})
			time.Sleep(time.Second)
			if got := st.said(); got.Healthy != c.healthy {
				t.Errorf("%+v: it says %+v", c, got)
			}
			n.onServicesProxy(lb.ProxyState{Serving: true})
			time.Sleep(time.Second)
			if got := st.said(); !got.Healthy {
				t.Errorf("%+v: after the reload it says %+v", c, got)
			}
		})
	}
}

// TestMoveBoth: the two addresses of a Service, in two groups, move together.
func TestMoveBoth(t *testing.T) {
	inStand(t, true, func(t *testing.T, st *stand) {
		st.swap = st.won(50 * time.Millisecond)
		s, n := shopServices(t)
		n.all.Store(&[]election.Member{candidate("n1", "lan", "six"), candidate("n2", "lan", "six")})
		first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		s.onPools([]lb.Pool{{Name: "lan", Ranges: []lb.Range{{From: first, To: first}}}, {Name: "six", Ranges: []lb.Range{
			{From: second, To: second}}}})
		s.onService("shop/web", &lb.Service{Key: "shop/web", Has: []netip.Addr{first, second}})
		// One machine plays both groups: it takes the first one's move alone.
		s.open.Store(&[]*share{{name: "pool-lan-0", agent: st.agent}, {name: "pool-six-0", agent: st.agent}})
		_, err := n.move(t.Context(), "shop/web", "n2")
		if err == nil || !strings.Contains(err.Error(), "pool-lan-0 (") || !strings.Contains(err.Error(), "pool-six-0 (") {
			t.Errorf("said %v", err)
		}
		time.Sleep(time.Second) // the first one's end
		s.open.Store(&[]*share{{name: "pool-lan-0", agent: st.agent}})
		if _, err := n.move(t.Context(), "shop/web", "n2"); err == nil || !strings.Contains(err.Error(), "does not hold") {
			t.Errorf("half of it is elsewhere: %v", err)
		}
	})
}

// TestServiceMetrics: of a node without Services, and of one whose HAProxy does not run.
func TestServiceMetrics(t *testing.T) {
	_, n := shopServices(t)
	for want, n := range map[int]*node{http.StatusNotFound: {}, http.StatusServiceUnavailable: n} {
		w := httptest.NewRecorder()
		n.serviceMetrics(w, httptest.NewRequest(http.MethodGet, "/metrics/services", nil))
		if w.Code != want || len(w.Body.String()) < 20 {
			t.Errorf("%d %s, want %d and why", w.Code, w.Body, want)
		}
	}
}

// TestMoveWithoutServices: a node that serves none says so.
func TestMoveWithoutServices(t *testing.T) {
	if _, err := (&node{}).move(t.Context(), "shop/web", "n2"); err == nil || !strings.Contains(err.Error(),
		"services.enabled") {
		t.Errorf("error %v", err)
	}
}

// TestServedCondition: what the holder says of a Service's ports.
func TestServedCondition(t *testing.T) {
	s, _ := shopServices(t)
	all, _, _ := s.snapshot()
	v := all[0]
	if c := servedCondition(&v, nil, "n1"); !c.True || c.Reason != "Served" {
		t.Errorf("served: %+v", c)
	}
	skipped := map[string]string{lb.FrontendName("shop/web", 80): "it is taken by process 17",
		lb.FrontendName("shop/other", 80): "x"}
	want := "on n1, which holds it, port 80 is not served: it is taken by process 17"
	if c := servedCondition(&v, skipped, "n1"); c.True || c.Reason != "NotServed" || c.Message != want {
		t.Errorf("taken: %+v", c)
	}
	v.TLSSecret, v.Issues = "web-tls", []lb.Issue{{Field: "mooring.dev/balance", Problem: "bad"}, {Field: fieldTLS,
		Problem: "not read"}}
	want = "on n1, which holds it, no port is served without its certificate: not read; port 80 is"
	if c := servedCondition(&v, skipped, "n1"); c.True || !strings.HasPrefix(c.Message, want) {
		t.Errorf("no certificate either: %+v", c)
	}
	v.Front.TLS = "/tls.pem"
	if c := servedCondition(&v, nil, "n1"); !c.True {
		t.Errorf("an old certificate goes on: %+v", c)
	}
	v.DataPath = lb.DataPathDirect
	if c := servedCondition(&v, skipped, "n1"); !c.True {
		t.Errorf("kube-proxy's: %+v", c)
	}
}

// TestHeld: what a node holds, it speaks for.
func TestHeld(t *testing.T) {
	for _, holds := range []bool{true, false} {
		inStand(t, holds, func(t *testing.T, st *stand) {
			s, _ := shopServices(t)
			if got := s.held(); len(got) != 0 {
				t.Errorf("without a group it holds %v", got)
			}
			s.open.Store(&[]*share{{name: "pool-lan-0", agent: st.agent}})
			if got := s.held(); got[netip.MustParseAddr("192.0.2.10")] != holds || len(got) > 1 {
				t.Errorf("holding is %t: %v", holds, got)
			}
		})
	}
}
