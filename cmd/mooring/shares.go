package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// share is one group that this node may hold.
type share struct {
	name    string
	vips    []lb.Address
	agent   *agent.Agent
	elector *election.Elector
	// leave ends it with everything left as it is.
	leave context.CancelFunc
	done  chan struct{}
	// rule tells the candidates it was told from others.
	rule string
	// proxied: HAProxy serves some of its addresses.
	proxied atomic.Bool
}

// kept is a group's addresses as an earlier run of this boot had them.
type kept struct {
	Group string       `json:"group"`
	VIPs  []lb.Address `json:"vips"`
}

// retire gives a group away that this node may not hold any more, and ends its agent
// when it holds nothing. Without another candidate it goes on: what would the group
// gain by having no holder?
func (s *services) retire(sh *share, g lb.Group) {
	s.allow(sh, g, "")
	if sh.agent.Status().State != election.Standby.String() || s.n.elector.HolderOf(g.Name) == s.n.cfg.Node {
		return
	}
	sh.leave()
	<-sh.done
	delete(s.shares, sh.name)
}

// allow tells a group's elector who may hold it, if that has changed.
func (s *services) allow(sh *share, g lb.Group, prefer string) {
	if rule := fmt.Sprint(prefer, g.Nodes); sh.rule != rule {
		sh.rule = rule
		sh.elector.Allow(candidates(g, prefer))
	}
}

// ofGroup says whether a request is about the Lease of a group of Services (see
// lb.Groups): each Local Service has one.
func ofGroup(r *http.Request) bool {
	dir, name := path.Split(r.URL.Path)
	return strings.HasSuffix(dir, "/leases/") && (strings.HasPrefix(name, "pool-") || strings.HasPrefix(name, "local-"))
}

// want begins or changes a group.
func (s *services) want(ctx context.Context, g lb.Group, vips []lb.Address, prefer string) {
	sh := s.shares[g.Name]
	if sh == nil {
		sh = s.begin(ctx, g.Name, vips, election.Started{}, candidates(g, prefer))
		sh.rule = fmt.Sprint(prefer, g.Nodes)
		s.setProxied(sh, g.Proxied)
		return
	}
	s.setProxied(sh, g.Proxied)
	s.allow(sh, g, prefer)
	if !slices.Equal(sh.vips, vips) {
		sh.vips = vips
		sh.agent.SetVIPs(vips)
		s.mu.Lock()
		down := s.down
		s.mu.Unlock()
		sh.agent.Deliver(carrierOf(vips, down))
	}
}

// candidates says who may hold a group; the preferred node ranks first. The others
// are known, for they may still hold it, as nodes that shall be empty.
func candidates(g lb.Group, prefer string) func(election.Member) (election.Member, bool) {
	return func(m election.Member) (election.Member, bool) {
		if !slices.Contains(m.Pools, g.Rule) || g.Local && !slices.Contains(g.Nodes, m.Node) {
			m.Live, m.Drain = false, true
			return m, true
		}
		m.Priority = 0
		if m.Node == prefer {
			m.Priority = 1
		}
		return m, true
	}
}

// begin runs an agent for a group.
func (s *services) begin(ctx context.Context, name string, vips []lb.Address, start election.Started,
	may func(election.Member) (election.Member, bool)) *share {
	n := s.n
	ctx, leave := context.WithCancel(ctx)
	sh := &share{name: name, vips: vips, leave: leave, done: make(chan struct{})}
	mac := ""
	if own, err := vip.MACs(vips[0].Link); err == nil {
		mac = own.String()
	}
	// It says nothing before it runs, so not before there is an agent.
	sh.elector = n.elector.Follow(name, may, func(ev election.Event) { sh.agent.Deliver(ev) })
	sh.agent = agent.New(agent.Options{
		Machine: election.Config{
			Group: name, Self: n.cfg.Node, Lease: election.MemberLease, Renew: election.MemberRenew,
			ValidLft: n.cfg.Fence.ValidLifetime, Drain: n.cfg.Moves.DrainTimeout, MAC: mac,
		},
		VIPs: vips, Start: start, Addresses: links{n.links.For(name)}, Record: sh.elector,
		Memory: s.memory(name), Hellos: n.voices.of(name), Witnesses: n.witnesses(),
		Complain: func(key, text string) { n.complain(name+" "+key, text) },
		Noted:    func(note election.Note) { n.onGroupNote(name, note) },
		Now:      boottime, Clock: time.Now, Log: n.log,
	})
	s.shares[name] = sh
	// Open first: what happens while it catches up must not pass it by.
	open := append(slices.Clone(*s.open.Load()), sh)
	s.open.Store(&open)
	s.catchUp(sh)
	go func() {
		defer close(sh.done)
		defer knock(s.wake)
		defer n.voices.end(name)
		run, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { _ = sh.elector.Run(run) }() // its only error is the member Lease's
		if _, err := sh.agent.Run(run); err != nil {
			n.log.Error("group ended", "group", name, "err", err)
		}
	}()
	return sh
}

// drop ends a group that has no address any more, on every node: nobody takes it
// over.
func (s *services) drop(ctx context.Context, sh *share) {
	sh.leave()
	<-sh.done
	delete(s.shares, sh.name)
	if _, err := s.n.links.For(sh.name).Set(ctx, lb.Holding{}); err != nil {
		s.n.log.Error("addresses of a Service that is gone not removed", "group", sh.name, "err", err)
	}
	_ = os.Remove(s.memory(sh.name).Path)
}

// memory is where a group's last record is kept.
func (s *services) memory(name string) agent.Disk {
	return agent.Disk{Path: filepath.Join(s.n.cfg.StateDir, "groups", name+".json"), Boot: agent.BootID()}
}

// groupsFile keeps the groups of this node for its next run of this boot.
const groupsFile = "groups.json"

func (s *services) keptFile() string { return s.n.file(groupsFile) }

// publish tells the callbacks which groups there are, and the next run.
func (s *services) publish() {
	all := make([]*share, 0, len(s.shares))
	var last []kept
	watch := slices.Clone(s.n.vips)
	for _, name := range slices.Sorted(maps.Keys(s.shares)) {
		sh := s.shares[name]
		all = append(all, sh)
		last = append(last, kept{Group: name, VIPs: sh.vips})
		watch = append(watch, sh.vips...)
	}
	s.open.Store(&all)
	same := func(a, b kept) bool { return a.Group == b.Group && slices.Equal(a.VIPs, b.VIPs) }
	if s.published && slices.EqualFunc(last, s.last, same) {
		return
	}
	s.last, s.published = last, true
	s.n.links.Watch(watch)
	if err := keep(s.keptFile(), last); err != nil {
		s.n.log.Warn("groups not kept on disk: a restart will take longer", "err", err)
	}
}

// restore goes on with the groups of an earlier run of this boot whose addresses are
// still alive.
func (s *services) restore(ctx context.Context) {
	var all []kept
	if err := recall(s.keptFile(), &all); err != nil {
		s.n.log.Warn("kept groups not read", "err", err)
	}
	for _, k := range all {
		if len(k.VIPs) == 0 {
			continue
		}
		if start := s.adopt(ctx, k); start.Alive {
			// Who else may hold is known when the cluster has been read.
			s.begin(ctx, k.Group, k.VIPs, start, func(m election.Member) (election.Member, bool) { return m, true })
		}
	}
	s.publish()
}

// adopt refreshes a group's addresses silently, if all are still there.
func (s *services) adopt(ctx context.Context, k kept) election.Started {
	var start election.Started
	var err error
	if start.Last, start.Known, start.SameBoot, err = s.memory(k.Group).Load(); err != nil {
		s.n.log.Warn("last record not known", "group", k.Group, "err", err)
	}
	alive, err := s.n.links.Alive(ctx, k.VIPs)
	if err != nil || len(alive) != len(k.VIPs) {
		return start
	}
	held, err := s.n.links.For(k.Group).Set(ctx, lb.Holding{
		Addresses: k.VIPs, ValidLft: s.n.cfg.Fence.ValidLifetime, Quiet: true,
	})
	start.Alive, start.Begun = err == nil && len(held.Added) == 0, held.Begun
	return start
}

// keptAddresses are those of all groups of an earlier run, which a start does not
// sweep.
func keptAddresses(path string) []lb.Address {
	var all []kept
	if recall(path, &all) != nil {
		return nil
	}
	var out []lb.Address
	for _, k := range all {
		out = append(out, k.VIPs...)
	}
	return out
}

// onGroupNote turns a decision about a group of Services into an Event on the node.
func (n *node) onGroupNote(name string, note election.Note) {
	n.tellEvent(name, note)
	switch note.Reason {
	case election.GaveUp, election.Fenced, election.Frozen:
		knock(n.services.wake) // it may have been waited for
	case election.Became, election.Adopted:
		n.complain(name+" address", "")
		knock(n.services.unsaid)
	case election.AddressFailed, election.Stranger:
		n.complain(name+" address", fmt.Sprintf("group %s: %s %s %s", name, note.Reason, note.MAC, note.Detail))
	default:
	}
}
