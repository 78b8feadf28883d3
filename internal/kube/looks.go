package kube

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Look is what one API server answered to a look at it.
type Look struct {
	// Addr is host:port; Local the kubeconfig's server.
	Addr  string
	Local bool
	// Code is its answer to /readyz; with 0 Err says why there is none.
	Code int
	Err  error
	// Ahead is how much its clock is ahead of this host's, Within how exactly that
	// is known: the header Date has whole seconds (RFC 9110 §6.6.1). Dated says
	// that it had one.
	Ahead, Within time.Duration
	Dated         bool
}

// Look asks all servers for /readyz with the user's credentials, each by its own
// address and all at once, and compares clocks. No suspicion is raised or cleared.
// Each has as long as ctx allows.
func (s *Servers) Look(ctx context.Context) []Look {
	s.mu.Lock()
	all := append([]*server(nil), s.list...)
	s.mu.Unlock()
	out := make([]Look, len(all))
	var asked sync.WaitGroup
	for i, v := range all {
		asked.Go(func() { out[i] = s.lookAt(ctx, v.addr, i == 0) })
	}
	asked.Wait()
	return out
}

func (s *Servers) lookAt(ctx context.Context, addr string, local bool) Look {
	l := Look{Addr: addr, Local: local}
	// Twice: the first request pays for the handshakes, and would blur the clock.
	for range 2 {
		var resp *http.Response
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/readyz", nil)
		begun := time.Now()
		if err == nil {
			resp, err = s.probes.RoundTrip(req)
		}
		if err != nil {
			l.Code, l.Err = 0, err
			return l
		}
		took := time.Since(begun)
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the next use of the connection
		resp.Body.Close()
		l.Code = resp.StatusCode
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			l.Ahead, l.Within, l.Dated = skew(date, begun, took)
		}
	}
	return l
}

// skew compares a time in whole seconds, rounded down, with the middle of the
// request that it answers.
func skew(date, begun time.Time, took time.Duration) (ahead, within time.Duration, dated bool) {
	const half = 500 * time.Millisecond
	return date.Add(half).Sub(begun.Add(took / 2)), half + took/2, true
}

// At is the kubeconfig's own server, host:port.
func (s *Servers) At() string { return s.url.Host }

// Expires is the end of the client certificate's time, the zero Time where the
// user has none.
func (s *Servers) Expires() (time.Time, error) {
	rest := s.ClientPEM()
	if rest == nil {
		return time.Time{}, nil
	}
	block, _ := pem.Decode(rest) // the certificate stands before the key
	if block == nil {
		return time.Time{}, fmt.Errorf("the client certificate of the kubeconfig is no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("the client certificate of the kubeconfig: %w", err)
	}
	return cert.NotAfter, nil
}
