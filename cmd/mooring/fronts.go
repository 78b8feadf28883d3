package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/lb"
)

// fieldTLS is the annotation that names a Secret.
const fieldTLS = "mooring.dev/tls-secret"

// secretOf names the Secret of a Service's certificate, which is of its namespace.
func secretOf(v *lb.Service) string {
	namespace, _, _ := strings.Cut(string(v.Key), "/")
	return namespace + "/" + v.TLSSecret
}

// onCertificate takes a certificate, or what is wrong with its Secret; the one before
// goes on then.
func (s *services) onCertificate(secret string, pem []byte, err error) {
	text := ""
	if err == nil {
		file := filepath.Join(s.n.cfg.RunDir, "tls", strings.ReplaceAll(secret, "/", "_")+".pem")
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			err = write(file, pem)
		}
		if err == nil {
			s.mu.Lock()
			s.tls[secret] = file
			s.mu.Unlock()
		}
	}
	if err != nil {
		text = err.Error()
		s.n.log.Warn("certificate of a Service not taken", "secret", secret, "err", err)
	}
	s.mu.Lock()
	s.untold[secret] = text
	s.mu.Unlock()
	knock(s.fronts)
	knock(s.unsaid)
}

// wantCertificates follows the Secrets that Services name.
func (s *services) wantCertificates(all []lb.Service) {
	var secrets []string
	for i := range all {
		if all[i].TLSSecret != "" {
			secrets = append(secrets, secretOf(&all[i]))
		}
	}
	slices.Sort(secrets)
	if secrets = slices.Compact(secrets); slices.Equal(secrets, s.secrets) {
		return
	}
	s.secrets = secrets
	s.mu.Lock()
	for _, secret := range secrets {
		if _, known := s.untold[secret]; !known {
			s.untold[secret] = "the certificate has not been read yet; allow the agents to read Secret " + secret +
				" with a Role and RoleBinding in its namespace (see mooring manifest rbac-services)"
		}
	}
	s.mu.Unlock()
	s.certificates.Want(secrets)
	knock(s.unsaid)
}

// serveFronts keeps HAProxy at the newest wish.
func (s *services) serveFronts(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.fronts:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
		}
		fronts, pools, ready := s.frontends()
		if !ready {
			continue
		}
		text := ""
		if err := s.setFronts(ctx, fronts, pools); err != nil && ctx.Err() == nil {
			text = "HAProxy for Services: " + err.Error()
			s.n.log.Error("load balancer for Services not as wanted", "err", err)
		}
		s.n.complain("services-proxy", text)
	}
}

// madeFronts are a Service's frontends, and of what they were made.
type madeFronts struct {
	of     *lb.Service
	tls    string
	fronts []lb.Frontend
}

// frontends are what HAProxy shall serve, whether there are pools, and whether all is
// known. Those of Services that have not changed are as they were: with thousands of
// Services making them all is most of the way from an endpoint to HAProxy.
func (s *services) frontends() (out []lb.Frontend, pools, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.synced || !s.labelled || s.leaving {
		return nil, false, false
	}
	now := make(map[lb.ServiceKey]madeFronts, len(s.known))
	for key, v := range s.known {
		if v.Modeless {
			return s.allFronts(), len(s.pools) > 0, true // their ports depend on each other
		}
		tls := s.certificateOf(v)
		m := s.made[key]
		if m.of != v || m.tls != tls {
			m = madeFronts{of: v, tls: tls, fronts: lb.Frontends([]lb.Service{v.With(tls)}, s.pools, s.n.cfg.Node)}
		}
		now[key] = m
		out = append(out, m.fronts...)
	}
	s.made = now
	slices.SortFunc(out, func(a, b lb.Frontend) int { return strings.Compare(a.Name, b.Name) })
	return out, len(s.pools) > 0, true
}

// certificateOf is the file of the certificate with which a Service terminates TLS, ""
// for none. The caller holds mu.
func (s *services) certificateOf(v *lb.Service) string {
	if v.TLSSecret == "" {
		return ""
	}
	return s.tls[secretOf(v)]
}

// allFronts makes all frontends anew. The caller holds mu.
func (s *services) allFronts() []lb.Frontend {
	all := make([]lb.Service, 0, len(s.known))
	for _, v := range s.known {
		all = append(all, v.With(s.certificateOf(v)))
	}
	s.made = nil
	return lb.Frontends(all, s.pools, s.n.cfg.Node)
}

// setFronts starts or changes HAProxy. With pools it runs also before there is
// anything to serve: a new one must hear from its peers for some seconds before it may
// be reloaded without loss of what it knows. Without any it is ended.
func (s *services) setFronts(ctx context.Context, fronts []lb.Frontend, pools bool) error {
	s.fronted.Store(len(fronts) > 0)
	s.n.complain("ipmode", s.shifts.want(fronts))
	kept := s.shifts.before(ctx, s.proxy.State())
	if len(fronts) == 0 && !pools {
		return errors.Join(kept, s.proxy.Stop(ctx))
	}
	c := haproxy.Config{Name: "services", Frontends: fronts, MaxConn: s.n.cfg.Services.MaxConnections}
	c.Metrics = true
	c.Peers, c.Local = s.peersOf(s.n.members())
	state, err := s.proxy.Set(ctx, c)
	if err == nil || !state.Serving {
		kept = errors.Join(kept, s.shifts.after(ctx, state))
	}
	return errors.Join(kept, err)
}

// holdBack has this node say that it does not serve the groups it does not hold, a port
// of which waits for its HAProxy's reload: who is moved here meanwhile would be refused.
// The state after the reload ends it.
func (s *services) holdBack(pending []string) {
	if len(pending) == 0 {
		return
	}
	waits, late := map[string]bool{}, map[netip.Addr]bool{}
	for _, name := range pending {
		waits[name] = true
	}
	all, _, _ := s.snapshot()
	for i := range all {
		if slices.ContainsFunc(all[i].Ports, func(p lb.ServicePort) bool { return waits[lb.FrontendName(all[i].Key, p.Port)] }) {
			for _, ip := range all[i].Has {
				late[ip] = true
			}
		}
	}
	for _, sh := range *s.open.Load() {
		if sh.proxied.Load() && sh.agent.Status().State == election.Standby.String() &&
			slices.ContainsFunc(sh.agent.VIPs(), func(a lb.Address) bool { return late[a.IP] }) {
			sh.agent.Deliver(election.Health{OK: false})
		}
	}
}

// skipped says which Services HAProxy leaves out, and why, as far as a line goes.
func (s *services) skipped(fronts map[string]string) string {
	const most = 5
	all, _, _ := s.snapshot()
	var out []string
	for _, v := range all {
		for _, p := range v.Ports {
			if why := fronts[lb.FrontendName(v.Key, p.Port)]; why != "" {
				out = append(out, fmt.Sprintf("Service %s, port %d is not served here: %s", v.Key, p.Port, why))
			}
		}
	}
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, "; ")
}

// peersOf are the members' HAProxies, which tell each other which server a client has,
// this node's among them; none where it has no peer.
func (s *services) peersOf(members []election.Member) (peers []haproxy.Peer, local string) {
	self := s.n.cfg.Node
	for _, m := range members {
		ip, ok := addressOf(m, s.n.family())
		taken := slices.ContainsFunc(peers, func(p haproxy.Peer) bool { return p.Addr.Addr() == ip })
		if ok && !taken {
			peers = append(peers, haproxy.Peer{Name: m.Node, Addr: netip.AddrPortFrom(ip, s.n.cfg.Services.PeersPort)})
		}
	}
	slices.SortFunc(peers, func(a, b haproxy.Peer) int { return strings.Compare(a.Name, b.Name) })
	if len(peers) < 2 || !slices.ContainsFunc(peers, func(p haproxy.Peer) bool { return p.Name == self }) {
		return nil, ""
	}
	return peers, self
}
