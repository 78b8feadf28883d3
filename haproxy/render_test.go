package haproxy

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

// golden compares a text with a file in testdata, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func addrPorts(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

const testCA = "/etc/kubernetes/pki/ca.crt"

// example is a proxy for three API servers behind a dual-stack address.
func example() Config {
	return Config{
		Name: "apiserver", Dir: "/run/mooring/haproxy-apiserver", MaxConn: 4000, Threads: 4,
		Frontends: []lb.Frontend{{
			Name:  "apiserver",
			Binds: addrPorts("[2001:db8::10]:7443", "192.0.2.10:7443"),
			Backends: []lb.Backend{
				{Name: "cp3", Addr: netip.MustParseAddrPort("10.0.0.13:6443")},
				{Name: "cp1", Addr: netip.MustParseAddrPort("10.0.0.11:6443")},
				{Name: "cp2.example", Addr: netip.MustParseAddrPort("[2001:db8::5]:6443")},
			},
			Check: lb.Check{Path: "/readyz", ServerName: "kubernetes", CAFile: testCA},
		}},
	}
}

// examples are the golden configurations.
func examples() map[string]Config {
	none := example()
	none.Frontends = nil
	empty := example()
	empty.Frontends[0].Backends = nil
	two := example()
	two.MaxConn, two.Threads = 0, 0
	two.Frontends = append(two.Frontends, lb.Frontend{
		Name: "aaa-other", Binds: addrPorts("198.51.100.7:443"),
		Backends: []lb.Backend{{Name: "x", Addr: netip.MustParseAddrPort("10.1.0.1:8443")}},
		Check: lb.Check{Path: "/livez?verbose=1", ServerName: "api.example.org", CAFile: testCA,
			ClientPEM: "/etc/mooring/client.pem"},
	})
	return map[string]Config{"one.cfg": example(), "none.cfg": none, "empty.cfg": empty, "two.cfg": two}
}

func TestRenderGolden(t *testing.T) {
	for name, c := range examples() {
		t.Run(name, func(t *testing.T) {
			text, err := Render(c)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, text)
			if err := Lint(text); err != nil {
				t.Error(err)
			}
		})
	}
}

// The real HAProxy's opinion of the golden files. Only the names of files that
// must exist are replaced.
func TestRenderPassesHAProxy(t *testing.T) {
	p := newPKI(t)
	dir := shortDir(t)
	if err := os.WriteFile(dir+"/states", []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name := range examples() {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			real := strings.NewReplacer(testCA, p.caFile, "/etc/mooring/client.pem", p.clientFile,
				example().file(fileStates), dir+"/states").Replace(string(text))
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, []byte(real), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("haproxy", "-c", "-f", file).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for line := range strings.SplitSeq(string(out), "\n") {
				if strings.HasPrefix(line, "[WARNING]") {
					t.Error(line)
				}
			}
		})
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	a, b := examples()["two.cfg"], examples()["two.cfg"]
	slices.Reverse(b.Frontends)
	for i := range b.Frontends {
		slices.Reverse(b.Frontends[i].Binds)
		slices.Reverse(b.Frontends[i].Backends)
	}
	b.Frontends[1].Backends[0].Addr = netip.MustParseAddrPort("[::ffff:10.1.0.1]:8443")
	if b.Frontends[1].Name != "aaa-other" {
		b.Frontends[1].Backends[0].Addr = a.Frontends[0].Backends[2].Addr
	}
	before := b.Frontends[0].Binds[0]
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
	if b.Frontends[0].Binds[0] != before {
		t.Error("the argument was changed")
	}
}

// The structure is what a reload is for: everything but the list of servers.
func TestStructureID(t *testing.T) {
	base := structureID(example().normal())
	for _, c := range []struct {
		name   string
		same   bool
		change func(*Config)
	}{
		{"nothing", true, func(*Config) {}},
		{"a server less", true, func(c *Config) { c.Frontends[0].Backends = c.Frontends[0].Backends[:2] }},
		{"no server", true, func(c *Config) { c.Frontends[0].Backends = nil }},
		{"another address", true, func(c *Config) {
			c.Frontends[0].Backends[0].Addr = netip.MustParseAddrPort("10.9.9.9:1")
		}},
		{"maxconn", false, func(c *Config) { c.MaxConn++ }},
		{"threads", false, func(c *Config) { c.Threads++ }},
		{"a bind less", false, func(c *Config) { c.Frontends[0].Binds = c.Frontends[0].Binds[:1] }},
		{"the path", false, func(c *Config) { c.Frontends[0].Check.Path = "/livez" }},
		{"the name sent", false, func(c *Config) { c.Frontends[0].Check.ServerName = "k" }},
		{"a client certificate", false, func(c *Config) { c.Frontends[0].Check.ClientPEM = "/x" }},
		{"a renewed file", false, func(c *Config) { c.files = "1" }},
		{"the name", false, func(c *Config) { c.Name = "b" }},
		{"the directory", false, func(c *Config) { c.Dir = "/run/x" }},
		{"no frontend", false, func(c *Config) { c.Frontends = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := example().normal()
			c.change(&x)
			if got := structureID(x); (got == base) != c.same {
				t.Errorf("%s, at first %s", got, base)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.11:6443":          "s-10-0-0-11-6443",
		"[::ffff:10.0.0.11]:6443": "s-10-0-0-11-6443",
		"[2001:db8::5]:6443":      "s-2001-db8--5-6443",
		"[1::2:3]:4":              "s-1--2-3-4",
		"[1:2::3]:4":              "s-1-2--3-4",
	} {
		if got := ServerName(netip.MustParseAddrPort(in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// What is added at run time must be what a reload reads from the file.
func TestFileAndSocketAgree(t *testing.T) {
	c := examples()["two.cfg"].normal()
	text := render(c)
	for _, ch := range changes(worker{}, c) {
		if ch.action == actAdd && !strings.Contains(text, "\n  server "+ch.server+" "+ch.attributes+"\n") {
			t.Errorf("not in the file: %s %s", ch.server, ch.attributes)
		}
	}
}

func TestLintRefuses(t *testing.T) {
	text, err := Render(example())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new string }{
		"unknown word in a backend":  {"  retries 3", "  retrys 3"},
		"unknown word in global":     {"  nbthread 4", "  nbthreads 4"},
		"unknown section":            {"\nbackend be_apiserver", "\nbakend be_apiserver"},
		"line outside of a section":  {"global\n", "maxconn 5\nglobal\n"},
		"word of another section":    {"  option clitcpka\n", "  stats socket /x\n"},
		"unknown option of a server": {" fall 2 ", " fall 2 fell 3 "},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(text, c.old, c.new, 1)
			if bad == text {
				t.Fatal("nothing was replaced")
			}
			if err := Lint(bad); err == nil {
				t.Error("accepted")
			}
		})
	}
}
