package haproxy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// texts are all fields of a Config of Services that hold text, by the name that
// errors give them.
func texts() map[string]func(*Config, string) {
	front := func(put func(*lb.Front, string)) func(*Config, string) {
		return func(c *Config, s string) { put(c.Frontends[3].Front, s) }
	}
	return map[string]func(*Config, string){
		"Name":                          func(c *Config, s string) { c.Name = s },
		"Dir":                           func(c *Config, s string) { c.Dir = s },
		"Peers[0].Name":                 func(c *Config, s string) { c.Peers[0].Name = s },
		"Local":                         func(c *Config, s string) { c.Local = s },
		"Peers[0].Addr":                 func(c *Config, s string) { c.Peers[0].Addr = zoned(s) },
		"Frontends[3].Name":             func(c *Config, s string) { c.Frontends[3].Name = s },
		"Frontends[3].Binds[0]":         func(c *Config, s string) { c.Frontends[3].Binds[0] = zoned(s) },
		"Frontends[3].Backends[0].Name": func(c *Config, s string) { c.Frontends[3].Backends[0].Name = s },
		"Frontends[3].Backends[0].Addr": func(c *Config, s string) { c.Frontends[3].Backends[0].Addr = zoned(s) },
		"Frontends[3].Front.TLS":        front(func(f *lb.Front, s string) { f.TLS = s }),
		"Frontends[3].Front.Balance":    front(func(f *lb.Front, s string) { f.Balance = lb.Balance(s) }),
		"Frontends[3].Front.Check.Kind": front(func(f *lb.Front, s string) { f.Check.Kind = lb.CheckKind(s) }),
		"Frontends[3].Front.Check.Path": front(func(f *lb.Front, s string) { f.Check.Path = s }),
		"Frontends[3].Front.Check.Host": front(func(f *lb.Front, s string) { f.Check.Host = s }),
	}
}

// mayBeEmpty are the texts whose empty value means something.
var mayBeEmpty = map[string]bool{
	"Frontends[3].Front.TLS": true, "Frontends[3].Front.Balance": true,
	"Frontends[3].Front.Check.Kind": true, "Frontends[3].Front.Check.Path": true, "Frontends[3].Front.Check.Host": true,
}

func TestHostileServiceStringsAreRefused(t *testing.T) {
	for field, put := range texts() {
		for _, s := range append(hostile(), "leastconn\n  stick on src", "tcp;show info") {
			c := services4test()
			put(&c, s)
			_, err := Render(c)
			var fe *FieldError
			switch {
			case err == nil && s == "" && mayBeEmpty[field]:
			case err == nil && strings.HasSuffix(field, ".Path") && strings.HasPrefix(s, "/.."):
				// A path of a URL may have dots.
			case !errors.As(err, &fe) || fe.Field != field && (field != "Peers[0].Name" || fe.Field != "Local"):
				t.Errorf("%s = %.20q: %v", field, s, err)
			case len(fe.Error()) > 600:
				t.Errorf("%s: the error has %d bytes", field, len(fe.Error()))
			}
		}
	}
}

// longName is the longest name that lb.FrontendName gives.
var longName = strings.Repeat("n", 63) + "_" + strings.Repeat("s", 63) + "_65535"

func TestValidateServices(t *testing.T) {
	front := func(change func(*lb.Front)) func(*Config) {
		return func(c *Config) { change(c.Frontends[3].Front) }
	}
	for _, c := range []struct {
		name, field string
		change      func(*Config)
	}{
		{"the example", "", func(*Config) {}},
		{"no peers", "", func(c *Config) { c.Peers, c.Local = nil, "" }},
		{"local without peers", "Local", func(c *Config) { c.Peers = nil }},
		{"local is no peer", "Local", func(c *Config) { c.Local = "node-c" }},
		{"peer twice", "Peers[1].Name", func(c *Config) { c.Peers[1].Name = c.Peers[0].Name }},
		{"peer address twice", "Peers[1].Addr", func(c *Config) { c.Peers[1].Addr = c.Peers[0].Addr }},
		{"too many peers", "Peers", func(c *Config) { c.Peers = make([]Peer, maxPeers+1) }},
		{"the name of a Service's port", "", func(c *Config) { c.Frontends[0].Name = longName }},
		{"two names and no port", "Frontends[0].Name", func(c *Config) { c.Frontends[0].Name = "shop_web" }},
		{"an empty namespace", "Frontends[0].Name", func(c *Config) { c.Frontends[0].Name = "_web_80" }},
		{"a long namespace", "Frontends[0].Name", func(c *Config) { c.Frontends[0].Name = "n" + longName }},
		{"a port of words", "Frontends[0].Name", func(c *Config) { c.Frontends[0].Name = "shop_web_http" }},
		{"an API server among them", "Frontends[7]", func(c *Config) {
			c.Frontends = append(c.Frontends, example().Frontends...)
		}},
		{"a name twice", "Frontends[0]", func(c *Config) { c.Frontends[3].Name = "plain" }},
		{"an address twice", "Frontends[3]", func(c *Config) {
			c.Frontends[3].Name, c.Frontends[3].Binds = "zzz", addrPorts("[::ffff:192.0.2.20]:80")
		}},
		{"a peer's address", "Frontends[0]", func(c *Config) { c.Frontends[0].Binds = addrPorts("[2001:db8::a]:10240") }},
		{"a circle", "Frontends[0]", func(c *Config) { c.Frontends[0].Backends[0] = at("192.0.2.22:1") }},
		{"no bind", "Frontends[0].Binds", func(c *Config) { c.Frontends[0].Binds = nil }},
		{"send-proxy", "Frontends[3].Front.SendProxy", front(func(f *lb.Front) { f.SendProxy = 3 })},
		{"negative", "Frontends[3].Front.SendProxy", front(func(f *lb.Front) { f.SendProxy = -1 })},
		{"maxconn", "Frontends[3].Front.MaxConn", front(func(f *lb.Front) { f.MaxConn = -1 })},
		{"server's", "Frontends[3].Front.ServerMaxConn", front(func(f *lb.Front) { f.ServerMaxConn = maxCount + 1 })},
		{"rate", "Frontends[3].Front.Rate", front(func(f *lb.Front) { f.Rate = -5 })},
		{"client's", "Frontends[3].Front.RatePerClient", front(func(f *lb.Front) { f.RatePerClient = -5 })},
		{"affinity", "Frontends[3].Front.Affinity", front(func(f *lb.Front) { f.Affinity = -1 })},
		{"too long", "Frontends[3].Front.ClientTimeout", front(func(f *lb.Front) { f.ClientTimeout = maxTimer + 1 })},
		{"connect", "Frontends[3].Front.ConnectTimeout", front(func(f *lb.Front) { f.ConnectTimeout = -1 })},
		{"server", "Frontends[3].Front.ServerTimeout", front(func(f *lb.Front) { f.ServerTimeout = -1 })},
		{"slow start", "Frontends[3].Front.SlowStart", front(func(f *lb.Front) { f.SlowStart = -1 })},
		{"interval", "Frontends[3].Front.Check.Interval", front(func(f *lb.Front) { f.Check.Interval = 1 })},
		{"long interval", "Frontends[3].Front.Check.Interval", front(func(f *lb.Front) { f.Check.Interval = 2 * time.Hour })},
		{"fall", "Frontends[3].Front.Check.Fall", front(func(f *lb.Front) { f.Check.Fall = -1 })},
		{"rise", "Frontends[3].Front.Check.Rise", front(func(f *lb.Front) { f.Check.Rise = 1001 })},
		{"status", "Frontends[3].Front.Check.StatusFrom", front(func(f *lb.Front) { f.Check.StatusTo = 600 })},
		{"status range", "Frontends[3].Front.Check.StatusFrom", front(func(f *lb.Front) { f.Check.StatusFrom = 500 })},
		{"host is an address", "", front(func(f *lb.Front) { f.Check.Host = "10.0.0.1" })},
		{"no prefix", "Frontends[3].Front.Sources[1]", front(func(f *lb.Front) { f.Sources[1] = netip.Prefix{} })},
		{"no proxy", "Frontends[3].Front.AcceptProxy[0]", front(func(f *lb.Front) { f.AcceptProxy[0] = netip.Prefix{} })},
		{"many prefixes", "Frontends[3].Front.Sources", front(func(f *lb.Front) {
			f.Sources = make([]netip.Prefix, maxPrefixes+1)
		})},
		{"nonsense that is not used", "", front(func(f *lb.Front) { f.Check = lb.ServiceCheck{Path: "\n", Fall: -1} })},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := services4test()
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

// Services do not have the API servers' bound; file descriptors are reserved for
// those with a check alone, in steps.
func TestServicesBudget(t *testing.T) {
	c := services4test()
	c.Frontends = nil
	for i := range 200 {
		f := service("s", "192.0.2.1:80", nil)
		f.Name, f.Binds[0] = f.Name+string(rune('a'+i/26))+string(rune('a'+i%26)), netip.AddrPortFrom(f.Binds[0].Addr(),
			uint16(i+1))
		c.Frontends = append(c.Frontends, f)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	unchecked, err := FitMaxConn(c, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Frontends[:65] {
		c.Frontends[i].Front.Check.Kind = lb.CheckTCP
	}
	checked, err := FitMaxConn(c, 2048)
	if err != nil || checked != unchecked-MaxBackends/2 {
		t.Errorf("%d connections without checks, %d with 130, %v", unchecked, checked, err)
	}
	c.Frontends[65].Front.Check.Kind = lb.CheckTCP
	if more, err := FitMaxConn(c, 2048); err != nil || more != checked {
		t.Errorf("one check more: %d, %v", more, err)
	}
}

// Whatever texts come in, in the strict and in the lenient way: refused, or a file
// of the same shape as with harmless ones, and no command with more in it.
func FuzzServices(f *testing.F) {
	for _, s := range append(hostile()[:18], "leastconn", "tcp", "a", "/a", "x.example") {
		f.Add(s, s, s, "/"+s, s)
		f.Add("plain", "node-z", "tcp", "/"+s, s)
	}
	f.Fuzz(func(t *testing.T, name, peer, word, file, host string) {
		c := services4test()
		c.Peers[0].Name = peer
		x := c.Frontends[3].Front
		c.Frontends[3].Name = name
		x.TLS, x.Check.Path, x.Check.Host = file, file, host
		x.Balance, x.Check.Kind = lb.Balance(word), lb.CheckHTTP
		x.Sources = append(x.Sources, netip.PrefixFrom(netip.MustParseAddr("fe80::1%x"), len(word)))
		if c.validateGlobal() != nil {
			c.Peers[0].Name = "node-z"
		}
		text, err := Render(c)
		var field *FieldError
		if err != nil && !errors.As(err, &field) {
			t.Fatalf("error of another kind: %v", err)
		}
		lenient := compile(c.copied(), nil)
		w := lenient.wish()
		if err == nil {
			if text != w.content() {
				t.Fatal("the strict and the lenient way differ")
			}
		} else {
			text = w.content()
		}
		harmless(t, text, w)
		for _, one := range serviceChanges(standings{}, w.blocks) {
			if one.check() != nil || strings.ContainsAny(one.commands(), "\n<\"'\\") {
				t.Errorf("command %q", one.commands())
			}
			for part := range strings.SplitSeq(one.commands(), ";") {
				if verb, _, _ := strings.Cut(part, " "); verb != "add" && verb != "set" && verb != "enable" {
					t.Errorf("command %q in %q", part, one.commands())
				}
			}
		}
	})
}

// harmless checks that a text has the sections of its blocks, and no character
// that means more than itself.
func harmless(t *testing.T, text string, w *wish) {
	t.Helper()
	if strings.ContainsAny(text, "\r\x00;\"'\\$#%") {
		t.Errorf("a character that means more:\n%s", text)
	}
	want := []string{"global", "frontend health", "frontend metrics"}
	if w.cfg.meshed() {
		want = append(want, "peers "+peersName)
	}
	for _, b := range w.blocks {
		want = append(want, "frontend "+frontendName(b.f.Name))
		for _, s := range b.sections() {
			want = append(want, "backend "+s)
		}
	}
	var have []string
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" && line[0] != ' ' {
			have = append(have, line)
		}
	}
	if strings.Join(have, "|") != strings.Join(want, "|") {
		t.Errorf("sections %q, want %q", have, want)
	}
	if err := Lint(text); err != nil {
		t.Error(err)
	}
}
