package vip

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// healTime is the pace at which Run looks whether our tables are still there
// while they are needed: a firewall that is loaded anew flushes all tables. It is
// also the pause before a change that failed is tried again.
const healTime = time.Second

// drains is what hand-overs leave on this node: copies on lo and their silence,
// forwards to older holders. The fence needs none of it and waits for none.
type drains struct {
	now  func() lb.Instant
	log  *slog.Logger
	path string
	size int // of the sets of flows
	// muting and ruling are how long nft may take to mute a VIP that is still on
	// its link, and for all other changes.
	muting, ruling time.Duration
	wake           chan struct{} // one slot: the book has changed

	// turn is held while the kernel's rules change; a channel, so that waiting
	// for it ends with a context.
	turn chan struct{}
	// Under turn: known says that quiet is what the kernel's mute rules are for,
	// synced that the kernel was compared with the book.
	known  bool
	synced bool

	// mu guards what follows and is held for moments only.
	mu   sync.Mutex
	book book
	// fault is the last trouble in the background, said once.
	fault string
	// quiet are the copies for which the kernel may have mute rules; written under
	// turn too. Before settled, any address may be mute: hush has not succeeded yet.
	quiet   []copied
	settled bool
	// done says that nothing is left to be compared or tried again.
	done bool
}

// newDrains reads the book and touches nothing.
func newDrains(now func() lb.Instant, log *slog.Logger, path string) *drains {
	d := &drains{now: now, log: log, path: path, size: flowsMax, muting: muteLimit, ruling: nftLimit,
		wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	var err error
	if d.book, err = loadBook(path, now()); err != nil {
		log.Warn("the state of earlier hand-overs is lost", "err", err)
	}
	return d
}

// begin waits for the turn to change rules; call end when done.
func (d *drains) begin(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for an earlier change of nftables rules: %w", ctx.Err())
	}
}

// end gives the turn back and lets Run look at the book again.
func (d *drains) end() {
	d.mu.Lock()
	d.done = d.synced && d.known && len(d.book.Loose) == 0
	d.mu.Unlock()
	<-d.turn
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// read gives the book as it is.
func (d *drains) read() book {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.book.clone()
}

// write replaces the book, on disk too. A file that cannot be written costs
// connections only if the agent restarts, so it is said and no error.
func (d *drains) write(b book) {
	d.mu.Lock()
	d.book = b.clone()
	d.mu.Unlock()
	d.say(saveBook(d.path, b))
}

// say logs a trouble unless it was the last one said.
func (d *drains) say(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil || err.Error() == d.fault {
		return
	}
	d.fault = err.Error()
	d.log.Warn("after a hand-over", "err", err)
}

// concerns says whether one of the addresses is copied here or may be mute: a
// change of the mute rules that failed may have taken it out of the book already.
func (d *drains) concerns(addrs []lb.Address) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(addrs) == 0 {
		return false
	}
	_, some := d.book.without(addrs)
	_, mute := book{Copies: d.quiet}.without(addrs)
	return !d.settled || len(some)+len(mute) > 0
}

// sync compares the kernel with the book, once: a restarted agent adopts what
// stands and removes what should not. The caller has the turn.
func (d *drains) sync(ctx context.Context) error {
	if d.synced {
		return nil
	}
	b := d.read()
	switch {
	case !forwardTableStands():
		b.Forwards, b.Loose = nil, nil // somebody removed it: those flows have ended
	case len(b.Forwards) == 0:
		if err := nft(ctx, dropTable("netdev", forwardTable), d.ruling); err != nil {
			return err
		}
		b.Loose = nil
	}
	d.write(b)
	d.synced = true
	return nil
}

// disarm renders the removal of the forwards.
func (d *drains) disarm(all []forwarded) string {
	var rules string
	for _, f := range all {
		rules += disarmRules(f, d.size)
	}
	return rules
}

// hush makes the mute rules those of the book's copies. It runs nft only for a
// change; after an error the old or the new ones stand. The caller has the turn.
func (d *drains) hush(ctx context.Context, limit time.Duration) error {
	want := d.read().Copies
	if d.known && sameCopies(want, d.quiet) {
		return nil
	}
	if arp, ip6 := muteTablesStand(); len(want) > 0 || arp || ip6 {
		d.known = false
		other, _ := book{Copies: d.quiet}.without(vipsOf(want))
		d.mayMute(slices.Concat(other, want), d.settled)
		if err := nft(ctx, muteRules(want, d.now()), limit); err != nil {
			return err
		}
	}
	d.known = true
	d.mayMute(want, true)
	return nil
}

// mayMute notes for which copies the kernel may have mute rules and, if settled,
// that it has none for others.
func (d *drains) mayMute(all []copied, settled bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet, d.settled = all, settled
}
