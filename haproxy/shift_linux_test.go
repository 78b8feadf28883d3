package haproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// kubeProxy has what kube-proxy has for an address that it takes itself, in iptables
// mode: translation at -100, and at 0 filters that drop or refuse what was not
// translated, because of source ranges or for want of endpoints.
const kubeProxy = `table ip kube-proxy {
	chain filter-input { type filter hook input priority 0; ct state new ip daddr 192.0.2.10 tcp dport 81 reject; }
	chain filter-output { type filter hook output priority 0; ct state new ip daddr 192.0.2.10 tcp dport 81 reject; }
	chain translate { ip daddr 192.0.2.10 tcp dport 80 dnat to 198.51.100.1:8080; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump translate; }
	chain nat-output { type nat hook output priority -100; jump translate; }
}
table ip6 kube-proxy {
	chain translate { ip6 daddr 2001:db8::10 tcp dport 80 dnat to [2001:db8:1::1]:8080; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump translate; }
	chain nat-output { type nat hook output priority -100; jump translate; }
}
`

// shiftBench is a node with kube-proxy's rules, which lead to p1, and a host beside
// it. HAProxy leads to p7, which reads a PROXY header.
func shiftBench(t *testing.T) (*svc, *Proxy, *host, *Redirects) {
	t.Helper()
	f := front("web", "192.0.2.10:80", nil, func(f *lb.Front) { f.SendProxy = 1 })
	f.Binds = addrPorts("192.0.2.10:80", "192.0.2.10:61080", "192.0.2.10:81", "192.0.2.10:61081",
		"[2001:db8::10]:80", "[2001:db8::10]:61080")
	f.Redirects = shiftList()
	s := newSvc(t, f)
	h := newHost(t)
	startPod(t, "198.51.100.1:8080", false)
	startPod(t, "[2001:db8:1::1]:8080", false)
	s.cfg.Frontends[0].Backends = backends(startPod(t, "127.0.1.7:8080", true))
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(kubeProxy)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		run(t, "nft", "delete", "table", "ip", "kube-proxy")
		run(t, "nft", "delete", "table", "ip6", "kube-proxy")
	})
	r := NewRedirects(RedirectOptions{Services: true})
	t.Cleanup(func() {
		if err := r.Set(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	p := s.proxy()
	s.set(p)
	return s, p, h, r
}

func shiftList() []lb.Redirect {
	four, six := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	return []lb.Redirect{
		{VIP: four, From: 80, To: 61080, Elsewhere: true}, {VIP: four, From: 81, To: 61081},
		{VIP: six, From: 80, To: 61080, Elsewhere: true},
	}
}

// line is the first line that another host gets.
func (h *host) line(to string) (line string) {
	h.t.Helper()
	h.do(func() {
		if c, err := net.DialTimeout("tcp", to, time.Second); err == nil {
			line = firstLine(c)
			c.Close()
		}
	})
	return line
}

// TestShift: with the table HAProxy serves what kube-proxy would take, drop or
// refuse; the pod is told the port that the client called; the shifted port is no
// second door; what began before goes on where it is.
func TestShift(t *testing.T) {
	_, _, h, r := shiftBench(t)
	expect := func(when, to, want string) {
		t.Helper()
		if c, got := visit("", to); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: this host at %s: %q, want %q", when, to, got, want)
		} else if c != nil {
			c.Close()
		}
		if got := h.line(to); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: another host at %s: %q, want %q", when, to, got, want)
		}
	}
	var before net.Conn
	h.do(func() { before, _ = net.DialTimeout("tcp", "192.0.2.10:80", time.Second) })
	if before == nil || !strings.HasPrefix(firstLine(before), "p1") {
		t.Fatal("no connection through kube-proxy's rules")
	}
	defer before.Close()
	expect("at first", "192.0.2.10:80", "p1 ")
	expect("at first", "[2001:db8::10]:80", "p1 ")
	expect("filtered at first", "192.0.2.10:81", "")
	if err := r.Set(within(t, 9*time.Second), shiftList()); err != nil {
		t.Fatal(err)
	}
	expect("shifted", "192.0.2.10:80", "p7 PROXY TCP4 ")
	expect("shifted", "[2001:db8::10]:80", "p7 PROXY TCP6 ")
	expect("shifted", "192.0.2.10:81", "p7 PROXY TCP4 ")
	got := h.line("192.0.2.10:80")
	if !strings.HasPrefix(got, "p7 PROXY TCP4 198.51.100.2 192.0.2.10 ") || !strings.HasSuffix(got, " 80") {
		t.Errorf("the pod is told %q", got)
	}
	for _, door := range []string{"192.0.2.10:61080", "192.0.2.10:61081", "[2001:db8::10]:61080"} {
		if got := h.line(door); got != "" {
			t.Errorf("%s answers another host: %q", door, got)
		}
	}
	var during net.Conn
	h.do(func() { during, _ = net.DialTimeout("tcp", "192.0.2.10:80", time.Second) })
	defer during.Close()
	if !strings.HasPrefix(firstLine(during), "p7") || !echoes(before) {
		t.Error("a connection through kube-proxy's rules ended when the redirect came")
	}
	if err := r.Set(within(t, 9*time.Second), nil); err != nil {
		t.Fatal(err)
	}
	expect("afterwards", "192.0.2.10:80", "p1 ")
	if !echoes(during) || !echoes(before) {
		t.Error("a connection ended when the redirect went")
	}
	if out := run(t, "nft", "list", "tables"); strings.Contains(out, ShiftTable) {
		t.Errorf("tables: %s", out)
	}
}

// TestShiftElsewhere: a node without the address lets its connections go to the
// holder, unless source ranges are kube-proxy's to heed.
func TestShiftElsewhere(t *testing.T) {
	_, _, h, r := shiftBench(t)
	run(t, "ip", "addr", "del", "192.0.2.10/32", "dev", "lo")
	run(t, "ip", "route", "add", "192.0.2.10/32", "via", "198.51.100.2")
	t.Cleanup(func() { run(t, "ip", "route", "del", "192.0.2.10/32") })
	h.run("ip", "addr", "add", "192.0.2.10/32", "dev", "lo")
	h.do(func() { startPod(t, "192.0.2.10:80", false) })
	for _, c := range []struct {
		name string
		list []lb.Redirect
		want string
	}{
		{"kube-proxy takes it at first", nil, "p1"},
		{"the holder", shiftList(), "p10"},
		{"with source ranges", []lb.Redirect{{VIP: netip.MustParseAddr("192.0.2.10"), From: 80, To: 61080}}, "p1"},
	} {
		if err := r.Set(within(t, 9*time.Second), c.list); err != nil {
			t.Fatal(err)
		}
		if got := who("", "192.0.2.10:80"); got != c.want {
			t.Errorf("%s: %s answers", c.name, got)
		}
	}
}

// TestShiftsHeal: what others damage is mended, and the API servers' table is left
// alone.
func TestShiftsHeal(t *testing.T) {
	needNetwork(t)
	r, api := NewRedirects(RedirectOptions{Services: true}), NewRedirects(RedirectOptions{})
	ctx := within(t, 20*time.Second)
	if err := errors.Join(api.Set(ctx, redirects()), r.Set(ctx, shiftList())); err != nil {
		t.Fatal(err)
	}
	defer api.Set(context.Background(), nil)
	defer r.Set(context.Background(), nil)
	want := run(t, "nft", "list", "ruleset")
	for _, damage := range [][]string{
		{"flush", "chain", "inet", ShiftTable, "output"},
		{"flush", "map", "inet", ShiftTable, "shift-ip"},
		{"delete", "table", "inet", ShiftTable},
	} {
		run(t, "nft", damage...)
		if err := r.heal(ctx); err != nil {
			t.Error(damage, err)
		}
		if got := run(t, "nft", "list", "table", "inet", ShiftTable); !strings.Contains(want, got) {
			t.Errorf("after %v:\n%s", damage, got)
		}
	}
}

// TestShiftedPortPreflight: a process at the shifted port costs the Service HAProxy
// and is named; the others are served, and redirects follow what is.
func TestShiftedPortPreflight(t *testing.T) {
	s, p, _, _ := shiftBench(t)
	other := front("other", "192.0.2.10:82", nil, nil)
	other.Binds = append(other.Binds, addrPorts("192.0.2.10:61082")...)
	other.Redirects = []lb.Redirect{{VIP: netip.MustParseAddr("192.0.2.10"), From: 82, To: 61082}}
	l, err := net.Listen("tcp", ":61082")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.cfg.Frontends = append(s.cfg.Frontends, other)
	st := s.set(p)
	if why := st.Skipped["other"]; !strings.Contains(why, "61082") || !strings.Contains(why, "for port 82,") {
		t.Errorf("state: %+v", st)
	}
	if got := lb.Redirects(s.cfg.Frontends, st); len(got) != 3 {
		t.Errorf("redirects: %v", got)
	}
}

// BenchmarkShifts replaces the redirects of 5,000 ports, as each reload does where the
// API server keeps no ipMode.
func BenchmarkShifts(b *testing.B) {
	if os.Getenv(envInside) == "" {
		b.Skip("needs root")
	}
	r := NewRedirects(RedirectOptions{Services: true})
	var list []lb.Redirect
	for i := range 5000 {
		vip := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		list = append(list, lb.Redirect{VIP: vip, From: 80, To: 61080, Elsewhere: true})
	}
	for i := 0; b.Loop(); i++ {
		list[0].From = uint16(81 + i%100)
		if err := r.Set(b.Context(), list); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Set(context.Background(), nil); err != nil {
		b.Fatal(err)
	}
}
