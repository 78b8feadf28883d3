package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/lb"
)

func servers(addrs ...string) []lb.Backend {
	var out []lb.Backend
	for _, a := range addrs {
		out = append(out, lb.BackendAt(netip.MustParseAddrPort(a)))
	}
	return out
}

// balanced makes HAProxy stand before the API servers, of which these are known.
func balanced(addrs ...string) func(*Options) {
	return func(o *Options) { o.Plane.Balance, o.Plane.Backends = true, servers(addrs...) }
}

// serves is a HAProxy that does what it is told.
func serves(p *plane) { p.state = lb.ProxyState{Serving: true, Up: []string{"s-10-0-0-11-6443"}} }

// TestRedirectsWaitForTheProxy: until HAProxy's state is known, the redirects of
// an earlier run stand: taking them away would break what they carry.
func TestRedirectsWaitForTheProxy(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced("10.0.0.11:6443"))
		n.plane.set(serves)
		n.plane.hangFrontends.close()
		n.run()
		pass(10 * time.Second)
		if calls := n.took("redirects"); len(calls) > 0 {
			t.Fatalf("%v before anything is known of HAProxy", calls)
		}
		n.agent.SetBackends(servers("10.0.0.11:6443", "10.0.0.12:6443"))
		pass(time.Second)
		if calls := n.took("redirects"); len(calls) > 0 {
			t.Fatalf("%v after another plan, but still before anything is known of HAProxy", calls)
		}
		n.plane.hangFrontends.open()
		synctest.Wait()
		if calls := n.took("redirects"); !slices.Equal(slices.Compact(calls), []string{"redirects 1"}) {
			t.Errorf("redirects %v once HAProxy serves, want one", calls)
		}
	})
}

// TestBalanceOff: nothing is served nor redirected, and that is known at once.
func TestBalanceOff(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		calls := n.took("frontends", "redirects")
		slices.Sort(calls)
		if !slices.Equal(slices.Compact(calls), []string{"frontends 0", "redirects 0"}) {
			t.Errorf("calls %v", calls)
		}
	})
}

// TestRedirectsFollowTheProxy: down, up, down.
func TestRedirectsFollowTheProxy(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced("10.0.0.11:6443"))
		n.run()
		last := func() string {
			n.plane.mu.Lock()
			defer n.plane.mu.Unlock()
			return fmt.Sprint(n.plane.redirs)
		}
		for _, serving := range []bool{false, true, false, true} {
			st := lb.ProxyState{Serving: serving, Why: map[bool]string{false: "it ended"}[serving]}
			n.plane.set(func(p *plane) { p.state = st })
			n.agent.SetProxy(st)
			pass(time.Second)
			want := map[bool]string{false: "[]", true: "[{192.0.2.10 6443 7443 false}]"}[serving]
			if got := last(); got != want {
				t.Errorf("serving %t: redirects %s, want %s", serving, got, want)
			}
			if got := n.agent.Status().Plan == lb.ProxyIsDown; got == serving {
				t.Errorf("serving %t: the plan says %q", serving, n.agent.Status().Plan)
			}
		}
	})
}

// TestNoFeedback: the state that a plan brings about must not bring about a
// plan, or HAProxy is set for ever.
func TestNoFeedback(t *testing.T) {
	t.Run("the same state again plans nothing", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			n := s.add(standby, balanced("10.0.0.11:6443"))
			n.plane.set(serves)
			n.run()
			pass(time.Second)
			n.took()
			for range 100 {
				n.agent.SetProxy(lb.ProxyState{Serving: true, Up: []string{"s-10-0-0-11-6443"}})
				pass(500 * time.Millisecond)
			}
			if calls := n.took("frontends", "redirects"); len(calls) > 0 {
				t.Errorf("planned %d times anew", len(calls))
			}
			n.agent.SetProxy(lb.ProxyState{Serving: true})
			pass(time.Second)
			if calls := n.took("frontends"); len(calls) == 0 {
				t.Error("another list of servers that are up planned nothing")
			}
		})
	})
	t.Run("the watcher says it first, in other words", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			n := s.add(standby)
			n.plane.state = lb.ProxyState{Why: "nothing to balance"}
			said := false
			n.plane.changed = func(lb.ProxyState) {
				if !said { // HAProxy's watcher tells changes only
					said = true
					n.agent.SetProxy(lb.ProxyState{Why: "HAProxy is switched off"})
				}
			}
			n.run()
			pass(time.Minute)
			if calls := n.took("frontends"); len(calls) > 4 {
				t.Errorf("HAProxy was set %d times in a minute of rest", len(calls))
			}
		})
	})
}

// TestDataPlaneRetries: what failed is tried again every two seconds, and what
// fails on both sides is not tried more often for that.
func TestDataPlaneRetries(t *testing.T) {
	stories := []struct {
		name           string
		fronts, redirs error
	}{
		{"HAProxy is missing", errors.New("haproxy: not found"), nil},
		{"nft is missing", nil, errors.New("nft: not found")},
		{"both are missing", errors.New("haproxy: not found"), errors.New("nft: not found")},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.add(standby, balanced("10.0.0.11:6443"))
				n.plane.set(serves)
				n.plane.set(func(p *plane) { p.noFrontends, p.noRedirects = st.fronts, st.redirs })
				n.plane.takes = 5 * time.Millisecond
				n.run()
				pass(time.Second)
				n.took()
				pass(20 * time.Second)
				for sink, fails := range map[string]error{"frontends": st.fronts, "redirects": st.redirs} {
					if got := len(n.times(sink)); fails != nil && (got < 9 || got > 22) {
						t.Errorf("%s: %d attempts in 20 s, want about 10", sink, got)
					}
				}
				if got := metric(t, n.agent, "mooring_data_plane_errors_total"); got == 0 {
					t.Error("no error was counted")
				}
				n.plane.set(func(p *plane) { p.noFrontends, p.noRedirects = nil, nil })
				pass(3 * time.Second)
				n.took()
				pass(20 * time.Second)
				if calls := n.took("frontends", "redirects"); len(calls) > 0 {
					t.Errorf("%d more attempts after both went well", len(calls))
				}
			})
		})
	}
}

// TestFirstRetry: exactly two seconds after the failure.
func TestFirstRetry(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced("10.0.0.11:6443"))
		n.plane.set(func(p *plane) { p.noFrontends = errors.New("port 7443 is taken") })
		n.run()
		pass(5 * time.Second)
		calls := n.times("frontends")
		// The state that the failure brought is a plan of its own.
		if len(calls) < 2 || calls[0] != 0 {
			t.Fatalf("attempts at %v", calls)
		}
		i := slices.IndexFunc(calls, func(at time.Duration) bool { return at > 0 })
		if i < 0 || calls[i] != 2*time.Second {
			t.Errorf("attempts at %v, want the next one 2 s after the first", calls)
		}
	})
}

// TestNewestFrontendsWin: while HAProxy is slow only the last wish is kept.
func TestNewestFrontendsWin(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced("10.0.0.11:6443"))
		n.plane.set(serves)
		n.run()
		pass(time.Second)
		n.plane.hangFrontends.close()
		n.agent.SetBackends(servers("10.0.0.11:6443", "10.0.0.12:6443"))
		synctest.Wait()
		n.took()
		for i := range 20 {
			n.agent.SetBackends(servers(fmt.Sprintf("10.0.1.%d:6443", i)))
			pass(10 * time.Millisecond)
		}
		n.plane.hangFrontends.open()
		pass(time.Second)
		if calls := n.took("frontends"); len(calls) != 1 {
			t.Errorf("%d calls after the slow one, want one", len(calls))
		}
		if got := n.plane.fronts[0].Backends[0].Name; got != "s-10-0-1-19-6443" {
			t.Errorf("HAProxy serves %s, want the last wish", got)
		}
	})
}

// TestSetCheck: another health check reaches HAProxy.
func TestSetCheck(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby, balanced("10.0.0.11:6443"))
		n.plane.set(serves)
		n.run()
		n.agent.SetCheck(lb.Check{Path: "/livez", ClientPEM: "/run/mooring/client.pem"})
		pass(time.Second)
		if got := n.plane.fronts[0].Check; got.ClientPEM != "/run/mooring/client.pem" || got.Path != "/livez" {
			t.Errorf("HAProxy checks with %+v", got)
		}
	})
}

// TestHAProxySurvivesNotKnowing: an agent that starts and knows no API server
// yet leaves a HAProxy of an earlier run alone: it carries connections.
func TestHAProxySurvivesNotKnowing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted(balanced())
		pass(5 * time.Second)
		if calls := n.took("frontends 0", "redirects 0"); len(calls) > 0 {
			t.Errorf("%v although HAProxy may be serving an earlier run's connections", calls)
		}
		n.plane.set(serves)
		n.agent.SetBackends(servers("10.0.0.11:6443"))
		pass(time.Second)
		if calls := n.took("frontends"); len(calls) == 0 || calls[0] != "frontends 1" {
			t.Errorf("%v once the cluster has spoken", calls)
		}
	})
}
