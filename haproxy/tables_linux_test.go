package haproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// sticky are the pods that clients 127.0.7.1 and up get.
func sticky(to string, clients int) []string {
	var out []string
	for i := range clients {
		out = append(out, who(fmt.Sprintf("127.0.7.%d", i+1), to))
	}
	return out
}

// affine is a frontend with affinity and roundrobin, with which a client without
// a table's entry gets another pod each time.
func affine(name, bind string, pods []*pod) lb.Frontend {
	return front(name, bind, pods, func(f *lb.Front) { f.Affinity, f.Balance = time.Hour, lb.RoundRobin })
}

// lesson waits until the worker says that its tables are complete.
func (s *svc) lesson(t *testing.T) time.Duration {
	return eventually(t, 10*time.Second, "the worker's lesson is over", func() bool {
		text, err := ask(context.Background(), s.cfg.file(fileStats), "show peers")
		return err == nil && tablesReady(text)
	})
}

// A client keeps its pod over reloads two seconds apart, as soon as the worker has
// finished its lesson, with and without Run's wait.
func TestAffinityOutlivesReloads(t *testing.T) {
	pods := startPods(t, 1, 4)
	s := newSvc(t, affine("web", "192.0.2.10:80", pods))
	s.cfg.Peers = []Peer{{Name: "a", Addr: netip.MustParseAddrPort("127.0.0.1:10240")}}
	s.cfg.Local, s.gap = "a", 2*time.Second
	p := s.proxy()
	s.watch(p)
	s.set(p)
	before := sticky("192.0.2.10:80", 12)
	if slices.Contains(before, "") || !slices.Equal(before, sticky("192.0.2.10:80", 12)) {
		t.Fatalf("no affinity at all: %v", before)
	}
	for i := range 6 {
		name, to := fmt.Sprint("new", i), fmt.Sprintf("192.0.2.10:%d", 90+i)
		s.cfg.Frontends = append(s.cfg.Frontends, front(name, to, pods[:1], nil))
		begin := time.Now()
		st := s.set(p)
		took := eventually(t, 12*time.Second, "the new frontend answers", func() bool { return who("", to) == "p1" })
		t.Logf("reload %d: pending %v, answered after %v", i, st.Pending, time.Since(begin))
		if i == 3 {
			// From now on nothing but the worker's word holds a reload back.
			p.take(context.Background())
			p.gap = 0
			p.give()
		}
		// The first comes within the lesson of a start without any peer.
		if i == 0 && len(st.Pending) != 1 {
			t.Errorf("reloaded within the lesson, after %v", took)
		}
		if after := sticky("192.0.2.10:80", 12); !slices.Equal(before, after) {
			t.Errorf("reload %d:\nbefore %v\nafter  %v", i, before, after)
		}
	}
}

// An agent that comes to a worker within its lesson, with something new, waits and
// says so; nothing stops meanwhile.
func TestAdoptedWithinTheLesson(t *testing.T) {
	pods := startPods(t, 1, 4)
	s := newSvc(t, affine("web", "192.0.2.10:80", pods))
	s.cfg.Peers = []Peer{{Name: "a", Addr: netip.MustParseAddrPort("127.0.0.1:10240")}}
	s.cfg.Local = "a"
	s.set(s.proxy())
	worker, before := s.worker(), sticky("192.0.2.10:80", 12)
	s.cfg.Frontends = append(s.cfg.Frontends, front("new", "192.0.2.10:81", pods[:1], nil))
	next := s.proxy()
	if st := s.set(next); !slices.Equal(st.Pending, []string{"new", "web"}) || s.worker() != worker {
		t.Errorf("%+v", st)
	}
	s.watch(next)
	eventually(t, 12*time.Second, "the new frontend answers", func() bool { return who("", "192.0.2.10:81") == "p1" })
	eventually(t, time.Second, "nothing is pending", func() bool { return len(s.seen.last().Pending) == 0 })
	if after := sticky("192.0.2.10:80", 12); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
}

// A worker without a table of clients has nothing to teach: within its lesson new
// Services wait for nothing, and the first with affinity loses nothing afterwards.
func TestNoTablesNoWait(t *testing.T) {
	pods := startPods(t, 1, 4)
	s := newSvc(t, front("limited", "192.0.2.10:80", pods[:1], func(f *lb.Front) { f.RatePerClient = 1000 }))
	s.cfg.Peers = []Peer{{Name: "a", Addr: netip.MustParseAddrPort("127.0.0.1:10240")}}
	s.cfg.Local = "a"
	p := s.proxy()
	s.watch(p)
	s.set(p)
	for i := range 2 {
		to := fmt.Sprintf("192.0.2.10:%d", 90+i)
		s.cfg.Frontends = append(s.cfg.Frontends, front(fmt.Sprint("new", i), to, pods[:1], nil))
		if st := s.set(p); len(st.Pending) > 0 || who("", to) != "p1" {
			t.Errorf("%s waits: %+v", to, st)
		}
	}
	s.cfg.Frontends = append(s.cfg.Frontends, affine("aff", "192.0.2.10:81", pods))
	s.set(p)
	before := sticky("192.0.2.10:81", 12)
	s.cfg.Frontends = append(s.cfg.Frontends, front("last", "192.0.2.10:99", pods[:1], nil))
	if st := s.set(p); !slices.Equal(st.Pending, []string{"last"}) {
		t.Errorf("reloaded within the lesson: %+v", st)
	}
	eventually(t, 12*time.Second, "the new frontend answers", func() bool { return who("", "192.0.2.10:99") == "p1" })
	if after := sticky("192.0.2.10:81", 12); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
}

// Once the first lesson is over nobody waits for tables, also not behind the first
// Service with affinity.
func TestFirstAffinityDelaysNobody(t *testing.T) {
	pods := startPods(t, 1, 4)
	s := newSvc(t)
	s.cfg.Peers = []Peer{{Name: "a", Addr: netip.MustParseAddrPort("127.0.0.1:10240")}}
	s.cfg.Local = "a"
	p := s.proxy()
	s.watch(p)
	s.set(p)
	s.lesson(t)
	s.cfg.Frontends = append(s.cfg.Frontends, affine("aff", "192.0.2.10:81", pods))
	s.set(p)
	before := sticky("192.0.2.10:81", 12)
	for i := range 4 {
		to := fmt.Sprintf("192.0.2.10:%d", 90+i)
		s.cfg.Frontends = append(s.cfg.Frontends, front(fmt.Sprint("new", i), to, pods[:1], nil))
		st := s.set(p)
		took := eventually(t, 2*time.Second, "the new frontend answers", func() bool { return who("", to) == "p1" })
		t.Logf("pending %v, answered after %v", st.Pending, took)
		if after := sticky("192.0.2.10:81", 12); !slices.Equal(before, after) {
			t.Errorf("reload %d:\nbefore %v\nafter  %v", i, before, after)
		}
	}
}

// Old workers with connections slow reloads down, and nobody's connection ends.
func TestOldWorkersSlowReloadsDown(t *testing.T) {
	pods := startPods(t, 1, 1)
	s := newSvc(t, front("web", "192.0.2.10:80", pods, nil))
	s.gap = time.Millisecond
	p := s.proxy()
	s.set(p)
	var kept []net.Conn
	for i := range someWorkers {
		c, _ := visit("", "192.0.2.10:80")
		defer c.Close()
		kept = append(kept, c)
		s.cfg.Frontends[0].Binds = addrPorts("192.0.2.10:80", fmt.Sprintf("192.0.2.10:%d", 100+i))
		if st := s.set(p); len(st.Pending) != 0 {
			t.Fatalf("reload %d waits", i)
		}
	}
	text, err := ask(context.Background(), s.cfg.file(fileMaster), "show proc")
	if err != nil || oldWorkers(text) != someWorkers {
		t.Fatalf("%v, old workers: %d of %d\n%s", err, oldWorkers(text), someWorkers, text)
	}
	p.gap = time.Minute
	s.cfg.Frontends[0].Binds = addrPorts("192.0.2.10:80")
	p.reloaded = time.Now().Add(-90 * time.Second)
	if st := s.set(p); len(st.Pending) != 1 {
		t.Error("the reload did not wait")
	}
	for i, c := range kept {
		if !echoes(c) {
			t.Errorf("connection %d is cut", i)
		}
		c.Close()
	}
	eventually(t, 3*time.Second, "old workers end with their connections", func() bool {
		text, err := ask(context.Background(), s.cfg.file(fileMaster), "show proc")
		return err == nil && oldWorkers(text) == 0
	})
	if st := s.set(p); len(st.Pending) != 0 {
		t.Error("it still waits")
	}
}

// A client keeps its pod when another node takes over.
func TestAffinityReachesOtherNodes(t *testing.T) {
	pods := startPods(t, 1, 4)
	peers := []Peer{{"a", netip.MustParseAddrPort("127.0.0.1:10240")}, {"b", netip.MustParseAddrPort("127.0.0.2:10240")}}
	a := newSvc(t, affine("web", "192.0.2.10:80", pods))
	b := newSvc(t, affine("web", "192.0.2.10:81", pods))
	a.cfg.Peers, a.cfg.Local = peers, "a"
	b.cfg.Peers, b.cfg.Local = peers, "b"
	pa, pb := a.proxy(), b.proxy()
	a.set(pa)
	b.set(pb)
	t.Logf("lessons: %v, %v", a.lesson(t), b.lesson(t))
	want := sticky("192.0.2.10:80", 12)
	eventually(t, 5*time.Second, "b knows a's clients", func() bool {
		text, err := ask(context.Background(), b.cfg.file(fileStats), "show table be_web")
		return err == nil && len(refusals(text)) >= 12
	})
	if got := sticky("192.0.2.10:81", 12); !slices.Equal(want, got) {
		t.Errorf("on a %v\non b %v", want, got)
	}
	// A pod that b got over the socket is known there too.
	more := append(pods, startPods(t, 5, 1)...)
	for _, s := range []*svc{a, b} {
		s.cfg.Frontends[0].Backends = backends(more[4])
	}
	a.set(pa)
	b.set(pb)
	if got := who("127.0.7.99", "192.0.2.10:80"); got != "p5" {
		t.Fatalf("%q", got)
	}
	for _, s := range []*svc{a, b} {
		s.cfg.Frontends[0].Backends = backends(more...)
	}
	a.set(pa)
	b.set(pb)
	eventually(t, 5*time.Second, "b sends the new client to the new pod", func() bool {
		return who("127.0.7.99", "192.0.2.10:81") == "p5"
	})
}

// Two nodes that saw the pods come in another order send a client the same way.
func TestSourceAgreesOnAllNodes(t *testing.T) {
	pods := startPods(t, 1, 5)
	balance := func(f *lb.Front) { f.Balance = lb.Source }
	a := newSvc(t, front("web", "192.0.2.10:80", pods, balance))
	b := newSvc(t, front("web", "192.0.2.10:81", nil, balance))
	a.set(a.proxy())
	pb := b.proxy()
	b.set(pb)
	for i := range pods {
		b.cfg.Frontends[0].Backends = backends(pods[len(pods)-1-i:]...)
		b.set(pb)
	}
	one, two := sticky("192.0.2.10:80", 30), sticky("192.0.2.10:81", 30)
	if !slices.Equal(one, two) || slices.Contains(one, "") {
		t.Errorf("%v\n%v", one, two)
	}
	slices.Sort(one)
	if n := len(slices.Compact(one)); n < 3 {
		t.Errorf("only %d pods are used", n)
	}
}

// The first reload is at once; what comes within the gap comes in one, and servers
// do not wait for it.
func TestReloadsAreCoalesced(t *testing.T) {
	pods := startPods(t, 1, 3)
	s := newSvc(t, front("web", "192.0.2.10:80", pods[:1], nil))
	s.gap = 4 * time.Second
	p := s.proxy()
	s.watch(p)
	s.set(p)
	first := s.worker()
	s.cfg.Frontends = append(s.cfg.Frontends, front("one", "192.0.2.10:81", pods, nil))
	if st := s.set(p); len(st.Pending) != 0 || who("", "192.0.2.10:81") == "" {
		t.Errorf("the first one waits: %v", st.Pending)
	}
	second := s.worker()
	for i := range 3 {
		s.cfg.Frontends = append(s.cfg.Frontends, front(fmt.Sprint("more", i), fmt.Sprint("192.0.2.10:", 90+i), pods, nil))
		if st := s.set(p); len(st.Pending) != i+1 {
			t.Errorf("pending: %v", st.Pending)
		}
	}
	s.cfg.Frontends[0].Backends = backends(pods[2])
	s.cfg.Frontends[1].Front.Balance = lb.Random
	st := s.set(p)
	if got := who("", "192.0.2.10:80"); got != "p3" || !slices.Equal(st.Pending, []string{"more0", "more1", "more2", "one"}) {
		t.Errorf("%q, pending %v", got, st.Pending)
	}
	if s.worker() != second || second == first {
		t.Error("it was reloaded within the gap")
	}
	eventually(t, 15*time.Second, "nothing is pending", func() bool { return len(s.seen.last().Pending) == 0 })
	for i := range 3 {
		if got := who("", fmt.Sprint("192.0.2.10:", 90+i)); got == "" {
			t.Errorf("more%d does not answer", i)
		}
	}
	m, err := showProc(context.Background(), s.cfg)
	if err != nil || m.worker == second {
		t.Errorf("%+v %v", m, err)
	}
	s.inStep()
	// Asked back before its time, nothing happens.
	third := s.worker()
	s.cfg.Frontends = append(s.cfg.Frontends, front("short", "192.0.2.10:99", pods, nil))
	s.set(p)
	s.cfg.Frontends = s.cfg.Frontends[:len(s.cfg.Frontends)-1]
	s.set(p)
	if !p.dueAt().IsZero() || s.worker() != third && s.worker() == 0 {
		t.Error("a reload is due for nothing")
	}
}

// A reload that HAProxy does not manage leaves the former one serving, and its
// servers are kept up to date.
func TestFailedReloadKeepsServices(t *testing.T) {
	pods := startPods(t, 1, 2)
	s := newSvc(t, front("web", "192.0.2.10:80", pods[:1], nil))
	p := s.proxy()
	s.set(p)
	worker := s.worker()
	// A master that cannot find its program any more: its file is a directory.
	broken := s.cfg
	broken.Frontends = append(broken.Frontends, front("new", "192.0.2.10:81", pods, nil))
	broken.Frontends[0].Backends = backends(pods[1])
	p.binary = "/nonexistent/haproxy"
	st, err := p.Set(context.Background(), broken)
	if err == nil || !st.Serving || !slices.Equal(st.Pending, []string{"new"}) {
		t.Errorf("%+v %v", st, err)
	}
	if got := who("", "192.0.2.10:80"); got != "p2" || s.worker() != worker {
		t.Errorf("%q", got)
	}
	p.binary = "haproxy"
	s.cfg = broken
	if st := s.set(p); len(st.Pending) != 0 || who("", "192.0.2.10:81") == "" {
		t.Errorf("%+v", st)
	}
}
