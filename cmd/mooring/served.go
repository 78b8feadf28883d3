package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

const (
	// servedSettle is how long what HAProxy leaves out must last to be told, and longer
	// than a group's state takes to be published.
	servedSettle = time.Second
	// servedRetry is the pause after a write that failed.
	servedRetry = 10 * time.Second
)

// tellServed says on the Services that this node holds which of their ports its HAProxy
// leaves out, as a condition and an Event, once per change, until ctx ends. Other nodes'
// HAProxy may leave others out: no client meets that, and their own status says it.
func (s *services) tellServed(ctx context.Context) error {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.unsaid:
		case <-again:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(servedSettle):
		}
		again = nil
		if err := s.sayServed(ctx); err != nil && ctx.Err() == nil {
			s.n.log.Info("not said on the Services which ports are not served, trying again", "err", err)
			again = time.After(servedRetry)
		}
	}
}

// errNotYet says that half of what there is may say the opposite of the whole.
var errNotYet = errors.New("not all is known yet")

// sayServed compares what is so with what the Services' conditions say.
func (s *services) sayServed(ctx context.Context) error {
	all, _, ready := s.snapshot()
	if !ready {
		return errNotYet
	}
	skipped, held := s.proxy.State().Skipped, s.held()
	var faults []error
	for i := range all {
		v := &all[i]
		if len(v.Has) == 0 || !held[v.Has[0]] {
			continue
		}
		has, isTrue := s.conditions.Has(v.Key, conditionServed)
		c := servedCondition(v, skipped, s.n.cfg.Node)
		if c.True && (!has || isTrue) {
			continue // what was never wrong is not worth a write
		}
		news, err := s.conditions.Add(ctx, v.Key, v.UID, c)
		if err != nil && !errors.Is(err, kube.ErrGone) {
			faults = append(faults, err)
		}
		if news {
			s.tellNews(v, c)
		}
	}
	return errors.Join(faults...)
}

// tellNews writes the Event of a condition that has changed.
func (s *services) tellNews(v *lb.Service, c kube.Condition) {
	kind := kube.Warning
	if c.True {
		kind = kube.Normal
	}
	s.n.reporter.Report(kube.Note{
		About: kube.AboutService(v.Key, v.UID), Type: kind, Reason: c.Reason, Message: c.Message,
	})
}

// held are the addresses that this node holds. Who holds the first one of a Service
// speaks for it: the two of a dual-stack Service may be on two nodes.
func (s *services) held() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, sh := range *s.open.Load() {
		if sh.agent.Status().State != election.Holding.String() {
			continue
		}
		for _, a := range sh.agent.VIPs() {
			out[a.IP] = true
		}
	}
	return out
}

// servedCondition says which ports of a Service are not served on this node, which
// holds it.
func servedCondition(v *lb.Service, skipped map[string]string, node string) kube.Condition {
	c := kube.Condition{
		Type: conditionServed, True: true, Reason: "Served", Message: node + " holds it and serves all its ports",
	}
	if v.DataPath != lb.DataPathProxy {
		return c
	}
	var wrong []string
	if v.TLSSecret != "" && v.Front.TLS == "" {
		for _, i := range v.Issues {
			if i.Field == fieldTLS {
				wrong = append(wrong, "no port is served without its certificate: "+i.Problem)
			}
		}
	}
	for _, p := range v.Ports {
		if why := skipped[lb.FrontendName(v.Key, p.Port)]; why != "" {
			wrong = append(wrong, fmt.Sprintf("port %d is not served: %s", p.Port, why))
		}
	}
	if len(wrong) == 0 {
		return c
	}
	return kube.Condition{Type: conditionServed, Reason: "NotServed",
		Message: "on " + node + ", which holds it, " + strings.Join(wrong, "; ")}
}
