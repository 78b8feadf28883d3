package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// toA is the forwarding to node a, with the sequence number of one wish.
func toA(seq uint64) forwarding {
	return forwarding{seq, []lb.Forward{{VIP: vips()[0], To: gateway().IP, Until: time.Hour}}}
}

// TestForwardComesFirst: the forwards stand before the address does, also when
// they cannot be had: then the move goes on without them, and that is said.
func TestForwardComesFirst(t *testing.T) {
	for _, fault := range []error{nil, errors.New("nft: not found")} {
		inSite(t, func(t *testing.T, s *site) {
			n := s.add(standby)
			n.links.noFwd = fault
			n.agent.setAddresses(t.Context(), addressWish{hold: lb.Holding{Addresses: vips(), ValidLft: validLft}, forward: toA(1)})
			if calls := n.took(); len(calls) != 2 || calls[0] != "forward 192.0.2.10 to 192.0.2.254" || calls[1] != "hold" {
				t.Errorf("with the error %v: %q", fault, calls)
			}
			if got := n.complaint("forward"); (got == "") != (fault == nil) || fault != nil && !strings.Contains(got, fault.Error()) {
				t.Errorf("with the error %v it complains %q", fault, got)
			}
			n.links.noFwd = nil
			n.agent.setForward(t.Context(), forwarding{seq: 2})
			if got := n.complaint("forward"); got != "" {
				t.Errorf("once it went well: %q", got)
			}
		})
	}
}

// TestOlderForwardingIsVoid: two tasks carry forwardings out; whichever comes
// later, the newest wish stands.
func TestOlderForwardingIsVoid(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby)
		n.agent.setForward(t.Context(), forwarding{seq: 2})
		n.agent.setAddresses(t.Context(), addressWish{hold: lb.Holding{Addresses: vips(), ValidLft: validLft}, forward: toA(1)})
		n.agent.setAddresses(t.Context(), addressWish{forward: toA(1)})
		n.agent.setForward(t.Context(), toA(2))
		if calls := n.took("forward"); len(calls) > 0 {
			t.Errorf("an older wish was carried out: %q", calls)
		}
		n.agent.setForward(t.Context(), toA(3))
		if calls := n.took("forward"); len(calls) != 1 {
			t.Errorf("a newer wish did %q", calls)
		}
	})
}

// TestForwardIsTriedAgain: one failure of nft does not leave the move without its
// forwards, no refresh waits for the next try, and an address waits for a slow
// nft only so long.
func TestForwardIsTriedAgain(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.adopted()
		pass(5 * time.Second)
		n.took()
		n.links.refuse(errors.New("nft: busy"))
		asked := make(chan uint64, 1)
		n.agent.input(func(a *Agent) bool {
			a.forward = toA(a.forward.seq + 1)
			asked <- a.forward.seq
			a.wish(lb.Holding{Addresses: vips(), ValidLft: validLft})
			a.wish(lb.Holding{Addresses: vips(), ValidLft: validLft})
			return false
		})
		pass(100 * time.Millisecond)
		n.agent.setAddresses(t.Context(), addressWish{hold: lb.Holding{Addresses: vips(), ValidLft: validLft}, forward: toA(<-asked)})
		if calls := n.took("forward"); len(calls) != 1 {
			t.Errorf("refreshes tried it too: %q", calls)
		}
		n.links.refuse(nil)
		pass(1500 * time.Millisecond)
		if calls := n.took("forward"); len(calls) != 1 || n.complaint("forward") != "" {
			t.Errorf("later: %q, complaint %q", calls, n.complaint("forward"))
		}
		pass(5 * time.Second)
		if calls := n.took("forward"); len(calls) != 0 {
			t.Errorf("done, and yet tried again: %q", calls)
		}
	})
}

// moved is a site in which b has taken over from a in a planned move, and
// forwards to it.
func (s *site) moved() (a, b *node) {
	s.t.Helper()
	a, b = s.adopted(), s.add(standby).run()
	s.mesh()
	pass(2 * time.Second)
	a.agent.Deliver(election.Ask{To: "b", Cause: election.CauseMove})
	pass(time.Second)
	s.want("b", "Standby", "Holding confirmed")
	if got := b.agent.Status().Forwards; got != "a" || b.links.forward != "192.0.2.10 to 192.0.2.1" {
		s.t.Fatalf("b forwards to %q with %q", got, b.links.forward)
	}
	return a, b
}

// TestForwardAlone: a forwarding that ends between two refreshes is ended when three
// questions to its node went unanswered, also while the address sink hangs: the old
// holder is dead, its flows shall end with a reset and not in silence.
func TestForwardAlone(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.moved()
		pass(500 * time.Millisecond)
		b.links.setting.close()
		pass(time.Second) // the next refresh hangs
		b.took()
		a.powerOff()
		pass(downAfter + 100*time.Millisecond)
		if calls := b.took("forward", "let go"); len(calls) > 0 {
			t.Errorf("after one question that went unanswered: %q, want nothing yet", calls)
		}
		pass(500 * time.Millisecond)
		if calls := b.took("forward", "let go"); !slices.Equal(calls, []string{"forward "}) {
			t.Errorf("after the old holder's death: %q, want the end of the forwarding", calls)
		}
		b.links.setting.open()
		pass(3 * time.Second)
		if calls := b.took("forward", "let go"); len(calls) > 0 || b.agent.Status().Forwards != "" {
			t.Errorf("later: %q, forwards to %q", calls, b.agent.Status().Forwards)
		}
		s.want("b", "Standby", "Holding confirmed")
	})
}

// TestForwardOutlivesItsAgent: the old holder's agent ends, its kernel goes on
// serving what began there.
func TestForwardOutlivesItsAgent(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.moved()
		b.took()
		a.stop()
		<-a.ended
		a.hello.silent()
		pass(10 * time.Second)
		if calls := b.took("forward"); len(calls) > 0 {
			t.Errorf("after the end of the old holder's agent: %q", calls)
		}
		if got := b.agent.Status().Forwards; got != "a" {
			t.Errorf("it forwards to %q", got)
		}
	})
}

// TestForwardBeforeHold: both in one step; the address comes second, and the
// forwarding once.
func TestForwardBeforeHold(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.add(standby) // it handed over; it never runs
		b := s.add(standby).run()
		b.took()
		s.api.handOver("a", "b", 4)
		pass(400 * time.Millisecond)
		want := []string{"forward 192.0.2.10 to 192.0.2.1", "hold"}
		if calls := slices.Compact(b.took("forward", "hold")); !slices.Equal(calls, want) {
			t.Errorf("it did %q, want %q", calls, want)
		}
	})
}

// TestFencedEndsForwarding: who is fenced lets go and forwards no more, although
// the wish to let go was made before.
func TestFencedEndsForwarding(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		_, b := s.moved()
		s.add(standby) // c
		s.tellMembers()
		b.took()
		s.api.handOver("", "c", 9)
		pass(100 * time.Millisecond)
		if calls := b.took("let go", "forward"); !same(calls, []string{"let go", "forward "}) {
			t.Errorf("fenced, it did %q", calls)
		}
	})
}

// TestForwardsOfAnEarlierRun: they stand until their time is over, whatever the
// first wishes are.
func TestForwardsOfAnEarlierRun(t *testing.T) {
	for _, holds := range []bool{true, false} {
		inSite(t, func(t *testing.T, s *site) {
			before := func(o *Options) {
				o.Forwards = []lb.Forward{{VIP: vips()[0], To: gateway().IP, Until: o.Now() + 10*time.Second}}
				o.Start.Forwards, o.Start.Until = "c", o.Now()+10*time.Second
			}
			s.api.set("a", 3)
			start := alive("a", true)
			if !holds {
				s.api.set("b", 3)
				start = standby
			}
			n := s.add(start, before)
			n.links.forward = "192.0.2.10 to 192.0.2.254" // in the kernel
			if holds {
				n.links.until = n.now() + validLft
			}
			n.run()
			pass(9 * time.Second)
			if calls := n.took("forward"); len(calls) > 0 {
				t.Errorf("holding %t: %q within the time of the forwards found", holds, calls)
			}
			pass(2 * time.Second)
			if calls := n.took("forward"); !slices.Equal(calls, []string{"forward "}) {
				t.Errorf("holding %t: %q, want their end after 10 s", holds, calls)
			}
		})
	}
}

// TestLetGoWaitsForNothing: a forwarding that hangs (nft may take two seconds)
// delays no fence.
func TestLetGoWaitsForNothing(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.moved()
		s.add(standby) // c
		s.tellMembers()
		a.agent.setAddresses(t.Context(), addressWish{forward: toA(99)})
		if calls := a.took("let go", "forward"); len(calls) < 2 || !slices.Equal(calls[len(calls)-2:], []string{"let go", "forward 192.0.2.10 to 192.0.2.254"}) {
			t.Errorf("it did %q, want to let go first", calls)
		}
		b.links.forwarding.close()
		defer b.links.forwarding.open()
		s.api.handOver("", "c", 9)
		pass(10 * time.Millisecond)
		s.want("", "Standby", "Standby")
		if got := b.reasons(); got[len(got)-1] != election.Fenced {
			t.Errorf("decided %v", got)
		}
	})
}

// TestRefreshWaitsForNoForward: nor does one that hangs delay a refresh.
func TestRefreshWaitsForNoForward(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.moved()
		b.links.forwarding.close()
		defer b.links.forwarding.open()
		a.powerOff()
		pass(2 * time.Second)
		if calls := b.took("forward "); len(calls) == 0 {
			t.Fatal("the forwarding was not ended")
		}
		pass(20 * time.Second)
		if calls := b.times("hold"); len(calls) < 19 {
			t.Errorf("%d refreshes in 20 s", len(calls))
		}
		s.want("b", "Standby", "Holding confirmed")
	})
}

// TestEndOfForwardIsFenced: a forwarding that ends while the address is not
// there yet makes no wish without an end of its own, nor one that is void
// already by the fence of an earlier term.
func TestEndOfForwardIsFenced(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.add(standby) // it handed over and died: it never runs
		n := s.add(standby, func(o *Options) { o.Machine.Drain = time.Second }).run()
		for term := range int64(2) {
			n.links.fail(errors.New("device busy"))
			s.api.handOver("a", "b", 4+2*term)
			pass(1600 * time.Millisecond)
			n.links.fail(nil)
			pass(3 * time.Second)
			s.want("b")
			if n.agent.Status().Forwards != "" {
				t.Fatal("the forwarding has not ended")
			}
			s.api.handOver("", "a", 5+2*term)
			pass(100 * time.Millisecond)
			s.want("")
		}
		n.links.mu.Lock()
		defer n.links.mu.Unlock()
		for _, h := range n.links.holds {
			if len(h.Addresses) > 0 && h.NotAfter == 0 {
				t.Errorf("a wish without an end: %+v", h)
			}
		}
		if got := n.reasons(); slices.Contains(got, election.Frozen) {
			t.Errorf("it took itself for frozen: %v", got)
		}
	})
}

// drained names the wishes for copies so far.
func (n *node) drained() (out []lb.Holding) {
	n.links.mu.Lock()
	defer n.links.mu.Unlock()
	for _, h := range n.links.holds {
		if len(h.Copies) > 0 {
			out = append(out, h)
		}
	}
	return out
}

// TestShutdownLeavesCopies: SIGTERM hands over and ends the agent; the copies are
// its last wish, also when the kernel was slow and the first one was not taken.
func TestShutdownLeavesCopies(t *testing.T) {
	for _, slow := range []bool{false, true} {
		inSite(t, func(t *testing.T, s *site) {
			a, b := s.adopted(), s.add(standby).run()
			s.mesh()
			pass(2 * time.Second)
			a.took()
			a.agent.Deliver(election.Shutdown{})
			if slow {
				pass(3 * time.Millisecond) // Draining
				a.links.setting.close()
				pass(600 * time.Millisecond)
				if !a.running() {
					t.Fatal("Run returned although the copies were not made yet")
				}
				a.links.setting.open()
			}
			<-a.ended
			calls := a.took("hold", "let go", "drain")
			if last := calls[len(calls)-1]; last != "drain [192.0.2.10 dev eth0] for 5m5s" || slices.Contains(calls, "let go") {
				t.Errorf("slow %t: it did %q, want the copies last and no empty wish", slow, calls)
			}
			if a.kept || a.links.has() || a.links.copies < a.now()+drainFor {
				t.Errorf("slow %t: kept %t, on its link %t, copies until %v", slow, a.kept, a.links.has(), a.links.copies)
			}
			pass(5 * time.Second)
			s.want("b")
			if b.links.forward != "192.0.2.10 to 192.0.2.1" {
				t.Errorf("slow %t: the new holder forwards %q", slow, b.links.forward)
			}
		})
	}
}

// TestNoTimeToDrain: nothing is forwarded, and the copies are short-lived.
func TestNoTimeToDrain(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		none := func(o *Options) { o.Machine.Drain = 0 }
		a, b := s.adopted(none), s.add(standby, none).run()
		pass(2 * time.Second)
		a.took()
		a.agent.Deliver(election.Ask{To: "b", Cause: election.CauseMove})
		pass(2 * time.Second)
		s.want("b", "Standby", "Holding confirmed")
		// Some clients have not heard of the new holder yet: for them it stays a moment.
		if got := a.drained(); len(got) != 1 || got[0].CopyFor > 5*time.Second {
			t.Errorf("the old holder's wishes with copies: %+v", got)
		}
		if calls := b.took("forward"); len(calls) > 0 {
			t.Errorf("the new holder did %q", calls)
		}
	})
}

// TestFencedLeavesCopies: copies of an earlier hand-over end by their own time;
// what is let go later is the address alone.
func TestFencedLeavesCopies(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, _ := s.moved()
		if got := a.drained(); len(got) != 1 || len(got[0].Addresses) > 0 || got[0].CopyFor != drainFor+5*time.Second {
			t.Fatalf("wishes with copies: %+v", got)
		}
		end := a.links.copies
		a.agent.Deliver(election.Shutdown{}) // long after its hand-over
		<-a.ended
		if a.links.copies != end {
			t.Errorf("the copies end at %v now, not %v", a.links.copies, end)
		}
	})
}

// TestDrainFails: connections end, which is said until a hand-over goes well.
func TestDrainFails(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby)
		copies := addressWish{hold: lb.Holding{Copies: vips(), CopyFor: time.Minute}}
		n.links.fail(errors.New("no copy on lo"))
		n.agent.setAddresses(t.Context(), copies)
		if got := n.complaint("drain"); !strings.Contains(got, "no copy on lo") {
			t.Errorf("it complains %q", got)
		}
		n.links.fail(nil)
		n.agent.setAddresses(t.Context(), copies)
		if got := n.complaint("drain"); got != "" {
			t.Errorf("after the next hand-over: %q", got)
		}
		synctest.Wait()
		if len(n.agent.events) > 0 {
			t.Errorf("the machine hears %+v of what it let go", <-n.agent.events)
		}
	})
}
