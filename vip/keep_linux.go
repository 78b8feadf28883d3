package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// keepDrains ends copies and forwards in time and sees to it that their rules
// stand until then, until ctx ends. What stands then stays: the kernel ends it.
func (l *Links) keepDrains(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.drains.wake:
		case <-timer.C:
			err := l.drains.tend(ctx)
			failed = err != nil
			if ctx.Err() == nil {
				l.drains.say(err)
			}
		}
		if wait, some := l.drains.wait(failed); some {
			timer.Reset(wait)
		}
	}
}

// wait is how long nothing is to be done; false when nothing stands. What has
// just failed is not tried again at once.
func (d *drains) wait(failed bool) (time.Duration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, some := d.book.next()
	switch {
	case !some && d.done:
		return 0, false
	case !some || failed:
		return healTime, true
	}
	return min(max(at-d.now(), 0), healTime), true
}

// tend does once what is to be done now.
func (d *drains) tend(ctx context.Context) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	if err := d.sync(ctx); err != nil {
		return err
	}
	return errors.Join(d.expire(ctx), d.heal(ctx), d.tighten(ctx), d.complete())
}

// tighten removes what changes of forwards that failed may have left.
func (d *drains) tighten(ctx context.Context) error {
	b := d.read()
	if len(b.Loose) == 0 {
		return nil
	}
	if forwardTableStands() {
		if err := nft(ctx, d.disarm(b.Loose), d.ruling); err != nil {
			return fmt.Errorf("forwards that are not wanted may still stand: %w", err)
		}
	}
	b.Loose = nil
	d.write(b)
	return nil
}

// complete puts the copies on lo that are not there, because the VIP could not be
// muted in time or somebody removed them. Until then their connections pause: a
// socket outlives its address.
func (d *drains) complete() error {
	b, now := d.read(), d.now()
	if len(b.Copies) == 0 || !d.known {
		return nil
	}
	there, err := present()
	if err != nil {
		return err
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	var faults []error
	for _, c := range b.Copies {
		_, held := there[c.vip()]
		if !there[lb.Address{IP: c.IP, Link: loopback}] && !held && c.Until > now {
			faults = append(faults, k.placeCopy(c, now))
		}
	}
	return errors.Join(faults...)
}

// expire ends what has come to its end. The connections of a copy are reset
// while it is still there to say so: a client that only receives would otherwise
// wait for ever.
func (d *drains) expire(ctx context.Context) error {
	b, now := d.read(), d.now()
	copies, forwards := b.due(now)
	var faults []error
	if len(forwards) > 0 {
		faults = append(faults, d.stand(ctx, keepForwards(b.Forwards, now)))
	}
	if len(copies) > 0 {
		faults = append(faults, resetCopies(copies))
		faults = append(faults, removeCopies(copies))
		b = d.read()
		b.Copies, _ = b.without(vipsOf(copies))
		d.write(b)
	}
	return errors.Join(append(faults, d.hush(ctx, d.ruling))...)
}

// resetCopies resets the connections of the copies, except where the VIP is on
// a link again at this very moment.
func resetCopies(copies []copied) error {
	there, err := present()
	if err != nil {
		return err
	}
	var ips []netip.Addr
	for _, c := range copies {
		if _, again := there[c.vip()]; !again {
			ips = append(ips, c.IP)
		}
	}
	return resetSockets(localIs, ips...)
}

// keepForwards is the forwards that have not come to their end.
func keepForwards(all []forwarded, now lb.Instant) []forwarded {
	var out []forwarded
	for _, f := range all {
		if f.Until > now {
			out = append(out, f)
		}
	}
	return out
}

// heal brings back tables of ours that somebody else removed.
func (d *drains) heal(ctx context.Context) error {
	b := d.read()
	var faults []error
	if arp, ip6 := muteTablesStand(); (wantsMute(b, unix.AF_INET) && !arp) || (wantsMute(b, unix.AF_INET6) && !ip6) {
		d.known = false
		faults = append(faults, errors.New("the table "+muteTable+" was removed by someone else and is set again"),
			d.hush(ctx, d.ruling))
	}
	if len(b.Forwards) > 0 && !forwardTableStands() {
		// The book stays as it is, so that what fails is tried again.
		faults = append(faults, fmt.Errorf("the table %s was removed by someone else and is set again", forwardTable),
			nft(ctx, d.rulesFor(change{arm: b.Forwards}), d.ruling))
	}
	return errors.Join(faults...)
}

// wantsMute says whether a copy of the family is in the book.
func wantsMute(b book, af uint8) bool {
	for _, c := range b.Copies {
		if c.IP.Is6() == (af == unix.AF_INET6) {
			return true
		}
	}
	return false
}
