package hello

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// unread is how many tidings may wait for the agent. More means that it is
// stopped: a helper that cannot tell is of no use.
const unread = 4096

// Serve is the whole life of the process that Options.Helper names: it speaks with
// the peers as its agent tells it through standard input, a socket, and ends when
// that closes. Signals meant for the agent do not end it: the peers shall hear of
// the agent as long as it lives.
func Serve(now func() lb.Instant) error {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	agent := os.Stdin
	in := gob.NewDecoder(agent)
	var first order
	// Whoever starts this by hand gives no such order.
	if err := in.Decode(&first); err != nil || first.Start == nil {
		return fmt.Errorf("this command is started by the agent, not by hand: no order on standard input: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := make(chan tidings, unread)
	// Called from the loop's thread, which must not wait for the agent.
	tell := func(t tidings) {
		select {
		case out <- t:
		default:
			cancel()
		}
	}
	l := New(Options{Node: first.Start.Node, Interval: first.Start.Interval, Multiplier: first.Start.Multiplier,
		Port: first.Start.Port, Now: now, Changed: func(c Change) { tell(tidings{Change: &c}) }})
	l.logged = func(n note) { tell(n.tidings()) }
	var all sync.WaitGroup
	var ran error
	all.Go(func() { ran = l.Run(ctx); cancel() })
	all.Go(func() { write(ctx, gob.NewEncoder(agent), l, out); cancel() })
	// Not waited for: it reads until the agent closes, and this may end earlier.
	go func() { follow(in, l, first); cancel() }()
	all.Wait()
	return ran
}

// follow obeys orders until the agent closes.
func follow(in *gob.Decoder, l *Loop, o order) {
	for {
		o.obey(l)
		o = order{}
		if in.Decode(&o) != nil {
			return
		}
	}
}

// obey carries the order out.
func (o *order) obey(l *Loop) {
	// Keys before peers: the first hello can be sealed then.
	if o.Keys != nil {
		var keys []Key
		for _, secret := range o.Keys.Secrets {
			keys = append(keys, keyFrom(secret))
		}
		l.SetKeys(keys)
	}
	if o.Peers != nil {
		l.SetPeers(o.Peers.All)
	}
	if o.Says != nil {
		// Checked and cut to fit by the agent's Say already.
		all := slices.Clone(o.Says.All)
		l.says.Store(&all)
		l.ring()
	}
	l.Beat(o.Beat)
}

// write tells the agent what happens, and now and then the status.
func write(ctx context.Context, agent *gob.Encoder, l *Loop, out <-chan tidings) {
	every := time.NewTicker(statusEvery)
	defer every.Stop()
	for {
		var t tidings
		select {
		case <-ctx.Done():
			return
		case t = <-out:
		case <-every.C:
			s := l.Status()
			t.Status = &s
		}
		if err := agent.Encode(t); err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

// tidings is the note for the agent's log.
func (n note) tidings() tidings {
	t := tidings{Note: n.text}
	for _, a := range n.args {
		t.Args = append(t.Args, fmt.Sprint(a))
	}
	return t
}
