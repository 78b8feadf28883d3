package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// metric gathers one value; labels are alternating names and values that must
// be there.
func metric(t *testing.T, a *Agent, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			fits := true
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				fits = fits && found
			}
			switch {
			case !fits:
			case m.GetGauge() != nil:
				return m.GetGauge().GetValue()
			case m.GetCounter() != nil:
				return m.GetCounter().GetValue()
			case m.GetHistogram() != nil:
				return float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Fatalf("no metric %s with %v", name, labels)
	return 0
}

// TestMetrics: what /metrics says of a holder, and every help text says whether
// it is a wish or a fact.
func TestMetrics(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted(balanced("10.0.0.11:6443", "10.0.0.12:6443"))
		n.plane.set(func(p *plane) { p.state = lb.ProxyState{Serving: true, Up: []string{"s-10-0-0-11-6443"}} })
		n.agent.SetBackends(servers("10.0.0.11:6443", "10.0.0.12:6443", "10.0.0.13:6443"))
		pass(3 * time.Second)
		for name, want := range map[string]float64{
			"mooring_holding": 1, "mooring_confirmed": 1, "mooring_lease_transitions": 3, "mooring_haproxy_serving": 1,
			"mooring_apiservers_up": 1, "mooring_apiservers_known": 3, "mooring_data_plane_errors_total": 0,
			"mooring_events_dropped_total": 0,
		} {
			if got := metric(t, n.agent, name, "group", "apiserver"); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		if got := metric(t, n.agent, "mooring_fence_seconds"); got <= 2 || got > 4 {
			t.Errorf("mooring_fence_seconds is %v, want 3 to 4", got)
		}
		if got := metric(t, n.agent, "mooring_decisions_total", "reason", "Adopted"); got != 1 {
			t.Errorf("Adopted was counted %v times", got)
		}
		s.api.set("b", 9)
		n.agent.Deliver(election.Saw{View: s.api.view(), Via: election.ByRead, Begun: n.now()})
		pass(time.Second)
		for _, name := range []string{"mooring_holding", "mooring_confirmed", "mooring_fence_seconds"} {
			if got := metric(t, n.agent, name); got != 0 {
				t.Errorf("%s is %v after the fence", name, got)
			}
		}
		families, err := n.agent.Registry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			ours := strings.HasPrefix(f.GetName(), "mooring_") && f.GetType().String() == "GAUGE"
			if help := f.GetHelp(); ours && !strings.HasPrefix(help, "Actual: ") && !strings.HasPrefix(help, "Desired: ") {
				t.Errorf("%s does not say whether it is desired or actual: %s", f.GetName(), help)
			}
		}
	})
}

// TestSeedsAreCounted: until the cluster has spoken HAProxy balances over the
// servers of the configuration.
func TestSeedsAreCounted(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced(), func(o *Options) { o.Plane.Seeds = servers("10.0.0.11:6443", "10.0.0.12:6443") })
		n.plane.set(serves)
		n.run()
		pass(time.Second)
		if got := metric(t, n.agent, "mooring_apiservers_known"); got != 2 || len(n.plane.fronts[0].Backends) != 2 {
			t.Errorf("mooring_apiservers_known is %v while HAProxy has %d", got, len(n.plane.fronts[0].Backends))
		}
	})
}

// TestMoveIsMeasured: the time that a change of hands took is a histogram.
func TestMoveIsMeasured(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		pass(3 * time.Second)
		if got := metric(t, n.agent, "mooring_move_seconds", "cause", "first-claim"); got != 1 {
			t.Errorf("%v first claims measured", got)
		}
	})
}

// TestHealth: what the two probes say in each situation.
func TestHealth(t *testing.T) {
	stories := []struct {
		name        string
		start       func(s *site) *node
		health, rdy error
	}{
		{"a new agent without a network knows no record", func(s *site) *node {
			s.api.outage(true)
			n := s.add(standby)
			n.agent.Deliver(election.Carrier{Up: false})
			return n.run()
		}, nil, errNoRecord},
		{"a new agent without an API server holds provisionally", func(s *site) *node {
			s.api.outage(true)
			return s.add(standby).run()
		}, nil, nil},
		{"a standby that has read the record", func(s *site) *node {
			s.api.set("b", 2)
			return s.add(standby).run()
		}, nil, nil},
		{"a holder", func(s *site) *node { return s.adopted() }, nil, nil},
		{"a holder without an API server", func(s *site) *node {
			s.api.outage(true)
			n := s.add(alive("a", true))
			n.links.until = n.now() + validLft
			return n.run()
		}, nil, nil},
		{"HAProxy is to serve and does not", func(s *site) *node { return s.adopted(balanced("10.0.0.11:6443")) },
			nil, errNoProxy},
		{"HAProxy is to serve and no API server is known", func(s *site) *node { return s.adopted(balanced()) },
			nil, errNoProxy},
		{"HAProxy serves", func(s *site) *node {
			n := s.adopted(balanced("10.0.0.11:6443"))
			n.agent.SetProxy(lb.ProxyState{Serving: true})
			n.plane.set(func(p *plane) { p.state = lb.ProxyState{Serving: true} })
			return n
		}, nil, nil},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := st.start(s)
				pass(3 * time.Second)
				if err := n.agent.Healthy(); !errors.Is(err, st.health) {
					t.Errorf("healthy: %v, want %v", err, st.health)
				}
				if err := n.agent.Ready(); !errors.Is(err, st.rdy) {
					t.Errorf("ready: %v, want %v", err, st.rdy)
				}
			})
		})
	}
}

// TestStuckLoopIsSick: a loop that does not run for two seconds is found by its
// own heartbeat, which no other goroutine keeps up.
func TestStuckLoopIsSick(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(time.Second)
		if err := n.agent.Healthy(); err != nil {
			t.Fatal(err)
		}
		n.stop()
		<-n.ended
		pass(2100 * time.Millisecond)
		if err := n.agent.Healthy(); !errors.Is(err, errStuck) {
			t.Errorf("healthy: %v, want %v", err, errStuck)
		}
		if err := n.agent.Ready(); !errors.Is(err, errStuck) {
			t.Errorf("ready: %v, want %v", err, errStuck)
		}
	})
}

// TestHolderWithoutAddressIsSick: the kernel refuses the address.
func TestHolderWithoutAddressIsSick(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby)
		n.links.fail(errors.New("operation not permitted"))
		n.run()
		pass(5 * time.Second)
		if st := n.agent.Status(); st.State != "Holding" {
			t.Fatalf("state %s", st.State)
		}
		if err := n.agent.Healthy(); !errors.Is(err, errNotHeld) {
			t.Errorf("healthy: %v, want %v", err, errNotHeld)
		}
		if !slices.Contains(n.reasons(), election.AddressFailed) {
			t.Errorf("decided %v, want AddressFailed among them", n.reasons())
		}
		n.links.fail(nil)
		pass(2 * time.Second)
		s.want("a", "Holding confirmed")
		if err := n.agent.Healthy(); err != nil {
			t.Errorf("healthy again: %v", err)
		}
	})
}

// TestMovesRing: the last twenty decisions, newest first.
func TestMovesRing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(time.Second)
		for i := range 50 {
			n.agent.Deliver(election.Claimed{MAC: fmt.Sprintf("02:00:00:00:01:%02x", i)})
			pass(10 * time.Millisecond)
		}
		st := n.agent.Status()
		if len(st.Moves) != keepMoves {
			t.Fatalf("%d moves, want %d", len(st.Moves), keepMoves)
		}
		for i, m := range st.Moves {
			if want := fmt.Sprintf("02:00:00:00:01:%02x", 49-i); m.MAC != want || m.Reason != election.Foreign {
				t.Errorf("move %d is %s of %s, want ForeignClaim of %s", i, m.Reason, m.MAC, want)
			}
			if i > 0 && m.At.After(st.Moves[i-1].At) {
				t.Errorf("move %d is younger than the one before", i)
			}
		}
		if st.Last == nil || st.Last.Reason != election.Adopted {
			t.Errorf("the last move is %+v: what moved nothing pushed it out", st.Last)
		}
		st.Moves[0].MAC = "scribbled"
		if n.agent.Status().Moves[0].MAC == "scribbled" {
			// One status is shared by all readers; the next one must not be.
			pass(time.Second)
			if n.agent.Status().Moves[0].MAC == "scribbled" {
				t.Error("a reader's change reached the agent's own memory")
			}
		}
	})
}

// TestRepeatsAreToldOnce: a stranger that claims ten times a second is one line
// a second in log and status; the metric counts each.
func TestRepeatsAreToldOnce(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(time.Second)
		for range 30 {
			n.agent.Deliver(election.Claimed{MAC: "02:00:00:00:99:99"})
			pass(100 * time.Millisecond)
		}
		told := 0
		for _, m := range n.agent.Status().Moves {
			if m.Reason == election.Foreign {
				told++
			}
		}
		if told < 3 || told > 4 {
			t.Errorf("told %d times in 3 s", told)
		}
		if got := metric(t, n.agent, "mooring_decisions_total", "reason", "ForeignClaim"); got != 30 {
			t.Errorf("counted %v of 30", got)
		}
	})
}

// TestStatus: the whole answer for a holder, as `mooring status` gets it.
func TestStatus(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		six := lb.Address{IP: netip.MustParseAddr("2001:db8::10"), Link: "eth0"}
		n := s.adopted(func(o *Options) { o.VIPs = append(o.VIPs, six) })
		pass(10 * time.Second)
		st := n.agent.Status()
		if st.Beat <= n.now()-600*time.Millisecond {
			t.Errorf("the status is %v old", n.now()-st.Beat)
		}
		if st.HeldFor < 9 || st.HeldFor > 10 || st.Fence <= 2 || st.Fence > 4 {
			t.Errorf("held for %v s, fence %v s", st.HeldFor, st.Fence)
		}
		if st.Last == nil || st.Last.Reason != election.Adopted || st.Last.Cause != election.CauseAdopted {
			t.Errorf("the last move is %+v, want the adoption", st.Last)
		}
		st.Beat, st.HeldFor, st.Fence, st.Moves, st.Last = 0, 0, 0, nil, nil
		got, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"node":"a","group":"apiserver","vips":["192.0.2.10","2001:db8::10"],"state":"Holding","confirmed":true,` +
			`"holder":"a","term":3,"heldForSeconds":0,"fenceSeconds":0,"proxy":{"Serving":false,"Up":null,"Why":""},` +
			`"plan":"BalanceOff","members":[{"node":"a","macs":["02:00:00:00:00:61"],` +
			`"addrs":["192.0.2.1","2001:db8::1"],"live":true}],"peers":null,"moves":null,"beat":0}`
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// TestNotesAreLogged: a decision is one line, with what is known and no more;
// what somebody should look at is a warning.
func TestNotesAreLogged(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted(func(o *Options) { o.Log = log })
		pass(time.Second)
		n.agent.Deliver(election.Claimed{MAC: "02:00:00:00:99:99"})
		pass(time.Second)
	})
	want := "level=INFO msg=Adopted group=apiserver record=a/3 cause=adopted\n" +
		"level=INFO msg=Confirmed group=apiserver record=a/3 took=2ms\n" +
		"level=WARN msg=ForeignClaim group=apiserver record=a/3 mac=02:00:00:00:99:99\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// TestWarns: what is the business of somebody, and what is the daily one.
func TestWarns(t *testing.T) {
	for r, want := range map[election.Reason]bool{
		election.Became: false, election.Adopted: false, election.GaveUp: false, election.Sure: false,
		election.Claims: false, election.HandingOver: false, election.NamedByRecord: false, election.ClaimAbandoned: false,
		election.Fenced: true, election.Frozen: true, election.Unsure: true, election.Repaired: true, election.Foreign: true,
		election.PeerClaim: true, election.Stranger: true, election.NoWitness: true, election.HolderAlive: true,
		election.MoveDropped: true, election.MoveUndone: true, election.NoCandidate: true, election.AddressFailed: true,
		election.AddressBack: true, election.HelloBlocked: true, election.NoForwarding: true,
	} {
		if got := Warns(r); got != want {
			t.Errorf("%s warns: %t, want %t", r, got, want)
		}
	}
}
