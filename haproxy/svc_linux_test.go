package haproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// pod is a TCP server that says its name and whom it sees, and then echoes.
type pod struct {
	name string
	addr netip.AddrPort
	// header makes it read a PROXY protocol header first.
	header bool
	l      net.Listener
	mu     sync.Mutex
	conns  []net.Conn
}

// startPods starts pods at 127.0.1.FROM:8080 and up, named after the last byte.
func startPods(t testing.TB, from, n int) []*pod {
	t.Helper()
	var out []*pod
	for i := range n {
		out = append(out, startPod(t, fmt.Sprintf("127.0.1.%d:8080", from+i), false))
	}
	return out
}

func startPod(t testing.TB, addr string, header bool) *pod {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	bytes := a.Addr().AsSlice()
	p := &pod{name: fmt.Sprintf("p%d", bytes[len(bytes)-1]), addr: a, header: header}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.l = l
	t.Cleanup(p.kill)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
			go p.serve(c)
		}
	}()
	return p
}

func (p *pod) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	sees := c.RemoteAddr().String()
	if p.header {
		begin, err := r.Peek(12)
		if err != nil {
			return
		}
		if string(begin[:6]) == "PROXY " {
			line, _ := r.ReadString('\n')
			sees = strings.TrimSpace(line)
		} else {
			// Version 2, IPv4: 16 bytes and 12 of addresses.
			head := make([]byte, 28)
			io.ReadFull(r, head)
			sees = "v2 " + netip.AddrFrom4([4]byte(head[16:20])).String()
		}
	}
	fmt.Fprintf(c, "%s %s\n", p.name, sees)
	io.Copy(c, r)
}

func (p *pod) kill() {
	p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

// svc is a run directory with Services.
type svc struct {
	testing.TB
	cfg  Config
	seen *states
	gap  time.Duration
}

func newSvc(t testing.TB, frontends ...lb.Frontend) *svc {
	t.Helper()
	if os.Getenv(envInside) == "" {
		t.Skip("needs root")
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"addr", "replace", "192.0.2.10/32", "dev", "lo"},
		{"addr", "replace", "2001:db8::10/128", "dev", "lo", "nodad"},
	} {
		mustRun(t, "ip", args...)
	}
	dir, err := os.MkdirTemp(os.Getenv(envTmp), "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &svc{TB: t, seen: &states{}, cfg: Config{
		Name: "services", Dir: dir + "/run", Threads: 2, MaxConn: 500, Frontends: frontends,
	}}
}

// proxy makes a Proxy; HAProxy ends with the test.
func (s *svc) proxy() *Proxy {
	s.Helper()
	o := Options{Dir: s.cfg.Dir, Changed: s.seen.add, ReloadGap: s.gap}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(s.Output(), nil))
	}
	p, err := New(o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			s.Error(err)
		}
		if s.Failed() {
			text, _ := os.ReadFile(s.cfg.file(fileLog))
			s.Logf("HAProxy's log:\n%s", text)
		}
	})
	return p
}

func (s *svc) watch(p *Proxy) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	s.Cleanup(stop)
	return stop
}

func (s *svc) set(p *Proxy) lb.ProxyState {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	st, err := p.Set(ctx, s.cfg)
	if err != nil || !st.Serving {
		s.Fatalf("Set: %+v, %v", st, err)
	}
	return st
}

// worker is the number of the worker process: another one after a reload.
func (s *svc) worker() int {
	s.Helper()
	m, err := showProc(context.Background(), s.cfg)
	if err != nil {
		s.Fatal(err)
	}
	return m.worker
}

// visit connects from an address ("" for any) and returns the first line, "" for
// a connection that was closed or refused.
func visit(from, to string) (net.Conn, string) {
	d := net.Dialer{Timeout: 3 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return nil, ""
	}
	return c, firstLine(c)
}

func firstLine(c net.Conn) string {
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

// who is the pod that answers a visitor, "" for none.
func who(from, to string) string {
	c, line := visit(from, to)
	if c != nil {
		c.Close()
	}
	name, _, _ := strings.Cut(line, " ")
	return name
}

// spread counts the pods that answer n connections open at the same time.
func spread(t testing.TB, to string, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		c, line := visit("", to)
		if c != nil {
			defer c.Close()
		}
		name, _, _ := strings.Cut(line, " ")
		out[name]++
	}
	return out
}

// echoes says whether a connection still works.
func echoes(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, "x"); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

func backends(pods ...*pod) []lb.Backend {
	var out []lb.Backend
	for _, p := range pods {
		out = append(out, lb.BackendAt(p.addr))
	}
	return out
}

func front(name, bind string, pods []*pod, change func(*lb.Front)) lb.Frontend {
	f := service(name, bind, change)
	f.Backends = backends(pods...)
	return f
}
