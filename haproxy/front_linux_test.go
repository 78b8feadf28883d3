package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

func TestProxyProtocol(t *testing.T) {
	plain := startPods(t, 1, 1)
	reads := []*pod{startPod(t, "127.0.1.9:8080", true)}
	s := newSvc(t,
		front("in", "192.0.2.10:80", plain, func(f *lb.Front) {
			f.AcceptProxy, f.Sources = prefixes("127.0.5.0/24"), prefixes("203.0.113.0/24", "127.0.6.0/24")
		}),
		front("both", "192.0.2.10:81", reads, func(f *lb.Front) { f.AcceptProxy, f.SendProxy = prefixes("127.0.5.0/24"), 1 }),
		front("v1", "192.0.2.10:82", reads, func(f *lb.Front) { f.SendProxy = 1 }),
		front("v2", "192.0.2.10:83", reads, func(f *lb.Front) { f.SendProxy, f.Check.Kind = 2, lb.CheckTCP }))
	s.set(s.proxy())
	const header = "PROXY TCP4 203.0.113.7 192.0.2.10 4711 80\r\n"
	through := func(from, to, header string) string {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Second}
		c, err := d.Dial("tcp", to)
		if err != nil {
			return ""
		}
		defer c.Close()
		io.WriteString(c, header)
		return firstLine(c)
	}
	for _, x := range []struct{ name, from, to, header, want string }{
		{"the client named in the header is allowed", "127.0.5.1", "192.0.2.10:80", header, "p1 "},
		{"the one named is not", "127.0.5.1", "192.0.2.10:80", strings.Replace(header, "203.0.113.7", "203.0.114.7", 1), ""},
		{"no header where one is due", "127.0.5.1", "192.0.2.10:80", "GET / HTTP/1.0\r\n\r\n", ""},
		{"allowed without a header", "127.0.6.1", "192.0.2.10:80", "", "p1 "},
		{"its header is data, not proof", "127.0.7.1", "192.0.2.10:80", header, ""},
		{"neither", "127.0.7.1", "192.0.2.10:80", "", ""},
		{"passed on", "127.0.5.1", "192.0.2.10:81", header, "p9 PROXY TCP4 203.0.113.7 192.0.2.10 4711 80"},
		{"version 1", "127.0.6.2", "192.0.2.10:82", "", "p9 PROXY TCP4 127.0.6.2 192.0.2.10 "},
		{"version 2", "127.0.6.2", "192.0.2.10:83", "", "p9 v2 127.0.6.2"},
	} {
		got := through(x.from, x.to, x.header)
		if !strings.HasPrefix(got, x.want) || x.want == "" && got != "" {
			t.Errorf("%s: %q", x.name, got)
		}
	}
}

func TestSources(t *testing.T) {
	pods := startPods(t, 1, 1)
	var many []netip.Prefix
	for i := range byte(20) {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 20 + i, 0}), 24))
	}
	s := newSvc(t,
		front("few", "192.0.2.10:80", pods, func(f *lb.Front) { f.Sources = prefixes("127.0.2.0/24", "2001:db8::/32") }),
		front("many", "192.0.2.10:81", pods, func(f *lb.Front) { f.Sources = many }))
	s.cfg.Frontends[0].Binds = append(s.cfg.Frontends[0].Binds, netip.MustParseAddrPort("[2001:db8::10]:80"))
	p := s.proxy()
	s.set(p)
	check := func(when string, want map[[2]string]string) {
		t.Helper()
		for k, w := range want {
			if got := who(k[0], k[1]); got != w {
				t.Errorf("%s, %v: %q", when, k, got)
			}
		}
	}
	check("at first", map[[2]string]string{
		{"127.0.2.9", "192.0.2.10:80"}: "p1", {"127.0.3.9", "192.0.2.10:80"}: "",
		{"", "[2001:db8::10]:80"}: "p1", {"127.0.39.1", "192.0.2.10:81"}: "p1", {"127.0.40.1", "192.0.2.10:81"}: "",
	})
	lists := func() int {
		entries, _ := os.ReadDir(s.cfg.Dir)
		n := 0
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), listPrefix) {
				n++
			}
		}
		return n
	}
	s.cfg.Frontends[1].Front.Sources = append(many, prefixes("127.0.40.0/24")...)[1:]
	s.set(p)
	check("changed", map[[2]string]string{
		{"127.0.40.1", "192.0.2.10:81"}: "p1", {"127.0.20.1", "192.0.2.10:81"}: "",
	})
	if n := lists(); n != 1 {
		t.Errorf("%d files with prefixes", n)
	}
}

func TestLimits(t *testing.T) {
	pods := startPods(t, 1, 1)
	s := newSvc(t,
		front("client", "192.0.2.10:80", pods, func(f *lb.Front) { f.RatePerClient = 5 }),
		front("all", "192.0.2.10:81", pods, func(f *lb.Front) { f.MaxConn = 2 }),
		front("server", "192.0.2.10:82", pods, func(f *lb.Front) { f.ServerMaxConn = 1 }),
		front("idle", "192.0.2.10:83", pods, func(f *lb.Front) { f.ClientTimeout = 300 * time.Millisecond }),
		front("rate", "192.0.2.10:85", pods, func(f *lb.Front) { f.Rate = 3 }),
		front("proxied", "192.0.2.10:84", pods, func(f *lb.Front) {
			f.RatePerClient, f.AcceptProxy = 5, prefixes("127.0.5.0/24")
		}))
	s.set(s.proxy())
	served := func(from, to string, n int) int {
		ok := 0
		for range n {
			if who(from, to) != "" {
				ok++
			}
		}
		return ok
	}
	rated := func(to string) {
		t.Helper()
		begin := time.Now()
		got := served("127.0.2.1", to, 60)
		// A second may end in the middle.
		if most := 5 * (int(time.Since(begin).Seconds()) + 2); got < 5 || got > most {
			t.Errorf("%s: %d of 60 connections at a rate of 5, at most %d", to, got, most)
		}
	}
	rated("192.0.2.10:80")
	if got := served("127.0.2.2", "192.0.2.10:80", 4); got != 4 {
		t.Errorf("another client: %d of 4", got)
	}
	// Judged after the header.
	rated("192.0.2.10:84")
	for _, to := range []string{"192.0.2.10:81", "192.0.2.10:82"} {
		most := 2
		if to == "192.0.2.10:82" {
			most = 1
		}
		var open []net.Conn
		for range most {
			c, line := visit("", to)
			if line == "" {
				t.Fatalf("%s refuses the first ones", to)
			}
			open = append(open, c)
		}
		late, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		late.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := late.Read(make([]byte, 1)); n > 0 || err == io.EOF {
			t.Errorf("%s: one more was served or closed, %v", to, err)
		}
		// It waits its turn.
		open[0].Close()
		if line := firstLine(late); line == "" {
			t.Errorf("%s: the waiting one was not served", to)
		}
		late.Close()
		for _, c := range open {
			c.Close()
		}
	}
	// A rate for all makes those above it wait.
	late, quick := make([]net.Conn, 12), 0
	for i := range late {
		c, err := net.Dial("tcp", "192.0.2.10:85")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		late[i] = c
	}
	for _, c := range late {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			quick++
		}
	}
	if quick == 0 || quick == len(late) {
		t.Errorf("%d of %d connections at once at a rate of 3", quick, len(late))
	}
	c, _ := visit("", "192.0.2.10:83")
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	begin := time.Now()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("an idle client: %v after %v", err, time.Since(begin))
	}
}

func TestServiceChecks(t *testing.T) {
	var status atomic.Int32
	status.Store(200)
	asked := make(chan *http.Request, 1000)
	for i := range 2 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.1.%d:8080", i+1))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("p", i+1)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" {
				select {
				case asked <- r:
				default:
				}
				if name == "p1" {
					w.WriteHeader(int(status.Load()))
				}
			}
			io.WriteString(w, name)
		})}
		t.Cleanup(func() { srv.Close() })
		go srv.Serve(l)
	}
	f := service("web", "192.0.2.10:80", func(f *lb.Front) {
		f.Check = lb.ServiceCheck{Kind: lb.CheckHTTP, Path: "/health", Host: "web.example", StatusFrom: 200, StatusTo: 299,
			Interval: 100 * time.Millisecond, Fall: 2, Rise: 1}
	})
	f.Backends = []lb.Backend{at("127.0.1.1:8080"), at("127.0.1.2:8080")}
	s := newSvc(t, f)
	p := s.proxy()
	s.set(p)
	if r := <-asked; r.Host != "web.example" || r.Method != "GET" {
		t.Errorf("%s %s", r.Method, r.Host)
	}
	get := func() string {
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr, Timeout: time.Second}).Get("http://192.0.2.10/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	stateIs := func(want string) func() bool {
		return func() bool {
			list, err := p.Servers(context.Background(), "web")
			return err == nil && len(list) == 2 && strings.HasPrefix(list[0].Status, want)
		}
	}
	status.Store(301)
	eventually(t, 3*time.Second, "a pod with a redirect is down", stateIs("DOWN"))
	for range 6 {
		if got := get(); got != "p2" {
			t.Errorf("%q", got)
		}
	}
	// A reload does not take it for up again.
	s.cfg.Frontends[0].Binds = addrPorts("192.0.2.10:80", "192.0.2.10:81")
	s.set(p)
	if !stateIs("DOWN")() {
		t.Error("the check's result was forgotten in the reload")
	}
	// Nobody is up: all are used.
	s.cfg.Frontends[0].Backends = s.cfg.Frontends[0].Backends[:1]
	s.set(p)
	if got := get(); got != "p1" {
		t.Errorf("fail open: %q", got)
	}
	status.Store(204)
	eventually(t, 3*time.Second, "it is up again", func() bool {
		list, err := p.Servers(context.Background(), "web")
		return err == nil && len(list) >= 1 && list[0].Status == "UP"
	})
}

// The check may be another port's, over TLS, whatever the pod's certificate says.
func TestHTTPSCheckOfAnotherPort(t *testing.T) {
	pods := startPods(t, 1, 1)
	health := startAPI(t, newPKI(t), "p1", "127.0.1.1:8443")
	s := newSvc(t, front("web", "192.0.2.10:80", pods, func(f *lb.Front) {
		f.Check = lb.ServiceCheck{Kind: lb.CheckHTTPS, Path: "/readyz", Port: 8443, Interval: 100 * time.Millisecond, Fall: 1, Rise: 1}
	}))
	p := s.proxy()
	s.set(p)
	status := func(want, check string) {
		t.Helper()
		eventually(t, 3*time.Second, want+" "+check, func() bool {
			list, err := p.Servers(context.Background(), "web")
			return err == nil && len(list) == 1 && list[0].Status == want && list[0].Check == check
		})
	}
	status("UP", "L7OK")
	health.ready.Store(http.StatusServiceUnavailable)
	status("DOWN", "L7STS")
	if got := who("", "192.0.2.10:80"); got != "p1" {
		t.Errorf("fail open: %q", got)
	}
}

// HAProxy takes servers with every option at run time, also for a backend that was
// loaded without any: no option hides behind the reload that follows a refusal.
func TestEveryOptionAtRunTime(t *testing.T) {
	pods := startPods(t, 1, 3)
	s := newSvc(t)
	for i, check := range []lb.CheckKind{"", lb.CheckTCP, lb.CheckHTTP, lb.CheckHTTPS} {
		for j, balance := range []lb.Balance{lb.LeastConn, lb.RoundRobin, lb.Source, lb.Random} {
			f := front(fmt.Sprintf("f-%d-%d", i, j), fmt.Sprintf("192.0.2.10:%d", 1000+10*i+j), nil, full)
			f.Front.TLS, f.Front.Check.Kind, f.Front.Balance, f.Front.SendProxy = "", check, balance, i%3
			s.cfg.Frontends = append(s.cfg.Frontends, f)
		}
	}
	p := s.proxy()
	s.set(p)
	worker := s.worker()
	for i := range s.cfg.Frontends {
		s.cfg.Frontends[i].Backends = backends(pods...)
		s.cfg.Frontends[i].Backends[1].Drain = true
	}
	if st := s.set(p); len(st.Skipped) != 0 || s.worker() != worker {
		t.Errorf("%+v, worker %d, then %d", st, worker, s.worker())
	}
	s.inStep()
	for i := range s.cfg.Frontends {
		s.cfg.Frontends[i].Backends = backends(pods[1])
	}
	s.set(p)
	s.inStep()
	if s.worker() != worker {
		t.Error("a reload happened")
	}
}

// TestServiceMetrics: a scrape tells a Service by its name, also by the longest, from
// before the first change to after a reload; without HAProxy it says why not.
func TestServiceMetrics(t *testing.T) {
	s := newSvc(t, front("shop_web_80", "192.0.2.10:80", startPods(t, 1, 1), nil))
	s.cfg.Metrics = true
	p := s.proxy()
	scrape := func(query string) (int, string) {
		w := httptest.NewRecorder()
		p.ServeMetrics(w, httptest.NewRequest(http.MethodGet, "/metrics/services"+query, nil))
		return w.Code, w.Body.String()
	}
	if code, text := scrape(""); code != http.StatusServiceUnavailable || !strings.Contains(text, "does not answer") {
		t.Errorf("before HAProxy runs: %d %s", code, text)
	}
	s.set(p)
	if _, line := visit("", "192.0.2.10:80"); !strings.HasPrefix(line, "p1") {
		t.Fatalf("answered %q", line)
	}
	holds := func(when, text string, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !strings.Contains(text, line) {
				t.Errorf("%s: no %s in\n%.2000s", when, line, text)
			}
		}
	}
	code, text := scrape("")
	holds("all", text, `haproxy_frontend_sessions_total{proxy="fe_shop_web_80"} 1`,
		`haproxy_backend_active_servers{proxy="be_shop_web_80"} 1`,
		`haproxy_server_sessions_total{proxy="be_shop_web_80",server="s-127-0-1-1-8080"} 1`)
	if code != http.StatusOK {
		t.Errorf("%d", code)
	}
	if _, text = scrape("?scope=frontend"); strings.Contains(text, "haproxy_server_") || !strings.Contains(text,
		"fe_shop") {
		t.Errorf("frontends only:\n%.2000s", text)
	}
	long := front(longName, "192.0.2.10:81", startPods(t, 2, 1), func(f *lb.Front) {
		f.Affinity, f.Rate = time.Minute, 100
		f.Check.Kind = lb.CheckTCP
	})
	s.cfg.Frontends = append(s.cfg.Frontends, long)
	s.set(p)
	_, text = scrape("")
	holds("after a reload", text, `{proxy="fe_shop_web_80"}`, `haproxy_backend_active_servers{proxy="be_`+longName+`"} 1`)
	if list, err := p.Servers(t.Context(), longName); err != nil || len(list) != 1 {
		t.Errorf("servers of the longest name: %+v %v", list, err)
	}
}

// TestNoExporter: a HAProxy that was built without one serves all the same.
func TestNoExporter(t *testing.T) {
	s := newSvc(t, front("shop_web_80", "192.0.2.10:80", startPods(t, 1, 1), nil))
	s.cfg.Metrics = true
	real, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	script := "#!/bin/sh\nif [ \"$1\" = -vv ]; then echo 'Available services : none'; exit; fi\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(plain, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	p := s.proxy()
	p.binary = plain
	s.set(p)
	if _, line := visit("", "192.0.2.10:80"); !strings.HasPrefix(line, "p1") {
		t.Errorf("answered %q", line)
	}
	if text, _ := os.ReadFile(s.cfg.file(fileConfig)); strings.Contains(string(text), "prometheus") {
		t.Error("it is asked for what it has not")
	}
}
