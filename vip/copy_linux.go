package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/internal/lb"
)

// loopback is the link that copies stand on.
const loopback = "lo"

// copyOut puts mute copies on lo of the VIPs to be drained that are on their
// links now. It is the first half of letting go: the caller deletes them from
// their links in any case. The error names those that could not be copied; their
// connections end.
func (l *Links) copyOut(ctx context.Context, want lb.Holding) error {
	if len(want.Copies) == 0 || want.CopyFor < second {
		return nil
	}
	there, err := present()
	if err != nil {
		return err
	}
	now, b := l.now(), l.drains.read()
	var fresh []copied
	for _, a := range want.Copies {
		if there[a] && !slices.Contains(want.Addresses, a) && !b.copyOf(a.IP, now) {
			fresh = append(fresh, copied{a.IP, a.Link, ownIPv4(a), now + min(want.CopyFor, drainMax)})
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := l.drains.place(ctx, fresh); err != nil {
		return fmt.Errorf("established connections end, or pause while this is tried again; no copy on lo of %w", err)
	}
	return nil
}

// place mutes the VIPs and then adds them to lo, each for the time left. It may
// not take long, since two nodes answer for the VIPs until it is over.
func (d *drains) place(ctx context.Context, fresh []copied) error {
	ctx, cancel := context.WithTimeout(ctx, d.muting)
	defer cancel()
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("%v: %w", vipsOf(fresh), err)
	}
	defer d.end()
	old := d.read()
	old.Copies, _ = old.without(vipsOf(fresh))
	next := old.clone()
	next.Copies = append(next.Copies, fresh...)
	d.write(next) // before the kernel, so that a successor finds what it explains
	if err := d.hush(ctx, d.muting); err != nil {
		// What only was slow is tried again by Run, when the links are rid of them.
		if !errors.Is(err, context.DeadlineExceeded) {
			d.write(old)
		}
		return fmt.Errorf("%v: not muted on the wire: %w", vipsOf(fresh), err)
	}
	k, err := openKernel()
	if err != nil {
		d.write(old)
		return fmt.Errorf("%v: %w", vipsOf(fresh), err)
	}
	defer k.close()
	var faults []error
	for _, c := range fresh {
		if err := k.placeCopy(c, d.now()); err != nil {
			faults = append(faults, err)
			next.Copies = slices.DeleteFunc(next.Copies, func(x copied) bool { return x == c })
		}
	}
	if len(faults) > 0 {
		d.write(next)
	}
	return errors.Join(faults...)
}

// placeCopy adds the copy to lo for the rest of its time, rounded up, so that
// Run comes before the kernel. A copy of ours that is there already gets that
// time; an address of somebody else stays as it is.
func (k *kernel) placeCopy(c copied, now lb.Instant) error {
	a := lb.Address{IP: c.IP, Link: loopback}
	lft := max(c.Until-now+second-1, second)
	err := k.create(a, lft)
	if !errors.Is(err, errExists) {
		return err
	}
	all, err := k.dump()
	if err != nil {
		return err
	}
	index, err := k.linkIndex(loopback)
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.index == index && x.ip == c.IP && x.ours(marks(all)) {
			return k.refresh(a, lft)
		}
	}
	return fmt.Errorf("%s: somebody else has put the address there: remove it", a)
}

// copyIn ends the copies of addresses that are on their links again: they are
// heard again, and the connections of the copy go on, since the kernel asks only
// whether it has the address at all. It costs nothing where nothing was copied.
func (l *Links) copyIn(ctx context.Context, have []lb.Address) error {
	d := l.drains
	if !d.concerns(have) {
		return nil
	}
	// A VIP that is held and mute is worst of all: the caller's end is no reason
	// to leave it so.
	ctx = context.WithoutCancel(ctx)
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	return errors.Join(d.sync(ctx), d.recall(ctx, have))
}

// recall unmutes the addresses and removes their copies. The caller has the turn.
func (d *drains) recall(ctx context.Context, have []lb.Address) error {
	b := d.read()
	stay, gone := b.without(have)
	if len(gone) > 0 {
		b.Copies = stay
		d.write(b)
	}
	var faults []error
	if err := d.hush(ctx, d.ruling); err != nil {
		faults = append(faults, fmt.Errorf("%v may still be mute on the wire: %w", have, err))
	}
	return errors.Join(append(faults, removeCopies(gone))...)
}

// removeCopies deletes the copies from lo.
func removeCopies(all []copied) error {
	if len(all) == 0 {
		return nil
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	var faults []error
	for _, c := range all {
		faults = append(faults, k.remove(lb.Address{IP: c.IP, Link: loopback}))
	}
	return errors.Join(faults...)
}

// vipsOf lists the addresses of the copies.
func vipsOf(all []copied) []lb.Address {
	out := make([]lb.Address, len(all))
	for i, c := range all {
		out[i] = c.vip()
	}
	return out
}

// ownIPv4 is the node's own IPv4 address on the VIP's link, the one of the VIP's
// subnet before others; the zero Addr where there is none, and for IPv6, which
// does not need it.
func ownIPv4(a lb.Address) netip.Addr {
	link, err := netlink.LinkByName(a.Link)
	if err != nil || a.IP.Is6() {
		return netip.Addr{}
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}
	}
	var own netip.Addr
	for _, x := range all {
		ip, ok := netip.AddrFromSlice(x.IP.To4())
		// A VIP has a finite life and is never a source.
		if !ok || ip == a.IP || (x.PreferedLft == 0 && x.ValidLft != 0) {
			continue
		}
		if x.Contains(a.IP.AsSlice()) {
			return ip
		}
		if !own.IsValid() {
			own = ip
		}
	}
	return own
}
