package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// inStep checks that the file has exactly the running servers. For a moment after a
// reload the former worker may still take a question on the socket that both have.
func (s *svc) inStep() {
	s.Helper()
	faults := s.outOfStep()
	for begin := time.Now(); len(faults) > 0 && time.Since(begin) < 3*time.Second; faults = s.outOfStep() {
		time.Sleep(20 * time.Millisecond)
	}
	for _, f := range faults {
		s.Error(f)
	}
}

// outOfStep is what differs.
func (s *svc) outOfStep() (faults []string) {
	s.Helper()
	text, err := os.ReadFile(s.cfg.file(fileConfig))
	if err != nil {
		s.Fatal(err)
	}
	answer, err := ask(context.Background(), s.cfg.file(fileStats), "show servers state")
	have := standings{}
	if err == nil {
		err = parseStandings(answer, have)
	}
	if err != nil {
		s.Fatal(err)
	}
	live := 0
	for section, list := range have {
		_, after, _ := strings.Cut(string(text), "\nbackend "+section+"\n")
		lines, _, _ := strings.Cut(after, "\n\n")
		for _, one := range list {
			if one.maint {
				continue
			}
			live++
			_, line, found := strings.Cut(lines, "  server "+one.name+" ")
			line, _, _ = strings.Cut(line, "\n")
			if !found || strings.Contains(line, "weight 0") != one.drain {
				faults = append(faults, fmt.Sprintf("%s/%s: drains %v, in the file %q", section, one.name, one.drain, line))
			}
		}
	}
	if n := strings.Count(string(text), "\n  server "); n != live {
		faults = append(faults, fmt.Sprintf("%d server lines, %d servers", n, live))
	}
	return faults
}

func TestEndpointsChangeWithoutReload(t *testing.T) {
	for _, kind := range []lb.CheckKind{"", lb.CheckTCP} {
		t.Run("check "+string(kind), func(t *testing.T) {
			pods := startPods(t, 1, 3)
			s := newSvc(t, front("web", "192.0.2.10:80", pods[:2], func(f *lb.Front) { f.Check.Kind = kind }))
			p := s.proxy()
			s.watch(p)
			s.set(p)
			f, worker := &s.cfg.Frontends[0], s.worker()
			kept, line := visit("", "192.0.2.10:80")
			defer kept.Close()
			if !strings.HasPrefix(line, "p") {
				t.Fatalf("first line %q", line)
			}

			f.Backends = backends(pods...)
			s.set(p)
			if got := spread(t, "192.0.2.10:80", 9); got["p3"] == 0 || got[""] != 0 {
				t.Errorf("a pod more: %v", got)
			}
			s.inStep()

			f.Backends[0].Drain, f.Backends[1].Drain = true, true
			s.set(p)
			if got := spread(t, "192.0.2.10:80", 6); got["p3"] != 6 {
				t.Errorf("two drain: %v", got)
			}
			s.inStep()

			f.Backends = backends(pods[2])
			s.set(p)
			if got := spread(t, "192.0.2.10:80", 6); got["p3"] != 6 || !echoes(kept) {
				t.Errorf("two are gone: %v", got)
			}
			s.inStep()

			f.Backends = backends(pods...)
			s.set(p)
			if got := spread(t, "192.0.2.10:80", 12); len(got) != 3 || got[""] != 0 {
				t.Errorf("all are back: %v", got)
			}
			s.inStep()
			if w := s.worker(); w != worker {
				t.Errorf("a reload happened: worker %d, then %d", worker, w)
			}
		})
	}
}

// A draining pod stays one over a reload, and its share comes back afterwards.
func TestDrainOutlivesReload(t *testing.T) {
	for _, kind := range []lb.CheckKind{"", lb.CheckTCP} {
		t.Run("check "+string(kind), func(t *testing.T) {
			pods := startPods(t, 1, 2)
			s := newSvc(t, front("web", "192.0.2.10:80", pods, func(f *lb.Front) { f.Check.Kind = kind }))
			p := s.proxy()
			s.set(p)
			f, worker := &s.cfg.Frontends[0], s.worker()
			f.Backends[0].Drain = true
			s.set(p)
			f.Binds = append(f.Binds, netip.MustParseAddrPort("192.0.2.10:81"))
			s.set(p)
			if s.worker() == worker {
				t.Error("there was no reload")
			}
			if got := spread(t, "192.0.2.10:81", 6); got["p2"] != 6 {
				t.Errorf("after the reload: %v", got)
			}
			s.inStep()
			worker = s.worker()
			f.Backends[0].Drain = false
			s.set(p)
			if got := spread(t, "192.0.2.10:81", 6); got["p1"] != 3 || s.worker() != worker {
				t.Errorf("ready again: %v, worker %d, then %d", got, worker, s.worker())
			}
			s.inStep()
			// In one step with a reload, which finds the drain in the servers' state, the
			// second time of a worker that was loaded with a weight.
			for port := range uint16(2) {
				f.Backends[0].Drain = true
				s.set(p)
				f.Backends[0].Drain, f.Binds[1] = false, netip.AddrPortFrom(f.Binds[1].Addr(), 82+port)
				s.set(p)
				if got := spread(t, f.Binds[1].String(), 6); got["p1"] != 3 {
					t.Errorf("ready by reload %d: %v", port, got)
				}
				s.inStep()
			}
		})
	}
}

// Without any server a connection ends at once; HAProxy itself sees to it, and a
// table's clients of a draining server are still served.
func TestNoServers(t *testing.T) {
	pods := startPods(t, 1, 1)
	s := newSvc(t, front("none", "192.0.2.10:80", nil, nil),
		front("checked", "192.0.2.10:81", nil, func(f *lb.Front) { f.Check.Kind = lb.CheckHTTP }),
		front("sticky", "192.0.2.10:82", pods, func(f *lb.Front) { f.Affinity = time.Hour }))
	p := s.proxy()
	s.set(p)
	for _, to := range []string{"192.0.2.10:80", "192.0.2.10:81"} {
		c, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", to, n, err)
		}
	}
	if got := who("127.0.2.1", "192.0.2.10:82"); got != "p1" {
		t.Fatalf("%q", got)
	}
	s.cfg.Frontends[2].Backends[0].Drain = true
	s.cfg.Frontends[0].Backends = backends(pods...)
	s.set(p)
	if got := who("127.0.2.1", "192.0.2.10:82"); got != "p1" {
		t.Errorf("a client of the draining pod: %q", got)
	}
	if got := who("127.0.2.2", "192.0.2.10:82"); got != "" {
		t.Errorf("a new client: %q", got)
	}
	if got := who("", "192.0.2.10:80"); got != "p1" {
		t.Errorf("with a server: %q", got)
	}
}

func TestServicesAreAdopted(t *testing.T) {
	pods := startPods(t, 1, 2)
	s := newSvc(t, front("web", "192.0.2.10:80", pods[:1], nil))
	first := s.proxy()
	stop := s.watch(first)
	s.set(first)
	stop()
	worker := s.worker()
	kept, _ := visit("", "192.0.2.10:80")
	defer kept.Close()
	// What changed while no agent was there.
	s.cfg.Frontends[0].Backends = backends(pods[1])
	next := s.proxy()
	s.watch(next)
	s.set(next)
	if got := spread(t, "192.0.2.10:80", 4); got["p2"] != 4 || !echoes(kept) || s.worker() != worker {
		t.Errorf("%v, worker %d then %d", got, worker, s.worker())
	}
	s.inStep()
	// A structure that changed meanwhile is a reload.
	s.cfg.Frontends = append(s.cfg.Frontends, front("new", "192.0.2.10:81", pods, nil))
	s.set(s.proxy())
	if got := who("", "192.0.2.10:81"); got == "" || s.worker() == worker {
		t.Errorf("%q", got)
	}
}

// From no Service to one and back, also after the agent's death.
func TestNoServicesAtAll(t *testing.T) {
	pods := startPods(t, 1, 1)
	s := newSvc(t)
	p := s.proxy()
	s.set(p)
	one := []lb.Frontend{front("web", "192.0.2.10:80", pods, nil)}
	for range 2 {
		s.cfg.Frontends = one
		s.set(p)
		if got := who("", "192.0.2.10:80"); got != "p1" {
			t.Errorf("%q", got)
		}
		s.cfg.Frontends = nil
		s.set(p)
		if got := who("", "192.0.2.10:80"); got != "" {
			t.Errorf("without Services %q answers", got)
		}
		s.inStep()
		s.cfg.Frontends = one
		s.set(p)
		s.cfg.Frontends = nil
		p = s.proxy()
		s.set(p)
		if got := who("", "192.0.2.10:80"); got != "" {
			t.Errorf("after the agent's death %q answers", got)
		}
	}
}

// Killed, it comes back with the servers of the last change.
func TestServicesComeBack(t *testing.T) {
	pods := startPods(t, 1, 2)
	s := newSvc(t, front("web", "192.0.2.10:80", pods[:1], nil))
	p := s.proxy()
	s.watch(p)
	s.set(p)
	s.cfg.Frontends[0].Backends = backends(pods[1])
	s.set(p)
	pid, err := listenerPID(context.Background(), s.cfg.file(fileMaster))
	if err != nil {
		t.Fatal(err)
	}
	unix.Kill(pid, unix.SIGKILL)
	eventually(t, 10*time.Second, "another one serves", func() bool {
		now, err := listenerPID(context.Background(), s.cfg.file(fileMaster))
		return err == nil && now != pid && s.seen.last().Serving
	})
	if got := who("", "192.0.2.10:80"); got != "p2" {
		t.Errorf("it came back with %q", got)
	}
	s.cfg.Frontends[0].Backends = backends(pods...)
	s.set(p)
	if got := spread(t, "192.0.2.10:80", 6); got["p1"] != 3 {
		t.Errorf("%v", got)
	}
	s.inStep()
}

// What others changed is found, at the latest on the minute.
func TestForeignChangesAreMended(t *testing.T) {
	pods := startPods(t, 1, 2)
	s := newSvc(t, front("web", "192.0.2.10:80", pods, nil))
	p := s.proxy()
	s.set(p)
	worker := s.worker()
	for _, cmd := range []string{"set server be_web/s-127-0-1-1-8080 state maint;del server be_web/s-127-0-1-1-8080",
		"set server be_web/s-127-0-1-2-8080 state drain", "add server be_web/other 127.0.1.3:1;enable server be_web/other"} {
		if _, err := ask(context.Background(), s.cfg.file(fileStats), cmd); err != nil {
			t.Fatal(err)
		}
	}
	w := &watch{p: p}
	w.again(context.Background(), true)
	if got := spread(t, "192.0.2.10:80", 6); got["p1"] != 3 || got["p2"] != 3 || s.worker() != worker {
		t.Errorf("%v", got)
	}
	s.inStep()
	// A change finds them earlier, where it touches them.
	ask(context.Background(), s.cfg.file(fileStats),
		"set server be_web/s-127-0-1-1-8080 state maint;del server be_web/s-127-0-1-1-8080")
	s.cfg.Frontends[0].Backends[0].Drain = true
	s.set(p)
	s.inStep()
	if s.worker() != worker {
		t.Error("a reload happened")
	}
	list, err := p.Servers(context.Background(), "web")
	if err != nil || len(list) != 2 || list[0].Status != "DRAIN" || list[1].Name != "s-127-0-1-2-8080" {
		t.Errorf("%+v %v", list, err)
	}
	for _, name := range []string{"other", "web;show info", ""} {
		if _, err := p.Servers(context.Background(), name); err == nil {
			t.Errorf("%q has servers", name)
		}
	}
}

// bad frontends are named, the others go on.
func TestOthersAreServed(t *testing.T) {
	pods := startPods(t, 1, 1)
	s := newSvc(t, front("good", "192.0.2.10:80", pods, nil),
		front("bad", "192.0.2.10:81", pods, func(f *lb.Front) { f.Balance = "first\nglobal" }),
		front("taken", "192.0.2.10:82", pods, nil))
	other, err := net.Listen("tcp", "192.0.2.10:82")
	if err != nil {
		t.Fatal(err)
	}
	p := s.proxy()
	st := s.set(p)
	if len(st.Skipped) != 2 || !strings.Contains(st.Skipped["bad"], "Balance") ||
		!strings.Contains(st.Skipped["taken"], fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("%q", st.Skipped)
	}
	if got := who("", "192.0.2.10:80"); got != "p1" {
		t.Errorf("%q", got)
	}
	worker := s.worker()
	if st = s.set(p); len(st.Skipped) != 2 || s.worker() != worker {
		t.Errorf("again: %q", st.Skipped)
	}
	other.Close()
	s.cfg.Frontends[1].Front.Balance = lb.RoundRobin
	if st = s.set(p); len(st.Skipped) != 0 || !slices.Equal(st.Pending, nil) {
		t.Errorf("mended: %+v", st)
	}
	for _, to := range []string{"192.0.2.10:81", "192.0.2.10:82"} {
		if got := who("", to); got != "p1" {
			t.Errorf("%s: %q", to, got)
		}
	}
	// What concerns all is an error, and changes nothing.
	s.cfg.Peers, s.cfg.Local = []Peer{{Name: "a", Addr: netip.MustParseAddrPort("203.0.113.9:10240")}}, "a"
	if st, err := p.Set(context.Background(), s.cfg); err == nil || !st.Serving ||
		!strings.Contains(err.Error(), "no address of this host") {
		t.Errorf("a peer elsewhere: %+v %v", st, err)
	}
	s.cfg.Peers = []Peer{{Name: "a\nb"}}
	if st, err := p.Set(context.Background(), s.cfg); err == nil || !st.Serving {
		t.Errorf("%+v %v", st, err)
	}
}
