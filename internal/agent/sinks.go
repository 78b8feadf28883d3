package agent

import (
	"context"
	"sync"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Addresses puts VIPs on their links and asks the wire for them.
type Addresses interface {
	// Set is idempotent: everything wanted, all else of ours is deleted.
	Set(context.Context, lb.Holding) (lb.Held, error)
	// Probe asks three times in 60 ms who has the addresses, or once in 20 ms.
	Probe(ctx context.Context, who []lb.Address, quick bool) ([]lb.Answer, error)
	// Announce sends one announcement for those that are held.
	Announce(context.Context, []lb.Address) error
	// Forward is idempotent: all forwards wanted, nil ends them.
	Forward(context.Context, []lb.Forward) error
}

// Record carries out the machine's Lock, Read, Repair and Swap; it does not
// block and answers by events.
type Record interface{ Do(election.Action) }

// Hellos are this node's word to the other candidates. Neither call blocks.
type Hellos interface {
	// Say replaces what is said of each group, and says a change at once.
	Say(map[string]election.Say)
	// Beat shows that the state loop runs: without it hellos fall silent.
	Beat(lb.Instant)
}

// DataPlane is HAProxy and the redirects to it. Both are idempotent and may
// take seconds.
type DataPlane interface {
	Frontends(context.Context, []lb.Frontend) (lb.ProxyState, error)
	Redirects(context.Context, []lb.Redirect) error
}

// Memory keeps the record across restarts of agent and node.
type Memory interface {
	Save(election.Record) error
}

// mailbox holds the newest value not yet taken: a slow sink sees the last wish
// only, and posting never blocks.
type mailbox[T any] struct {
	mu    sync.Mutex
	value T
	full  bool
	ready chan struct{}
}

// newMailbox makes an empty box; ready has room for one knock.
func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{ready: make(chan struct{}, 1)} }

// post replaces what has not been taken yet.
func (b *mailbox[T]) post(v T) {
	b.mu.Lock()
	b.value, b.full = v, true
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// take empties the box; false when it was empty.
func (b *mailbox[T]) take() (T, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, full := b.value, b.full
	var zero T
	b.value, b.full = zero, false
	return v, full
}

// serve hands each newest value to do until ctx ends.
func (b *mailbox[T]) serve(ctx context.Context, do func(context.Context, T)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.ready:
			if v, ok := b.take(); ok {
				do(ctx, v)
			}
		}
	}
}
