package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// ConnectLimit is when a TCP connection attempt counts as failed. It is below
	// the kernel's first retransmission of a SYN (1 s), so a success means that the
	// first one was answered.
	ConnectLimit = 500 * time.Millisecond
	// RequestLimit is when an HTTPS request counts as failed. It is above one SYN
	// retransmission and one redispatch by a load balancer.
	RequestLimit = 2 * time.Second
)

// Probe asks the same question again and again, each time in a goroutine of its
// own, so that a slow answer does not delay the next question.
type Probe struct {
	every time.Duration
	limit time.Duration
	ask   func(context.Context) (server string, err error)
	after func() error // what to close at the end, if anything

	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once
	report Report

	mu       sync.Mutex
	attempts []attempt
}

// Probe opens a TCP connection from the host to address ("10.99.0.200:6443",
// "[fd99::200]:6443") every interval until Stop.
func (h *Host) Probe(address string, every time.Duration) *Probe {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		h.lab.fatalf("probe of %q: want IP:PORT or [IP6]:PORT", address)
	}
	return h.lab.startProbe(&Probe{every: every, limit: ConnectLimit,
		ask: func(ctx context.Context) (string, error) {
			f, err := h.space().connect(ctx, to)
			if err == nil {
				err = f.Close()
			}
			return "", err
		}})
}

// Requests sends an HTTPS GET from the host to url every interval, each over a
// connection of its own, until Stop; /readyz is readable without credentials. An
// answer other than 2xx is a failure. The report says whose API server answered,
// by its certificate.
func (h *Host) Requests(url string, every time.Duration) *Probe {
	client := h.HTTP(RequestLimit)
	return h.lab.startProbe(&Probe{every: every, limit: RequestLimit,
		ask: func(ctx context.Context) (string, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return "", err
			}
			resp, err := client.Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return "", err
			}
			if resp.StatusCode/100 != 2 {
				return "", fmt.Errorf("HTTP %d", resp.StatusCode)
			}
			if name := resp.Header.Get(serverHeader); name != "" {
				return name, nil
			}
			return whoAnswered(resp.TLS), nil
		}})
}

// whoAnswered works through any load balancer that passes TLS on.
func whoAnswered(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	return serverOf(state.PeerCertificates[0])
}

// startProbe makes the lab's end stop the probe: a forgotten one would outlive its network.
func (l *Lab) startProbe(p *Probe) *Probe {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan struct{})
	go p.run(ctx)
	l.onStop(func() { p.Stop() })
	return p
}

// run starts the first attempt at once: the moment of the call is part of the story.
func (p *Probe) run(ctx context.Context) {
	defer close(p.ended)
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		inFlight.Go(p.try)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// try is one attempt. It is not cut short by Stop: a verdict needs its full limit.
func (p *Probe) try() {
	ctx, cancel := context.WithTimeout(context.Background(), p.limit)
	defer cancel()
	a := attempt{at: time.Now()}
	server, err := p.ask(ctx)
	a.took, a.server, a.err = time.Since(a.at), server, class(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts = append(p.attempts, a)
}

// Stop ends the probe, waits for the attempts under way and reports. Further
// calls return the same report.
func (p *Probe) Stop() Report {
	p.once.Do(func() {
		end := time.Now()
		p.cancel()
		<-p.ended
		if p.after != nil {
			_ = p.after() // a socket: nothing is lost with it
		}
		p.report = summarize(p.attempts, end)
	})
	return p.report
}

// Snapshot reports on the attempts that have ended so far.
func (p *Probe) Snapshot() Report {
	p.mu.Lock()
	attempts := append([]attempt(nil), p.attempts...)
	p.mu.Unlock()
	return summarize(attempts, time.Now())
}

// class names a failure so that equal ones can be counted.
func class(err error) string {
	var status interface{ Timeout() bool }
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &status) && status.Timeout():
		return "timeout"
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}
