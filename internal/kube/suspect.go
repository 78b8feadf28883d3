package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// probeEvery is the pace at which a suspect is asked again.
	probeEvery = time.Second
	// probeWait bounds one such question.
	probeWait = time.Second
)

// accuse makes a server a suspect: it is asked last from now on and its
// watches end as soon as another server can take them.
func (s *Servers) accuse(v *server, why string) {
	s.mu.Lock()
	if !v.suspect {
		s.log.Warn("API server is suspect", "server", v.addr, "why", why)
	}
	v.suspect, v.why = true, why
	s.cutSuspects()
	s.mu.Unlock()
	s.nudge()
}

// doubt asks for one probe of a server, at most one a second.
func (s *Servers) doubt(v *server) {
	s.mu.Lock()
	v.doubted = true
	s.mu.Unlock()
	s.nudge()
}

// nudge wakes Run. It never blocks.
func (s *Servers) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// cutSuspects ends the watches on suspects if another server could take
// them; else they may as well hope. s.mu is held.
func (s *Servers) cutSuspects() {
	if !slices.ContainsFunc(s.list, func(v *server) bool { return !v.suspect }) {
		return
	}
	for _, v := range s.list {
		if v.suspect {
			v.cut()
		}
	}
}

// cut ends the watches on the server. Servers.mu is held.
func (v *server) cut() {
	for b := range v.streams {
		b.cutOff()
	}
	clear(v.streams)
}

// Run asks suspects again until they are well. While there are none it does
// nothing. It returns nil once ctx is done, with all idle connections closed.
func (s *Servers) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, v := range s.order() {
				v.idle()
			}
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		due, next := s.due()
		s.probeAll(ctx, due)
		if len(due) > 0 {
			_, next = s.due()
		}
		// Without suspects the timer stays stopped: no wake-ups at rest.
		timer.Stop()
		if next >= 0 {
			timer.Reset(next)
		}
	}
}

// due returns the servers to probe now, and the time until the next one is to
// be probed, negative if there is none.
func (s *Servers) due() (now []*server, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = -1
	t := s.now()
	for _, v := range s.list {
		if !v.suspect && !v.doubted {
			continue
		}
		wait := v.nextProbe - t
		if wait <= 0 {
			now = append(now, v)
			continue
		}
		if next < 0 || wait < next {
			next = wait
		}
	}
	// Before the probes and not after: their pace does not depend on how long
	// an answer takes, and a doubt raised meanwhile is not lost.
	for _, v := range now {
		v.nextProbe = t + probeEvery
		v.doubted = false
	}
	return now, next
}

// probeAll probes the servers side by side and waits for all.
func (s *Servers) probeAll(ctx context.Context, servers []*server) {
	var wg sync.WaitGroup
	for _, v := range servers {
		wg.Go(func() {
			if err := s.probe(ctx, v); err == nil {
				s.absolve(v)
			} else if ctx.Err() == nil {
				s.accuse(v, err.Error())
				v.idle() // a connection into the void must not be used again
			}
		})
	}
	wg.Wait()
}

// absolve ends the suspicion.
func (s *Servers) absolve(v *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.suspect {
		s.log.Info("API server is well again", "server", v.addr)
	}
	v.suspect, v.why = false, ""
	s.cutSuspects()
}

// probe asks one server whether it is ready. A refusal (401, 403) is the
// answer of a server that works.
func (s *Servers) probe(ctx context.Context, v *server) error {
	code, err := s.askReadyz(ctx, v)
	if err == nil && overloaded(code) {
		err = fmt.Errorf("not ready: /readyz answers %d %s", code, http.StatusText(code))
	}
	return err
}

var errNoReadyz = errors.New("no answer to /readyz within " + probeWait.String())

// direct sends a request to the server its URL names.
type direct struct{ s *Servers }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, v := range d.s.order() {
		if v.addr == req.URL.Host {
			return v.rt.RoundTrip(req)
		}
	}
	return nil, fmt.Errorf("%s is no API server any more", req.URL.Host)
}
