package haproxy

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

const testPEM = "/etc/mooring/tls.pem"

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func at(addr string) lb.Backend { return lb.BackendAt(netip.MustParseAddrPort(addr)) }

// service is a Service's frontend with two pods.
func service(name, bind string, change func(*lb.Front)) lb.Frontend {
	f := lb.Frontend{
		Name: name, Binds: addrPorts(bind), Front: &lb.Front{},
		Backends: []lb.Backend{at("10.1.0.12:8080"), at("10.1.0.11:8080")},
	}
	if change != nil {
		change(f.Front)
	}
	return f
}

// full has everything that a Service can ask for.
func full(f *lb.Front) {
	*f = lb.Front{
		Balance: lb.Source, Affinity: 3 * time.Hour,
		Sources: prefixes("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"), AcceptProxy: prefixes("198.51.100.0/24"),
		SendProxy: 2, TLS: testPEM, MaxConn: 500, ServerMaxConn: 50, Rate: 100, RatePerClient: 10,
		ConnectTimeout: 3 * time.Second, ClientTimeout: time.Minute, ServerTimeout: 90 * time.Second,
		SlowStart: 30 * time.Second,
		Check: lb.ServiceCheck{Kind: lb.CheckHTTPS, Path: "/healthz?x=1", Host: "pods.example.org",
			StatusFrom: 200, StatusTo: 204, Port: 9090, Interval: time.Second, Fall: 5, Rise: 4},
	}
}

// services is a proxy for Services of every kind.
func services4test() Config {
	drained := service("drained", "192.0.2.21:80", func(f *lb.Front) { f.Affinity = time.Minute })
	drained.Backends[0].Drain = true
	empty := service("empty", "192.0.2.22:80", nil)
	empty.Backends = nil
	return Config{
		Name: "services", Dir: "/run/mooring/haproxy-services", MaxConn: 4000, Threads: 2,
		Peers: []Peer{
			{Name: "node-b.example", Addr: netip.MustParseAddrPort("10.0.0.2:10240")},
			{Name: "node-a", Addr: netip.MustParseAddrPort("[2001:db8::a]:10240")},
		},
		Local: "node-a", Metrics: true,
		Frontends: []lb.Frontend{
			service("plain", "192.0.2.20:80", nil), drained, empty,
			service("full", "[2001:db8::10]:443", full),
			service("tcp-check", "192.0.2.23:80", func(f *lb.Front) {
				f.Balance, f.SendProxy, f.Check.Kind = lb.Random, 1, lb.CheckTCP
			}),
			service("http-check", "192.0.2.24:80", func(f *lb.Front) {
				f.Balance, f.Check.Kind, f.Affinity = lb.RoundRobin, lb.CheckHTTP, time.Hour
			}),
			service("rates", "192.0.2.25:80", func(f *lb.Front) { f.RatePerClient, f.Sources = 5, prefixes("10.0.0.0/8") }),
		},
	}
}

func TestRenderServicesGolden(t *testing.T) {
	text, err := Render(services4test())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "services.cfg", text)
	if err := Lint(text); err != nil {
		t.Error(err)
	}
	// Without affinity nobody needs peers, and without metrics no socket.
	few := services4test()
	few.Metrics, few.Frontends = false, few.Frontends[:1]
	if text, err = Render(few); err != nil {
		t.Fatal(err)
	}
	golden(t, "service.cfg", text)
}

// The real HAProxy's opinion of the golden files.
func TestServicesPassHAProxy(t *testing.T) {
	p, dir := newPKI(t), shortDir(t)
	if err := os.WriteFile(dir+"/states", []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"services.cfg", "service.cfg"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		c := services4test()
		real := strings.NewReplacer(testPEM, p.clientFile, c.file(fileStates), dir+"/states").Replace(string(text))
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(real), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("haproxy", "-c", "-f", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), "WARNING") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestServicesAreDeterministic(t *testing.T) {
	a, b := services4test(), services4test()
	slices.Reverse(b.Frontends)
	slices.Reverse(b.Peers)
	for i := range b.Frontends {
		slices.Reverse(b.Frontends[i].Backends)
		slices.Reverse(b.Frontends[i].Front.Sources)
	}
	b.Frontends[0].Binds[0] = netip.AddrPortFrom(netip.MustParseAddr("::ffff:192.0.2.25"), 80)
	ta, err := Render(a)
	if err != nil {
		t.Fatal(err)
	}
	tb, err := Render(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ta, tb); d != "" {
		t.Error(d)
	}
	if b.Frontends[0].Binds[0].Addr().Is4() {
		t.Error("the argument was changed")
	}
}

func TestPrefixLists(t *testing.T) {
	same := prefixes("10.0.0.0/8", "10.1.2.3/8", "::ffff:10.0.0.0/104")
	if got, _, _ := source("/run/x", same); got != "src 10.0.0.0/8" {
		t.Errorf("%q", got)
	}
	var many []netip.Prefix
	for i := range byte(inlineMost + 1) {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, i, 0, 0}), 16))
	}
	inline, file, _ := source("/run/x", many[1:])
	if file != "" || strings.Count(inline, "/16") != inlineMost {
		t.Errorf("%q in %q", inline, file)
	}
	cond, file, content := source("/run/x", many)
	if cond != "src -f "+file || !strings.HasPrefix(file, "/run/x/src-") || strings.Count(content, "\n") != len(many) {
		t.Errorf("%q %q %q", cond, file, content)
	}
	slices.Reverse(many)
	if _, again, _ := source("/run/x", many); again != file {
		t.Errorf("another order, another file: %s", again)
	}
	if _, other, _ := source("/run/x", append(many, prefixes("1.1.1.1/32")...)); other == file {
		t.Error("another content, the same file")
	}
	if err := checkFile("list", file); err != nil {
		t.Error(err)
	}
}

func TestServerIDs(t *testing.T) {
	list := []lb.Backend{at("10.0.0.1:80"), at("10.0.0.2:80"), at("[2001:db8::1]:80")}
	ids, moved := serverIDs(list)
	if moved || slices.Contains(ids, 0) || ids[0] == ids[1] {
		t.Errorf("%v %v", ids, moved)
	}
	// Part of what other nodes and later versions rely on.
	if want := []uint32{2033299006, 977992435, 362388388}; !slices.Equal(ids, want) {
		t.Errorf("%v, want %v", ids, want)
	}
	slices.Reverse(list)
	if back, _ := serverIDs(list); back[2] != ids[0] || back[0] != ids[2] {
		t.Errorf("another order: %v", back)
	}
}

// Two addresses with one hash: the greater one moves, whatever the order, and a
// third is not in the way.
func TestServerIDsCollide(t *testing.T) {
	a, b := collision(t)
	for _, list := range [][]lb.Backend{{a, b}, {b, a}} {
		ids, moved := serverIDs(list)
		byAddr := map[netip.AddrPort]uint32{list[0].Addr: ids[0], list[1].Addr: ids[1]}
		if !moved || byAddr[a.Addr] != serverHash(a.Addr) || byAddr[b.Addr] != nextID(serverHash(a.Addr)) {
			t.Errorf("%v %v", byAddr, moved)
		}
	}
	if nextID(maxID) != 1 {
		t.Error("the numbers end")
	}
	one := service("x", "192.0.2.1:80", nil)
	one.Backends = []lb.Backend{b}
	two := one
	two.Backends = []lb.Backend{a, b}
	here := site{dir: "/run/x"}
	if newBlock(here, one).structure == newBlock(here, two).structure {
		t.Error("b's number changes without a reload")
	}
	two.Backends = []lb.Backend{at("10.0.0.1:1"), b}
	if newBlock(here, one).structure != newBlock(here, two).structure {
		t.Error("a server more is another structure")
	}
}

// collision finds two addresses with one hash, a before b.
func collision(t *testing.T) (a, b lb.Backend) {
	t.Helper()
	seen, random := map[uint32]netip.AddrPort{}, rand.NewChaCha8([32]byte{})
	for range 1 << 20 {
		var ip [16]byte
		random.Read(ip[:])
		addr := netip.AddrPortFrom(netip.AddrFrom16(ip), 80)
		h := serverHash(addr)
		if other, ok := seen[h]; ok {
			if addr.Compare(other) < 0 {
				addr, other = other, addr
			}
			return lb.BackendAt(other), lb.BackendAt(addr)
		}
		seen[h] = addr
	}
	t.Fatal("no collision found")
	return a, b
}
