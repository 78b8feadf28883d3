package vip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// forwardTo wants one forward on the link.
func forwardTo(vip, link, to string) lb.Forward {
	return lb.Forward{VIP: lb.Address{IP: netip.MustParseAddr(vip), Link: link}, To: netip.MustParseAddr(to)}
}

// TestForwardRules: the whole table as nft gets it.
func TestForwardRules(t *testing.T) {
	const sweep = "add table netdev mooring-drain\ndelete table netdev mooring-drain\nadd table arp mooring-mute\ndelete table arp mooring-mute\n" +
		"add table ip6 mooring-mute\ndelete table ip6 mooring-mute\n"
	if got := forwardRules(nil); got != sweep {
		t.Errorf("nothing wanted: %s", got)
	}
	got := forwardRules([]lb.Forward{
		forwardTo("192.0.2.10", "eth0", "192.0.2.1"), forwardTo("2001:db8::10", "bond0.12", "2001:db8::1"),
	})
	want := sweep + `table netdev mooring-drain {
 set mine-ipv4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic,timeout; timeout 1m; size 65536; }
 set mine-ipv6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; flags dynamic,timeout; timeout 1m; size 65536; }
 chain in0 {
  type filter hook ingress device "eth0" priority -150; policy accept;
  ip daddr != 192.0.2.10 accept
  meta l4proto != tcp accept
  tcp flags & (syn | ack) == syn add @mine-ipv4 { ip saddr . tcp sport . ip daddr . tcp dport } accept
  ip saddr . tcp sport . ip daddr . tcp dport @mine-ipv4 accept
  fwd ip to 192.0.2.1 device "eth0"
 }
 chain in1 {
  type filter hook ingress device "bond0.12" priority -150; policy accept;
  ip6 daddr != 2001:db8::10 accept
  meta l4proto != tcp accept
  tcp flags & (syn | ack) == syn add @mine-ipv6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport } accept
  ip6 saddr . tcp sport . ip6 daddr . tcp dport @mine-ipv6 accept
  fwd ip6 to 2001:db8::1 device "bond0.12"
 }
}
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// serveAs answers each line with the name, in the host's namespace or, without
// one, in ours; also before the host has the address.
func serveAs(t *testing.T, h *host, name, addr string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		c := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
			level, opt := unix.SOL_IP, unix.IP_FREEBIND
			if network == "tcp6" {
				level, opt = unix.SOL_IPV6, unix.IPV6_FREEBIND
			}
			var bad error
			err := raw.Control(func(fd uintptr) { bad = unix.SetsockoptInt(int(fd), level, opt, 1) })
			return errors.Join(err, bad)
		}}
		l, err = c.Listen(context.Background(), "tcp", addr)
		return err
	}
	if h == nil {
		must(t, listen())
	} else {
		h.in(listen)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := fmt.Fprintf(conn, "%s %s", name, line); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// talk is one client's connection.
type talk struct {
	conn net.Conn
	r    *bufio.Reader
}

// dial connects from the host.
func (h *host) dial(addr string) (*talk, error) {
	var conn net.Conn
	var err error
	h.in(func() error {
		conn, err = net.DialTimeout("tcp", addr, 2*time.Second)
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { conn.Close() })
	return &talk{conn, bufio.NewReader(conn)}, nil
}

// says sends n bytes and gives the name of who sent them back.
func (c *talk) says(n int) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	go func() { _, _ = io.WriteString(c.conn, strings.Repeat("x", n)+"\n") }()
	line, err := c.r.ReadString('\n')
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err == nil && len(rest) != n {
		err = fmt.Errorf("%d bytes came back of %d", len(rest), n)
	}
	return name, err
}

// wantAnswer fails unless the connection is served by that host.
func wantAnswer(t *testing.T, what string, c *talk, by string, n int) {
	t.Helper()
	if got, err := c.says(n); err != nil || got != by {
		t.Fatalf("%s: %q answers (%v), want %s", what, got, err, by)
	}
}

// hasTable says whether the kernel has our table.
func hasTable(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables", "netdev").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list tables: %v: %s", err, out)
	}
	return strings.Contains(string(out), forwardTable)
}

// cleanTable removes the table whatever the test did.
func cleanTable(t *testing.T) {
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "netdev", forwardTable).Run() })
}

// settled waits until our link-local address is ours for good: until then the
// kernel asks no neighbour (RFC 4862 §5.4), so nothing is forwarded over IPv6.
func (l *lab) settled() {
	l.t.Helper()
	link, err := netlink.LinkByName(l.link)
	must(l.t, err)
	eventually(l.t, 10*time.Second, "the link-local address is usable", func() bool {
		all, err := netlink.AddrList(link, netlink.FAMILY_V6)
		must(l.t, err)
		return slices.ContainsFunc(all, func(a netlink.Addr) bool {
			return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
		})
	})
}

// TestForwardCarriesConnectionsOver: an old holder, a new one and a client on
// one switch, both families at once. While both holders have the VIPs, what was
// under way goes on at the old one, what is new begins at the new one.
func TestForwardCarriesConnectionsOver(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	old, client := lab.peers[0], lab.peers[1]
	lab.settled()
	families := map[string]struct {
		vip lb.Address
		to  string
		own string
	}{"IPv4": {lab.vips()[0], "10.7.0.2", "10.7.0.1"}, "IPv6": {lab.vips()[1], "fd07::2", "fd07::1"}}
	before, beside := map[string]*talk{}, map[string]*talk{}
	at := func(ip string) string { return net.JoinHostPort(ip, "7000") }
	var want []lb.Forward
	for name, f := range families {
		old.add(netip.PrefixFrom(f.vip.IP, f.vip.IP.BitLen()).String())
		serveAs(t, old, "old", at(f.vip.IP.String()))
		serveAs(t, nil, "new", at(f.vip.IP.String()))
		serveAs(t, nil, "own", at(f.own))
		var err error
		if before[name], err = client.dial(at(f.vip.IP.String())); err != nil {
			t.Fatal(err)
		}
		if beside[name], err = client.dial(at(f.own)); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, name+" before the move", before[name], "old", 10)
		wantAnswer(t, name+" to the new holder's own address", beside[name], "own", 10)
		want = append(want, lb.Forward{VIP: f.vip, To: netip.MustParseAddr(f.to)})
	}

	var forwarder Forwarder
	must(t, forwarder.Forward(t.Context(), want))
	links := New(Options{Now: boottime})
	run(t, links)
	set(t, links, wish(30*time.Second, lab.vips()...))
	for round := range 20 {
		for name, f := range families {
			what := fmt.Sprintf("%s, round %d", name, round)
			wantAnswer(t, what+": the connection from before", before[name], "old", 100)
			fresh, err := client.dial(at(f.vip.IP.String()))
			if err != nil {
				t.Fatalf("%s: a new connection: %v", what, err)
			}
			wantAnswer(t, what+": a new connection", fresh, "new", 100)
			wantAnswer(t, what+": a connection to another address", beside[name], "own", 100)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for name := range families {
		// More than a segment and a window, so that the kernel merges frames.
		wantAnswer(t, name+": much data", before[name], "old", 300_000)
	}

	must(t, forwarder.Forward(t.Context(), nil))
	if hasTable(t) {
		t.Error("the table is still there after the last forward")
	}
	for name := range families {
		// And this is what it was good for.
		if got, err := before[name].says(10); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s without forwarding: %q answers, %v; want a reset", name, got, err)
		}
		wantAnswer(t, name+" to another address, without forwarding", beside[name], "own", 10)
	}
}

// fakeNFT puts a program named nft before all others; it notes its input in the
// file that is returned, then runs the script.
func fakeNFT(t *testing.T, script string) (calls func() int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	text := "#!/bin/sh\necho call >>" + log + "\n" + script + "\n"
	must(t, os.WriteFile(filepath.Join(dir, "nft"), []byte(text), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Count(string(data), "call")
	}
}

// TestForwardRunsNFTOnlyForAChange: the wish comes with every refresh, once a
// second.
func TestForwardRunsNFTOnlyForAChange(t *testing.T) {
	calls := fakeNFT(t, "cat >/dev/null")
	var f Forwarder
	one, two := forwardTo("192.0.2.10", "eth0", "192.0.2.1"), forwardTo("192.0.2.10", "eth0", "192.0.2.2")
	must(t, f.Forward(t.Context(), nil)) // a first one may sweep
	for _, story := range []struct {
		name string
		want []lb.Forward
		runs int
	}{
		{"first", []lb.Forward{one}, 1}, {"the same again", []lb.Forward{one}, 0}, {"another node", []lb.Forward{two}, 1},
		{"both", []lb.Forward{one, two}, 1}, {"none", nil, 1}, {"none again", nil, 0}, {"empty is none", []lb.Forward{}, 0},
		{"first again", []lb.Forward{one}, 1},
	} {
		before := calls()
		must(t, f.Forward(t.Context(), story.want))
		if got := calls() - before; got != story.runs {
			t.Errorf("%s: nft ran %d times, want %d", story.name, got, story.runs)
		}
	}
}

// TestForwardKeepsItsCallersSlice: a caller may change the slice afterwards.
func TestForwardKeepsItsCallersSlice(t *testing.T) {
	calls := fakeNFT(t, "cat >/dev/null")
	var f Forwarder
	want := []lb.Forward{forwardTo("192.0.2.10", "eth0", "192.0.2.1")}
	must(t, f.Forward(t.Context(), want))
	want[0].To = netip.MustParseAddr("192.0.2.2")
	before := calls()
	must(t, f.Forward(t.Context(), want))
	if calls() == before {
		t.Error("the change in the caller's slice was taken for what the kernel has")
	}
}

// TestForwardErrors: each says what nft said and what to install, and the wish
// is tried again although it did not change.
func TestForwardErrors(t *testing.T) {
	want := []lb.Forward{forwardTo("192.0.2.10", "eth0", "192.0.2.1")}
	t.Run("refused", func(t *testing.T) {
		calls := fakeNFT(t, "cat >/dev/null; echo 'Could not process rule: Operation not supported' >&2; exit 1")
		var f Forwarder
		for range 2 {
			err := f.Forward(t.Context(), want)
			for _, part := range []string{"Operation not supported", "nftables", "CONFIG_NFT_FWD_NETDEV"} {
				wantError(t, err, part)
			}
		}
		if got := calls(); got != 2 {
			t.Errorf("nft ran %d times for two failed wishes", got)
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		var f Forwarder
		wantError(t, f.Forward(t.Context(), want), "nftables")
		// Without nft there is no table of ours: nothing to say once a second.
		var idle Forwarder
		must(t, idle.Forward(t.Context(), nil))
	})
	t.Run("hung", func(t *testing.T) {
		fakeNFT(t, "exec sleep 20")
		var f Forwarder
		begun := time.Now()
		wantError(t, f.Forward(t.Context(), want), "nft")
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("a hung nft held the address sink for %v", took)
		}
	})
	t.Run("no such link", func(t *testing.T) {
		cleanTable(t)
		newLab(t)
		var f Forwarder
		wantError(t, f.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", "gone0", "10.7.0.2")}), "gone0")
		if hasTable(t) {
			t.Error("a refused table is there in part")
		}
	})
}

// TestForwardSweeps: a table that a killed agent left would send established
// connections away for ever, so the first wish for nothing removes it.
func TestForwardSweeps(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	var dead, next Forwarder
	must(t, dead.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", lab.link, "10.7.0.2")}))
	if !hasTable(t) {
		t.Fatal("no table to sweep")
	}
	must(t, next.Forward(t.Context(), nil))
	if hasTable(t) {
		t.Error("the table of a dead predecessor is still there")
	}
	// The kernel's rules are replaced as a whole, not added to.
	for _, to := range []string{"10.7.0.2", "10.7.0.3"} {
		must(t, next.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", lab.link, to)}))
	}
	out, err := exec.Command("nft", "list", "table", "netdev", forwardTable).CombinedOutput()
	must(t, err)
	if strings.Count(string(out), "fwd ip to") != 1 || !strings.Contains(string(out), "fwd ip to 10.7.0.3") {
		t.Errorf("the kernel has\n%s", out)
	}
}
