package vip

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// retry is the pause before a lost socket or subscription is opened again.
const retry = 100 * time.Millisecond

// Watch sets the virtual IPs whose claims by other hosts are reported to
// Options.Claimed, and whose links' state is reported to Options.LinkChanged:
// all configured ones, held or not. It replaces what was set before and may
// be called at any time.
func (l *Links) Watch(addrs []lb.Address) {
	l.watchMu.Lock()
	l.watched = plainAll(addrs)
	l.watchMu.Unlock()
	for _, c := range []chan struct{}{l.rewatch, l.relink} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// watch gives the addresses set by Watch.
func (l *Links) watch() []lb.Address {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	return l.watched
}

// lookout is one running listener.
type lookout struct {
	ips  []netip.Addr
	stop context.CancelFunc
}

// listen keeps one listener per link and family running for what is watched,
// until ctx ends.
func (l *Links) listen(ctx context.Context) error {
	running := map[place]lookout{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		wanted := byPlace(l.watch())
		for at, now := range running {
			if !slices.Equal(now.ips, wanted[at]) {
				now.stop()
				delete(running, at)
			}
		}
		for at, ips := range wanted {
			if _, runs := running[at]; runs {
				continue
			}
			one, stop := context.WithCancel(ctx)
			running[at] = lookout{ips, stop}
			all.Go(func() {
				defer stop()
				l.listenAt(one, at, ips)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.rewatch:
		}
	}
}

// listenAt reports claims of the addresses on one link until ctx ends, also
// across the link's absence.
func (l *Links) listenAt(ctx context.Context, at place, ips []netip.Addr) {
	seen, asked := claims{}, claims{}
	said := ""
	for ctx.Err() == nil {
		e, err := listen(at.link, ips)
		if err == nil {
			e.join()
			stop := context.AfterFunc(ctx, func() { e.conn.Close() })
			err = l.hear(e, seen, asked)
			stop()
			e.conn.Close()
		}
		// The same trouble ten times a second is said once.
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			l.log.Warn("not listening for foreign claims, trying again", "link", at.link, "err", err)
		}
		pause(ctx, retry)
	}
}

// ownLife is how long this node's MACs are taken to be the same.
const ownLife = 20 * time.Millisecond

// hear reports the ear's claims and rivals until its socket fails.
func (l *Links) hear(e *ear, seen, asked claims) error {
	var own map[string]bool
	var at lb.Instant
	for {
		c, asks, err := e.next()
		if err != nil {
			return err
		}
		before, tell := seen, l.claimed
		if asks {
			before, tell = asked, l.rival
		}
		if !before.news(c, l.now()) {
			continue
		}
		// Asked anew: a bond or a new link may have brought another MAC of our own. But
		// a thousand addresses that move are a thousand reports in a second.
		if now := l.now(); own == nil || now-at >= ownLife {
			if own, err = ownMACs(); err != nil {
				return err
			}
			at = now
		}
		if !own[string(c.MAC)] {
			tell(c)
		}
	}
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
