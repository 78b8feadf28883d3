package hello

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
)

// helperArg makes this test binary a helper.
const helperArg = "serve-hellos"

// spinArg makes it a helper that never pauses nor obeys.
const spinArg = "spin"

// withHelper has the options' work done by another process.
func withHelper(opt Options) Options {
	opt.Helper = []string{"/proc/self/exe", helperArg}
	return opt
}

// helped starts two agents, the first with a helper.
func helped(t *testing.T) (l *lab, a, b *agent) {
	t.Helper()
	l = newLab(t, 2)
	a = l.hosts[0].start(withHelper(l.hosts[0].options()), l.hosts[1].target())
	b = l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	a.await("n2", up)
	b.await("n1", up)
	return l, a, b
}

// helperOf finds the only helper that is a child of this process.
func helperOf(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	found := 0
	for _, path := range all {
		line, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		stat, _ := os.ReadFile(filepath.Dir(path) + "/stat")
		// The parent is the second field after the name in brackets (proc(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if strings.Contains(string(line), helperArg) && len(fields) > 1 && fields[1] == fmt.Sprint(os.Getpid()) {
			found = pid
		}
	}
	if found == 0 {
		t.Fatal("no helper runs")
	}
	return found
}

// TestHelper: with a helper all is as without one.
func TestHelper(t *testing.T) {
	l, a, b := helped(t)
	must(t, a.Say(term(5)), b.Say(term(6)))
	eventually(t, "what a says", func() bool { return b.await("n1", up).saysTerm(5) })
	eventually(t, "what b says", func() bool { return a.await("n2", up).saysTerm(6) })
	eventually(t, "the status", func() bool { p := a.peer("n2"); return p.State == up && p.Received > 0 })
	if s := a.Status(); !s.Precedence || s.Why != "" || s.Peers[0].Addr != l.hosts[1].v4() {
		t.Errorf("status %+v", s)
	}
	if err := a.Say(map[string]election.Say{"no name": {}}); err == nil || !strings.Contains(a.Status().Why, "no name") {
		t.Errorf("%v, status %q", err, a.Status().Why)
	}
	must(t, a.Say(nil))
	eventually(t, "that a says nothing more", func() bool { return len(b.await("n1", up).Groups) == 0 })

	a.beats.Store(false)
	b.await("n1", down)
	a.beats.Store(true)
	b.await("n1", up)

	a.SetKeys(nil)
	b.await("n1", down)
	a.SetKeys([]Key{keyOf(t, secretA)})
	b.await("n1", up)
	a.await("n2", up)

	a.SetPeers(nil)
	a.await("n2", unknown)
	b.await("n1", down)
}

// TestHelperThreads: the whole process has the priority, which is what it is for.
func TestHelperThreads(t *testing.T) {
	helped(t)
	pid := helperOf(t)
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		must(t, err)
		attr, err := unix.SchedGetAttr(tid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		must(t, err)
		if attr.Policy != unix.SCHED_NORMAL || attr.Nice != highest {
			t.Errorf("thread %d: policy %d, niceness %d", tid, attr.Policy, attr.Nice)
		}
	}
	// And this process has not, wherever its goroutines run. Its threads are not asked:
	// a loop without a helper that ended on the main one left that at its priority, unused.
	var ran sync.WaitGroup
	for range 64 {
		ran.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if nice, err := niceness(); err != nil || nice == highest {
				t.Errorf("a goroutine of the agent runs at niceness %d, %v", nice, err)
			}
		})
	}
	ran.Wait()
}

// TestHelperDies: what it said is taken back, and another one takes its place.
func TestHelperDies(t *testing.T) {
	_, a, b := helped(t)
	pid := helperOf(t)
	must(t, unix.Kill(pid, unix.SIGTERM)) // is meant for the agent
	a.awaitReceived("n2", 20)
	if got := helperOf(t); got != pid {
		t.Fatalf("helper %d ended by SIGTERM", pid)
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	a.await("n2", unknown)
	a.await("n2", up)
	eventually(t, "the peer hears the new one", func() bool { return b.peer("n1").State == up })
	eventually(t, "the status is well again", func() bool { return a.Status().Why == "" })
	if got := a.states("n2"); !slices.Contains(got, unknown) {
		t.Errorf("states %v", got)
	}
}

// TestHelperEnds: no helper outlives its agent's loop.
func TestHelperEnds(t *testing.T) {
	_, a, b := helped(t)
	pid := helperOf(t)
	a.stop()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("helper %d is still there: %v", pid, err)
	}
	b.await("n1", down)
}

// TestHelperMissing: a command that is not there is said and tried again.
func TestHelperMissing(t *testing.T) {
	l := newLab(t, 1)
	var log bytes.Buffer
	opt := l.hosts[0].options()
	opt.Helper, opt.Log = []string{"/no/such/helper"}, slog.New(slog.NewTextHandler(&log, nil))
	a := l.hosts[0].start(opt)
	eventually(t, "the status says why", func() bool { return strings.Contains(a.Status().Why, "/no/such/helper") })
	a.stop()
	if !strings.Contains(log.String(), "/no/such/helper") {
		t.Errorf("log %q", &log)
	}
}

// TestHelperSpins: the kernel ends what would take a core by its priority.
func TestHelperSpins(t *testing.T) {
	l := newLab(t, 1)
	opt := l.hosts[0].options()
	opt.Helper = []string{"/proc/self/exe", spinArg}
	a := l.hosts[0].start(opt)
	eventually(t, "the spinning helper is killed", func() bool { return strings.Contains(a.Status().Why, "killed") })
}

// TestHelperHangs: what says nothing more is replaced, or its last words would
// stand for ever.
func TestHelperHangs(t *testing.T) {
	_, a, _ := helped(t)
	pid := helperOf(t)
	must(t, unix.Kill(pid, unix.SIGSTOP))
	eventually(t, "another helper", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	a.await("n2", up)
	if got := a.states("n2"); !slices.Contains(got, unknown) {
		t.Errorf("states %v", got)
	}
}

// TestServeByHand: started without an agent it says so.
func TestServeByHand(t *testing.T) {
	for _, input := range []string{"", "hello\n", strings.Repeat("\xff", 100)} {
		cmd := exec.Command("/proc/self/exe", helperArg)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not by hand") {
			t.Errorf("%q: %v, %s", input, err, out)
		}
	}
}

// TestStatusFar: the status of a helper that hangs is not taken for the truth.
func TestStatusFar(t *testing.T) {
	now := time.Hour
	l := New(withHelper(Options{Node: "a", Port: port, Now: func() time.Duration { return now }}))
	if why := l.Status().Why; why != "not running" {
		t.Errorf("before: %q", why)
	}
	l.helper.status, l.helper.at = Status{Precedence: true}, now
	if s := l.Status(); !s.Precedence || s.Why != "" {
		t.Errorf("status %+v", s)
	}
	now += statusLimit + 1
	if why := l.Status().Why; !strings.Contains(why, "not answered") {
		t.Errorf("hanging: %q", why)
	}
	l.helper.known["b"] = true
	var gone []Change
	l.opt.Changed = func(c Change) { gone = append(gone, c) }
	l.bereaved(errors.New("killed"))
	if len(gone) != 1 || gone[0].Node != "b" || gone[0].State != unknown || !strings.Contains(l.Status().Why, "killed") {
		t.Errorf("changes %+v, status %q", gone, l.Status().Why)
	}
}
