package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

const vip = "192.0.2.10:7443"

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// states records what Changed was called with.
type states struct {
	mu   sync.Mutex
	list []lb.ProxyState
}

func (s *states) add(st lb.ProxyState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, st)
}

func (s *states) last() lb.ProxyState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return lb.ProxyState{}
	}
	return s.list[len(s.list)-1]
}

// bench is a run directory with a configuration and API servers.
type bench struct {
	t    *testing.T
	pki  *pki
	cfg  Config
	seen *states
}

// newBench makes servers at 127.0.0.11:6443 and up, named cp1 and up.
func newBench(t *testing.T, servers int) (*bench, []*apiServer) {
	t.Helper()
	needNetwork(t)
	b := &bench{t: t, pki: newPKI(t), seen: &states{}}
	b.cfg = Config{Name: "apiserver", Dir: shortDir(t) + "/run", Threads: 2, MaxConn: 500}
	f := lb.Frontend{
		Name:  "apiserver",
		Binds: []netip.AddrPort{netip.MustParseAddrPort(vip), netip.MustParseAddrPort("[2001:db8::10]:7443")},
		Check: lb.Check{Path: "/readyz", ServerName: "kubernetes", CAFile: b.pki.caFile, ClientPEM: b.pki.clientFile},
	}
	var list []*apiServer
	for i := range servers {
		s := startAPI(t, b.pki, fmt.Sprintf("cp%d", i+1), fmt.Sprintf("127.0.0.%d:6443", 11+i))
		list = append(list, s)
		f.Backends = append(f.Backends, lb.Backend{Name: s.name, Addr: s.addr})
	}
	b.cfg.Frontends = []lb.Frontend{f}
	return b, list
}

// proxy makes a Proxy on the bench's directory; HAProxy ends with the test.
func (b *bench) proxy() *Proxy {
	b.t.Helper()
	o := Options{Dir: b.cfg.Dir, Changed: b.seen.add}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(b.t.Output(), nil))
	}
	p, err := New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			b.t.Error(err)
		}
		if b.t.Failed() {
			text, _ := os.ReadFile(b.cfg.file(fileLog))
			b.t.Logf("HAProxy's log:\n%s", text)
		}
	})
	return p
}

// set must succeed.
func (b *bench) set(p *Proxy, c Config) lb.ProxyState {
	b.t.Helper()
	st, err := p.Set(within(b.t, 20*time.Second), c)
	if err != nil || !st.Serving {
		b.t.Fatalf("Set: %+v, %v", st, err)
	}
	return st
}

// watch runs Run until the returned function is called.
func (b *bench) watch(p *Proxy) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error("Run:", err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

// pids returns master and worker.
func (b *bench) pids() (int, int) {
	b.t.Helper()
	m, err := showProc(context.Background(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	pid, err := listenerPID(context.Background(), b.cfg.file(fileMaster))
	if err != nil {
		b.t.Fatal(err)
	}
	return pid, m.worker
}

// without returns the configuration without some backends.
func without(c Config, names ...string) Config {
	c = c.normal()
	for i := range c.Frontends {
		f := &c.Frontends[i]
		f.Backends = slices.DeleteFunc(f.Backends, func(x lb.Backend) bool { return slices.Contains(names, x.Name) })
	}
	return c
}

// spread counts which server answers each of n connections that are open at
// the same time, as leastconn spreads them.
func (b *bench) spread(n int) map[string]int {
	b.t.Helper()
	out := map[string]int{}
	for range n {
		c := b.pki.dial(b.t, vip)
		defer c.Close()
		text, err := askOver(c)
		if err != nil {
			b.t.Fatal(err)
		}
		_, body, _ := strings.Cut(text, "\r\n\r\n")
		out[body]++
	}
	return out
}

func TestStartSpreadAndStop(t *testing.T) {
	b, servers := newBench(t, 3)
	p := b.proxy()
	if st := p.State(); st.Serving || st.Why == "" {
		t.Errorf("before Set: %+v", st)
	}
	b.set(p, b.cfg)
	eventually(t, 3*time.Second, "all checks pass with a client certificate", func() bool {
		return servers[0].clients.Load() > 0 && servers[1].clients.Load() > 0 && servers[2].clients.Load() > 0
	})
	if got := b.spread(9); len(got) != 3 {
		t.Errorf("spread: %v", got)
	}
	if _, err := b.pki.get("[2001:db8::10]:7443", "/name"); err != nil {
		t.Error("IPv6:", err)
	}
	master, _ := b.pids()
	if err := p.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if left := running(b.cfg); len(left) > 0 {
		t.Errorf("after Stop %v run, master was %d", left, master)
	}
	if st := p.State(); st.Serving || !strings.Contains(st.Why, "switched off") {
		t.Errorf("after Stop: %+v", st)
	}
	lock, err := tryLock(b.cfg.file(fileLock))
	if lock == nil || err != nil {
		t.Fatal("the lock is held after Stop", err)
	}
	lock.Close()
	// And it can be switched on again.
	b.set(p, b.cfg)
}

func TestAdoptAfterAgentDeath(t *testing.T) {
	b, _ := newBench(t, 2)
	first := b.proxy()
	stop := b.watch(first)
	b.set(first, b.cfg)
	conn := b.pki.dial(t, vip)
	if _, err := askOver(conn); err != nil {
		t.Fatal(err)
	}
	master, worker := b.pids()
	stop()
	next := b.proxy()
	begin := time.Now()
	b.set(next, b.cfg)
	took := time.Since(begin)
	if took > 300*time.Millisecond {
		t.Errorf("adopting took %v", took)
	}
	if m, w := b.pids(); m != master || w != worker {
		t.Errorf("master %d→%d, worker %d→%d", master, m, worker, w)
	}
	if _, err := askOver(conn); err != nil {
		t.Error("the connection broke:", err)
	}
	t.Logf("adopted in %v", took)
}

func TestSecondProxyNeverStartsASecondHAProxy(t *testing.T) {
	b, _ := newBench(t, 1)
	var wg sync.WaitGroup
	for range 4 {
		p := b.proxy()
		wg.Go(func() { b.set(p, b.cfg) })
	}
	wg.Wait()
	if got := running(b.cfg); len(got) != 2 {
		t.Errorf("want one master and one worker, have %v", got)
	}
}

func TestKilledHAProxyIsStartedAgain(t *testing.T) {
	for _, who := range []string{"master", "worker"} {
		t.Run(who, func(t *testing.T) {
			b, _ := newBench(t, 1)
			p := b.proxy()
			b.watch(p)
			b.set(p, b.cfg)
			master, worker := b.pids()
			victim := master
			if who == "worker" {
				victim = worker
			}
			b.seen.mu.Lock()
			before := len(b.seen.list)
			b.seen.mu.Unlock()
			if err := unix.Kill(victim, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			took := eventually(t, time.Second, "Changed reports the death", func() bool {
				b.seen.mu.Lock()
				defer b.seen.mu.Unlock()
				return slices.ContainsFunc(b.seen.list[before:], func(s lb.ProxyState) bool { return !s.Serving })
			})
			back := eventually(t, 3*time.Second, "serving again", func() bool { return b.seen.last().Serving })
			t.Logf("reported after %v, serving again after %v", took, took+back)
			b.spread(1)
			if m, _ := b.pids(); m == master {
				t.Error("the master is the same")
			}
		})
	}
}

func TestAdoptedHAProxyIsWatchedToo(t *testing.T) {
	b, _ := newBench(t, 1)
	b.set(b.proxy(), b.cfg)
	next := b.proxy()
	b.watch(next)
	b.set(next, b.cfg)
	master, _ := b.pids()
	if err := unix.Kill(master, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "another master serves", func() bool {
		m, err := showProc(context.Background(), b.cfg)
		return err == nil && m.worker != 0 && b.seen.last().Serving
	})
}

func TestHungHAProxyIsReported(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.set(p, b.cfg)
	_, worker := b.pids()
	if err := unix.Kill(worker, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(worker, unix.SIGCONT)
	begin := time.Now()
	st, err := p.Set(within(t, 10*time.Second), b.cfg)
	if err == nil || st.Serving || time.Since(begin) > 3*time.Second {
		t.Errorf("%+v, %v after %v", st, err, time.Since(begin))
	}
	unix.Kill(worker, unix.SIGCONT)
	b.set(p, b.cfg)
}

func TestPortOfAnotherProcess(t *testing.T) {
	for _, addr := range []string{vip, "0.0.0.0:7443", "[::]:7443"} {
		t.Run(addr, func(t *testing.T) {
			b, _ := newBench(t, 1)
			other := listen(t, addr)
			p := b.proxy()
			_, err := p.Set(within(t, 10*time.Second), b.cfg)
			var taken *PortTakenError
			if !errors.As(err, &taken) {
				t.Fatalf("error: %v", err)
			}
			if taken.PID != os.Getpid() || !strings.Contains(taken.Command, "haproxy.test") {
				t.Errorf("%+v", taken)
			}
			if st := p.State(); st.Serving || !strings.Contains(st.Why, fmt.Sprint(os.Getpid())) {
				t.Errorf("state: %+v", st)
			}
			if got := running(b.cfg); len(got) != 0 {
				t.Errorf("processes %v", got)
			}
			// Run notices when the port is free.
			b.watch(p)
			other.Close()
			eventually(t, 8*time.Second, "started after the port was freed", func() bool { return p.State().Serving })
		})
	}
}

func TestHungHAProxyIsKilledAndStartedAgain(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	master, worker := b.pids()
	if err := unix.Kill(worker, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The polls that Run would take ten seconds for.
	w := &watch{p: p}
	for range hungPolls {
		if got := running(b.cfg); len(got) != 2 {
			t.Fatalf("killed too early, %v run", got)
		}
		w.missed(context.Background(), b.cfg)
	}
	eventually(t, 5*time.Second, "another master serves", func() bool {
		pid, err := listenerPID(context.Background(), b.cfg.file(fileMaster))
		return err == nil && pid != master && b.seen.last().Serving
	})
	b.spread(1)
}
