package vip

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// tape is a wire that notes when each frame was sent.
type tape struct {
	begun time.Time

	mu     sync.Mutex
	frames []string
	err    error
}

func (p *tape) now() lb.Instant { return time.Since(p.begun) }

func (p *tape) send(a lb.Address) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames = append(p.frames, p.now().String()+" "+a.IP.String())
	return p.err
}

// sent gives the frames so far, once all goroutines wait.
func (p *tape) sent() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.frames)
}

// fail makes the wire answer with the error from now on.
func (p *tape) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func newTape() (*tape, *announcer) {
	p := &tape{begun: time.Now()}
	return p, newAnnouncer(newSchedule(100, 30*second), p.now, p.send, slog.New(slog.DiscardHandler))
}

func TestAnnouncerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newTape()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.run(ctx) }()
		time.Sleep(10 * time.Millisecond)
		a := addrs(t, "10.0.0.9 eth0")
		n.keep(a, a, 10*second)
		if len(p.sent()) != 1 {
			t.Errorf("%v sent when keep returned, want the first announcement", p.sent())
		}
		time.Sleep(700 * time.Millisecond)
		n.drop(a...)
		before := len(p.sent())
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []string{"10ms 10.0.0.9", "60ms 10.0.0.9", "160ms 10.0.0.9", "510ms 10.0.0.9"}
		if !slices.Equal(p.sent(), want) || before != 4 {
			t.Errorf("got %q (%d when dropped), want %q", p.sent(), before, want)
		}
	})
}

// TestAnnouncerFrozen: nobody refreshes any more, as after SIGSTOP; what is
// due when the process wakes up must not be sent.
func TestAnnouncerFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newTape()
		a := addrs(t, "10.0.0.9 eth0")
		n.keep(a, a, 4*second)
		time.Sleep(6 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		go n.run(ctx) //nolint:errcheck // it gives nil at the end of ctx
		time.Sleep(time.Minute)
		cancel()
		n.defend(a)
		synctest.Wait()
		if !slices.Equal(p.sent(), []string{"0s 10.0.0.9"}) {
			t.Errorf("sent %q", p.sent())
		}
	})
}

// TestAnnouncerGoesOnAfterAFailure: a link that is down delays its own frames
// only, is logged once, and has its announcements as soon as it is back.
func TestAnnouncerGoesOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		p, n := newTape()
		n.log = slog.New(slog.NewTextHandler(&log, nil))
		p.fail(errors.New("network is down"))
		a := addrs(t, "10.0.0.8 eth0, 10.0.0.9 eth0")
		n.keep(a, a, 100*second)
		if len(p.sent()) != 1 {
			t.Errorf("keep tried %q on a link that does not work, want one frame", p.sent())
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go n.run(ctx) //nolint:errcheck // it gives nil at the end of ctx
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		p.fail(nil)
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		want := []string{"0s 10.0.0.8", "0s 10.0.0.9", "50ms 10.0.0.8", "50ms 10.0.0.9"}
		if !slices.Equal(p.sent(), want) {
			t.Errorf("sent %q, want %q", p.sent(), want)
		}
		said := strings.Count(log.String(), `msg="cannot announce" link=eth0`)
		if said != 1 || strings.Count(log.String(), "announcing again") != 1 {
			t.Errorf("log %q", log.String())
		}
	})
}

func TestAnnouncerDefends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newTape()
		a := addrs(t, "10.0.0.9 eth0")
		time.Sleep(time.Second)
		n.defend(a)
		n.keep(a, nil, 100*second)
		n.defend(a)
		n.defend(a)
		if !slices.Equal(p.sent(), []string{"1s 10.0.0.9"}) {
			t.Errorf("sent %q, want one announcement of what is held", p.sent())
		}
	})
}
