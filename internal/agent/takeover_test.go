package agent

import (
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/election"
)

// pair is a meshed site with a holder a and a standby b, both at rest.
func (s *site) pair() (a, b *node) {
	s.t.Helper()
	a, b = s.adopted(), s.add(standby).run()
	s.mesh()
	pass(3 * time.Second)
	s.want("a", "Holding confirmed", "Standby")
	b.took()
	return a, b
}

// gap is how long nobody answers after an event, within a second.
func (s *site) gap() (gap time.Duration) {
	s.t.Helper()
	watched(time.Second, func() {
		switch s.answering() {
		case "":
			gap += time.Millisecond
		case "a b":
			s.t.Fatalf("%v: both answer", time.Since(s.begun))
		}
	})
	return gap
}

// TestTakeover: the holder loses its power; the standby hears its silence, asks
// the wire and answers in its place, long before the Lease is old.
func TestTakeover(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		a.powerOff()
		if gap := s.gap(); gap < lateAfter || gap > 200*time.Millisecond {
			t.Errorf("nobody answered for %v, want at most 200 ms", gap)
		}
		s.want("b")
		st := b.agent.Status()
		if st.State != "Holding" || !st.Confirmed || st.Provisional || s.api.holder() != "b/4" {
			t.Errorf("b is %s, confirmed %t, provisional %t; the Lease says %s", st.State, st.Confirmed, st.Provisional, s.api.holder())
		}
		if st.Last == nil || st.Last.Cause != election.CauseSilent || st.Last.Took > 200*time.Millisecond {
			t.Errorf("the last move is %+v", st.Last)
		}
		b.decided(election.Claims, election.Became)
		quick := b.times("quick")
		if len(quick) < silent || b.times("probe") != nil {
			t.Errorf("asked at %v, fully at %v; want %d quick questions", quick, b.times("probe"), silent)
		}
		if held := b.times("hold"); held[0]-quick[len(quick)-1] > 22*time.Millisecond {
			t.Errorf("the last question was sent at %v, the address added at %v", quick[len(quick)-1], held[0])
		}
		pass(20 * time.Second)
		s.want("b")
	})
}

// silent is how many questions in a row must go without an answer.
const silent = 3

// TestTakeoverWithoutAPI: with every API server silent it holds provisionally,
// says so, and is confirmed when one is back.
func TestTakeoverWithoutAPI(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		s.api.outage(true)
		a.powerOff()
		if gap := s.gap(); gap > 200*time.Millisecond {
			t.Errorf("nobody answered for %v, want at most 200 ms", gap)
		}
		provisional := func(want bool) {
			t.Helper()
			st := b.agent.Status()
			got := metric(t, b.agent, "mooring_provisional", "group", "apiserver") == 1
			if st.State != "Holding" || st.Provisional != want || st.Confirmed == want || got != want {
				t.Errorf("b is %s, provisional %t, confirmed %t; the metric says %t", st.State, st.Provisional, st.Confirmed, got)
			}
			if err := b.agent.Healthy(); err != nil {
				t.Errorf("healthy: %v", err)
			}
		}
		provisional(true)
		pass(time.Minute) // an outage of any length removes nothing
		s.want("b")
		provisional(true)
		if got := s.api.holder(); got != "a/3" {
			t.Errorf("the Lease says %s during the outage", got)
		}
		s.api.outage(false)
		pass(3 * time.Second)
		s.want("b")
		provisional(false)
		if got := s.api.holder(); got != "b/4" {
			t.Errorf("the Lease says %s after the outage, want b/4", got)
		}
		if got := b.reasons(); !slices.Equal(got, []election.Reason{election.Claims, election.Became, election.Sure}) {
			t.Errorf("decided %v", got)
		}
		if calls := b.took("let go"); len(calls) > 0 {
			t.Errorf("it let go meanwhile: %v", calls)
		}
	})
}

// TestAgentDies: its hellos stop, its kernel answers: nobody takes over before
// the fence, then at once.
func TestAgentDies(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		a.stop()
		<-a.ended
		a.hello.silent()
		both := 0
		var dark time.Duration
		watched(6*time.Second, func() {
			switch s.answering() {
			case "a b":
				both++
			case "":
				dark += time.Millisecond
			}
		})
		if both > 0 || dark > 300*time.Millisecond {
			t.Errorf("both answered for %d ms, nobody for %v", both, dark)
		}
		s.want("b")
		b.decided(election.Claims, election.Became)
	})
}

// TestCutOffNeverTakesOver: neither the gateway nor anybody else answers.
func TestCutOffNeverTakesOver(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		a.powerOff()
		s.setGateway(false)
		pass(30 * time.Second)
		s.want("")
		b.decided(election.NoWitness)
	})
}
