package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

const (
	leaseFor = 7 * time.Second
	renewal  = time.Second
	validLft = 4 * time.Second
	drainFor = 5 * time.Minute
)

// site is the world that the agents of a test share: one link with a gateway
// and one API server, in a bubble's time, so that no test waits.
type site struct {
	t     *testing.T
	begun time.Time
	api   *api

	mu      sync.Mutex
	nodes   []*node
	gateway bool // it answers
	meshed  bool // the nodes hear each other's hellos
}

// all are the nodes so far.
func (s *site) all() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nodes)
}

// setGateway makes the gateway answer or not.
func (s *site) setGateway(answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gateway = answers
}

// inSite runs a story in made-up time. A goroutine that an agent leaves behind
// fails it: the bubble ends only when all have.
func inSite(t *testing.T, story func(t *testing.T, s *site)) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, begun: time.Now(), gateway: true}
		s.api = &api{site: s}
		story(t, s)
	})
}

// pass lets time go by and everything that is due happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// node is one agent with a fake behind each of its sinks.
type node struct {
	*site
	name  string
	agent *Agent
	links *links
	plane *plane
	disk  *disk
	rec   *recorder
	hello *hellos
	// off says that the machine has no power.
	off atomic.Bool
	// ahead is by how much this machine's CLOCK_BOOTTIME ran ahead of its
	// timers, as after a suspend.
	ahead atomic.Int64
	stop  context.CancelFunc
	ended chan struct{}
	kept  bool

	journalMu sync.Mutex
	journal   []entry
	notes     []election.Note
	wrong     map[string]string // standing complaints
}

// entry is one call of a sink.
type entry struct {
	at   time.Duration // since the site began
	what string
}

func (n *node) now() lb.Instant {
	return time.Since(n.begun) + time.Second + time.Duration(n.ahead.Load())
}

func (n *node) did(format string, args ...any) {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	n.journal = append(n.journal, entry{time.Since(n.begun), fmt.Sprintf(format, args...)})
}

// took gives the calls whose text begins with one of the words, since the last
// took; all calls without words.
func (n *node) took(words ...string) []string {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	var out []string
	for _, e := range n.journal {
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(e.what, w) }) {
			out = append(out, e.what)
		}
	}
	n.journal = nil
	return out
}

// times gives the instants of the calls that begin with a word, and keeps them.
func (n *node) times(word string) []time.Duration {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	var out []time.Duration
	for _, e := range n.journal {
		if strings.HasPrefix(e.what, word) {
			out = append(out, e.at)
		}
	}
	return out
}

func (n *node) noted(note election.Note) {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	n.notes = append(n.notes, note)
}

func (n *node) complain(key, text string) {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	n.wrong[key] = text
}

// complaint is what stands under a key, "" is nothing.
func (n *node) complaint(key string) string {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	return n.wrong[key]
}

// reasons lists the decisions so far.
func (n *node) reasons() []election.Reason {
	n.journalMu.Lock()
	defer n.journalMu.Unlock()
	var out []election.Reason
	for _, note := range n.notes {
		out = append(out, note.Reason)
	}
	return out
}

// decided fails unless the decisions were these, in this order.
func (n *node) decided(want ...election.Reason) {
	n.t.Helper()
	if got := n.reasons(); !slices.Equal(got, want) {
		n.t.Errorf("%s decided %v, want %v", n.name, got, want)
	}
}

// vips are the group's, on the link.
func vips() []lb.Address {
	return []lb.Address{{IP: netip.MustParseAddr("192.0.2.10"), Link: "eth0"}}
}

// add makes the next node: a is 192.0.2.1 and so on. Options may be changed
// before the agent is built; nothing runs yet.
func (s *site) add(change ...func(*Options)) *node {
	k := len(s.all())
	n := &node{site: s, name: string(rune('a' + k)), ended: make(chan struct{})}
	n.links, n.plane, n.disk = &links{node: n}, &plane{node: n}, &disk{node: n}
	n.rec, n.hello, n.wrong = &recorder{node: n}, &hellos{node: n}, map[string]string{}
	opt := Options{
		Machine: election.Config{Group: "apiserver", Self: n.name, Lease: leaseFor, Renew: renewal, ValidLft: validLft,
			Drain: drainFor},
		VIPs: vips(), Witnesses: []lb.Address{gateway()},
		Plane:     lb.Snapshot{VIPs: []netip.Addr{vips()[0].IP}, Port: 6443, ProxyPort: 7443},
		Addresses: n.links, Record: n.rec, DataPlane: n.plane, Memory: n.disk,
		Hellos: n.hello, Complain: n.complain, Noted: n.noted, Now: n.now, Clock: time.Now, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	}
	for _, f := range change {
		f(&opt)
	}
	n.agent = New(opt)
	s.mu.Lock()
	s.nodes = append(s.nodes, n)
	s.mu.Unlock()
	return n
}

// run starts the agent and tells all of all candidates; the test's end stops it.
func (n *node) run() *node {
	ctx, stop := context.WithCancel(n.t.Context())
	n.stop = stop
	go func() {
		defer close(n.ended)
		kept, err := n.agent.Run(ctx)
		n.kept = kept
		if err != nil {
			n.t.Errorf("%s: Run: %v", n.name, err)
		}
	}()
	n.t.Cleanup(func() {
		stop()
		<-n.ended
	})
	n.tellMembers()
	synctest.Wait()
	return n
}

// tellMembers delivers the candidates to all of them.
func (s *site) tellMembers() {
	var all []election.Member
	for _, n := range s.all() {
		all = append(all, n.member())
	}
	for _, n := range s.all() {
		n.agent.Deliver(election.Members{All: all})
	}
}

func (n *node) member() election.Member {
	k := int(n.name[0]-'a') + 1
	return election.Member{
		Node: n.name, MACs: []string{n.mac().String()},
		Addrs: []string{fmt.Sprintf("192.0.2.%d", k), fmt.Sprintf("2001:db8::%d", k)}, Live: true,
	}
}

// powerOff ends a node and its kernel at once.
func (n *node) powerOff() {
	n.off.Store(true)
	n.stop()
	n.links.mu.Lock()
	n.links.until, n.links.copies = 0, 0
	n.links.mu.Unlock()
	n.hello.silent()
}

// running says whether Run has not returned.
func (n *node) running() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// answering names the nodes whose kernel has the VIP.
func (s *site) answering() string {
	var out []string
	for _, n := range s.all() {
		if n.links.has() {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, " ")
}

// want wants the agent's state and who answers to be these.
func (s *site) want(answering string, states ...string) {
	s.t.Helper()
	if got := s.answering(); got != answering {
		s.t.Errorf("%.3fs: %q answers, want %q", time.Since(s.begun).Seconds(), got, answering)
	}
	for i, want := range states {
		st := s.all()[i].agent.Status()
		got := st.State
		if st.Confirmed {
			got += " confirmed"
		}
		if got != want {
			s.t.Errorf("%.3fs: %s is %s, want %s", time.Since(s.begun).Seconds(), st.Node, got, want)
		}
	}
}
