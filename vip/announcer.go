package vip

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// announcer sends what the schedule says. Frames are sent under its lock:
// when drop has returned, no frame for that address is still on its way.
type announcer struct {
	now  func() lb.Instant
	send func(lb.Address) error
	log  *slog.Logger
	wake chan struct{} // one slot: the schedule has something sooner

	mu      sync.Mutex
	sched   *schedule
	failing map[string]bool // links whose last frame could not be sent
}

// newAnnouncer starts nothing; send puts one announcement on the wire and
// must not block for long.
func newAnnouncer(sched *schedule, now func() lb.Instant, send func(lb.Address) error, log *slog.Logger) *announcer {
	return &announcer{now: now, send: send, log: log, wake: make(chan struct{}, 1), sched: sched,
		failing: map[string]bool{}}
}

// keep says which addresses the kernel has until the given instant. Those in
// fresh are announced before keep returns, as far as the rate allows.
func (n *announcer) keep(have, fresh []lb.Address, until lb.Instant) {
	isFresh := make(map[lb.Address]bool, len(fresh))
	for _, a := range fresh {
		isFresh[a] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range have {
		n.sched.put(a, n.now(), until, isFresh[a])
	}
	if len(fresh) > 0 {
		n.drain()
	}
	n.nudge()
}

// nudge makes run look at the schedule again.
func (n *announcer) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// drop stops the announcements of the addresses.
func (n *announcer) drop(addrs ...lb.Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		n.sched.drop(a)
	}
}

// defend announces once, now, those addresses that the schedule allows.
func (n *announcer) defend(addrs []lb.Address) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		if n.sched.defend(a, n.now()) {
			n.transmit(a)
		}
	}
	n.nudge() // one that had to wait may be due sooner than what run sleeps for
}

// run sends what is due until ctx ends.
func (n *announcer) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		case <-timer.C:
		}
		n.mu.Lock()
		n.drain()
		at, some := n.sched.wait()
		n.mu.Unlock()
		if some {
			timer.Reset(max(at-n.now(), 0))
		}
	}
}

// drain sends all that is due and allowed, up to the first failure: a stuck
// link must not hold up keep, and so the next refresh, frame after frame; run
// comes back for the rest. The caller holds the lock. The clock is read anew
// for each frame: this goroutine may have been frozen since the last one.
func (n *announcer) drain() {
	for {
		a, some := n.sched.take(n.now())
		if !some || !n.transmit(a) {
			return
		}
	}
}

// transmit sends one frame and says whether it went. A link that is down is
// no reason to stop: the schedule comes round again, and the address itself
// is not in doubt. It is said once per link, not for each frame.
func (n *announcer) transmit(a lb.Address) bool {
	err := n.send(a)
	if err != nil && !n.failing[a.Link] {
		n.log.Warn("cannot announce", "link", a.Link, "vip", a.IP, "err", err)
	}
	if err == nil && n.failing[a.Link] {
		n.log.Info("announcing again", "link", a.Link)
	}
	n.failing[a.Link] = err != nil
	return err == nil
}
