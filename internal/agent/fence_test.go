package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// TestWokeUpLate: CLOCK_BOOTTIME went on while nothing ran. The first thing
// that the address sink hears is to let go, and nothing is refreshed after.
func TestWokeUpLate(t *testing.T) {
	for name, wake := range map[string]func(n *node){
		"a timer wakes the loop": func(*node) {},
		"a watch wakes the loop": func(n *node) {
			// A queue full of old news that confirms this node.
			for range 100 {
				n.agent.Deliver(election.Saw{View: n.api.view(), Via: election.ByRead, Begun: n.now()})
			}
		},
		"the proxy wakes the loop": func(n *node) { n.agent.SetProxy(lb.ProxyState{Why: "it died too"}) },
	} {
		t.Run(name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.adopted()
				pass(5500 * time.Millisecond)
				s.want("a", "Holding confirmed")
				s.api.outage(true)
				n.took()
				n.ahead.Store(int64(10 * time.Second))
				wake(n)
				pass(20 * time.Second)
				if calls := n.took("hold", "let go", "announce"); !slices.Equal(calls, []string{"let go"}) {
					t.Errorf("after the sleep: %v, want only to let go", calls)
				}
				s.want("", "Standby")
				if !slices.Contains(n.reasons(), election.Frozen) {
					t.Errorf("decided %v, want WokeUp", n.reasons())
				}
			})
		})
	}
}

// TestWokeUpSuperseded: another node took over meanwhile; it stays let go.
func TestWokeUpSuperseded(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.adopted(), s.add(standby).run()
		pass(5 * time.Second)
		a.took()
		a.ahead.Store(int64(20 * time.Second))
		s.api.set("b", 4)
		s.api.mu.Lock()
		v := s.api.view()
		s.api.mu.Unlock()
		b.agent.Deliver(election.Saw{View: v, Via: election.ByWatch, Begun: b.now()})
		pass(10 * time.Second)
		s.want("b", "Standby", "Holding confirmed")
		if calls := a.took("hold", "let go"); !slices.Equal(calls, []string{"let go"}) {
			t.Errorf("the sleeper did %v, want only to let go", calls)
		}
	})
}

// TestLateRefreshFences: the sink itself was frozen past the wish's end.
func TestLateRefreshFences(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(1500 * time.Millisecond)
		n.links.setting.close()
		pass(time.Second) // the next refresh is under way
		s.api.outage(true)
		n.took()
		n.ahead.Store(int64(10 * time.Second))
		n.links.setting.open()
		pass(5 * time.Second)
		if calls := n.took("hold"); len(calls) > 0 {
			t.Errorf("after a late refresh: %v", calls)
		}
		s.want("", "Standby")
	})
}

// TestSlowSinkDelaysNoRefresh: each sink has a task of its own; one that hangs
// for half a minute changes nothing about the address, once a second.
func TestSlowSinkDelaysNoRefresh(t *testing.T) {
	for name, gate := range map[string]func(*node) *hang{
		"HAProxy":   func(n *node) *hang { return &n.plane.hangFrontends },
		"redirects": func(n *node) *hang { return &n.plane.hangRedirects },
		"announcer": func(n *node) *hang { return &n.links.announcing },
		"probe":     func(n *node) *hang { return &n.links.probing },
		"disk":      func(n *node) *hang { return &n.disk.saving },
	} {
		t.Run(name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.adopted(balanced("10.0.0.11:6443"))
				n.plane.set(serves)
				pass(time.Second)
				gate(n).close()
				n.agent.SetBackends(servers("10.0.0.11:6443", "10.0.0.12:6443"))
				n.agent.Deliver(election.Claimed{MAC: "02:00:00:00:99:99"})
				n.agent.carryOutFromTest(election.Probe{}, election.Remember{Record: election.Record{Holder: "a"}})
				n.took()
				pass(30 * time.Second)
				calls := n.times("hold")
				if len(calls) < 29 {
					t.Errorf("%d refreshes in 30 s", len(calls))
				}
				for i := 1; i < len(calls); i++ {
					if gap := calls[i] - calls[i-1]; gap > 1100*time.Millisecond {
						t.Errorf("no refresh for %v", gap)
					}
				}
				s.want("a", "Holding confirmed")
				gate(n).open()
				synctest.Wait()
			})
		})
	}
}

// carryOutFromTest hands actions to the loop as if the machine wanted them.
func (a *Agent) carryOutFromTest(acts ...election.Action) {
	a.input(func(a *Agent) bool {
		for _, act := range acts {
			a.carryOut(act)
		}
		return false
	})
}

// TestNewestWishWins: while the kernel is slow wishes replace each other; what
// comes next is what is wanted now.
func TestNewestWishWins(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(1500 * time.Millisecond)
		n.links.setting.close()
		pass(600 * time.Millisecond) // the refresh at two seconds hangs
		n.took()
		n.agent.carryOutFromTest(election.Hold{NotAfter: n.now() + time.Second}, election.LetGo{},
			election.Hold{NotAfter: n.now() + time.Second}, election.LetGo{})
		s.api.outage(true)
		synctest.Wait()
		n.links.setting.open()
		synctest.Wait()
		if calls := n.took("hold", "let go"); !slices.Equal(calls, []string{"let go"}) {
			t.Errorf("calls %v, want only the newest wish", calls)
		}
	})
}

// TestAddressReports: what the machine hears of each result, and that an old
// success is not heard at all: it must not prove a new term.
func TestAddressReports(t *testing.T) {
	full := lb.Holding{Addresses: vips(), ValidLft: validLft}
	late := full
	late.NotAfter = 1
	stories := []struct {
		name  string
		hold  lb.Holding
		older bool
		fault error
		want  []election.Event
	}{
		{"held", full, false, nil, []election.Event{election.AddressIs{Held: true, Begun: time.Second}}},
		{"refused", full, false, errors.New("no"), []election.Event{election.AddressIs{Begun: time.Second, Err: "no"}}},
		{"late", late, false, nil, []election.Event{election.AddressIs{Late: true}}},
		{"held, but a newer wish was made", full, true, nil, nil},
		{"late, but a newer wish was made", late, true, nil, nil},
		{"let go", lb.Holding{}, false, nil, nil},
		{"not let go", lb.Holding{}, false, errors.New("no"), nil},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.add(standby)
				n.links.fault = st.fault
				n.agent.wished.Store(7)
				w := addressWish{seq: 7, hold: st.hold}
				if st.older {
					w.seq = 6
				}
				n.agent.setAddresses(t.Context(), w)
				var got []election.Event
				for len(n.agent.events) > 0 {
					got = append(got, <-n.agent.events)
				}
				if !slices.Equal(got, st.want) {
					t.Errorf("the machine hears %v, want %v", got, st.want)
				}
			})
		})
	}
}

// TestNothingOutlivesRun: however it ends, and whatever hangs, Run returns and
// takes its goroutines along; the bubble would not end otherwise.
func TestNothingOutlivesRun(t *testing.T) {
	endings := map[string]func(n *node){
		"at once": func(*node) {},
		"at rest": func(*node) { pass(10 * time.Second) },
		"busy": func(n *node) {
			n.hangAll()
			n.agent.Deliver(election.Claimed{MAC: "02:00:00:00:99:99"})
			pass(3 * time.Second)
		},
		"overloaded": func(n *node) { flood(n) },
		"going": func(n *node) {
			pass(time.Second)
			n.hangAll()
			n.agent.Deliver(election.AddressGone{})
			synctest.Wait()
			n.agent.carryOutFromTest(election.LetGo{}, election.Done{})
			synctest.Wait()
		},
	}
	for name, before := range endings {
		t.Run(name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.adopted(balanced("10.0.0.11:6443"))
				before(n)
				n.stop()
				synctest.Wait()
				if n.running() {
					t.Error("Run goes on after its context")
				}
			})
		})
	}
}

func flood(n *node) {
	for range 5000 {
		n.agent.Deliver(election.Tick{})
		n.agent.SetBackends(nil)
	}
}

func (n *node) hangAll() {
	for _, h := range []*hang{
		&n.links.setting, &n.links.probing, &n.links.announcing, &n.plane.hangFrontends, &n.plane.hangRedirects,
	} {
		h.close()
	}
}

// TestFlushedIsNotLost: a wish that comes after the last one must not make Run
// wait for ever.
func TestFlushedIsNotLost(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		pass(100 * time.Millisecond)
		n.links.setting.close()
		n.agent.carryOutFromTest(election.LetGo{}) // hangs
		synctest.Wait()
		n.agent.carryOutFromTest(election.LetGo{}, election.Done{}, election.Forward{})
		synctest.Wait()
		n.links.setting.open()
		pass(5 * time.Second)
		if n.running() {
			t.Error("Run waits for a wish that was replaced")
		}
	})
}

// TestMailbox: the newest value, once, in any order of posting and taking.
func TestMailbox(t *testing.T) {
	b := newMailbox[int]()
	if _, full := b.take(); full {
		t.Error("a new box is full")
	}
	b.post(1)
	b.post(2)
	if v, full := b.take(); !full || v != 2 {
		t.Errorf("took %d, %t; want the newest", v, full)
	}
	if v, full := b.take(); full {
		t.Errorf("took %d twice", v)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newMailbox[int]()
		ctx, stop := context.WithCancel(t.Context())
		var got []int
		ended := make(chan error, 1)
		go func() {
			ended <- b.serve(ctx, func(_ context.Context, v int) {
				got = append(got, v)
				time.Sleep(1010 * time.Millisecond)
			})
		}()
		for i := range 100 {
			b.post(i)
			time.Sleep(50 * time.Millisecond)
		}
		pass(2 * time.Second)
		if !slices.Equal(got, []int{0, 20, 40, 60, 80, 99}) {
			t.Errorf("a sink of one second saw %v", got)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}
