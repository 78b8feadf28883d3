package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// probed counts the questions for /readyz and forgets all.
func probed(f *fake) int {
	n := 0
	for _, a := range f.log() {
		if a == "GET /readyz" {
			n++
		}
	}
	return n
}

// running starts Run and returns a function that stops it.
func running(t *testing.T, s *Servers) func() {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// TestProbing walks one server through its life; time is simulated.
func TestProbing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(0, 200), in(0, 200))
		defer running(t, s)()

		time.Sleep(time.Hour)
		if a, b := probed(f[0]), probed(f[1]); a+b != 0 {
			t.Errorf("%d questions at rest", a+b)
		}

		f[0].set(refused)
		if got := do(t.Context(), s, 0, "PUT"); got != "200 b" {
			t.Error(got)
		}
		time.Sleep(10*time.Second + ms)
		if n := probed(f[0]); n < 10 || n > 12 { // one of them is the PUT's refusal
			t.Errorf("%d questions to the suspect in 10 s, want one a second", n)
		}
		if n := probed(f[1]); n != 0 {
			t.Errorf("%d questions to the well one", n)
		}
		want := []ServerState{{Addr: "a", Suspect: true, Why: "broken"}, {Addr: "b"}}
		if diff := cmp.Diff(want, s.State()); diff != "" {
			t.Error(diff)
		}

		f[0].set(in(0, 500)) // it answers, but is not ready
		time.Sleep(2 * time.Second)
		if why := s.State()[0].Why; why != "not ready: /readyz answers 500 Internal Server Error" {
			t.Errorf("why: %q", why)
		}
		f[0].set(never)
		time.Sleep(3 * time.Second)
		if why := s.State()[0].Why; why != errNoReadyz.Error() {
			t.Errorf("why: %q", why)
		}
		f[0].set(in(0, 403)) // well, though we may not ask
		time.Sleep(3 * time.Second)
		if suspects(s) != "" {
			t.Errorf("suspects: %s", suspects(s))
		}
		probed(f[0])
		time.Sleep(time.Hour)
		if n := probed(f[0]); n != 0 {
			t.Errorf("%d questions at rest", n)
		}
	})
}

// TestDoubtIsLookedInto: a server that is only ever overtaken in hedged
// requests is found out within a second, although no deadline ever passes.
func TestDoubtIsLookedInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(0, 200), in(0, 200))
		defer running(t, s)()
		_, ended := openWatch(t, s)
		f[0].set(never)
		if got := do(t.Context(), s, 20*ms, "PUT"); got != "200 b" {
			t.Error(got)
		}
		if suspects(s) != "" {
			t.Error("accused without proof")
		}
		begun := time.Now()
		<-ended
		if took := time.Since(begun); took > probeWait {
			t.Errorf("the watch was cut after %s", took)
		}
		if suspects(s) != "a" {
			t.Errorf("suspects: %q", suspects(s))
		}
	})
}

// TestSlowIsNotSuspect: a server that is merely slower than the hedge is
// asked at most once a second whether it is well, and keeps its place.
func TestSlowIsNotSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(100*ms, 200), in(0, 200))
		defer running(t, s)()
		begun := time.Now()
		for time.Since(begun) < 10*time.Second {
			do(t.Context(), s, 20*ms, "PUT")
		}
		synctest.Wait()
		if n := probed(f[0]); n > 11 {
			t.Errorf("%d questions in 10 s", n)
		}
		time.Sleep(2 * time.Second)
		if suspects(s) != "" {
			t.Errorf("suspects: %q", suspects(s))
		}
	})
}

// TestDuplicateIsNotDoubted: the copy that was sent last and lost says nothing
// about its server.
func TestDuplicateIsNotDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(30*ms, 200), in(50*ms, 200))
		defer running(t, s)()
		if got := do(t.Context(), s, 20*ms, "PUT"); got != "200 a" {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		if n := probed(f[1]); n != 0 {
			t.Errorf("%d questions to a server that did nothing wrong", n)
		}
	})
}
