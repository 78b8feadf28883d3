package vip

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// events is how many netlink events may wait in Go, and eventBytes in the
// kernel: each refresh of each address is one.
const (
	events     = 1024
	eventBytes = 4 << 20
)

// watchAddresses notices addresses of ours that vanish from their links,
// until ctx ends. The kernel drops events when it has too many; then all is
// looked at once and the subscription begins anew.
func (l *Links) watchAddresses(ctx context.Context) error {
	for ctx.Err() == nil {
		ch, done := make(chan netlink.AddrUpdate, events), make(chan struct{})
		err := netlink.AddrSubscribeWithOptions(ch, done, netlink.AddrSubscribeOptions{
			ReceiveBufferSize: eventBytes, ReceiveBufferForceSize: true,
			ErrorCallback: func(err error) { l.log.Debug("address events", "err", err) },
		})
		if err != nil {
			l.log.Warn("no address events, trying again", "err", err)
		} else {
			l.lookForGone()
			l.addressEvents(ctx, ch)
			close(done)
			drain(ch)
		}
		pause(ctx, retry)
	}
	return nil
}

// addressEvents looks after our addresses whenever one was deleted, until ctx
// ends or the subscription breaks.
func (l *Links) addressEvents(ctx context.Context, ch <-chan netlink.AddrUpdate) {
	for {
		select {
		case <-ctx.Done():
			return
		case u, open := <-ch:
			if !open {
				return
			}
			deleted := isDeletion(u)
			// A link that goes takes many addresses along: one look for all.
			for range len(ch) {
				u, open = <-ch
				deleted = deleted || open && isDeletion(u)
			}
			if deleted {
				l.lookForGone()
			}
		}
	}
}

// isDeletion says whether a single address, as ours are, was deleted. Whose
// it was the look at the kernel tells: an event may be older than our last
// write.
func isDeletion(u netlink.AddrUpdate) bool {
	ip, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	bits, _ := u.LinkAddress.Mask.Size()
	return ok && !u.NewAddr && bits == hostBits(ip.Unmap())
}

// lookForGone compares what should be there with what is. Addresses that
// vanished are no longer announced, and Options.Changed is called once.
func (l *Links) lookForGone() {
	gone, err := l.forgetGone()
	if err != nil {
		l.log.Warn("could not look after the virtual IPs", "err", err)
	}
	if len(gone) == 0 {
		return
	}
	for _, a := range gone {
		l.log.Warn("virtual IP vanished from its link", "vip", a.IP, "link", a.Link)
	}
	l.changed()
}

// forgetGone forgets the held addresses that the kernel does not list.
func (l *Links) forgetGone() ([]lb.Address, error) {
	// Not during a Set: what it has just written is not yet noted as held.
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		return nil, nil
	}
	there, err := present()
	if err != nil {
		return nil, err
	}
	var gone []lb.Address
	for _, a := range slices.SortedFunc(maps.Keys(l.held), compareAddresses) {
		if _, ok := there[a]; !ok {
			gone = append(gone, a)
			delete(l.held, a)
			l.announcer.drop(a)
		}
	}
	return gone, nil
}

// watchLinks reports the state of the watched links, first as it is, then
// each change, until ctx ends.
func (l *Links) watchLinks(ctx context.Context) error {
	last := map[string]bool{}
	for ctx.Err() == nil {
		ch, done := make(chan netlink.LinkUpdate, events), make(chan struct{})
		err := netlink.LinkSubscribeWithOptions(ch, done, netlink.LinkSubscribeOptions{
			ReceiveBufferSize: eventBytes, ReceiveBufferForceSize: true,
			ErrorCallback: func(err error) { l.log.Debug("link events", "err", err) },
		})
		if err != nil {
			l.log.Warn("no link events, trying again", "err", err)
		} else {
			l.linkEvents(ctx, ch, last)
			close(done)
			drain(ch)
		}
		pause(ctx, retry)
	}
	return nil
}

// linkEvents reports changes until ctx ends or the subscription breaks. last
// is what was reported of each link. Each event leads to one look at the
// links: an event itself may be older than the last look.
func (l *Links) linkEvents(ctx context.Context, ch <-chan netlink.LinkUpdate, last map[string]bool) {
	for {
		l.reportLinks(last)
		select {
		case <-ctx.Done():
			return
		case <-l.relink:
		case _, open := <-ch:
			if !open {
				return
			}
			for range len(ch) {
				<-ch
			}
		}
	}
}

// reportLinks reports each watched link whose state is not the last reported.
func (l *Links) reportLinks(last map[string]bool) {
	seen := map[string]bool{}
	for _, a := range l.watch() {
		if seen[a.Link] {
			continue
		}
		seen[a.Link] = true
		up := carrier(a.Link)
		if before, known := last[a.Link]; !known || before != up {
			last[a.Link] = up
			l.linkChanged(lb.LinkChange{Link: a.Link, Up: up})
		}
	}
}

// carrier says whether the link is there, up, and has a signal (IFF_RUNNING,
// netdevice(7)).
func carrier(name string) bool {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false
	}
	at := link.Attrs()
	return at.Flags&net.FlagUp != 0 && at.RawFlags&unix.IFF_RUNNING != 0
}

// drain empties a closed subscription, so that its goroutine can end.
func drain[T any](ch <-chan T) {
	for range ch {
		continue // the values are of no use any more
	}
}
