package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"mooring.dev/mooring/internal/lb"
)

// ErrDuplicateNode is returned by Run when a second agent uses this node's name.
var ErrDuplicateNode = errors.New("another agent runs under this node's name: " +
	"give each node its own (`node:` in the configuration)")

const (
	// lookEvery is the LeaderElector's pace: an idle look wakes a processor, and what
	// is urgent does not wait for it.
	lookEvery = 250 * time.Millisecond
	// claimAgain is the time until a claim that failed is sent again.
	claimAgain = 20 * time.Millisecond
	// neverAgain is when a record is renewed that another Lease renews.
	neverAgain = lb.Instant(1<<63 - 1)
)

// Options are an elector's settings; all but Log are required.
type Options struct {
	// Config reaches every API server; it must not limit the request rate.
	Config    *rest.Config
	Namespace string
	// Group is the Lease's name, "" for none of its own: Deliver then gets nothing
	// but Members that means anything. Node is this node's, the holderIdentity.
	Group, Node  string
	Lease, Renew time.Duration
	// Member is what this node's member Lease says.
	Member Member
	// Identity tells this agent from another one of the same node name.
	Identity string
	// Now is CLOCK_BOOTTIME, Clock the time of day for renewTime.
	Now   func() lb.Instant
	Clock func() time.Time
	// Deliver takes the events; it must not block.
	Deliver func(Event)
	Log     *slog.Logger
}

// Elector reads and writes one group's Lease and this node's member Lease as a
// Machine wants it. It decides nothing.
type Elector struct {
	opt    Options
	client coordinationclient.LeaseInterface
	site   *site
	leases *leases // the group's part of site
	// quiet: a group whose Lease is written only when it changes; another Elector
	// watches and keeps the member Lease.
	quiet bool
	wish  atomic.Pointer[Lock]
	// writing holds a token while a write is under way.
	writing chan struct{}
	// tasks are requests of Do; Run carries them out.
	tasks   chan func(context.Context)
	leaving atomic.Bool
	// pools are what the member Lease says of them; told has one slot: they changed.
	pools atomic.Pointer[[]string]
	told  chan struct{}
	reads [2]atomic.Int32 // in flight: quick and patient ones

	mu       sync.Mutex
	renewAt  lb.Instant
	backoff  time.Duration
	retrying bool               // a failed write will be sent again
	restart  context.CancelFunc // ends the running LeaderElector
	ended    chan struct{}      // closed when it has ended
	said     map[string]string  // the last complaint of each kind, logged once
	firstRun lb.Instant
}

// NewElector prepares an elector; nothing is sent before Run.
func NewElector(opt Options) (*Elector, error) {
	cfg := rest.CopyConfig(opt.Config)
	cfg.QPS = -1
	c, err := coordinationclient.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for Leases: %v", err)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	e := newElector(opt, c.Leases(opt.Namespace), newSite(opt.Now))
	e.site.resolve = e.resolve
	// Without a group it has the members to deliver.
	e.leases = e.site.follow(opt.Group, opt.Deliver)
	return e, nil
}

func newElector(opt Options, client coordinationclient.LeaseInterface, s *site) *Elector {
	e := &Elector{
		opt: opt, client: client, site: s,
		tasks: make(chan func(context.Context), 16), writing: make(chan struct{}, 1), told: make(chan struct{}, 1),
		said: map[string]string{},
	}
	e.pools.Store(&opt.Member.Pools)
	e.wish.Store(&Lock{})
	return e
}

// Times of a group whose Lease is written only when it changes: its holder lives as
// long as its member Lease.
const (
	MemberLease = 3 * memberEvery
	MemberRenew = memberEvery
)

// Follow prepares an elector for another group of the same site, whose Lease is
// written only when it changes, so that the traffic at rest does not grow with
// groups. may says which members are its candidates, and may change their
// priority. It uses the watch and the member Lease of e, which must run; its own
// Run begins and ends the view.
func (e *Elector) Follow(group string, may func(Member) (Member, bool), deliver func(Event)) *Elector {
	opt := e.opt
	opt.Group, opt.Deliver, opt.Lease, opt.Renew = group, deliver, MemberLease, MemberRenew
	g := newElector(opt, e.client, e.site)
	g.quiet = true
	g.leases = e.site.prepare(group, deliver)
	g.leases.beats, g.leases.may = true, may
	return g
}

// HolderOf is whom a group's Lease names, as last seen by watch, "" for nobody. It
// need not be followed.
func (e *Elector) HolderOf(group string) string { return e.site.holder(group) }

// SetPools changes the pools that this node's member Lease says it can announce.
func (e *Elector) SetPools(pools []string) {
	if slices.Equal(pools, *e.pools.Load()) {
		return
	}
	pools = slices.Clone(pools)
	e.pools.Store(&pools)
	select {
	case e.told <- struct{}{}:
	default:
	}
}

// Allow changes which members are candidates.
func (e *Elector) Allow(may func(Member) (Member, bool)) { e.leases.allow(may) }

// Run watches the Leases, runs the LeaderElector and keeps the member Lease
// until ctx ends. It returns ErrDuplicateNode, or nil.
func (e *Elector) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, logr.Discard())
	e.firstRun = e.opt.Now()
	g, ctx := errgroup.WithContext(ctx)
	if e.quiet {
		e.site.enrol(e.leases)
		defer e.site.unfollow(e.leases)
	} else {
		g.Go(func() error { e.watch(ctx); return nil })
		g.Go(func() error { return e.keepMember(ctx) })
	}
	if e.opt.Group != "" && !e.quiet {
		g.Go(func() error { e.elect(ctx); return nil })
	}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case task := <-e.tasks:
				g.Go(func() error { task(ctx); return nil })
			}
		}
	})
	return g.Wait()
}

// Do carries out Lock, Read, Repair and Swap; it never blocks, results are
// delivered as events. Other actions are ignored.
func (e *Elector) Do(a Action) {
	switch a := a.(type) {
	case Lock:
		old := e.wish.Swap(&a)
		if old.Mode != LockClosed && a.Mode == LockClosed {
			e.stopElector()
		}
		if a.Mode == LockRenew && old.Mode != LockRenew {
			e.renewNow()
		}
		if a.Mode == LockClaim || a.Mode == LockRenew && old.Mode != LockRenew {
			e.updateSoon()
		}
	case Read:
		e.readSoon(a.Timeout)
	case Repair:
		e.enqueue(func(ctx context.Context) { e.repair(ctx, a.Record) })
	case Swap:
		e.enqueue(func(ctx context.Context) { e.swap(ctx, a) })
	}
}

// updateSoon writes what is due without waiting for the LeaderElector's next look.
func (e *Elector) updateSoon() {
	e.enqueue(func(ctx context.Context) { _ = (&lock{e}).Update(ctx, resourcelock.LeaderElectionRecord{}) })
}

// enqueue drops a task when sixteen wait: their answers are overdue anyway and
// the machine asks again.
func (e *Elector) enqueue(task func(context.Context)) {
	select {
	case e.tasks <- task:
	default:
	}
}

// watch follows the namespace's Leases; after an API outage it is back within
// a second of the server, not after client-go's thirty.
func (e *Elector) watch(ctx context.Context) {
	lw := &cache.ListWatch{
		ListWithContextFunc:  listLeases(e.client),
		WatchFuncWithContext: watchLeases(e.client),
	}
	quiet := logr.Discard()
	r := cache.NewReflectorWithOptions(lw, &coordination.Lease{}, e.site, cache.ReflectorOptions{
		Name: "leases", Logger: &quiet,
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Steps: 3, Cap: time.Second, Jitter: 0.2},
	})
	tick := time.NewTicker(memberEvery / 2)
	defer tick.Stop()
	go r.RunWithContext(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.site.tellMembers() // some may have grown too old
		}
	}
}

// elect runs client-go's LeaderElector over and over: its end means nothing,
// won and lost come from the lock and the watch.
func (e *Elector) elect(ctx context.Context) {
	for ctx.Err() == nil {
		le, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &lock{e}, LeaseDuration: e.opt.Lease, RenewDeadline: e.opt.Lease * 2 / 3,
			RetryPeriod: lookEvery, Name: e.opt.Group,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			panic("election: " + err.Error()) // constants above, checked by a test
		}
		run, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		e.mu.Lock()
		e.restart, e.ended = cancel, ended
		e.mu.Unlock()
		le.Run(run)
		cancel()
		close(ended)
	}
}

// stopElector ends the running LeaderElector; a new one starts by itself.
func (e *Elector) stopElector() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.restart == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	e.restart()
	return e.ended
}

// nextRenewal is when the record shall be written again.
func (e *Elector) nextRenewal() lb.Instant {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.renewAt
}

// renewNow makes the next Update write, without waiting for the period: a new
// holder's first renewal is its sign.
func (e *Elector) renewNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewAt = 0
}

// wrote plans the next write after one begun at begun.
func (e *Elector) wrote(begun lb.Instant, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.renewAt, e.backoff = begun+e.opt.Renew, 0
		if e.quiet {
			e.renewAt = neverAgain
		}
		return
	}
	e.backoff = min(max(2*e.backoff, 50*time.Millisecond), time.Second)
	e.renewAt = e.opt.Now() + e.backoff
	pause := e.backoff
	if e.wish.Load().Mode == LockClaim {
		pause = claimAgain // what takes over from a dead holder does not wait longer
	}
	if e.retrying {
		return // one at a time, whoever wrote
	}
	e.retrying = true
	time.AfterFunc(pause, func() {
		e.mu.Lock()
		e.retrying = false
		e.mu.Unlock()
		e.updateSoon()
	})
}

// readSoon reads the group's Lease; one quick read and a few patient ones may
// be in flight at a time.
func (e *Elector) readSoon(timeout time.Duration) {
	flight, most := &e.reads[0], int32(1)
	if timeout > readTimeout {
		flight, most = &e.reads[1], 5
	}
	if flight.Add(1) > most {
		flight.Add(-1)
		return
	}
	e.enqueueRead(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		begun := e.opt.Now()
		l, err := e.client.Get(ctx, e.opt.Group, meta.GetOptions{})
		flight.Add(-1)
		switch {
		case err == nil:
			if h := l.Spec.HolderIdentity; e.quiet && h != nil && *h != e.opt.Node {
				e.resolve(*h) // the record is as old as this
			}
			e.leases.seen(l, number(l.ResourceVersion), ByRead, begun)
		case isMissing(err):
			last, _ := e.leases.last()
			version := uint64(0)
			if last != nil {
				version = number(last.ResourceVersion) + 1
			}
			e.leases.seen(nil, version, ByRead, begun)
		default:
			e.complain("read of the Lease failed", err)
			e.opt.Deliver(ReadFailed{Begun: begun})
		}
	}, flight)
}

// enqueueRead gives the flight back when there is no room for the task.
func (e *Elector) enqueueRead(task func(context.Context), flight *atomic.Int32) {
	select {
	case e.tasks <- task:
	default:
		flight.Add(-1)
	}
}

// repair writes our record over whatever is there now.
func (e *Elector) repair(ctx context.Context, r Record) {
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	base, _ := e.leases.last()
	if v := toView(base, e.leases.known); v.Sound && v.Candidate && v.Record.Transitions > r.Transitions {
		return // taken meanwhile: that is no damage
	}
	_ = e.write(ctx, r, base) // the view that follows tells
}

// swap replaces our own record, after the elector has ended: its next renewal
// would steal the group back.
func (e *Elector) swap(ctx context.Context, a Swap) {
	<-e.stopElector()
	e.writing <- struct{}{}
	defer func() { <-e.writing }()
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	base, _ := e.leases.last()
	if v := toView(base, e.leases.known); !v.Sound || v.Record.Version != a.Record.Version ||
		v.Record.Transitions >= a.Record.Transitions {
		e.readSoon(readTimeout)
		e.opt.Deliver(Swapped{To: a.Record.Holder, Result: SwapLost})
		return
	}
	err := e.put(ctx, a.Record, base)
	result := SwapWon
	switch {
	case err == nil:
	case apierrors.IsConflict(err) || isMissing(err):
		result = SwapLost
	default:
		result = SwapUnanswered
	}
	e.opt.Deliver(Swapped{To: a.Record.Holder, Result: result})
}

// resolve asks for the member Lease of a holder that no watch has shown yet.
func (e *Elector) resolve(node string) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	if l, err := e.client.Get(ctx, memberName+node, meta.GetOptions{}); err == nil {
		e.site.putMember(l)
	}
}

// complain logs a failure once until it changes: an API outage is one line,
// not a thousand.
func (e *Elector) complain(what string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if text := err.Error(); text != e.said[what] {
		e.said[what] = text
		e.opt.Log.Warn(what, "lease", e.opt.Namespace+"/"+e.opt.Group, "err", err)
	}
}
