package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// alive makes the agent start with its address still there, holding the record
// of the term 3 on disk.
func alive(holder string, sameBoot bool) func(*Options) {
	return func(o *Options) {
		o.Start = election.Started{
			Alive: true, Begun: o.Now(), Known: holder != "", SameBoot: sameBoot,
			Last: election.Record{Holder: holder, Transitions: 3},
		}
	}
}

// standby makes the agent start with nothing.
func standby(o *Options) { o.Start = election.Started{} }

// adopted starts node a as the holder of term 3.
func (s *site) adopted(change ...func(*Options)) *node {
	s.api.set("a", 3)
	n := s.add(append([]func(*Options){alive("a", true)}, change...)...)
	n.links.until = n.now() + validLft
	return n.run()
}

// TestAdoption: what an agent does with the address that it finds at its start.
func TestAdoption(t *testing.T) {
	stories := []struct {
		name    string
		lease   string
		start   func(*Options)
		down    bool
		first   string // call of the address sink
		state   string // after ten seconds
		answers string
		decided []election.Reason
	}{
		{"disk and Lease name it", "a", alive("a", true), false, "hold", "Holding confirmed", "a",
			[]election.Reason{election.Adopted, election.Sure}},
		{"nothing on disk, the Lease names it", "a", alive("", false), false, "hold", "Holding confirmed", "a",
			[]election.Reason{election.Adopted, election.Sure}},
		{"no API server: it stays, unconfirmed", "a", alive("a", true), true, "hold", "Holding", "a",
			[]election.Reason{election.Adopted}},
		{"the disk of this boot names another", "b", alive("b", true), false, "let go", "Standby", "", nil},
		{"the disk of an earlier boot names another, nobody contradicts", "a", alive("b", false), true, "hold", "Holding",
			"a", []election.Reason{election.Adopted}},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				s.api.set(st.lease, 3)
				s.api.outage(st.down)
				n := s.add(st.start)
				n.links.until = n.now() + validLft
				n.run()
				// A record that another holds is renewed by that other.
				for range 10 {
					if st.lease != n.name {
						s.api.set(st.lease, 3)
					}
					pass(time.Second)
				}
				s.want(st.answers, st.state)
				n.decided(st.decided...)
				calls := n.took("hold", "let go")
				if len(calls) == 0 || calls[0] != st.first {
					t.Errorf("address calls %v, want %q first", calls, st.first)
				}
				if st.first == "hold" && slices.Contains(calls, "let go") {
					t.Errorf("an adopted address was taken away: %v", calls)
				}
			})
		})
	}
}

// TestAdoptedThenSuperseded: the Lease names another although the disk does not.
func TestAdoptedThenSuperseded(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.api.set("b", 4)
		n := s.add(alive("a", true))
		n.links.until = n.now() + validLft
		n.run()
		pass(50 * time.Millisecond)
		s.want("", "Standby")
		n.decided(election.Adopted, election.Fenced)
	})
}

// TestFirstClaim: from an empty cluster to a held, renewed and saved record.
func TestFirstClaim(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		s.want("", "Standby")
		pass(3 * time.Second)
		s.want("a", "Holding confirmed")
		n.decided(election.Claims, election.Became)
		if got := s.api.holder(); got != "a/1" {
			t.Errorf("the Lease says %s, want a/1", got)
		}
		calls := n.took("hold", "let go", "probe", "save")
		want := []string{"let go", "probe 192.0.2.10 192.0.2.254", "save a/1", "hold"}
		if len(calls) < 4 || !same(calls[:4], want) {
			t.Errorf("calls %v, want %v first", calls, want)
		}
		st := n.agent.Status()
		if st.HeldFor < 1 || st.HeldFor > 2 || st.Fence <= 3 || st.Fence > 4 {
			t.Errorf("held for %.1f s with a fence of %.1f s, want about 1.5 and 3 to 4", st.HeldFor, st.Fence)
		}
		before := s.api.written()
		pass(10 * time.Second)
		if got := s.api.written() - before; got < 9 || got > 11 {
			t.Errorf("%d renewals in 10 s, want one a second", got)
		}
		if got := len(n.took("hold")); got < 9 || got > 11 {
			t.Errorf("%d refreshes in 10 s, want one a second", got)
		}
	})
}

// same compares two lists as sets: the sinks' tasks run side by side.
func same(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// TestNoWitnessNoClaim: a node that is cut off never takes the record.
func TestNoWitnessNoClaim(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.setGateway(false)
		n := s.add(standby).run()
		pass(30 * time.Second)
		s.want("", "Standby")
		n.decided(election.NoWitness)
		s.setGateway(true)
		pass(3 * time.Second)
		s.want("a", "Holding confirmed")
	})
}

// watched runs f for every millisecond of a span.
func watched(span time.Duration, f func()) {
	for range span / time.Millisecond {
		time.Sleep(time.Millisecond)
		f()
	}
	synctest.Wait()
}

// TestMove: a planned move never leaves the VIP without an answer; the target
// forwards to the old holder before it has the address, for as long as the old
// holder's connections may live, and the old one keeps a mute copy for longer.
func TestMove(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.adopted(), s.add(standby).run()
		pass(2 * time.Second)
		s.want("a", "Holding confirmed", "Standby")
		b.took()
		a.agent.Deliver(election.Ask{To: "b", Cause: election.CauseMove})
		both := 0
		watched(3*time.Second, func() {
			switch s.answering() {
			case "":
				t.Fatalf("%v: nobody answers", time.Since(s.begun))
			case "a b":
				both++
			}
		})
		s.want("b", "Standby", "Holding confirmed")
		if both > 500 {
			t.Errorf("both answered for %d ms, want at most half a second", both)
		}
		want := []string{"forward 192.0.2.10 to 192.0.2.1", "hold"}
		if calls := slices.Compact(b.took("hold", "forward")); !slices.Equal(calls, want) {
			t.Errorf("the target did %q, want %q", calls, want)
		}
		want = []string{"hold", "hold mute", "drain [192.0.2.10 dev eth0] for 5m5s"}
		if calls := slices.Compact(a.took("hold", "let go", "drain")); !slices.Equal(calls[len(calls)-2:], want[1:]) {
			t.Errorf("the old holder did %q, want %q", calls, want)
		}
		if b.links.fwdEnd >= a.links.copies || b.links.fwdEnd < b.now()+drainFor-3*time.Second {
			t.Errorf("forwarded until %v, to a copy that ends at %v", b.links.fwdEnd, a.links.copies)
		}
		if !slices.Contains(a.reasons(), election.GaveUp) || !slices.Contains(b.reasons(), election.Became) {
			t.Errorf("a decided %v, b %v", a.reasons(), b.reasons())
		}
		if got := s.api.holder(); got != "b/4" {
			t.Errorf("the Lease says %s, want b/4 after the sign", got)
		}
		pass(drainFor)
		if calls := slices.Compact(b.took("forward")); !slices.Equal(calls, []string{"forward "}) {
			t.Errorf("after %v: %q, want the end of the forwarding", drainFor, calls)
		}
	})
}

// TestShutdown: how each kind of agent ends, and what it leaves.
func TestShutdown(t *testing.T) {
	t.Run("a holder hands over and has let go when Run returns", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.adopted()
			s.add(standby).run()
			pass(2 * time.Second)
			a.agent.Deliver(election.Shutdown{})
			a.took()
			<-a.ended
			if a.links.has() || a.kept {
				t.Errorf("Run returned with the address there: %t, kept %t", a.links.has(), a.kept)
			}
			if s.answering() != "b" {
				t.Errorf("%q answers after the hand-over", s.answering())
			}
		})
	})
	t.Run("with a slow kernel it waits for the address to be gone", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.adopted()
			s.add(standby).run()
			pass(2 * time.Second)
			a.agent.Deliver(election.Shutdown{})
			pass(3 * time.Millisecond) // Draining
			a.links.setting.close()    // from now on, also for the last LetGo
			pass(700 * time.Millisecond)
			if !a.running() {
				t.Fatal("Run returned although the address was not taken away yet")
			}
			a.links.setting.open()
			synctest.Wait()
			if a.running() || a.links.has() {
				t.Errorf("running %t, address there %t", a.running(), a.links.has())
			}
		})
	})
	t.Run("a lone holder leaves the address to the kernel", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.adopted()
			pass(2 * time.Second)
			a.took()
			a.agent.Deliver(election.Shutdown{})
			synctest.Wait()
			if a.running() || !a.kept || !a.links.has() || len(a.took("let go")) > 0 {
				t.Errorf("running %t, kept %t, address there %t", a.running(), a.kept, a.links.has())
			}
			pass(validLft)
			s.want("")
		})
	})
	t.Run("asked to end again and again", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.adopted()
			pass(2 * time.Second)
			for range 50 {
				a.agent.Deliver(election.Shutdown{})
			}
			synctest.Wait()
			if a.running() || !a.kept {
				t.Errorf("running %t, kept %t", a.running(), a.kept)
			}
		})
	})
	t.Run("a standby ends at once", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.add(standby).run()
			a.agent.Deliver(election.Shutdown{})
			a.agent.Deliver(election.Shutdown{}) // SIGTERM twice
			synctest.Wait()
			if a.running() || a.kept {
				t.Errorf("running %t, kept %t", a.running(), a.kept)
			}
		})
	})
	t.Run("a cancelled context leaves everything for the next agent", func(t *testing.T) {
		inSite(t, func(t *testing.T, s *site) {
			a := s.adopted()
			pass(2 * time.Second)
			a.took()
			a.stop()
			<-a.ended
			if calls := a.took("let go", "frontends", "redirects"); len(calls) > 0 || !a.kept || !a.links.has() {
				t.Errorf("calls %v, kept %t, address there %t", calls, a.kept, a.links.has())
			}
		})
	})
}

// TestDeath: a killed holder's kernel lets go, then the next one claims; at no
// instant do both answer.
func TestDeath(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.adopted(), s.add(standby).run()
		pass(5 * time.Second)
		a.stop()
		died := time.Since(s.begun)
		watched(12*time.Second, func() {
			if got := s.answering(); got == "a b" {
				t.Fatalf("%v: both answer", time.Since(s.begun))
			}
		})
		s.want("b")
		var first time.Duration
		for _, at := range b.times("hold") {
			if at > died {
				first = at
				break
			}
		}
		if gap := first - died; gap < leaseFor-renewal || gap > leaseFor+3*time.Second {
			t.Errorf("claimed %v after the death, want about the Lease's %v", gap, leaseFor)
		}
		if probes := b.took("probe"); len(probes) == 0 || strings.Contains(probes[0], "192.0.2.1 ") {
			t.Errorf("probes %v: want one, without the suspected holder 192.0.2.1", probes)
		}
	})
}

// TestPeersChangesAreKept: however many events wait, each peer's newest change is
// not lost, and none comes before an older one.
func TestPeersChangesAreKept(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby)
		n.agent.Deliver(election.Peer{Node: "c", State: election.PeerUnknown})
		for range 2000 {
			n.agent.Deliver(election.Tick{})
		}
		n.agent.Deliver(election.Peer{Node: "b", State: election.PeerUp})
		n.agent.Deliver(election.Peer{Node: "b", State: election.PeerDown})
		<-n.agent.events
		n.agent.Deliver(election.Peer{Node: "b", State: election.PeerUp}) // has room, and waits for its turn
		n.run()
		pass(time.Second)
		n.agent.lateMu.Lock()
		defer n.agent.lateMu.Unlock()
		if got := n.agent.peers["b"].State; got != election.PeerUp || len(n.agent.late) > 0 {
			t.Errorf("b is %v after a flood of events, want what it was last; still late: %v", got, n.agent.late)
		}
	})
}

// TestDeliverNeverBlocks: a stuck loop loses events but stops nobody.
func TestDeliverNeverBlocks(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby) // Run was never called: the loop is as stuck as can be
		for range 5000 {
			n.agent.Deliver(election.Tick{})
		}
		for range 100 {
			n.agent.SetProxy(lb.ProxyState{})
		}
		want := 5000.0 - 1024 + 100 - 64
		if got := metric(t, n.agent, "mooring_events_dropped_total"); got != want {
			t.Errorf("%v dropped, want %v", got, want)
		}
	})
}
