package vip

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// listForwards are our forwards as the kernel has them, "" without any.
func listForwards(nft string) string {
	out, _ := exec.Command(nft, "list", "table", "netdev", forwardTable).Output()
	return string(out)
}

// TestForwardsOutliveAFlushAndAFailure: somebody flushes all tables, and nft fails
// when ours is to be set again; later it is.
func TestForwardsOutliveAFlushAndAFailure(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	l := New(Options{Now: boottime})
	l.drains.patient()
	run(t, l)
	must(t, l.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", lab.link, "10.7.0.2")}))
	path := os.Getenv("PATH")
	real, err := exec.LookPath("nft")
	must(t, err)
	calls := fakeNFT(t, "exit 1")
	must(t, exec.Command(real, "flush", "ruleset").Run())
	eventually(t, 10*time.Second, "it fails twice", func() bool { return calls() > 1 })
	if len(l.Forwards()) != 1 {
		t.Error("the forward is forgotten")
	}
	must(t, os.Setenv("PATH", path))
	eventually(t, 10*time.Second, "the forward is back", func() bool {
		return strings.Contains(listForwards("nft"), "fwd ip to")
	})
}

// TestPartAfterAFlush: a change that comes before the flush is noticed sets all of
// them again, not its part alone.
func TestPartAfterAFlush(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	l := New(Options{Now: boottime})
	l.drains.patient()
	first, second := forwardTo("10.7.0.9", lab.link, "10.7.0.2"), forwardTo("10.7.0.8", lab.link, "10.7.0.2")
	must(t, l.Forward(t.Context(), []lb.Forward{first, second}))
	must(t, exec.Command("nft", "flush", "ruleset").Run())
	second.To = first.To.Next()
	must(t, l.Forward(t.Context(), []lb.Forward{first, second}))
	if n := strings.Count(listForwards("nft"), "fwd ip to"); n != 2 {
		t.Errorf("%d forwards, want 2:\n%s", n, listForwards("nft"))
	}
}

// TestFailedForwardGoes: nft did what it was told and was too slow to say so; what
// was reported as failed does not stay, and the rest does.
func TestFailedForwardGoes(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	l := New(Options{Now: boottime})
	l.drains.ruling = 3 * time.Second
	run(t, l)
	first, second := forwardTo("10.7.0.9", lab.link, "10.7.0.2"), forwardTo("10.7.0.8", lab.link, "10.7.0.2")
	must(t, l.Forward(t.Context(), []lb.Forward{first}))
	eventually(t, 10*time.Second, "Run has compared all", func() bool {
		l.drains.mu.Lock()
		defer l.drains.mu.Unlock()
		return l.drains.done
	})
	path := os.Getenv("PATH")
	real, err := exec.LookPath("nft")
	must(t, err)
	marker := t.TempDir() + "/once"
	fakeNFT(t, "[ -e "+marker+" ] && exec "+real+" -f -; touch "+marker+"; "+real+" -f -; exec sleep 20")
	failed := make(chan error)
	go func() { failed <- l.Forward(t.Context(), []lb.Forward{first, second}) }()
	eventually(t, 10*time.Second, "it stands", func() bool {
		return strings.Contains(listForwards(real), "10.7.0.8")
	})
	wantError(t, <-failed, "no answer")
	must(t, os.Setenv("PATH", path))
	eventually(t, 10*time.Second, "it goes", func() bool { return !strings.Contains(listForwards("nft"), "10.7.0.8") })
	if !strings.Contains(listForwards("nft"), "10.7.0.9") || len(l.Forwards()) != 1 {
		t.Errorf("the other: %v\n%s", l.Forwards(), listForwards("nft"))
	}
}
