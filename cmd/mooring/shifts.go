package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"mooring.dev/mooring/internal/lb"
)

// redirector is the table of redirects in the kernel. Set makes exactly these stand
// and is idempotent; after an error what stood before does. Run mends what others
// damage, until its context ends.
type redirector interface {
	Set(context.Context, []lb.Redirect) error
	Run(context.Context) error
}

// shifts keeps the redirects to HAProxy where kube-proxy would take connections
// itself (lb.Service.Modeless): only those of frontends that HAProxy listens for, or
// clients would be refused that kube-proxy could serve. Only serveFronts uses it.
type shifts struct {
	redirects redirector
	// wanted says that there are any to keep in step with HAProxy.
	wanted atomic.Bool
	fronts []lb.Frontend
	// stand are those in the kernel. Before the first look at HAProxy they are a
	// predecessor's, as is HAProxy, and not known.
	stand []lb.Redirect
	known bool
}

func newShifts(r redirector) *shifts { return &shifts{redirects: r} }

// want takes the frontends as they shall be and says what is unusual about them, "" if
// nothing is.
func (s *shifts) want(fronts []lb.Frontend) (complaint string) {
	s.fronts = fronts
	n := 0
	for _, f := range fronts {
		if len(f.Redirects) > 0 {
			n++
		}
	}
	s.wanted.Store(n > 0 || len(s.stand) > 0)
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("the API server keeps no ipMode (Kubernetes before 1.30): %d ports of Services are redirected "+
		"to HAProxy before kube-proxy takes them", n)
}

// before takes away, before HAProxy changes, what will not stand afterwards, or does
// not lead to it now: what led to a port's frontend may lead to another's then.
func (s *shifts) before(ctx context.Context, now lb.ProxyState) error {
	if !s.known {
		return nil
	}
	now.Pending = nil // it goes on to serve as before until the reload
	will := lb.Redirects(s.fronts, now)
	ends := func(r lb.Redirect) bool { return !slices.Contains(will, r) }
	return s.set(ctx, slices.DeleteFunc(slices.Clone(s.stand), ends))
}

// after makes stand what HAProxy serves. A new agent leaves its predecessor's until
// the reload that it may need is over.
func (s *shifts) after(ctx context.Context, now lb.ProxyState) error {
	waits := func(f lb.Frontend) bool { return len(f.Redirects) > 0 && slices.Contains(now.Pending, f.Name) }
	if !s.known && now.Serving && slices.ContainsFunc(s.fronts, waits) {
		return nil
	}
	s.known = true
	will := lb.Redirects(s.fronts, now)
	for _, f := range s.fronts {
		// One that waits is served as before; what still stands leads to the same port.
		for _, r := range f.Redirects {
			if now.Serving && waits(f) && slices.Contains(s.stand, r) && !slices.Contains(will, r) {
				will = append(will, r)
			}
		}
	}
	return s.set(ctx, will)
}

func (s *shifts) set(ctx context.Context, list []lb.Redirect) error {
	if err := s.redirects.Set(ctx, list); err != nil {
		return fmt.Errorf("redirects to it: %w", err)
	}
	s.stand = list
	return nil
}
