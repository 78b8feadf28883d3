package vip

import (
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// askerLife is how long sockets serve probe after probe. Closing one takes the
// kernel longer than opening it; kept longer, a bond's new MAC would be missed.
const askerLife = 2 * time.Second

// askers keeps the sockets of the last probes for the next ones.
type askers struct {
	gap time.Duration

	mu     sync.Mutex
	idle   map[string]*asker
	sweep  *time.Timer // closes what is not used any more
	closed bool
}

// newAskers opens nothing; gap 0 is 20 ms.
func newAskers(gap time.Duration) *askers {
	if gap <= 0 {
		gap = probeGap
	}
	return &askers{gap: gap, idle: map[string]*asker{}}
}

// take gives sockets for the addresses; put gives them back.
func (k *askers) take(addrs []lb.Address) (*asker, error) {
	name := key(addrs)
	k.mu.Lock()
	p := k.idle[name]
	delete(k.idle, name)
	k.mu.Unlock()
	if p == nil {
		return openAsker(name, addrs)
	}
	if p.fresh() {
		return p, nil
	}
	go p.close()
	return openAsker(name, addrs)
}

// put keeps the sockets for the next probe of the same addresses, if they are
// still good for it.
func (k *askers) put(p *asker, good bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !good || k.closed || p.missing != nil || !p.fresh() || k.idle[p.key] != nil {
		go p.close()
		return
	}
	k.idle[p.key] = p
	if k.sweep == nil {
		k.sweep = time.AfterFunc(askerLife, k.closeOld)
	}
}

// fresh says whether the sockets are whole and not too old.
func (p *asker) fresh() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.broken && time.Since(p.opened) < askerLife
}

// closeOld closes idle sockets that are too old, and comes again while there
// are others.
func (k *askers) closeOld() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, p := range k.idle {
		if !p.fresh() {
			delete(k.idle, name)
			go p.close()
		}
	}
	k.sweep = nil
	if len(k.idle) > 0 {
		k.sweep = time.AfterFunc(askerLife, k.closeOld)
	}
}

// close closes all; later probes open theirs for one call.
func (k *askers) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for name, p := range k.idle {
		delete(k.idle, name)
		p.close()
	}
	if k.sweep != nil {
		k.sweep.Stop()
	}
}
