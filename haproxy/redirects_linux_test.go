package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// host is another machine, a network namespace with a link to ours.
type host struct {
	t   *testing.T
	pid int
}

// newHost makes a namespace that lives as long as a process in it. It knows
// the way to the virtual IPs.
func newHost(t *testing.T) *host {
	t.Helper()
	cmd := exec.Command("sleep", "120")
	// No Pdeathsig: that is about the thread that started it, and threads that
	// changed their namespace end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h := &host{t: t, pid: cmd.Process.Pid}
	run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", fmt.Sprint(h.pid))
	t.Cleanup(func() { exec.Command("ip", "link", "del", "v0").Run() })
	run(t, "ip", "addr", "add", "198.51.100.1/24", "dev", "v0")
	run(t, "ip", "addr", "add", "2001:db8:1::1/64", "dev", "v0", "nodad")
	run(t, "ip", "link", "set", "v0", "up")
	h.run("ip", "link", "set", "lo", "up")
	h.run("ip", "addr", "add", "198.51.100.2/24", "dev", "v1")
	h.run("ip", "addr", "add", "2001:db8:1::2/64", "dev", "v1", "nodad")
	h.run("ip", "link", "set", "v1", "up")
	h.run("ip", "route", "add", "192.0.2.10/32", "via", "198.51.100.1")
	h.run("ip", "-6", "route", "add", "2001:db8::10/128", "via", "2001:db8:1::1")
	// A link just made may lose its first packets; port 1 answers by a reset.
	for _, addr := range []string{"198.51.100.1:1", "[2001:db8:1::1]:1"} {
		eventually(t, 10*time.Second, "the link works", func() (ok bool) {
			h.do(func() {
				_, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
				ok = errors.Is(err, unix.ECONNREFUSED)
			})
			return ok
		})
	}
	return h
}

func (h *host) run(args ...string) {
	h.t.Helper()
	run(h.t, "nsenter", append([]string{"-t", fmt.Sprint(h.pid), "-n"}, args...)...)
}

// do calls f on a thread inside the namespace; sockets opened there stay in it.
func (h *host) do(f func()) {
	h.t.Helper()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		h.t.Fatal(err)
	}
}

// name asks who answers at an address: "local", a backend's name, or why
// nobody does.
func name(p *pki, addr string) string {
	conn, err := net.DialTimeout("tcp", addr, 1500*time.Millisecond)
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return "dropped"
		}
		return "refused"
	}
	c := p.client(conn)
	defer c.Close()
	text, err := askOver(c)
	if err != nil {
		return "broken: " + err.Error()
	}
	_, body, _ := strings.Cut(text, "\r\n\r\n")
	return body
}

func (h *host) name(p *pki, addr string) (who string) {
	h.t.Helper()
	h.do(func() { who = name(p, addr) })
	return who
}

const (
	pub4, pub6       = "192.0.2.10:6443", "[2001:db8::10]:6443"
	behind4, behind6 = "192.0.2.10:7443", "[2001:db8::10]:7443"
)

func redirects() []lb.Redirect {
	return []lb.Redirect{
		{VIP: netip.MustParseAddr("192.0.2.10"), From: 6443, To: 7443},
		{VIP: netip.MustParseAddr("2001:db8::10"), From: 6443, To: 7443},
	}
}

// redirectBench is a node as kubeadm makes it: an API server on the wildcard
// address with the public port, HAProxy on the port behind it.
func redirectBench(t *testing.T) (*bench, *host, *Redirects) {
	t.Helper()
	b, _ := newBench(t, 0)
	startAPI(t, b.pki, "local", "[::]:6443")
	s := startAPI(t, b.pki, "balanced", "127.0.0.11:7001")
	b.cfg.Frontends[0].Backends = []lb.Backend{{Name: s.name, Addr: s.addr}}
	b.set(b.proxy(), b.cfg)
	r := NewRedirects(RedirectOptions{})
	t.Cleanup(func() {
		if err := r.Set(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	return b, newHost(t), r
}

func TestRedirect(t *testing.T) {
	b, h, r := redirectBench(t)
	expect := func(when, who, direct string) {
		t.Helper()
		for _, addr := range []string{pub4, pub6} {
			if got := name(b.pki, addr); got != who {
				t.Errorf("%s: this host at %s: %s", when, addr, got)
			}
			if got := h.name(b.pki, addr); got != who {
				t.Errorf("%s: another host at %s: %s", when, addr, got)
			}
		}
		for _, addr := range []string{behind4, behind6} {
			if got := name(b.pki, addr); got != "balanced" {
				t.Errorf("%s: this host at %s: %s", when, addr, got)
			}
			if got := h.name(b.pki, addr); got != direct {
				t.Errorf("%s: another host at %s: %s", when, addr, got)
			}
		}
		if got := h.name(b.pki, "198.51.100.1:6443"); got != "local" {
			t.Errorf("%s: the node's own address: %s", when, got)
		}
	}
	expect("at first", "local", "balanced")
	if err := r.Set(within(t, 9*time.Second), redirects()); err != nil {
		t.Fatal(err)
	}
	expect("with redirect", "balanced", "dropped")
	if err := r.Set(within(t, 9*time.Second), nil); err != nil {
		t.Fatal(err)
	}
	expect("afterwards", "local", "balanced")
	if out := run(t, "nft", "list", "tables"); strings.Contains(out, RedirectTable) {
		t.Errorf("tables: %s", out)
	}
}

func TestRedirectKeepsEstablishedConnections(t *testing.T) {
	b, h, r := redirectBench(t)
	var straight, balanced net.Conn
	dial := func() (c net.Conn) {
		h.do(func() { c, _ = net.DialTimeout("tcp", pub4, 3*time.Second) })
		if c == nil {
			t.Fatal("no connection")
		}
		return c
	}
	straight = b.pki.client(dial())
	defer straight.Close()
	check := func(when string, c net.Conn, want string) {
		t.Helper()
		if text, err := askOver(c); err != nil || !strings.HasSuffix(text, want) {
			t.Errorf("%s: %q %v", when, text, err)
		}
	}
	check("before", straight, "local")
	if err := r.Set(within(t, 9*time.Second), redirects()); err != nil {
		t.Fatal(err)
	}
	check("straight, after the redirect came", straight, "local")
	balanced = b.pki.client(dial())
	defer balanced.Close()
	check("through the redirect", balanced, "balanced")
	if err := r.Set(within(t, 9*time.Second), redirects()[:1]); err != nil {
		t.Fatal(err)
	}
	check("straight, after a change", straight, "local")
	check("through the redirect, after a change", balanced, "balanced")
}

// On a node without the address the rules do nothing: what it sends to the
// holder must arrive there at the public port.
func TestRedirectOnANodeWithoutTheAddress(t *testing.T) {
	needNetwork(t)
	p, h := newPKI(t), newHost(t)
	run(t, "ip", "addr", "del", "192.0.2.10/32", "dev", "lo")
	run(t, "ip", "route", "add", "192.0.2.10/32", "via", "198.51.100.2")
	h.run("ip", "addr", "add", "192.0.2.10/32", "dev", "lo")
	h.do(func() { startAPI(t, p, "holder", pub4) })
	r := NewRedirects(RedirectOptions{})
	if err := r.Set(within(t, 9*time.Second), redirects()); err != nil {
		t.Fatal(err)
	}
	defer r.Set(context.Background(), nil)
	if got := name(p, pub4); got != "holder" {
		t.Errorf("answered by %s", got)
	}
}

func TestRedirectsHeal(t *testing.T) {
	needNetwork(t)
	r := NewRedirects(RedirectOptions{})
	ctx := within(t, 20*time.Second)
	if err := r.heal(ctx); err != nil {
		t.Errorf("before Set: %v", err)
	}
	if err := r.Set(ctx, redirects()); err != nil {
		t.Fatal(err)
	}
	defer r.Set(context.Background(), nil)
	want := run(t, "nft", "list", "ruleset")
	for _, damage := range [][]string{
		{"flush", "ruleset"},
		{"flush", "chain", "inet", RedirectTable, "output"},
		{"insert", "rule", "inet", RedirectTable, "output", "accept"},
	} {
		run(t, "nft", damage...)
		if err := r.heal(ctx); err != nil {
			t.Error(damage, err)
		}
		if got := run(t, "nft", "list", "ruleset"); got != want {
			t.Errorf("after %v:\n%s", damage, got)
		}
	}
}

func TestRedirectsRunNftOnlyForAChange(t *testing.T) {
	needNetwork(t)
	dir := shortDir(t)
	script := "#!/bin/sh\necho \"$*\" >> " + dir + "/runs\nexec nft \"$@\"\n"
	if err := os.WriteFile(dir+"/nft", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	r := NewRedirects(RedirectOptions{Binary: dir + "/nft"})
	ctx := within(t, 20*time.Second)
	reversed := []lb.Redirect{redirects()[1], redirects()[0]}
	for _, list := range [][]lb.Redirect{redirects(), reversed, redirects(), nil, nil} {
		if err := r.Set(ctx, list); err != nil {
			t.Fatal(err)
		}
	}
	runs, _ := os.ReadFile(dir + "/runs")
	if n := strings.Count(string(runs), "-f -"); n != 2 {
		t.Errorf("nft changed rules %d times:\n%s", n, runs)
	}
}

func TestRedirectsWithoutNft(t *testing.T) {
	r := NewRedirects(RedirectOptions{Binary: "nft-that-is-not-there"})
	ctx := within(t, 5*time.Second)
	if err := r.Set(ctx, redirects()); err == nil || !strings.Contains(err.Error(), "package nftables") {
		t.Errorf("error: %v", err)
	}
	if err := r.Set(ctx, nil); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}
