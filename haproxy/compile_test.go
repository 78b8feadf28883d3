package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

// names of the blocks of a wish.
func names(list []*block) []string {
	var out []string
	for _, b := range list {
		out = append(out, b.f.Name)
	}
	return out
}

// One bad frontend does not stop the others, and each says what is wrong with it.
func TestBadFrontendsAreLeftOut(t *testing.T) {
	c := services4test()
	c.Frontends[0].Front.Balance = "best"
	c.Frontends[1].Binds = slices.Clone(c.Frontends[2].Binds)
	c.Frontends[1].Name = "zz"
	c.Frontends[4].Backends[0] = at("192.0.2.24:99")
	c.Frontends[5].Backends[1].Addr = c.Frontends[5].Backends[0].Addr
	c.Frontends = append(c.Frontends, service("rates", "192.0.2.99:1", nil), service("a\nb", "192.0.2.99:2", nil))
	w := compile(c, nil)
	want := map[string]string{
		"plain": "Balance", "zz": "bound twice, also by empty", "http-check": "another backend", "a\nb": "Frontend.Name",
		// Its own address goes when its frontend does, so this one stays.
		"rates": "has its name",
	}
	for name, part := range want {
		if err := w.skipped[name]; err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", name, err)
		}
		delete(w.skipped, name)
	}
	if len(w.skipped) > 0 {
		t.Errorf("also left out: %v", w.skipped)
	}
	if d := cmp.Diff([]string{"empty", "full", "rates", "tcp-check"}, names(w.blocks)); d != "" {
		t.Error(d)
	}
	var field *FieldError
	if !errors.As(compile(c, nil).skipped["plain"], &field) || field.Field != "Frontend.Front.Balance" {
		t.Errorf("%+v", field)
	}
}

// What did not change is not made again.
func TestBlocksAreUsedAgain(t *testing.T) {
	first := compile(services4test(), nil)
	c := services4test()
	c.Frontends[0].Backends = c.Frontends[0].Backends[:1]
	second := compile(c, first.cache)
	for i, b := range second.blocks {
		if same := b == first.blocks[i]; same == (b.f.Name == "plain") {
			t.Errorf("%s: the same block: %v", b.f.Name, same)
		}
	}
	if got := names(second.wish().unlike(first.wish())); !slices.Equal(got, []string{"plain"}) {
		t.Errorf("differ: %v", got)
	}
	if again := compile(services4test(), second.cache).wish(); again.content() != first.wish().content() {
		t.Error("made of used blocks the text is another")
	}
	// Peers or none is part of each table.
	c.Peers, c.Local = nil, ""
	if alone := compile(c, second.cache).wish(); strings.Contains(alone.content(), "peers") {
		t.Error("a block for peers was used without any")
	}
}

// The structure is what a reload is for: everything but the servers.
func TestServicesStructure(t *testing.T) {
	base := compile(services4test(), nil).wish().id
	front := func(change func(*lb.Front)) func(*Config) {
		return func(c *Config) { change(c.Frontends[3].Front) }
	}
	for _, c := range []struct {
		name   string
		same   bool
		change func(*Config)
	}{
		{"nothing", true, func(*Config) {}},
		{"a server less", true, func(c *Config) { c.Frontends[0].Backends = c.Frontends[0].Backends[:1] }},
		{"no server", true, func(c *Config) { c.Frontends[3].Backends = nil }},
		{"one drains", true, func(c *Config) { c.Frontends[3].Backends[0].Drain = true }},
		{"a peer that nobody needs", false, func(c *Config) { c.Peers = c.Peers[1:] }},
		{"maxconn", false, func(c *Config) { c.MaxConn++ }},
		{"metrics", false, func(c *Config) { c.Metrics = false }},
		{"a bind", false, func(c *Config) { c.Frontends[0].Binds = addrPorts("192.0.2.20:81") }},
		{"a frontend less", false, func(c *Config) { c.Frontends = c.Frontends[1:] }},
		{"balance", false, front(func(f *lb.Front) { f.Balance = lb.RoundRobin })},
		{"affinity", false, front(func(f *lb.Front) { f.Affinity++; f.Affinity += time.Second })},
		{"sources", false, front(func(f *lb.Front) { f.Sources = f.Sources[1:] })},
		{"proxies", false, front(func(f *lb.Front) { f.AcceptProxy = nil })},
		{"send-proxy", false, front(func(f *lb.Front) { f.SendProxy = 1 })},
		{"tls", false, front(func(f *lb.Front) { f.TLS = "/other.pem" })},
		{"a limit", false, front(func(f *lb.Front) { f.ServerMaxConn++ })},
		{"a rate", false, front(func(f *lb.Front) { f.RatePerClient++ })},
		{"a timeout", false, front(func(f *lb.Front) { f.ServerTimeout *= 2 })},
		{"slow start", false, front(func(f *lb.Front) { f.SlowStart *= 2 })},
		{"the check's port", false, front(func(f *lb.Front) { f.Check.Port = 1 })},
		{"fall", false, front(func(f *lb.Front) { f.Check.Fall = 1 })},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := services4test()
			c.change(&x)
			if got := compile(x, nil).wish().id; (got == base) != c.same {
				t.Errorf("%s, at first %s", got, base)
			}
		})
	}
}

// What can be had before a reload: the servers of frontends that stay as they are.
func TestWithin(t *testing.T) {
	live := compile(services4test(), nil).wish()
	c := services4test()
	c.Frontends[0].Backends = c.Frontends[0].Backends[:1]
	c.Frontends[3].Front.MaxConn = 7
	c.Frontends[3].Backends = nil
	c.Frontends = slices.Delete(c.Frontends, 4, 5)
	c.Frontends = append(c.Frontends, service("new", "192.0.2.30:80", nil))
	want := compile(c, nil).wish()
	part := want.within(live)
	if d := cmp.Diff([]string{"full", "new"}, part.pending); d != "" {
		t.Error("pending", d)
	}
	if part.id != live.id || part.head != live.head || want.pending != nil {
		t.Errorf("%s %s %v", part.id, live.id, want.pending)
	}
	if got := names(part.unlike(live)); !slices.Equal(got, []string{"plain"}) {
		t.Errorf("changed: %v", got)
	}
	if d := cmp.Diff(names(live.blocks), names(part.blocks)); d != "" {
		t.Error("sections", d)
	}
	if live.byName()["plain"] == part.byName()["plain"] || len(live.byName()["plain"].f.Backends) != 2 {
		t.Error("the running wish was changed")
	}
}

// What is added at run time must be what a reload reads from the file.
func TestServicesFileAndSocketAgree(t *testing.T) {
	w := compile(services4test(), nil).wish()
	text := w.content()
	added := 0
	for _, ch := range serviceChanges(standings{}, w.blocks) {
		if ch.action != actAdd {
			continue
		}
		added++
		_, after, _ := strings.Cut(text, "\nbackend "+ch.backend+"\n")
		section, _, _ := strings.Cut(after, "\n\n")
		if !strings.Contains(section+"\n", "\n  server "+ch.server+" "+ch.attributes+"\n") {
			t.Errorf("not in the file: %s/%s %s", ch.backend, ch.server, ch.attributes)
		}
	}
	if n := strings.Count(text, "\n  server "); n != added || n == 0 {
		t.Errorf("%d servers in the file, %d added", n, added)
	}
}

func TestCulprits(t *testing.T) {
	w := compile(services4test(), nil).wish()
	line := func(part string) int {
		before, _, _ := strings.Cut(textOf(w.head, w.blocks), part)
		return strings.Count(before, "\n") + 1
	}
	for alert, want := range map[string][]string{
		fmt.Sprintf("parsing [/run/x/haproxy.cfg.new:%d] : 'bind' unable", line("  bind [2001:db8::10]:443")): {"full"},
		fmt.Sprintf("parsing [/run/x/haproxy.cfg.new:%d] : x; parsing [/run/x/haproxy.cfg.new:%d]: y",
			line("frontend fe_drained"), line("backend be_rates")): {"drained", "rates"},
		"config : backend 'all_tcp-check' has no":           {"tcp-check"},
		"parsing [/run/x/haproxy.cfg.new:2] : 'maxconn'":    nil,
		"parsing [/run/x/haproxy.cfg.new:99999] : nonsense": nil,
		"": nil,
	} {
		if d := cmp.Diff(want, names(culprits(alert, w.head, w.blocks))); d != "" {
			t.Errorf("%s: %s", alert, d)
		}
	}
}

// thousand is a configuration of so many frontends with ten servers each.
func thousand(n int) Config {
	c := Config{Name: "services", Dir: "/run/x", MaxConn: 1000, Threads: 2}
	for i := range n {
		f := lb.Frontend{
			Name: fmt.Sprintf("svc-%05d", i), Front: &lb.Front{},
			Binds: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, byte(i >> 8), byte(i)}), 80)},
		}
		for j := range 10 {
			ip := netip.AddrFrom4([4]byte{127, byte(16 + i>>8), byte(i), byte(j + 1)})
			f.Backends = append(f.Backends, lb.BackendAt(netip.AddrPortFrom(ip, 8080)))
		}
		c.Frontends = append(c.Frontends, f)
	}
	return c
}

func BenchmarkRender1000x10(b *testing.B) {
	c := thousand(1000)
	b.ReportAllocs()
	for b.Loop() {
		w := compile(c, nil).wish()
		b.ReportMetric(float64(len(w.content())), "bytes")
	}
}

// One endpoint of 10,000 is another: what Set does before it asks HAProxy.
func BenchmarkCompileChange1000x10(b *testing.B) {
	c := thousand(1000)
	former := compile(c.copied(), nil)
	live := former.wish()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Frontends[500].Backends[3].Drain = i%2 == 0
		next := compile(c.copied(), former.cache)
		w := next.wish()
		if len(w.unlike(live)) > 1 || len(w.content()) == 0 {
			b.Fatal("more than one differs")
		}
	}
}
