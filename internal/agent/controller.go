package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/lb"
)

// Verdict is what the controller has decided for a Service.
type Verdict struct {
	Key lb.ServiceKey
	UID string
	// Addresses are what its status shall show, in the order of its families; none
	// clears it. Proxy says that HAProxy serves them (ipMode, KEP-1860).
	Addresses []netip.Addr
	Proxy     bool
	Pool      string
	// Refused is why it does not have what it asks for, also beside addresses that it
	// keeps; nil is all well.
	Refused *ipam.Refusal
	// Issues are values of the Service that are not used. Lost says, once, why it does
	// not have an address any more that it had.
	Issues, Lost []lb.Issue
	// Foreign are addresses that it was about to get and that another host has, told
	// once.
	Foreign []ipam.Foreign
	// Again: only ipMode is in question, and people have been told the rest. Insist:
	// it is asked for although the API server dropped it before.
	Again, Insist bool
	// Left: it is not ours any more, and what we wrote goes; so do the Addresses, which
	// are ours and still in its status. Nothing else is set.
	Left bool
	// Unread: it has no address since the pools are not known. Nothing else is set.
	Unread bool
}

// equal says whether writing the one would say nothing new after the other.
func (v Verdict) equal(o Verdict) bool {
	same := v.Refused == nil && o.Refused == nil || v.Refused != nil && o.Refused != nil && *v.Refused == *o.Refused
	return same && v.Key == o.Key && v.UID == o.UID && v.Proxy == o.Proxy && v.Pool == o.Pool &&
		slices.Equal(v.Addresses, o.Addresses) && slices.Equal(v.Issues, o.Issues)
}

// Verdicts tells the cluster what was decided. Both calls are idempotent, may take
// seconds and are repeated after an error.
type Verdicts interface {
	// Service writes the status of a Service, its conditions and Events, or takes them
	// from one that is not ours any more. A Service that is gone or another one by now is
	// no error.
	Service(context.Context, Verdict) error
	// Pools writes the numbers of all pools, and the addresses that nobody gets because
	// another host has them, sorted.
	Pools(context.Context, []ipam.Stats, []ipam.Foreign) error
}

// ControllerOptions are what a Controller is made of.
type ControllerOptions struct {
	Verdicts Verdicts
	// Wire is asked before an address is given; nil is nobody.
	Wire Wire
	Log  *slog.Logger
}

// Controller gives the Services their addresses, on whichever node leads. It keeps
// nothing that a status does not say: another node takes over without changing any
// address.
type Controller struct {
	opt  ControllerOptions
	wake chan struct{} // one slot: something below has changed

	mu       sync.Mutex
	services map[lb.ServiceKey]lb.Service
	pools    []lb.Pool
	// synced: all Services and pools are known; dirty are those changed since the last
	// look, poolsDirty the same of the pools.
	synced     bool
	dirty      map[lb.ServiceKey]bool
	poolsDirty bool
	// left are Services that may have something of ours and are not ours.
	left map[lb.ServiceKey]Verdict
}

// maxLeft bounds what is remembered of Services that left while another node leads.
const maxLeft = 256

// NewController starts nothing.
func NewController(opt ControllerOptions) *Controller {
	return &Controller{
		opt: opt, wake: make(chan struct{}, 1),
		services: map[lb.ServiceKey]lb.Service{}, dirty: map[lb.ServiceKey]bool{},
		left: map[lb.ServiceKey]Verdict{},
	}
}

// SetService takes a Service as it is now, nil when it is gone or not ours any more.
func (c *Controller) SetService(key lb.ServiceKey, s *lb.Service) {
	c.mu.Lock()
	if s == nil {
		delete(c.services, key)
	} else {
		c.services[key] = *s
		delete(c.left, key)
	}
	c.dirty[key] = true
	c.mu.Unlock()
	c.knock()
}

// SetLeft takes a Service that is not ours any more, or gone, and the addresses that its
// status still has; without a UID there is nothing of ours on it.
func (c *Controller) SetLeft(key lb.ServiceKey, uid string, addrs []netip.Addr) {
	c.mu.Lock()
	delete(c.left, key)
	if uid != "" && len(c.left) < maxLeft {
		c.left[key] = Verdict{Key: key, UID: uid, Addresses: addrs, Left: true}
	}
	c.mu.Unlock()
	c.knock()
}

// SetPools takes all pools as they are now.
func (c *Controller) SetPools(pools []lb.Pool) {
	c.mu.Lock()
	c.pools, c.poolsDirty = slices.Clone(pools), true
	c.mu.Unlock()
	c.knock()
}

// Synced says that everything there is was told once: before, nothing is given, or
// a newcomer would get the address of a Service that was not told yet.
func (c *Controller) Synced() {
	c.mu.Lock()
	c.synced = true
	c.mu.Unlock()
	c.knock()
}

// knock wakes the term that runs, if any.
func (c *Controller) knock() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Lead decides until ctx ends, which is when another node may lead. It may be called
// again then, never twice at once.
func (c *Controller) Lead(ctx context.Context) {
	t := &tenure{c: c, alloc: ipam.New(), writer: newWriter(c.opt), said: map[lb.ServiceKey]Verdict{},
		modeless: map[lb.ServiceKey]bool{}, contested: map[lb.ServiceKey][]ipam.Foreign{}}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { t.writer.run(ctx) })
	c.knock() // what is known already
	again := time.NewTicker(askAgain)
	defer again.Stop()
	unread := time.NewTimer(unreadAfter)
	defer unread.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			t.look(ctx)
		case <-again.C:
			t.insist()
			t.absolve(ctx)
		case <-unread.C:
			t.unread = map[lb.ServiceKey]string{}
			t.tellUnread()
		}
	}
}

// tenure is one time of leading.
type tenure struct {
	c      *Controller
	alloc  *ipam.Allocator
	writer *writer
	// replayed: the Services' own addresses were taken over.
	replayed bool
	said     map[lb.ServiceKey]Verdict
	// modeless are proxied Services whose ipMode the API server does not keep.
	modeless map[lb.ServiceKey]bool
	// held are verdicts with addresses for which the wire has not been asked yet, contested
	// those that were to be given.
	held      []held
	contested map[lb.ServiceKey][]ipam.Foreign
	// turn is which quarantined address was asked for last.
	turn int
	// unread are those told that the pools are not known, by UID; nil before it is time.
	unread map[lb.ServiceKey]string
	// freed is what of alloc.Freed those that wait have been tried for.
	freed uint64
}

// look takes what has changed and decides.
func (t *tenure) look(ctx context.Context) {
	c := t.c
	c.mu.Lock()
	if !c.synced {
		c.mu.Unlock()
		t.tellUnread()
		return
	}
	dirty, pools, poolsDirty, left := c.dirty, c.pools, c.poolsDirty, c.left
	c.dirty, c.poolsDirty, c.left = map[lb.ServiceKey]bool{}, false, map[lb.ServiceKey]Verdict{}
	if !t.replayed {
		for key := range c.services {
			dirty[key] = true
		}
	}
	changed := make(map[lb.ServiceKey]*lb.Service, len(dirty))
	for key := range dirty {
		changed[key] = nil
		if s, ok := c.services[key]; ok {
			changed[key] = &s
		}
	}
	c.mu.Unlock()
	if poolsDirty || !t.replayed {
		t.setPools(pools, changed)
	}
	t.settle(ctx, changed)
	for _, key := range slices.Sorted(maps.Keys(left)) {
		t.leave(left[key], pools)
	}
}

// settle decides on what changed, with the wire's consent.
func (t *tenure) settle(ctx context.Context, changed map[lb.ServiceKey]*lb.Service) {
	t.decide(changed)
	for range rounds {
		t.prove(ctx)
		// An address refused may have freed one that others wait for.
		if t.alloc.Freed() == t.freed {
			break
		}
		t.decide(nil)
	}
	t.prove(ctx)
	t.writer.pools(t.alloc.Stats(), t.alloc.Quarantined())
}

// leave has what is ours taken from a Service that is not. Addresses are ours only if
// all of them are in pools: another load balancer may have written them since.
func (t *tenure) leave(v Verdict, pools []lb.Pool) {
	ours := func(ip netip.Addr) bool {
		return slices.ContainsFunc(pools, func(p lb.Pool) bool { return p.Contains(ip) })
	}
	for _, ip := range v.Addresses {
		if !ours(ip) {
			v.Addresses = nil
			break
		}
	}
	t.writer.service(v)
}

// setPools takes the pools and adds to changed what loses its address by them.
func (t *tenure) setPools(pools []lb.Pool, changed map[lb.ServiceKey]*lb.Service) {
	evicted := t.alloc.SetPools(pools)
	for _, key := range evicted {
		t.c.opt.Log.Warn("the Service's address is in no pool any more", "service", key)
	}
	t.add(changed, evicted)
	if !t.replayed {
		t.replayed = true
		var all []lb.Service
		for _, s := range changed {
			if s != nil {
				all = append(all, *s)
			}
		}
		t.alloc.Replay(all)
	}
}

// add looks Services up that are to be decided on too.
func (t *tenure) add(changed map[lb.ServiceKey]*lb.Service, keys []lb.ServiceKey) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	for _, key := range keys {
		if s, ok := t.c.services[key]; ok && changed[key] == nil {
			changed[key] = &s
		}
	}
}

// decide assigns what changed, first those that have an address and the older ones,
// and tries those again that wait when something became free.
func (t *tenure) decide(changed map[lb.ServiceKey]*lb.Service) {
	var live []*lb.Service
	for key, s := range changed {
		if s != nil {
			live = append(live, s)
			continue
		}
		t.alloc.Release(key)
		delete(t.said, key)
		delete(t.modeless, key)
		t.writer.forget(key)
	}
	slices.SortFunc(live, byTurn)
	for _, s := range live {
		t.assign(s, true)
	}
	// One that moves may free what another one waits for.
	for range rounds {
		if t.alloc.Freed() == t.freed {
			return
		}
		t.freed = t.alloc.Freed()
		waiting := t.alloc.Waiting()
		again := map[lb.ServiceKey]*lb.Service{}
		t.add(again, waiting)
		for _, key := range waiting {
			if s := again[key]; s != nil {
				t.assign(s, false)
			}
		}
	}
}

// rounds bounds how often those that wait are tried in one look; what is left is
// tried at the next change.
const rounds = 4

// byTurn orders Services: those with an address, then the older ones.
func byTurn(a, b *lb.Service) int {
	late := func(s *lb.Service) int {
		if len(s.Has) == 0 {
			return 1
		}
		return 0
	}
	return cmp.Or(late(a)-late(b), cmp.Compare(a.Born, b.Born), cmp.Compare(a.Key, b.Key))
}

// assign decides on one Service and says so. news: it is as the cluster has just
// told it, so what its status shows counts too; somebody may have edited it.
func (t *tenure) assign(s *lb.Service, news bool) {
	grant, err := t.alloc.Assign(*s)
	v := Verdict{
		Key: s.Key, UID: s.UID, Addresses: grant.Addresses, Pool: grant.Pool,
		Proxy: s.DataPath == lb.DataPathProxy, Issues: slices.Clone(s.Issues),
	}
	for _, w := range grant.Warnings {
		if strings.HasPrefix(w.Problem, ipam.NotKept) {
			v.Lost = append(v.Lost, w)
		} else {
			v.Issues = append(v.Issues, w)
		}
	}
	if errors.As(err, &v.Refused) && v.Refused.Reason == ipam.PoolsNotLoaded {
		return // the status stays as it is
	}
	if t.hold(s, v, news) {
		return
	}
	t.conclude(s, v, news)
}

// conclude says a verdict if it is news.
func (t *tenure) conclude(s *lb.Service, v Verdict, news bool) {
	v.Foreign = t.contested[s.Key]
	delete(t.contested, s.Key)
	last, told := t.said[s.Key]
	t.said[s.Key] = v
	say := !told || !last.equal(v) || news && (s.Foreign || !slices.Equal(s.Has, v.Addresses))
	if say {
		t.writer.service(v)
	}
	if news {
		t.modes(s, say)
	}
}

// writer tells the cluster, a few Services at a time and each one's newest verdict
// only; what failed is tried again with a growing pause.
type writer struct {
	opt ControllerOptions

	mu      sync.Mutex
	waiting map[lb.ServiceKey]Verdict
	order   []lb.ServiceKey
	// busy are those being written: an older verdict must not come after a newer.
	busy    map[lb.ServiceKey]bool
	stats   []ipam.Stats
	foreign []ipam.Foreign
	fresh   bool // stats and foreign are to be written
	ready   chan struct{}
}

const (
	writers    = 8
	writeFirst = 200 * time.Millisecond
	writeLast  = 10 * time.Second
	// statsEvery is the pace at which the pools' numbers are written: they are for
	// people, and a rollout changes them a hundred times a second.
	statsEvery = time.Second
)

func newWriter(opt ControllerOptions) *writer {
	return &writer{opt: opt, waiting: map[lb.ServiceKey]Verdict{}, busy: map[lb.ServiceKey]bool{}, ready: make(chan struct{}, writers)}
}

// service replaces what was to be said of the Service.
func (w *writer) service(v Verdict) {
	w.mu.Lock()
	if _, waits := w.waiting[v.Key]; !waits {
		w.order = append(w.order, v.Key)
	}
	w.waiting[v.Key] = v
	w.mu.Unlock()
	w.knock()
}

// knock wakes one that writes.
func (w *writer) knock() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// forget drops what was to be said of a Service that is gone.
func (w *writer) forget(key lb.ServiceKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, key)
	w.order = slices.DeleteFunc(w.order, func(k lb.ServiceKey) bool { return k == key })
}

// pools replaces what is to be said of the pools.
func (w *writer) pools(stats []ipam.Stats, foreign []ipam.Foreign) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(stats, w.stats) || !slices.Equal(foreign, w.foreign) {
		w.stats, w.foreign, w.fresh = stats, foreign, true
	}
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for range writers {
		all.Go(func() { w.work(ctx) })
	}
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.writePools(ctx)
		}
	}
}

// work writes Services one after the other.
func (w *writer) work(ctx context.Context) {
	for {
		v, ok := w.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-w.ready:
			}
			continue
		}
		w.write(ctx, v)
		w.mu.Lock()
		delete(w.busy, v.Key)
		w.mu.Unlock()
		w.knock() // a newer one may have waited for this
		if ctx.Err() != nil {
			return
		}
	}
}

// next takes the oldest verdict not yet taken.
func (w *writer) next() (Verdict, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.order, func(key lb.ServiceKey) bool { return !w.busy[key] })
	if i < 0 {
		return Verdict{}, false
	}
	key := w.order[i]
	w.order = slices.Delete(w.order, i, i+1)
	v := w.waiting[key]
	delete(w.waiting, key)
	w.busy[key] = true
	return v, true
}

// write says one verdict, and again until it is heard or a newer one waits.
func (w *writer) write(ctx context.Context, v Verdict) {
	for pause := writeFirst; ; pause = min(2*pause, writeLast) {
		err := w.opt.Verdicts.Service(ctx, v)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.opt.Log.Warn("status of the Service not written, trying again", "service", v.Key, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		w.mu.Lock()
		_, newer := w.waiting[v.Key]
		w.mu.Unlock()
		if newer {
			return
		}
	}
}

// writePools says the pools' numbers if they are new.
func (w *writer) writePools(ctx context.Context) {
	w.mu.Lock()
	stats, foreign, fresh := w.stats, w.foreign, w.fresh
	w.fresh = false
	w.mu.Unlock()
	if !fresh {
		return
	}
	if err := w.opt.Verdicts.Pools(ctx, stats, foreign); err != nil && ctx.Err() == nil {
		w.opt.Log.Warn("status of the pools not written, trying again", "err", err)
		w.mu.Lock()
		w.fresh = true
		w.mu.Unlock()
	}
}
