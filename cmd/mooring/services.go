package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// settleTime gathers what changes together: a rollout, or the first list.
const settleTime = 5 * time.Millisecond

// services is this node's share of the LoadBalancer Services: an agent for each
// group of addresses that it may hold, and HAProxy for all of them, held or not, so
// that a takeover finds it running.
type services struct {
	n          *node
	controller *agent.Controller
	proxy      *haproxy.Proxy
	shifts     *shifts
	// certificates are read one by one, as their owners allow.
	certificates *kube.Certificates
	// wake and fronts have one slot each: something has changed.
	wake, fronts chan struct{}
	// unsaid has one slot too: which Services are not served here may be another thing.
	unsaid chan struct{}
	// conditions is how that is said.
	conditions *kube.StatusWriter

	mu     sync.Mutex
	known  map[lb.ServiceKey]*lb.Service // never changed, only replaced
	pools  []lb.Pool
	synced bool
	// labels are this node's, once labelled; listed says that k3s' label chooses nodes.
	labels           map[string]string
	labelled, listed bool
	// tls are the files of the certificates that Services terminate with, by Secret,
	// untold what is wrong with a Secret.
	tls, untold map[string]string
	// leaving: every group was asked to hand over, none begins any more.
	leaving bool
	// peers, the links without carrier, taints and the health of HAProxy are what new
	// groups hear first.
	peers  map[string]hello.Change
	down   map[string]bool
	taints election.Taints
	health election.Health

	// fronted says that HAProxy has something to serve.
	fronted atomic.Bool
	// made are the Services' frontends as last made; serveFronts' own.
	made map[lb.ServiceKey]madeFronts

	// shares by group are the loop's; open is the same for callbacks.
	shares map[string]*share
	// last was published.
	last      []kept
	published bool
	// secrets are followed, rules are what the member Lease says.
	secrets, rulesTold []string
	open               atomic.Pointer[[]*share]
}

// newServices prepares; nothing starts before run.
func newServices(n *node, proxy *haproxy.Proxy, verdicts agent.Verdicts) *services {
	s := &services{
		n: n, proxy: proxy, shifts: newShifts(haproxy.NewRedirects(haproxy.RedirectOptions{Log: n.log, Services: true})),
		wake: make(chan struct{}, 1), fronts: make(chan struct{}, 1), unsaid: make(chan struct{}, 1),
		known: map[lb.ServiceKey]*lb.Service{}, shares: map[string]*share{}, tls: map[string]string{},
		untold: map[string]string{}, peers: map[string]hello.Change{},
		health: election.Health{OK: true},
	}
	s.controller = agent.NewController(agent.ControllerOptions{Verdicts: verdicts, Wire: wire{s}, Log: n.log})
	s.open.Store(&[]*share{})
	return s
}

// onService, onPools and onSynced take what the cluster says.
func (s *services) onService(key lb.ServiceKey, v *lb.Service) {
	s.mu.Lock()
	old := s.known[key]
	if v == nil {
		delete(s.known, key)
	} else {
		s.known[key] = v
	}
	s.mu.Unlock()
	s.controller.SetService(key, v)
	knock(s.fronts)
	// Mostly it is endpoints that change, and what follows for the groups is looked
	// at for all Services.
	if old == nil || v == nil || !lb.SamePlace(old, v) {
		knock(s.wake)
	}
}

func (s *services) onPools(pools []lb.Pool) {
	s.mu.Lock()
	s.pools, s.made = pools, nil
	s.mu.Unlock()
	s.controller.SetPools(pools)
	knock(s.wake)
}

func (s *services) onSynced() {
	s.mu.Lock()
	s.synced = true
	s.mu.Unlock()
	s.controller.Synced()
	knock(s.wake)
}

// knock says that something has changed, once.
func knock(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// snapshot is what is known now, in order.
func (s *services) snapshot() ([]lb.Service, []lb.Pool, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]lb.Service, 0, len(s.known))
	for _, key := range slices.Sorted(maps.Keys(s.known)) {
		v := *s.known[key]
		if v.TLSSecret != "" {
			secret := secretOf(&v)
			v.Front.TLS = s.tls[secret]
			if why := s.untold[secret]; why != "" {
				v.Issues = append(slices.Clone(v.Issues), lb.Issue{Field: fieldTLS, Problem: why})
			}
		}
		all = append(all, v)
	}
	return all, s.pools, s.synced && s.labelled && !s.leaving
}

// run keeps the groups and HAProxy as the cluster says, until ctx ends, which leaves
// everything as it is.
func (s *services) run(ctx context.Context) error {
	defer s.await()
	s.restore(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
		}
		s.look(ctx)
		knock(s.fronts)
	}
}

// await waits for the groups' agents.
func (s *services) await() {
	for _, sh := range s.shares {
		<-sh.done
	}
}

// handOver asks every group to be given away, and waits until all are or ctx ends.
func (s *services) handOver(ctx context.Context) {
	s.mu.Lock()
	s.leaving = true
	s.mu.Unlock()
	all := *s.open.Load()
	for _, sh := range all {
		sh.agent.Deliver(election.Shutdown{})
	}
	for _, sh := range all {
		select {
		case <-sh.done:
		case <-ctx.Done():
			return
		}
	}
}

// look brings the groups to what follows from the cluster.
func (s *services) look(ctx context.Context) {
	all, pools, ready := s.snapshot()
	if !ready {
		return
	}
	here, err := vip.Look()
	if err != nil {
		s.n.log.Error("links of this node not known, the Services stay as they are", "err", err)
		return
	}
	s.wantCertificates(all)
	groups := lb.Groups(all, pools)
	mine := s.rules(groups, s.announceable(pools, here))
	s.setPools(mine)
	exists := map[string]bool{}
	prefer := s.preferred(groups)
	for _, g := range groups {
		exists[g.Name] = true
		vips := s.onLinks(g, pools, here)
		may := len(vips) > 0 && slices.Contains(mine, g.Rule) && (!g.Local || slices.Contains(g.Nodes, s.n.cfg.Node))
		switch sh := s.shares[g.Name]; {
		case may:
			s.want(ctx, g, vips, prefer[g.Name])
		case sh != nil:
			s.retire(sh, g)
		case len(vips) > 0 && s.n.elector.HolderOf(g.Name) == s.n.cfg.Node:
			// From an earlier life of the group. While this node lives nobody else could
			// take it, so it does, and gives it away.
			s.want(ctx, g, vips, "")
		}
	}
	for name, sh := range s.shares {
		if !exists[name] {
			s.drop(ctx, sh)
		}
	}
	s.publish()
}
