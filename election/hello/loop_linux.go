package hello

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

const (
	// beatLimit is how long the state loop may be silent before the hellos are:
	// a live thread must never cover a dead agent.
	beatLimit = time.Second
	// plainFactor slows the hellos of a thread that ordinary ones can hold up.
	plainFactor = 6
	// noteLimit is how many log lines wait for a slow logger; more are dropped.
	noteLimit = 64
)

// Options are a Loop's constants.
type Options struct {
	// Node is this node's name.
	Node string
	// Interval is how often hellos are sent, 10 ms to 10 s; 0 is 50 ms. Without
	// precedence it becomes six times as long.
	Interval time.Duration
	// Multiplier is how many intervals of silence mean Down to the peers, 2 to 10;
	// 0 is 3.
	Multiplier int
	// Port is the UDP port, the same on all nodes.
	Port uint16
	// Now reads CLOCK_BOOTTIME.
	Now func() lb.Instant
	// Helper is a command that calls Serve, for a process of its own to do the
	// work in: only so no load on the node makes peers down. Empty is a thread of
	// this process. Status is up to a quarter of a second old with a helper.
	Helper []string
	// Log gets what was refused, once a minute per peer and reason; nil is silent.
	Log *slog.Logger
	// Changed is called at each change of a peer, in order, never twice at once; it
	// must not block: without a helper no hello is sent while it runs.
	Changed func(Change)
}

// Change is a peer whose state, run or words have changed.
type Change struct {
	Node  string
	State election.PeerState
	// Heard is when its last hello came, 0 for never.
	Heard lb.Instant
	// Groups is what it said last, also when it is Down. The receiver may keep it.
	Groups map[string]election.Say
}

// Target is a node to speak with: its own address, global and of the link's
// subnet, and the link by which alone its hellos count.
type Target struct {
	Node string
	Addr netip.Addr
	Link string
	// Also are further addresses from which it may send: its kernel chooses, and
	// chooses anew when addresses come and go. What is not set counts not.
	Also [moreAddrs]netip.Addr
}

// moreAddrs is how many addresses of a node count beside the one that is sent to.
const moreAddrs = 7

// SetAlso takes of its addresses those that could be sources of its hellos.
func (t *Target) SetAlso(addrs []netip.Addr) {
	n := 0
	for _, a := range addrs {
		if a = a.Unmap(); n < moreAddrs && a != t.Addr.Unmap() && a.Is4() == t.Addr.Unmap().Is4() {
			t.Also[n] = a
			n++
		}
	}
}

// Loop sends hellos to the peers and hears theirs, on one thread of its own. All
// methods may be called at any time, also before Run; none blocks.
type Loop struct {
	opt Options

	// What the thread shall do, the newest wish only; nil is no new wish. No locks:
	// an ordinary thread that sleeps with one would hold up that one.
	targets atomic.Pointer[[]Target]
	keys    atomic.Pointer[[]Key]
	says    atomic.Pointer[[]Group]
	unsaid  atomic.Pointer[string] // what Say could not say, or nil
	beat    atomic.Int64           // an lb.Instant, 0 before the first
	ended   atomic.Bool

	// mu keeps the eventfd open while it is written to; the thread takes it only
	// to open and to close it.
	mu   sync.Mutex
	bell int // -1 while not running

	view  atomic.Pointer[view] // what Status reads
	notes chan note

	helper *helper    // nil without Options.Helper
	logged func(note) // writes a note to the log

	// For tests: called on the new thread first (to enter a namespace), and to
	// give it precedence.
	enter, precede func() error
}

// note is a line for the log, written by another goroutine: a blocked logger must
// not hold up the hellos.
type note struct {
	text string
	args []any
}

// New returns a loop without peers and keys.
func New(opt Options) *Loop {
	if opt.Interval == 0 {
		opt.Interval = 50 * time.Millisecond
	}
	if opt.Multiplier == 0 {
		opt.Multiplier = 3
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Changed == nil {
		opt.Changed = func(Change) {}
	}
	l := &Loop{opt: opt, bell: -1, notes: make(chan note, noteLimit), precede: precede}
	l.logged = func(n note) { opt.Log.Warn(n.text, n.args...) }
	if len(opt.Helper) > 0 {
		l.helper = newHelper()
	}
	return l
}

// check says what is wrong with the options.
func (l *Loop) check() error {
	switch {
	case !validName(l.opt.Node):
		return fmt.Errorf("node name %q: %w", l.opt.Node, errName)
	case l.opt.Interval < MinInterval || l.opt.Interval > MaxInterval:
		return fmt.Errorf("hello interval %v: it must be %v to %v", l.opt.Interval, MinInterval, MaxInterval)
	case l.opt.Multiplier < MinMultiplier || l.opt.Multiplier > MaxMultiplier:
		return fmt.Errorf("hello multiplier %d: it must be %d to %d", l.opt.Multiplier, MinMultiplier, MaxMultiplier)
	case l.opt.Port == 0:
		return errors.New("no hello port: name a UDP port, the same on all nodes")
	case l.opt.Now == nil:
		return errors.New("the hello loop has no clock")
	}
	return nil
}

// Run speaks with the peers until ctx ends, which is no error. It may be called
// once.
func (l *Loop) Run(ctx context.Context) error {
	if err := l.check(); err != nil {
		return err
	}
	if l.helper != nil {
		l.runHelper(ctx)
		return nil
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("make an eventfd: %v", err)
	}
	l.hang(bell)
	defer l.hang(-1)
	stop := context.AfterFunc(ctx, func() {
		l.ended.Store(true)
		l.ring()
	})
	defer stop()
	done := make(chan error, 1)
	go func() {
		// Never unlocked, so that the thread ends here with its priority.
		runtime.LockOSThread()
		done <- l.thread(bell)
	}()
	for {
		select {
		case n := <-l.notes:
			l.logged(n)
		case err := <-done:
			return err
		}
	}
}

// thread is the life of the loop's thread.
func (l *Loop) thread(bell int) error {
	if l.enter != nil {
		if err := l.enter(); err != nil {
			return err
		}
	}
	w := newWorker(l, bell)
	defer w.close()
	w.run()
	return nil
}

// hang makes fd the bell, -1 for none, and closes the one before.
func (l *Loop) hang(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bell >= 0 {
		unix.Close(l.bell)
	}
	l.bell = fd
}

// ring wakes whoever does the work.
func (l *Loop) ring() {
	if l.helper != nil {
		l.helper.nudge()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bell >= 0 {
		// A full counter fails, and has rung already (eventfd(2)).
		_, _ = unix.Write(l.bell, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// SetPeers replaces the peers. One that stays, by its node's name, keeps its
// state; one that goes is reported Unknown. Targets that cannot be spoken with
// are told in Status.
func (l *Loop) SetPeers(targets []Target) {
	targets = slices.Clone(targets)
	l.targets.Store(&targets)
	l.ring()
}

// SetKeys replaces the keys: the first seals, all open. Without keys the loop is
// silent and deaf.
func (l *Loop) SetKeys(keys []Key) {
	keys = slices.Clone(keys)
	l.keys.Store(&keys)
	l.ring()
}

// Say replaces what the hellos say of the groups. A change goes to all peers at
// once. What does not fit or has a name that cannot be said is left out: the
// error, also in Status, says what.
func (l *Loop) Say(groups map[string]election.Say) error {
	all, err := fit(l.opt.Node, groups)
	if err != nil {
		text := err.Error()
		l.unsaid.Store(&text)
	} else {
		l.unsaid.Store(nil)
	}
	l.says.Store(&all)
	l.ring()
	return err
}

// Beat says that the state loop ran at now. Hellos stop when the last beat is a
// second old; the peers are heard all the same.
func (l *Loop) Beat(now lb.Instant) {
	last := lb.Instant(l.beat.Swap(int64(now)))
	// The helper counts by the last beat told, so it may be silent a little early.
	if l.helper != nil && (last == 0 || now/beatEvery != last/beatEvery) {
		l.helper.nudge()
	}
}

// silent says whether the state loop has stalled, or has not run at all.
func (l *Loop) silent(now lb.Instant) bool {
	beat := lb.Instant(l.beat.Load())
	return beat == 0 || now-beat >= beatLimit
}
