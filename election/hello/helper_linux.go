package hello

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Why a process of its own: a thread of the agent at real-time priority still
// needs the Go scheduler's locks, and waits, or spins, while an ordinary thread
// that holds one is not running (Go 1.26, runtime exitsyscall: a thread cannot
// return from a system call while the monitor looks at it). Under load that cost
// stalls of a quarter of a second, so false downs. In the helper all threads have
// the same priority: the highest ordinary one. With SCHED_FIFO for all, two of them
// were seen to spin on two cores from their start, until the whole machine stood
// still; why is not known.

const (
	// helperPause is the time before a helper that ended is started again, doubled
	// up to helperRest each time that one lived for less than helperLife: a fault
	// that comes at once shall not take a core by its priority.
	helperPause = 100 * time.Millisecond
	helperRest  = 10 * time.Second
	helperLife  = 10 * time.Second
	// helperGrace is the time that a helper has to end when it is told to.
	helperGrace = time.Second
	// A helper that takes more than half a core, looked at every busyEvery, is out of
	// its mind: 300 peers cost a fifth of one. RLIMIT_RTTIME would not end it, as it
	// counts threads, among which Go moves a goroutine.
	busyEvery = 2 * time.Second
	// beatEvery is how often beats are passed on, statusEvery a status.
	beatEvery   = 100 * time.Millisecond
	statusEvery = 250 * time.Millisecond
	// statusLimit is how old a helper's status may be before it is in trouble.
	statusLimit = 3 * time.Second
)

// order is what the agent tells its helper; only what is not nil has changed.
type order struct {
	Start *startOrder
	Peers *peersOrder
	Keys  *keysOrder
	Says  *saysOrder
	Beat  lb.Instant
}

// The parts of an order. They are structs as gob does not tell an empty list from
// none.
type (
	startOrder struct {
		Node       string
		Interval   time.Duration
		Multiplier int
		Port       uint16
	}
	peersOrder struct{ All []Target }
	keysOrder  struct{ Secrets [][]byte }
	saysOrder  struct{ All []Group }
)

// tidings are what the helper tells its agent.
type tidings struct {
	Change *Change
	Status *Status
	Note   string
	Args   []string
}

// helper is what the agent knows of its helper.
type helper struct {
	poke chan struct{} // something is to be told
	// What was told to the running helper; only its writer touches it.
	peers *[]Target
	keys  *[]Key
	says  *[]Group

	mu      sync.Mutex
	status  Status
	at      lb.Instant // of the status, 0 for none
	trouble string
	known   map[string]bool // peers not reported Unknown
}

// newHelper returns a helper that does not run yet.
func newHelper() *helper { return &helper{poke: make(chan struct{}, 1), known: map[string]bool{}} }

// nudge wakes the writer.
func (h *helper) nudge() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// runHelper keeps a helper running until ctx ends.
func (l *Loop) runHelper(ctx context.Context) {
	pause := helperPause
	for {
		begun := l.opt.Now()
		err := l.oneHelper(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.opt.Now()-begun > helperLife {
			pause = helperPause
		}
		l.opt.Log.Warn("the hello helper ended, starting it again", "err", err)
		l.bereaved(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, helperRest)
	}
}

// bereaved takes back what the ended helper said of the peers.
func (l *Loop) bereaved(err error) {
	h := l.helper
	h.mu.Lock()
	h.trouble, h.at = fmt.Sprintf("no hellos: their process ended: %v", err), 0
	// Nobody watches these peers now; what was Up must not stay so.
	known := h.known
	h.known = map[string]bool{}
	h.mu.Unlock()
	for node := range known {
		l.opt.Changed(Change{Node: node})
	}
}

// oneHelper runs one helper to its end, which is always an error.
func (l *Loop) oneHelper(ctx context.Context) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %v", err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "helper"), os.NewFile(uintptr(ends[1]), "agent")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return fmt.Errorf("use a socket pair: %v", err)
	}
	defer conn.Close()
	cmd := exec.Command(l.opt.Helper[0], l.opt.Helper[1:]...)
	// The helper ends when this closes, so that it never outlives the agent.
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	err = l.startHigh(cmd)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start %s: %v", l.opt.Helper[0], err)
	}
	// Closing is the only way to end it: it ignores the signals of the agent.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { l.command(conn, ended) })
	var busy error
	writer.Go(func() { busy = l.guard(cmd.Process, ended) })
	err = l.listen(conn)
	close(ended)
	conn.Close()
	writer.Wait()
	// Whatever was started, it does not stay.
	end := time.AfterFunc(helperGrace, func() { _ = cmd.Process.Kill() })
	defer end.Stop()
	return errors.Join(busy, err, cmd.Wait())
}

// guard kills a helper that spins, as at its priority it would take a core from
// everybody else, and one that says nothing more: its last words would stand.
func (l *Loop) guard(p *os.Process, ended <-chan struct{}) error {
	every := time.NewTicker(busyEvery)
	defer every.Stop()
	last, at, begun := time.Duration(0), time.Now(), l.opt.Now()
	for {
		select {
		case <-ended:
			return nil
		case <-every.C:
		}
		used, err := cpuTime(p.Pid)
		if err != nil {
			return nil // it has ended
		}
		now := time.Now()
		spent, passed := used-last, now.Sub(at)
		why := ""
		switch {
		case spent > passed/2:
			why = fmt.Sprintf("it took %v of processor time in %v", spent, passed)
		case passed < 2*busyEvery && l.opt.Now()-max(begun, l.helper.lastStatus()) > statusLimit:
			// And not this process, which has just run in time.
			why = fmt.Sprintf("it said nothing for %v", statusLimit)
		}
		if why != "" {
			_ = p.Kill()
			return fmt.Errorf("%s and was killed", why)
		}
		last, at = used, now
	}
}

// lastStatus is when the last status came, 0 before the first.
func (h *helper) lastStatus() lb.Instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

// cpuTime is the processor time that all threads of a process have had
// (clock_getcpuclockid(3)).
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|sched), &t)
	return time.Duration(t.Nano()), err
}

// startHigh starts the command with the highest ordinary priority, if that is
// allowed: a process inherits it from the thread that starts it (sched(7)).
func (l *Loop) startHigh(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		// Never unlocked, so that the thread ends here, if it is not the main one.
		runtime.LockOSThread()
		if l.enter != nil {
			if err := l.enter(); err != nil {
				started <- err
				return
			}
		}
		before, err := niceness()
		// Refused: the helper tries again, and tells why it runs slowly.
		_ = setNice(highest)
		ended := cmd.Start()
		if err == nil {
			_ = setNice(before)
		}
		started <- ended
	}()
	return <-started
}

// command tells the helper what is wanted until it has ended.
func (l *Loop) command(conn net.Conn, ended <-chan struct{}) {
	h := l.helper
	// A new helper knows nothing.
	h.peers, h.keys, h.says = nil, nil, nil
	out := gob.NewEncoder(conn)
	o := order{Start: &startOrder{l.opt.Node, l.opt.Interval, l.opt.Multiplier, l.opt.Port}}
	for {
		l.fill(&o)
		if out.Encode(o) != nil {
			return // listen has the error
		}
		o = order{}
		select {
		case <-h.poke:
		case <-ended:
			return
		}
	}
}

// fill puts into the order what the helper does not know yet.
func (l *Loop) fill(o *order) {
	h := l.helper
	// Each wish is a new slice, so that its address tells whether it is new.
	if keys := l.keys.Load(); keys != h.keys {
		h.keys, o.Keys = keys, &keysOrder{}
		for _, k := range *keys {
			o.Keys.Secrets = append(o.Keys.Secrets, k.secret[:])
		}
	}
	if peers := l.targets.Load(); peers != h.peers {
		h.peers, o.Peers = peers, &peersOrder{*peers}
	}
	if says := l.says.Load(); says != h.says {
		h.says, o.Says = says, &saysOrder{*says}
	}
	o.Beat = lb.Instant(l.beat.Load())
}

// listen takes the helper's tidings until it ends.
func (l *Loop) listen(conn net.Conn) error {
	in := gob.NewDecoder(conn)
	for {
		var t tidings
		if err := in.Decode(&t); err != nil {
			return fmt.Errorf("hear the helper: %v", err)
		}
		switch {
		case t.Change != nil:
			l.changedFar(*t.Change)
		case t.Status != nil:
			l.helper.mu.Lock()
			l.helper.status, l.helper.at, l.helper.trouble = *t.Status, l.opt.Now(), ""
			l.helper.mu.Unlock()
		default:
			args := make([]any, len(t.Args))
			for i := range t.Args {
				args[i] = t.Args[i]
			}
			l.opt.Log.Warn(t.Note, args...)
		}
	}
}

// changedFar passes a change on.
func (l *Loop) changedFar(c Change) {
	h := l.helper
	h.mu.Lock()
	if c.State == election.PeerUnknown {
		delete(h.known, c.Node)
	} else {
		h.known[c.Node] = true
	}
	h.mu.Unlock()
	l.opt.Changed(c)
}

// statusFar is the helper's last status, or what is wrong with it.
func (l *Loop) statusFar() Status {
	h := l.helper
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.trouble != "":
		return Status{Why: h.trouble}
	case h.at == 0:
		return Status{Why: "not running"}
	case l.opt.Now()-h.at > statusLimit:
		s := h.status
		s.Why = fmt.Sprintf("the hello helper has not answered for %v", l.opt.Now()-h.at)
		return s
	}
	return h.status
}
