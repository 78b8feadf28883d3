package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/internal/lb"
)

// bench is an elector that runs against an apiserver, in a bubble's time.
type bench struct {
	t     *testing.T
	s     *apiserver
	e     *Elector
	start time.Time
	stop  context.CancelFunc
	ended chan error

	mu     sync.Mutex
	events []Event
}

// inBubble runs f with a server, in made-up time that ends with all goroutines.
func inBubble(t *testing.T, f func(t *testing.T, s *apiserver)) {
	synctest.Test(t, func(t *testing.T) { f(t, newAPIServer()) })
}

// run starts an elector of the node; the test's end stops it.
func run(t *testing.T, s *apiserver, node, identity string) *bench {
	b := &bench{t: t, s: s, start: time.Now(), ended: make(chan error, 1)}
	e, err := NewElector(Options{
		Config: &rest.Config{Host: "http://apiserver", Transport: s,
			ContentConfig: rest.ContentConfig{ContentType: "application/json"}},
		Namespace: "mooring-system",
		Group:     "apiserver", Node: node, Identity: identity, Lease: 7 * time.Second, Renew: time.Second,
		Member: Member{Node: node, MACs: []string{"mac-" + node}, Live: true},
		Now:    b.now, Clock: time.Now, Deliver: b.deliver, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.e = e
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	go func() { b.ended <- e.Run(ctx) }()
	t.Cleanup(stop)
	b.wait(100 * time.Millisecond)
	return b
}

func (b *bench) now() lb.Instant { return time.Since(b.start) + time.Second }

func (b *bench) deliver(ev Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, ev)
}

// wait lets time pass.
func (b *bench) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// took returns what was delivered since the last call, as text; members and
// what the watch shows are left out.
func (b *bench) took() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, ev := range b.events {
		switch ev := ev.(type) {
		case Saw:
			what := "missing"
			if ev.View.Exists {
				what = ev.View.Record.String() + map[bool]string{false: " unsound"}[ev.View.Sound]
			}
			if ev.Via != ByWatch {
				out = append(out, ev.Via.String()+" "+what)
			}
		case ReadFailed:
			out = append(out, "failed")
		case Swapped:
			out = append(out, fmt.Sprintf("swap to %s %s", ev.To, ev.Result))
		}
	}
	b.events = nil
	return strings.Join(out, ", ")
}

func (b *bench) expect(want string) {
	b.t.Helper()
	if got := b.took(); got != want {
		b.t.Errorf("delivered %q, want %q", got, want)
	}
}

// record is what the server has.
func (b *bench) record() Record { return toView(b.s.get("apiserver"), everybody).Record }

func (b *bench) isRecord(want string) {
	b.t.Helper()
	if got := b.record().String(); got != want {
		b.t.Errorf("the record is %s, want %s", got, want)
	}
}

// claim makes the machine's wish for the record as it is.
func (b *bench) claim(holder string, term int64, d time.Duration) {
	v := toView(b.s.get("apiserver"), everybody)
	b.e.Do(Lock{Mode: LockClaim, NotAfter: b.now() + d,
		Record: Record{Holder: holder, Transitions: term, Cause: CauseExpired, Version: v.Record.Version}})
}

func (b *bench) renew(r Record, d time.Duration) {
	b.e.Do(Lock{Mode: LockRenew, NotAfter: b.now() + d, Record: Record{Holder: r.Holder, Transitions: r.Transitions}})
}

// given puts a record of another node's agent on the server.
func (b *bench) given(r Record) {
	b.s.put("apiserver", func(l *coordination.Lease) *coordination.Lease {
		return encode(l, "apiserver", r, 7*time.Second, time.Now())
	})
	b.wait(10 * time.Millisecond)
	b.took()
}

// TestElectorStarts: nothing is sent before Run, then the member Lease and the
// watch; the group's Lease is left alone for as long as the lock is closed.
func TestElectorStarts(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.wait(time.Minute)
		if n := s.sent(b.start, "POST", "apiserver") + s.sent(b.start, "PUT", "apiserver"); n != 0 {
			t.Errorf("%d writes of the group's Lease with a closed lock", n)
		}
		if l := s.get("node-n1"); l == nil || l.Annotations[annMACs] != "mac-n1" {
			t.Errorf("member Lease %v", l)
		}
		if n := s.sent(b.start, "PUT", "node-n1"); n != 6 {
			t.Errorf("%d renewals of the member Lease in a minute, want 6", n)
		}
		// With another's record in it, older than its lease, the same.
		b.given(Record{Holder: "n2", Transitions: 3})
		b.wait(time.Minute)
		if n := s.sent(b.start, "POST", "apiserver") + s.sent(b.start, "PUT", "apiserver"); n != 0 {
			t.Errorf("%d writes of an expired Lease with a closed lock", n)
		}
	})
}

// TestElectorFirstClaim: a claim of a missing Lease creates it, once, and says so.
func TestElectorFirstClaim(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.claim("n1", 1, time.Second)
		b.wait(time.Second)
		b.expect("write n1/1")
		if n := s.sent(b.start, "POST", "apiserver"); n != 1 {
			t.Errorf("%d creations", n)
		}
	})
}

// TestElectorReads: what a read finds, and that a failed one says so in time.
func TestElectorReads(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		read := func(want string) {
			t.Helper()
			b.e.Do(Read{Timeout: readTimeout})
			b.wait(readTimeout + time.Millisecond)
			b.expect(want)
		}
		read("read missing")
		b.given(Record{Holder: "n2", Transitions: 3})
		read("read n2/3")
		s.put("apiserver", func(l *coordination.Lease) *coordination.Lease {
			l.Spec = coordination.LeaseSpec{}
			return l
		})
		b.wait(10 * time.Millisecond)
		b.took()
		read("read /0 unsound")
		s.put("apiserver", func(*coordination.Lease) *coordination.Lease { return nil })
		read("read missing")
		s.fail(403)
		read("failed")
		s.fail(0)
		s.set(apiHang, 0)
		read("failed")
		s.set(apiRefuse, 0)
		read("failed")
		s.set(apiSlow, 150*time.Millisecond)
		read("read missing")
	})
}

// TestElectorManyReads: reads that hang are not piled up, and each that was
// sent is answered or failed.
func TestElectorManyReads(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		s.set(apiHang, 0)
		from := time.Now()
		for range 50 {
			b.e.Do(Read{Timeout: readTimeout})
			b.e.Do(Read{Timeout: ageTimeout})
			b.wait(10 * time.Millisecond)
		}
		b.wait(2 * time.Second)
		sent := s.sent(from, "GET", "apiserver")
		if failed := strings.Count(b.took(), "failed"); failed != sent {
			t.Errorf("%d reads sent, %d failed", sent, failed)
		}
		if sent > 10 {
			t.Errorf("%d reads sent in half a second to a server that hangs", sent)
		}
		s.set(apiUp, 0)
		b.e.Do(Read{Timeout: readTimeout})
		b.wait(10 * time.Millisecond)
		b.expect("read missing")
	})
}

// TestElectorRepairs: what was deleted or scribbled on is written again.
func TestElectorRepairs(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3}
		b.given(mine)
		b.renew(mine, time.Hour)
		b.wait(1500 * time.Millisecond)
		for name, damage := range map[string]func(*coordination.Lease) *coordination.Lease{
			"deleted": func(*coordination.Lease) *coordination.Lease { return nil },
			"emptied": func(l *coordination.Lease) *coordination.Lease {
				l.Spec = coordination.LeaseSpec{}
				return l
			},
			"edited": func(l *coordination.Lease) *coordination.Lease {
				other := "n2"
				l.Spec.HolderIdentity = &other
				return l
			},
		} {
			s.put("apiserver", damage)
			b.wait(2 * time.Second)
			if v := toView(s.get("apiserver"), everybody); v.Sound {
				t.Errorf("%s: %s was written without being asked", name, v.Record)
			}
			b.e.Do(Repair{Record: mine})
			b.wait(100 * time.Millisecond)
			b.isRecord("n1/3")
		}
		b.wait(5 * time.Second)
		b.isRecord("n1/3")
	})
}

// TestElectorRepairsNoSuccessor: another took the record between the damage and
// the repair, which would now undo that.
func TestElectorRepairsNoSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n2", Transitions: 4})
		b.e.Do(Repair{Record: Record{Holder: "n1", Transitions: 3}})
		b.wait(time.Second)
		b.isRecord("n2/4")
	})
}

// TestElectorSwap: the swap is won, and no renewal overwrites it although the
// machine has not spoken since.
func TestElectorSwap(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3}
		b.given(mine)
		b.renew(mine, time.Hour)
		b.wait(3 * time.Second)
		b.took()
		b.swap("n2", 4)
		b.wait(100 * time.Millisecond)
		b.expect("write n2/4 from n1, swap to n2 won")
		b.wait(20 * time.Second)
		b.isRecord("n2/4 from n1")
	})
}

func (b *bench) swap(to string, term int64) {
	r := b.record()
	b.e.Do(Lock{Mode: LockClosed})
	b.e.Do(Swap{Timeout: swapTimeout, Record: Record{
		Holder: to, Transitions: term, From: "n1", Cause: CauseMove, UID: r.UID, Version: r.Version}})
}

// TestElectorSwapDuringRenewal: a renewal is under way at a slow server. The
// swap waits for its end and is written after it, or is refused; it is never
// overwritten.
func TestElectorSwapDuringRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		mine := Record{Holder: "n1", Transitions: 3}
		b.given(mine)
		b.renew(mine, time.Hour)
		b.wait(1500 * time.Millisecond)
		s.set(apiSlow, 300*time.Millisecond)
		b.wait(700 * time.Millisecond)
		b.took()
		b.swap("n2", 4)
		b.wait(1200 * time.Millisecond)
		if got := b.took(); !strings.Contains(got, "swap to n2 ") {
			t.Fatalf("delivered %q: no word of the swap", got)
		}
		won := b.record().Holder == "n2"
		b.wait(20 * time.Second)
		if now := b.record().Holder == "n2"; won != now {
			t.Error("a renewal was written over the swap")
		}
	})
}

// TestElectorSwapRefused: somebody wrote meanwhile, or nobody answers.
func TestElectorSwapRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n1", Transitions: 3})
		s.set(apiHang, 0)
		b.swap("n2", 4)
		from := time.Now()
		b.wait(swapTimeout + time.Millisecond)
		b.expect("swap to n2 unanswered")
		if n := s.sent(from, "PUT", "apiserver"); n != 1 {
			t.Errorf("%d requests", n)
		}
		s.set(apiUp, 0)
		b.wait(time.Second)
		b.given(Record{Holder: "n3", Transitions: 5})
		b.swap("n2", 5)
		b.wait(100 * time.Millisecond)
		b.expect("swap to n2 lost, read n3/5")
		b.isRecord("n3/5")
	})
}

// TestElectorSwapsOnlyWhatWasDecidedOn: the record changed between the decision
// and the swap, for instance by the target's sign. The swap loses.
func TestElectorSwapsOnlyWhatWasDecidedOn(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n2", Transitions: 4, From: "n1"})
		old := b.record()
		b.given(Record{Holder: "n2", Transitions: 4})
		b.e.Do(Swap{Timeout: swapTimeout, Record: Record{Holder: "n3", Transitions: 5, From: "n1", Version: old.Version}})
		b.wait(100 * time.Millisecond)
		b.isRecord("n2/4")
		if got := b.took(); !strings.Contains(got, "swap to n3 lost") {
			t.Errorf("delivered %q", got)
		}
	})
}

// TestElectorWatchReturns: after an outage the watch shows what changed meanwhile
// within two seconds.
func TestElectorWatchReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.given(Record{Holder: "n2", Transitions: 3})
		s.set(apiRefuse, 0)
		b.wait(time.Minute)
		b.given(Record{Holder: "n3", Transitions: 4})
		s.set(apiUp, 0)
		b.wait(2 * time.Second)
		if l, _ := b.e.leases.last(); toView(l, everybody).Record.Holder != "n3" {
			t.Error("the watch has not come back")
		}
	})
}

// TestElectorDuplicateNode: a second agent of one name finds out and ends, the
// first goes on.
func TestElectorDuplicateNode(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		first := run(t, s, "n1", "a")
		first.wait(time.Minute)
		second := run(t, s, "n1", "b")
		first.wait(time.Minute)
		select {
		case err := <-second.ended:
			if !errors.Is(err, ErrDuplicateNode) {
				t.Errorf("ended with %v", err)
			}
		default:
			t.Error("the second agent goes on")
		}
		select {
		case err := <-first.ended:
			t.Errorf("the first one ended: %v", err)
		default:
		}
		first.wait(15 * time.Second)
		if l := s.get("node-n1"); *l.Spec.HolderIdentity != "a" {
			t.Errorf("the member Lease is %s's", *l.Spec.HolderIdentity)
		}
	})
}

// TestElectorRestartIsNoDuplicate: the same node's next agent, a moment later.
func TestElectorRestartIsNoDuplicate(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		first := run(t, s, "n1", "a")
		first.wait(4 * time.Second)
		first.stop()
		if err := <-first.ended; err != nil {
			t.Errorf("ended with %v", err)
		}
		second := run(t, s, "n1", "b")
		second.wait(2 * time.Minute)
		select {
		case err := <-second.ended:
			t.Errorf("ended with %v", err)
		default:
		}
	})
}

// TestElectorLeaves: leaving stays written although the member Lease is renewed.
func TestElectorLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.wait(9 * time.Second)
		if err := b.e.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if m, _ := toMember(s.get("node-n1")); m.Live {
				t.Fatalf("%.1fs after the start: live again", time.Since(b.start).Seconds())
			}
			b.wait(10 * time.Second)
		}
	})
}

// TestMain takes client-go's error handlers away: one of them keeps the time of
// the last error of all tests, which means nothing from one bubble to the next.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	m.Run()
}
