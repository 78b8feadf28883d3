package vip

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mooring.dev/mooring/internal/lb"
)

const (
	defaultRate    = 100
	defaultRefresh = 30 * time.Second
)

// Options says how Links works and whom it tells. The callbacks are called
// from Run's goroutines and must not block; those left nil are not called.
type Options struct {
	// Now reads CLOCK_BOOTTIME. It must not be nil.
	Now func() lb.Instant
	// Log takes what goes wrong in the background; nil discards it.
	Log *slog.Logger
	// Rate is the most announcements over one interface in any second, 100
	// when 0. Some switches shut a port at 15.
	Rate int
	// Refresh is the period of the steady announcements, 30 s when 0. With
	// more addresses on an interface than Rate allows in it, it grows to
	// addresses/Rate seconds.
	Refresh time.Duration
	// Claimed hears of a foreign host that says it has a watched address, at
	// most every 100 ms per IP and MAC. Probes are not claims.
	Claimed func(lb.Claim)
	// Changed hears that addresses of ours vanished from their links without
	// our doing: Set again, if they may still be held.
	Changed func()
	// Rival hears of a foreign host that asks for a watched address as one does
	// that wants to take it: an ARP probe (RFC 5227 §2.1.1) or the solicitation of
	// duplicate address detection (RFC 4862 §5.4.2). Limited like Claimed.
	Rival func(lb.Claim)
	// State is a file that keeps what hand-overs left in the kernel, so that a
	// restarted agent goes on with it; in /run/mooring. "" keeps it in memory.
	State string
	// ProbeGap is how long a probe waits for answers, 20 ms when 0.
	ProbeGap time.Duration
	// LinkChanged hears the state of each watched link, first as it is when
	// Run starts or the link becomes watched, then each change. Up is: there,
	// up and with carrier.
	LinkChanged func(lb.LinkChange)
}

// Links holds virtual IPs on the links of this node's network namespace: the
// one of the process, since goroutines move between threads. Its methods may
// be called at the same time.
type Links struct {
	now         func() lb.Instant
	log         *slog.Logger
	claimed     func(lb.Claim)
	rival       func(lb.Claim)
	changed     func()
	linkChanged func(lb.LinkChange)
	wire        *wire
	announcer   *announcer
	drains      *drains
	askers      *askers

	// mu is held during writes to the kernel; held is what they reached and whose
	// it is, muted those of it that are not announced at present.
	mu    sync.Mutex
	held  map[lb.Address]string
	muted map[lb.Address]bool

	watchMu sync.Mutex
	watched []lb.Address
	// taken are addresses that were created, whose old flows are to be forgotten.
	taken chan []netip.Addr
	// rewatch and relink have one slot: what is watched has changed.
	rewatch, relink chan struct{}
}

// New starts nothing and touches nothing; it reads Options.State.
func New(o Options) *Links {
	l := &Links{
		now: o.Now, log: o.Log, claimed: o.Claimed, rival: o.Rival, changed: o.Changed, linkChanged: o.LinkChanged,
		wire: newWire(), held: map[lb.Address]string{}, muted: map[lb.Address]bool{},
		taken: make(chan []netip.Addr, 64), rewatch: make(chan struct{}, 1), relink: make(chan struct{}, 1),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.claimed == nil {
		l.claimed = func(lb.Claim) {}
	}
	if l.rival == nil {
		l.rival = func(lb.Claim) {}
	}
	if l.changed == nil {
		l.changed = func() {}
	}
	if l.linkChanged == nil {
		l.linkChanged = func(lb.LinkChange) {}
	}
	if o.Rate <= 0 {
		o.Rate = defaultRate
	}
	if o.Refresh <= 0 {
		o.Refresh = defaultRefresh
	}
	l.drains = newDrains(o.Now, l.log, o.State)
	l.askers = newAskers(o.ProbeGap)
	l.announcer = newAnnouncer(newSchedule(o.Rate, o.Refresh), o.Now, l.wire.announce, l.log)
	return l
}

// Share is one owner's part of the Links: a group's addresses and forwards. What
// other owners hold it neither sees nor touches; an address that two of them want
// is the later one's.
type Share struct {
	*Links
	owner string
}

// For is the part of an owner, by its name: the same name, the same part.
func (l *Links) For(owner string) Share { return Share{l, owner} }

// Set is Share.Set for the owner without a name.
func (l *Links) Set(ctx context.Context, want lb.Holding) (lb.Held, error) {
	return l.For("").Set(ctx, want)
}

// Forward is Share.Forward for the owner without a name.
func (l *Links) Forward(ctx context.Context, want []lb.Forward) error {
	return l.For("").Forward(ctx, want)
}

// heldBy is what an owner holds. The caller holds mu.
func (l *Links) heldBy(owner string) map[lb.Address]bool {
	out := map[lb.Address]bool{}
	for a, o := range l.held {
		if o == owner {
			out[a] = true
		}
	}
	return out
}

// Run paces the announcements, ends copies and forwards in time, and reports
// vanished addresses, foreign claims, rivals and link changes, until ctx ends;
// that is no error. It is to be called once. When it ends the addresses stay,
// and so does what hand-overs left: the kernel ends it in time.
func (l *Links) Run(ctx context.Context) error {
	defer l.wire.close()
	defer l.askers.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.announcer.run(ctx) })
	g.Go(func() error { return l.watchAddresses(ctx) })
	g.Go(func() error { return l.watchLinks(ctx) })
	g.Go(func() error { return l.listen(ctx) })
	g.Go(func() error { return l.keepDrains(ctx) })
	g.Go(func() error { return l.forgetFlows(ctx) })
	return g.Wait()
}

// Announce sends one announcement of each address now, to defend it (RFC 5227
// §2.4). Left out without an error: addresses not held, those announced this
// way less than a second ago, and those the interface's rate has no room for.
func (l *Links) Announce(ctx context.Context, addrs []lb.Address) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.announcer.defend(plainAll(addrs))
	return nil
}

// Alive lists those of the addresses that are now on their very link and
// carry our mark, for adoption after a restart.
func (l *Links) Alive(ctx context.Context, addrs []lb.Address) ([]lb.Address, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	there, err := present()
	if err != nil {
		return nil, err
	}
	var alive []lb.Address
	for _, a := range plainAll(addrs) {
		if there[a] {
			alive = append(alive, a)
		}
	}
	return alive, nil
}

// Sweep deletes each address that carries our mark and is not in keep: what a
// dead predecessor left. Copies on lo that Options.State explains serve
// connections that are still draining and stay. It returns what it deleted; an
// error joins what could not be.
func (l *Links) Sweep(ctx context.Context, keep []lb.Address) ([]lb.Address, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	there, err := present()
	if err != nil {
		return nil, err
	}
	for _, a := range plainAll(keep) {
		delete(there, a)
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	var removed []lb.Address
	var faults []error
	for _, a := range union(there, nil) {
		if !there[a] || (a.Link == loopback && l.drains.read().copyOf(a.IP, l.now())) {
			continue
		}
		if err := l.For(l.held[a]).removeOne(k, a); err != nil {
			faults = append(faults, err)
			continue
		}
		removed = append(removed, a)
	}
	return removed, errors.Join(faults...)
}
