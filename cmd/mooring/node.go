package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

const (
	group = "apiserver"
	// hedge is how long one API server may take before the next is asked too.
	hedge = 150 * time.Millisecond
	// probeGap is the most between two questions to the wire.
	probeGap = 20 * time.Millisecond
	// serverName is in every API server's certificate, whatever its address.
	serverName = "kubernetes"
)

// links are the address sink.
type links struct{ vip.Share }

// plane is the data plane sink.
type plane struct {
	proxy     *haproxy.Proxy
	redirects *haproxy.Redirects
	base      haproxy.Config
}

// Frontends starts, changes or, without any, ends HAProxy.
func (p plane) Frontends(ctx context.Context, f []lb.Frontend) (lb.ProxyState, error) {
	if len(f) == 0 {
		return lb.ProxyState{Why: "nothing to balance"}, p.proxy.Stop(ctx)
	}
	c := p.base
	c.Frontends = f
	return p.proxy.Set(ctx, c)
}

// Redirects makes exactly these stand.
func (p plane) Redirects(ctx context.Context, r []lb.Redirect) error { return p.redirects.Set(ctx, r) }

// node is everything one agent is composed of, for one configuration.
type node struct {
	cfg      config.Config
	log      *slog.Logger
	registry *prometheus.Registry

	vips           []lb.Address
	links          links
	plane          plane
	credentials    credentials
	looked         string // the stamp of their files, the supervisor's
	servers        *kube.Servers
	reporter       *kube.Reporter
	elector        *election.Elector
	watcher        *kube.Watcher
	hello          *hello.Loop
	keys           *kube.Keys // nil: a file has them
	taints         *kube.Nodes
	agent          *agent.Agent // nil without VIPs of the API server
	all            atomic.Pointer[[]election.Member]
	voices         *voices
	services       *services // nil where this node serves none
	serviceWatcher *kube.ServiceWatcher
	born           lb.Instant

	mu         sync.Mutex
	complaints map[string]string
	foreign    time.Time       // when a stranger last claimed a VIP
	down       map[string]bool // announcing links without carrier
	request    string          // the CertificateSigningRequest under way
}

// newNode builds a node; addresses of an earlier run that are still alive are
// refreshed here, before anything slow.
func newNode(cfg config.Config, s *supervisor) (*node, error) {
	n := &node{
		cfg: cfg, log: s.log, registry: s.registry, born: boottime(),
		complaints: map[string]string{}, down: map[string]bool{},
	}
	n.refuse(s.refused)
	if err := n.findLinks(); err != nil {
		return nil, err
	}
	n.links = links{vip.New(vip.Options{
		Now: boottime, Log: n.log, Rate: cfg.Announce.Rate, Refresh: cfg.Announce.Refresh,
		Claimed: n.onClaim, Changed: n.onGone, LinkChanged: n.onLink, Rival: n.onRival,
		State: n.file("drain.json"), ProbeGap: min(probeGap, cfg.Hello.Interval*2/5),
	}).For("")}
	if err := vip.Check(n.vips, cfg.APIServer.AllowOutsideSubnet); err != nil {
		return nil, err
	}
	start := n.adopt()
	if err := n.connect(); err != nil {
		return nil, err
	}
	if err := n.connectPeers(); err != nil {
		return nil, err
	}
	if err := n.connectServices(); err != nil {
		return nil, err
	}
	member, err := n.member()
	if err != nil {
		return nil, err
	}
	n.elector, err = election.NewElector(election.Options{
		Config: n.servers.RESTConfig(hedge), Namespace: cfg.Namespace, Group: n.ownGroup(), Node: cfg.Node,
		Lease: cfg.Lease.Duration, Renew: cfg.Lease.Renew, Member: member,
		Identity: cfg.Node + "_" + agent.BootID() + "_" + member.MACs[0],
		Now:      boottime, Clock: time.Now, Deliver: n.deliver, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	if len(n.vips) == 0 {
		return n, nil
	}
	return n, n.compose(start, member.MACs[0])
}

// ownGroup is the group of the API server's VIPs, "" without any.
func (n *node) ownGroup() string {
	if len(n.vips) == 0 {
		return ""
	}
	return group
}

// findLinks gives each VIP its link.
func (n *node) findLinks() error {
	for _, ip := range n.cfg.APIServer.VIPs {
		link := n.cfg.Interface
		if link == "" {
			var err error
			if link, err = vip.LinkFor(ip); err != nil {
				return fmt.Errorf("interface: %v", err)
			}
		}
		n.vips = append(n.vips, lb.Address{IP: ip, Link: link})
	}
	return nil
}

// announcing are the links on which VIPs are announced and the agents hear each
// other, the first one's foremost.
func (n *node) announcing() []string {
	var out []string
	for _, v := range n.vips {
		if !slices.Contains(out, v.Link) {
			out = append(out, v.Link)
		}
	}
	if n.cfg.Interface != "" && !slices.Contains(out, n.cfg.Interface) {
		out = append(out, n.cfg.Interface)
	}
	return out
}

// adopt refreshes, silently, addresses of ours that are still alive, and
// removes those that no configured VIP explains.
func (n *node) adopt() election.Started {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var s election.Started
	var err error
	if s.Last, s.Known, s.SameBoot, err = memoryOf(n.cfg).Load(); err != nil {
		n.log.Warn("last record not known", "err", err)
	}
	alive, err := n.links.Alive(ctx, n.vips)
	named := !s.Known || !s.SameBoot || s.Last.Holder == n.cfg.Node
	// A VIP that the configuration has gained comes with the first refresh.
	if err == nil && len(alive) > 0 && named {
		held, err := n.links.Set(ctx, lb.Holding{
			Addresses: alive, ValidLft: n.cfg.Fence.ValidLifetime, Quiet: true,
		})
		s.Alive, s.Begun = err == nil && len(held.Added) == 0, held.Begun
	}
	keep := alive
	if !s.Alive {
		keep = nil
		_, err = n.links.Set(ctx, lb.Holding{})
	}
	if n.cfg.Services.Enabled {
		keep = append(slices.Clone(keep), keptAddresses(n.file(groupsFile))...)
	}
	if gone, swept := n.links.Sweep(ctx, keep); swept != nil || err != nil {
		n.log.Warn("left-over addresses not removed", "err", errors.Join(err, swept))
	} else if len(gone) > 0 {
		n.log.Info("removed addresses that an earlier run left", "addresses", fmt.Sprint(gone))
	}
	return s
}

// connect prepares everything that talks to API servers.
func (n *node) connect() error {
	err := n.findServers()
	if err != nil {
		return err
	}
	n.servers.Set(addrsOf(n.seeds()))
	cfg := n.servers.RESTConfig(0)
	n.reporter, err = kube.NewReporter(cfg, kube.ReporterOptions{Node: n.cfg.Node, Now: time.Now, Log: n.log})
	if err != nil {
		return err
	}
	n.watcher, err = kube.NewWatcher(cfg, kube.WatcherOptions{
		Backends: n.onBackends, Never: n.cfg.APIServer.VIPs, Log: n.log,
	})
	return err
}

// member is what this node's member Lease says.
func (n *node) member() (election.Member, error) {
	m := election.Member{Node: n.cfg.Node, Live: true, Priority: n.cfg.Priority}
	if n.cfg.Services.Enabled {
		if err := recall(n.file(rulesFile), &m.Pools); err != nil {
			n.log.Warn("kept pools of this node not read", "err", err)
		}
	}
	for _, link := range n.announcing() {
		mac, err := vip.MACs(link)
		if err != nil {
			return m, err
		}
		own, err := vip.OwnAddrs(link)
		if err != nil {
			return m, err
		}
		if !slices.Contains(m.MACs, mac.String()) {
			m.MACs = append(m.MACs, mac.String())
			for _, ip := range own {
				if !slices.Contains(n.cfg.APIServer.VIPs, ip) {
					m.Addrs = append(m.Addrs, ip.String())
				}
			}
		}
	}
	return m, nil
}

// compose builds the data plane and the agent.
func (n *node) compose(start election.Started, mac string) error {
	// As the last run found it: another check would be another configuration.
	_, err := os.Stat(n.file(clientFile))
	auto := n.cfg.APIServer.Check.ClientCertificate == config.CertificateAuto
	check, err := n.checkFiles(err == nil && auto)
	if err != nil {
		return err
	}
	dir := filepath.Join(n.cfg.RunDir, "haproxy-apiserver")
	proxy, err := haproxy.New(haproxy.Options{Dir: dir, Log: n.log, Changed: n.onProxy})
	if err != nil {
		return err
	}
	n.plane = plane{
		proxy: proxy, redirects: haproxy.NewRedirects(haproxy.RedirectOptions{Log: n.log}),
		base: haproxy.Config{Name: group, MaxConn: n.cfg.APIServer.MaxConnections},
	}
	start.Forwards, start.Until = n.forwarding(n.candidates())
	n.agent = agent.New(agent.Options{
		Machine: election.Config{
			Group: group, Self: n.cfg.Node, Lease: n.cfg.Lease.Duration, Renew: n.cfg.Lease.Renew,
			ValidLft: n.cfg.Fence.ValidLifetime, Drain: n.cfg.Moves.DrainTimeout,
			Preempt: n.cfg.Moves.Preempt, PreemptDelay: n.cfg.Moves.PreemptDelay, MAC: mac,
		},
		VIPs: n.vips, Start: start, Forwards: n.links.Forwards(), Witnesses: n.witnesses(),
		Plane: lb.Snapshot{
			VIPs: n.cfg.APIServer.VIPs, Balance: n.cfg.APIServer.Balance == config.BalanceHAProxy && n.hasCA(),
			Port: n.cfg.APIServer.Port, ProxyPort: n.cfg.APIServer.ProxyPort, Seeds: n.seeds(), Check: check,
		},
		Addresses: n.links, Record: n.elector, DataPlane: n.plane, Memory: memoryOf(n.cfg),
		Hellos: n.voices.of(group), Complain: func(key, text string) { n.complain(key, text) },
		Noted: n.onNote, Now: boottime, Clock: time.Now, Log: n.log,
	})
	return nil
}

// Probe asks for the gateways too, the witnesses that every site has. They are
// looked up each time: a route may come by DHCP or router advertisement.
func (l links) Probe(ctx context.Context, addrs []lb.Address, quick bool) ([]lb.Answer, error) {
	out := slices.Clone(addrs)
	gateways := map[string][]netip.Addr{}
	for _, v := range addrs {
		routers, known := gateways[v.Link]
		if !known {
			// Of a link that is not there the probe itself says what is wrong.
			routers, _ = vip.Gateways(v.Link)
			gateways[v.Link] = routers
		}
		for _, ip := range routers {
			if a := (lb.Address{IP: ip.WithZone(""), Link: v.Link}); ip.Is4() == v.IP.Is4() && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	if quick {
		return l.ProbeOnce(ctx, out)
	}
	return l.Links.Probe(ctx, out)
}

// witnesses are the configuration's, on the links of the VIPs of their family.
func (n *node) witnesses() []lb.Address {
	var out []lb.Address
	for _, ip := range n.cfg.Witnesses {
		for _, v := range n.vips {
			if a := (lb.Address{IP: ip, Link: v.Link}); v.IP.Is4() == ip.Is4() && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
		if len(n.vips) == 0 {
			out = append(out, lb.Address{IP: ip, Link: n.announcing()[0]})
		}
	}
	return out
}

// run works until quit ends, which hands the group over, or reload does, which
// leaves everything for the next node of this process to adopt.
func (n *node) run(quit, reload context.Context) error {
	n.links.Watch(n.vips)
	n.rememberMembers()
	// Adapters outlive the agent's loop: the hand-over needs them.
	ctx, cancel := context.WithCancel(reload)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(quit, func() {
		leave, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		if err := n.elector.Leave(leave); err != nil {
			n.log.Warn("not marked as leaving", "err", err)
		}
		if n.agent != nil {
			n.agent.Deliver(election.Shutdown{})
		}
		if n.services != nil {
			n.services.handOver(ctx)
		}
	})
	defer stop()
	tasks := []func(context.Context) error{
		n.links.Run, n.servers.Run, n.watcher.Run, n.reporter.Run, n.elector.Run, n.hello.Run, n.followKeys, n.taints.Run,
		n.watchCertificate, n.watchCredentials, n.watchHealth, n.serveMetrics, n.serveSocket,
	}
	if n.agent != nil {
		tasks = append(tasks, n.plane.proxy.Run, n.plane.redirects.Run)
	}
	for _, task := range tasks {
		g.Go(func() error { return task(ctx) })
	}
	n.serveServices(ctx, g)
	g.Go(func() error {
		defer cancel()
		return n.live(ctx, quit)
	})
	return n.ended(ctx, g)
}

// live runs the API server's group, or waits for quit where there is none; then the
// hand-over of the Services' groups, which has begun, is waited for.
func (n *node) live(ctx, quit context.Context) error {
	var err error
	if n.agent != nil {
		var kept bool
		kept, err = n.agent.Run(ctx)
		n.log.Info("agent ends", "addressesKept", kept)
	} else {
		select {
		case <-ctx.Done():
		case <-quit.Done():
		}
	}
	if n.services != nil && quit.Err() != nil {
		n.services.handOver(ctx)
	}
	return err
}

// slowTask is how long a task may take to end, well within any fence.
const slowTask = 300 * time.Millisecond

// ended waits for all tasks, but for a moment only once they were told to end:
// nobody refreshes the VIPs meanwhile, and a library that sleeps in an outage
// must not cost them.
func (n *node) ended(ctx context.Context, g *errgroup.Group) error {
	all := make(chan error, 1)
	go func() { all <- g.Wait() }()
	var err error
	select {
	case err = <-all:
	case <-ctx.Done():
		select {
		case err = <-all:
		case <-time.After(slowTask):
			n.log.Warn("a task of this agent is slow to end")
			err = context.Cause(ctx)
		}
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// addrsOf are the addresses of backends.
func addrsOf(b []lb.Backend) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(b))
	for _, s := range b {
		out = append(out, s.Addr)
	}
	return out
}

// preflight says what would keep a node of the next configuration from being
// built, while this one goes on: nothing is touched.
func (n *node) preflight(ctx context.Context, next config.Config) error {
	to := &node{cfg: next, log: n.log}
	if err := to.findLinks(); err != nil {
		return err
	}
	if err := vip.Check(to.vips, next.APIServer.AllowOutsideSubnet); err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(to.vips), func(a lb.Address) bool { return slices.Contains(n.vips, a) })
	if len(fresh) == 0 {
		return nil
	}
	answers, err := n.links.Links.Probe(ctx, fresh)
	if err == nil && len(answers) > 0 {
		err = fmt.Errorf("apiServer.vips: %s is in use by MAC %s: choose another address, or take it from that host first",
			answers[0].IP, answers[0].MAC)
	}
	return err
}
