package election

import (
	"strings"
	"testing"
	"time"
)

// TestLockRenews: one write per renewal period although the elector asks every
// 20 ms, the first at once, none after the permission ends.
func TestLockRenews(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3, From: "n2"}
		b.given(mine)
		from := time.Now()
		b.renew(mine, 10*time.Second)
		b.wait(100 * time.Millisecond)
		b.isRecord("n1/3")
		b.wait(9 * time.Second)
		if n := s.sent(from, "PUT", "apiserver"); n < 9 || n > 10 {
			t.Errorf("%d writes in 9 s, want one a second", n)
		}
		b.wait(2 * time.Second)
		from = time.Now()
		b.wait(20 * time.Second)
		if n := s.sent(from, "PUT", "apiserver"); n != 0 {
			t.Errorf("%d writes after the permission ended", n)
		}
	})
}

// TestLockRenewsOnlyItsTerm: another's record and a later term are left alone.
func TestLockRenewsOnlyItsTerm(t *testing.T) {
	for _, other := range []Record{
		{Holder: "n2", Transitions: 4}, {Holder: "n1", Transitions: 4}, {Holder: "n2", Transitions: 3},
	} {
		inBubble(t, func(t *testing.T, s *apiserver) {
			b := run(t, s, "n1", "a")
			b.given(Record{Holder: "n1", Transitions: 3})
			b.renew(Record{Holder: "n1", Transitions: 3}, time.Hour)
			b.wait(2 * time.Second)
			b.given(other)
			from := time.Now()
			b.wait(20 * time.Second)
			if n := s.sent(from, "PUT", "apiserver"); n > 1 {
				t.Errorf("%d writes over %s", n, other)
			}
			b.isRecord(other.String())
		})
	}
}

// TestLockClaimsOneVersion: a claim replaces the version it was allowed for, and
// nothing that was written since.
func TestLockClaimsOneVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n2", Transitions: 3})
		b.claim("n1", 4, time.Second)
		b.wait(500 * time.Millisecond)
		b.expect("write n1/4")

		b.e.Do(Lock{Mode: LockClosed})
		b.given(Record{Holder: "n2", Transitions: 5})
		old := b.record()
		b.given(Record{Holder: "n2", Transitions: 5}) // renewed
		from := time.Now()
		b.e.Do(Lock{Mode: LockClaim, NotAfter: b.now() + time.Second,
			Record: Record{Holder: "n1", Transitions: 6, Version: old.Version}})
		b.wait(2 * time.Second)
		if n := s.sent(from, "PUT", "apiserver"); n != 0 {
			t.Errorf("%d writes over a record that was renewed", n)
		}
		b.isRecord("n2/5")
	})
}

// TestLockClaimsNotWhatIsGone: a claim of a record is none of a missing Lease.
func TestLockClaimsNotWhatIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.e.Do(Lock{Mode: LockClaim, NotAfter: b.now() + time.Second,
			Record: Record{Holder: "n1", Transitions: 6, Version: "55"}})
		b.wait(2 * time.Second)
		if n := s.sent(b.start, "POST", "apiserver"); n != 0 {
			t.Error("a Lease was created by a claim of one that existed")
		}
	})
}

// TestLockOneWins: two electors may claim the same version. One wins, the other
// is refused once, asks what happened and does not try again.
func TestLockOneWins(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		a, b := run(t, s, "n1", "a"), run(t, s, "n2", "b")
		a.given(Record{Holder: "n3", Transitions: 3})
		b.took()
		s.set(apiSlow, 30*time.Millisecond)
		from := time.Now()
		a.claim("n1", 4, time.Second)
		b.claim("n2", 4, time.Second)
		a.wait(3 * time.Second)
		winner, loser := a, b
		if a.record().Holder == "n2" {
			winner, loser = b, a
		}
		if got := winner.took(); !strings.HasPrefix(got, "write "+winner.e.opt.Node+"/4") {
			t.Errorf("the winner was told %q", got)
		}
		if got := loser.took(); got != "read "+winner.e.opt.Node+"/4" {
			t.Errorf("the loser was told %q", got)
		}
		writes := map[string]int{}
		for _, r := range s.log {
			if r.method == "PUT" && r.name == "apiserver" && !r.at.Before(from) {
				writes[r.holder]++
			}
		}
		if writes["n1"] != 1 || writes["n2"] != 1 {
			t.Errorf("tries %v", writes)
		}
	})
}

// TestLockClosesAtOnce: nothing is written once the permission is withdrawn.
func TestLockClosesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3}
		b.given(mine)
		for range 30 {
			b.renew(mine, time.Hour)
			b.wait(37 * time.Millisecond)
			b.e.Do(Lock{Mode: LockClosed})
			b.wait(time.Millisecond)
			from := time.Now()
			b.wait(1500 * time.Millisecond)
			if n := s.sent(from, "PUT", "apiserver"); n != 0 {
				t.Fatalf("%d writes through a closed lock", n)
			}
		}
	})
}

// TestLockHungServer: every call ends within a second, so a holder tries about
// once a second and is back soon after the server is.
func TestLockHungServer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3}
		b.given(mine)
		b.renew(mine, time.Hour)
		b.wait(1500 * time.Millisecond)
		s.set(apiHang, 0)
		from := time.Now()
		b.wait(20 * time.Second)
		if n := s.sent(from, "PUT", "apiserver"); n < 8 || n > 25 {
			t.Errorf("%d tries in 20 s", n)
		}
		s.set(apiUp, 0)
		b.took()
		b.wait(2200 * time.Millisecond)
		if got := b.took(); !strings.Contains(got, "write n1/3") {
			t.Errorf("delivered %q two seconds after the server was back", got)
		}
	})
}

// TestLockBacksOff: refused connections are not tried in a loop, in the first
// write of a term as in later ones.
func TestLockBacksOff(t *testing.T) {
	for _, from := range []string{"", "n2"} {
		inBubble(t, func(t *testing.T, s *apiserver) {
			b := run(t, s, "n1", "a")
			mine := Record{Holder: "n1", Transitions: 3, From: from}
			b.given(mine)
			s.fail(500)
			begin := time.Now()
			b.renew(mine, time.Hour)
			b.wait(20 * time.Second)
			if n := s.sent(begin, "PUT", "apiserver"); n < 15 || n > 40 {
				t.Errorf("from %q: %d tries in 20 s, want 50 ms growing to 1 s between them", from, n)
			}
			s.fail(0)
			b.wait(1500 * time.Millisecond)
			b.isRecord("n1/3")
		})
	}
}

// TestLockClaimsAgain: a claim that an API server refuses is not put off like a
// renewal: a dead holder's clients wait for it.
func TestLockClaimsAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n2", Transitions: 2})
		s.fail(500)
		begin := time.Now()
		b.claim("n1", 3, time.Hour)
		b.wait(time.Second)
		if n := s.sent(begin, "PUT", "apiserver"); n < 20 || n > 60 {
			t.Errorf("%d tries in a second, want one every 20 ms", n)
		}
		s.fail(0)
		b.wait(50 * time.Millisecond)
		b.isRecord("n1/3")
	})
}
