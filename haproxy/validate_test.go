package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// hostile are strings that would mean something else, or more, in HAProxy's
// file or on its socket.
func hostile() []string {
	return []string{
		"", " ", "a b", "a\nglobal", "a\r", "a\tb", "a;b", `a"b`, "a'b", `a\b`, "a#b", "a$HOME", "${HOME}", "a\x00b",
		"a\u2028b", "ä", "a{b", "a%[src]", "a\x1bb", "@system-ca", "../x", "/../etc", "a/./b",
		strings.Repeat("a", 64*1024), "/" + strings.Repeat("a", 1<<20),
	}
}

func TestHostileStringsAreRefused(t *testing.T) {
	for field, put := range map[string]func(*Config, string){
		"Name":                            func(c *Config, s string) { c.Name = s },
		"Dir":                             func(c *Config, s string) { c.Dir = s },
		"Frontends[0].Name":               func(c *Config, s string) { c.Frontends[0].Name = s },
		"Frontends[0].Backends[0].Name":   func(c *Config, s string) { c.Frontends[0].Backends[0].Name = s },
		"Frontends[0].Check.Path":         func(c *Config, s string) { c.Frontends[0].Check.Path = s },
		"Frontends[0].Check.ServerName":   func(c *Config, s string) { c.Frontends[0].Check.ServerName = s },
		"Frontends[0].Check.CAFile":       func(c *Config, s string) { c.Frontends[0].Check.CAFile = s },
		"Frontends[0].Check.ClientPEM":    func(c *Config, s string) { c.Frontends[0].Check.ClientPEM = s },
		"Frontends[0].Backends[0].Addr":   func(c *Config, s string) { c.Frontends[0].Backends[0].Addr = zoned(s) },
		"Frontends[0].Binds[0]":           func(c *Config, s string) { c.Frontends[0].Binds[0] = zoned(s) },
		"Frontends[0].Check.ServerName/2": func(c *Config, s string) { c.Frontends[0].Check.ServerName = "a" + s + ".b" },
	} {
		for _, s := range hostile() {
			c := example()
			put(&c, s)
			_, err := Render(c)
			want, _, second := strings.Cut(field, "/")
			var fe *FieldError
			switch {
			case err == nil && s == "" && (second || field == "Frontends[0].Check.ClientPEM"):
				// Empty is a value here.
			case field == "Frontends[0].Check.Path" && strings.HasPrefix(s, "/..") && err == nil:
				// A path of a URL may have dots.
			case !errors.As(err, &fe) || fe.Field != want:
				t.Errorf("%s = %.20q: %v", field, s, err)
			case len(fe.Error()) > 600:
				t.Errorf("%s: the error has %d bytes", field, len(fe.Error()))
			}
		}
	}
}

// zoned is an address with a zone, the only place for text in an address, and
// one that is not valid for the empty text.
func zoned(zone string) netip.AddrPort {
	if zone == "" {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(zone), 1)
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		field  string
		change func(*Config)
	}{
		{"the example", "", func(*Config) {}},
		{"no frontends", "", func(c *Config) { c.Frontends = nil }},
		{"no backends", "", func(c *Config) { c.Frontends[0].Backends = nil }},
		{"maxconn", "MaxConn", func(c *Config) { c.MaxConn = -1 }},
		{"threads", "Threads", func(c *Config) { c.Threads = 65 }},
		{"long directory", "Dir", func(c *Config) { c.Dir = "/" + strings.Repeat("a", 100) }},
		{"relative directory", "Dir", func(c *Config) { c.Dir = "run" }},
		{"long name", "Name", func(c *Config) { c.Name = strings.Repeat("a", 64) }},
		{"name ends in a dash", "Frontends[0].Name", func(c *Config) { c.Frontends[0].Name = "a-" }},
		{"no bind", "Frontends[0].Binds", func(c *Config) { c.Frontends[0].Binds = nil }},
		{"wildcard bind", "Frontends[0].Binds[1]", func(c *Config) { c.Frontends[0].Binds[1] = addrPorts("0.0.0.0:1")[0] }},
		{"mapped wildcard", "Frontends[0].Binds[1]", func(c *Config) {
			c.Frontends[0].Binds[1] = addrPorts("[::ffff:0.0.0.0]:1")[0]
		}},
		{"port 0", "Frontends[0].Binds[0]", func(c *Config) { c.Frontends[0].Binds[0] = addrPorts("192.0.2.1:0")[0] }},
		{"multicast backend", "Frontends[0].Backends[1].Addr", func(c *Config) {
			c.Frontends[0].Backends[1].Addr = addrPorts("[ff02::1]:1")[0]
		}},
		{"bound twice", "Frontends[0].Binds[2]", func(c *Config) {
			c.Frontends[0].Binds = append(c.Frontends[0].Binds, addrPorts("[::ffff:192.0.2.10]:7443")...)
		}},
		{"backend name twice", "Frontends[0].Backends[1].Name", func(c *Config) { c.Frontends[0].Backends[1].Name = "cp3" }},
		{"backend address twice", "Frontends[0].Backends[1].Addr", func(c *Config) {
			c.Frontends[0].Backends[1].Addr = addrPorts("[::ffff:10.0.0.13]:6443")[0]
		}},
		{"a circle", "Frontends[0].Backends[1].Addr", func(c *Config) {
			c.Frontends[0].Backends[1].Addr = addrPorts("192.0.2.10:6443")[0]
		}},
		{"frontend twice", "Frontends[1].Name", func(c *Config) {
			f := c.Frontends[0]
			f.Binds = addrPorts("192.0.2.99:1")
			c.Frontends = append(c.Frontends, f)
		}},
		{"address as a name", "Frontends[0].Check.ServerName", func(c *Config) {
			c.Frontends[0].Check.ServerName = "10.0.0.1"
		}},
		{"empty label", "Frontends[0].Check.ServerName", func(c *Config) { c.Frontends[0].Check.ServerName = "a..b" }},
		{"dot at the end", "Frontends[0].Check.ServerName", func(c *Config) { c.Frontends[0].Check.ServerName = "a.b." }},
		{"directory as a file", "Frontends[0].Check.CAFile", func(c *Config) { c.Frontends[0].Check.CAFile = "/etc/" }},
		{"dots in a file", "Frontends[0].Check.CAFile", func(c *Config) { c.Frontends[0].Check.CAFile = "/etc/../x" }},
		{"too many backends", "Frontends", func(c *Config) {
			for i := range MaxBackends {
				c.Frontends[0].Backends = append(c.Frontends[0].Backends, lb.Backend{Name: fmt.Sprintf("n%d", i),
					Addr: netip.AddrPortFrom(netip.MustParseAddr("10.1.1.1"), uint16(i+1))})
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := example()
			c.change(&x)
			err := x.Validate()
			var field *FieldError
			switch {
			case c.field == "" && err != nil:
				t.Error(err)
			case c.field != "" && (!errors.As(err, &field) || field.Field != c.field):
				t.Errorf("error: %v", err)
			}
		})
	}
}

// Whatever strings come in: either an error, or a file with the same lines as
// the harmless example, each with the same number of words.
func FuzzRender(f *testing.F) {
	for _, s := range hostile()[:18] {
		f.Add(s, s, "/"+s, "/"+s)
		f.Add("cp1", "kubernetes", "/readyz", "/"+s)
		f.Add("cp1", "kubernetes"+s, "/readyz"+s, testCA+s)
	}
	shape := func(text string) string {
		var b strings.Builder
		for line := range strings.SplitSeq(text, "\n") {
			words := strings.Fields(line)
			if len(words) > 0 {
				fmt.Fprintf(&b, "%s/%d ", words[0], len(words))
			}
		}
		return b.String()
	}
	good, err := Render(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, host, path, file string) {
		c := example()
		c.Frontends[0].Name = name
		c.Frontends[0].Check = lb.Check{Path: path, ServerName: host, CAFile: file}
		text, err := Render(c)
		if err != nil {
			var field *FieldError
			if !errors.As(err, &field) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		if shape(text) != shape(good) || strings.ContainsAny(text, "\r\x00;\"'\\$#%") {
			t.Errorf("another shape:\n%s", text)
		}
		if err := Lint(text); err != nil {
			t.Error(err)
		}
	})
}

func TestFitMaxConn(t *testing.T) {
	for _, c := range []struct {
		wanted int
		nofile uint64
		want   int
	}{
		{4000, 1 << 30, 4000},
		{0, 1 << 20, DefaultMaxConn},
		{4000, 4096, 1934},
		{4000, 1024, 398},
		{4000, 356, 64},
		{4000, 355, 0},
		{4000, 0, 0},
	} {
		x := example()
		x.MaxConn = c.wanted
		got, err := FitMaxConn(x, c.nofile)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%d of %d files: %d, %v", c.wanted, c.nofile, got, err)
		}
	}
}
