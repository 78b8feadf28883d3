package haproxy

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseProgram(t *testing.T) {
	const debian = `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
Status: long-term supported branch - will stop receiving fixes around Q2 2027.
Build options :
  TARGET  = linux-glibc

Feature list : -51DEGREES +ACCEPT4 +OPENSSL +PROMEX +RT +THREAD +TPROXY -ZLIB
`
	for _, c := range []struct {
		name, text string
		want       Program
	}{
		{"Debian", debian, Program{"2.6.12-1+deb12u4", 2, 6,
			"long-term supported branch - will stop receiving fixes around Q2 2027.", nil}},
		{"without", strings.ReplaceAll(debian, "+PROMEX", "-PROMEX"),
			Program{"2.6.12-1+deb12u4", 2, 6, "long-term supported branch - will stop receiving fixes around Q2 2027.",
				[]string{"PROMEX"}}},
		{"old spelling, no list", "HA-Proxy version 1.8.30 2021/04/12\n", Program{Version: "1.8.30", Major: 1, Minor: 8}},
	} {
		got, err := parseProgram(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	if _, err := parseProgram("bash: no\n"); err == nil || !strings.Contains(err.Error(), `"bash: no"`) {
		t.Errorf("something else: %v", err)
	}
}

// TestInstalled: the real program, and none.
func TestInstalled(t *testing.T) {
	needNetwork(t)
	p, err := Installed(t.Context(), "")
	if err != nil || p.Major < 2 || len(p.Lacks) > 0 {
		t.Errorf("the program of this host: %+v, %v", p, err)
	}
	if _, err := Installed(t.Context(), filepath.Join(t.TempDir(), "haproxy")); err == nil {
		t.Error("a program that is not there runs")
	}
}

// TestListeners: who has a port, of TCP and of UDP, and who only speaks from it.
func TestListeners(t *testing.T) {
	needNetwork(t)
	l := listen(t, "192.0.2.10:7555")
	at := netip.MustParseAddrPort(l.Addr().String())
	want := []Listener{{At: at, PID: os.Getpid(), Command: command(os.Getpid())}}
	if d := cmp.Diff(want, Listeners(false, 7555), cmp.Comparer(func(a,
		b netip.AddrPort) bool {
		return a == b
	})); d != "" {
		t.Error(d)
	}
	if got := Listeners(true, 7555); len(got) != 0 {
		t.Errorf("of UDP: %v", got)
	}
	u, err := net.ListenPacket("udp", "[::]:7556")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if got := Listeners(true, 7556); len(got) != 1 || got[0].PID != os.Getpid() || !got[0].At.Addr().IsUnspecified() {
		t.Errorf("of UDP: %v", got)
	}
	c, err := net.Dial("udp", "192.0.2.10:7556")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	if got := Listeners(true, from.Port()); len(got) != 0 {
		t.Errorf("a client has the port: %v", got)
	}
}
