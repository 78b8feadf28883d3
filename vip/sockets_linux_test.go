package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// TestLocalClientsAreReset: a connection from the new holder's own node to the
// VIP was to the old holder. It ends at once, also where the client only
// listens; its next one is served here, and others stay.
func TestLocalClientsAreReset(t *testing.T) {
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			lab := newLab(t)
			old, v := lab.peers[0], lab.vips()[i]
			at := netip.AddrPortFrom(v.IP, 7000).String()
			beside := netip.AddrPortFrom([]netip.Addr{netip.MustParseAddr("10.7.0.2"), netip.MustParseAddr("fd07::2")}[i], 7001).String()
			old.add(netip.PrefixFrom(v.IP, v.IP.BitLen()).String())
			serveAs(t, old, "old", at)
			serveAs(t, old, "beside", beside)
			serveAs(t, nil, "new", at)
			dial := func(addr, by string) *talk {
				conn, err := net.DialTimeout("tcp", addr, 2*time.Second)
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				c := newTalk(conn)
				wantAnswer(t, addr, c, by, 10)
				return c
			}
			watch, other := dial(at, "old"), dial(beside, "beside")
			l := New(Options{Now: boottime})
			l.drains.patient()
			begun := time.Now()
			set(t, l, wish(30*second, v))
			must(t, watch.conn.SetReadDeadline(time.Now().Add(5*time.Second)))
			_, err := watch.r.ReadString('\n')
			if !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("who only listens: %v, want it aborted", err)
			}
			t.Logf("ended %v after the wish", time.Since(begun))
			fresh := dial(at, "new")
			wantAnswer(t, "another connection", other, "beside", 10)
			// Not created, so nothing is reset; neither by a refresh nor for
			// connections to this node's own copy.
			set(t, l, wish(30*second, v))
			set(t, l, lb.Holding{Copies: []lb.Address{v}, CopyFor: drainTime})
			set(t, l, wish(30*second, v))
			wantAnswer(t, "a connection to this node's own", fresh, "new", 10)
		})
	}
}

// TestSocketsOf: found at either end, by IPv6 sockets that speak IPv4 too; no
// others, none that only listen.
func TestSocketsOf(t *testing.T) {
	newLab(t)
	for _, c := range []struct{ listen, dial, ip string }{
		{"127.0.0.7:0", "", "127.0.0.7"}, {"[::]:0", "127.0.0.8", "127.0.0.8"}, {"[::1]:0", "", "::1"},
	} {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", c.listen)
		must(t, err)
		defer l.Close()
		to := l.Addr().String()
		if c.dial != "" {
			_, port, _ := net.SplitHostPort(to)
			to = net.JoinHostPort(c.dial, port)
		}
		ip := netip.MustParseAddr(c.ip)
		before, err := socketsOf(localIs, ip)
		must(t, err)
		if ip.Is4() && len(before) != 0 {
			t.Errorf("%s: %v before there is a connection", to, before)
		}
		conn, err := net.Dial("tcp", to)
		must(t, err)
		defer conn.Close()
		peer, err := l.Accept()
		must(t, err)
		defer peer.Close()
		port := netip.MustParseAddrPort(conn.RemoteAddr().String()).Port()
		for _, at := range []end{localIs, remoteIs} {
			all, err := socketsOf(at, ip)
			must(t, err)
			n := len(slices.DeleteFunc(all, func(s socket) bool {
				return at == localIs && s.local != netip.AddrPortFrom(ip, port) || at == remoteIs && s.remote != netip.AddrPortFrom(ip, port)
			}))
			many, err := socketsOf(at, ip, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"))
			if err != nil || len(many) < n {
				t.Errorf("%s among others: %v, %v", to, many, err)
			}
			if n != 1 {
				t.Errorf("%s at end %d: %d sockets, want 1", to, at, n)
			}
		}
		must(t, resetSockets(localIs, ip))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the connection is not reset", to)
		}
		must(t, resetSockets(localIs, ip))
	}
}

// TestParseSocket: cut or strange messages are nobody's connection.
func TestParseSocket(t *testing.T) {
	b := append([]byte{unix.AF_INET, 1, 0, 0}, make([]byte, diagIDLen)...)
	copy(b[4:], []byte{0x1b, 0x58, 0x12, 0x34})
	copy(b[8:], []byte{10, 7, 0, 9})
	copy(b[24:], []byte{10, 7, 0, 2})
	s, ok := parseSocket(b)
	if got := fmt.Sprint(s.local, " ", s.remote, " ", ok); got != "10.7.0.9:7000 10.7.0.2:4660 true" {
		t.Error(got)
	}
	if _, ok := parseSocket(b[:len(b)-1]); ok {
		t.Error("a short message is taken")
	}
}

// tuple is a conntrack tuple as the kernel gives it.
func tuple(src, dst string, proto byte, sport, dport uint16) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	from, to := tupleSrc4, tupleDst4
	if s.Is6() {
		from, to = tupleSrc6, tupleDst6
	}
	ports := append(attr(2, []byte{byte(sport >> 8), byte(sport)}), attr(3, []byte{byte(dport >> 8), byte(dport)})...)
	return append(attr(tupleIP|unix.NLA_F_NESTED, append(attr(from, s.AsSlice()), attr(to, d.AsSlice())...)),
		attr(tupleProto|unix.NLA_F_NESTED, append(attr(1, []byte{proto}), ports...))...)
}

// tracked is a conntrack entry as the kernel gives it.
func tracked(tuple []byte, status, state byte) []byte {
	info := attr(protoInfoTCP|unix.NLA_F_NESTED, attr(tcpInfoState, []byte{state}))
	return slices.Concat(make([]byte, nl.SizeofNfgenmsg), attr(ctTupleOrig|unix.NLA_F_NESTED, tuple),
		attr(ctStatus, []byte{0, 0, 0, status}), attr(ctProtoInfo|unix.NLA_F_NESTED, info))
}

// TestParseTracked: which of conntrack's entries are connections under way.
func TestParseTracked(t *testing.T) {
	const established, answered = 3, seenReply
	four := tuple("10.7.0.2", "10.7.0.9", unix.IPPROTO_TCP, 1000, 6443)
	whole := tracked(four, answered, established)
	for _, c := range []struct {
		story string
		msg   []byte
		want  string
	}{
		{"established", whole, "10.7.0.2:1000 10.7.0.9:6443"},
		{"IPv6", tracked(tuple("fd07::2", "fd07::9", unix.IPPROTO_TCP, 1000, 6443), answered, established), "[fd07::2]:1000 [fd07::9]:6443"},
		{"closing", tracked(four, answered, ctLastAck), "10.7.0.2:1000 10.7.0.9:6443"},
		{"only asked", tracked(four, 0, established), ""},
		{"SYN sent", tracked(four, answered, 1), ""},
		{"waits its time out", tracked(four, answered, 7), ""},
		{"reset", tracked(four, answered, 8), ""},
		{"UDP", tracked(tuple("10.7.0.2", "10.7.0.9", unix.IPPROTO_UDP, 1000, 53), answered, established), ""},
		{"no port", tracked(tuple("10.7.0.2", "10.7.0.9", unix.IPPROTO_TCP, 1000, 0), answered, established), ""},
		{"cut off", whole[:len(whole)-2], ""},
		{"empty", nil, ""},
	} {
		f, ok := parseTracked(c.msg)
		got := ""
		if ok {
			got = f.client.String() + " " + f.vip.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.story, got, c.want)
		}
	}
}

// FuzzParseTracked: nothing that the kernel could say upsets the reader.
func FuzzParseTracked(f *testing.F) {
	f.Add(tracked(tuple("10.7.0.2", "10.7.0.9", unix.IPPROTO_TCP, 1000, 6443), seenReply, 3))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if f, ok := parseTracked(msg); ok && (!f.client.IsValid() || !f.vip.IsValid()) {
			t.Errorf("%v", f)
		}
		_, _ = parseSocket(msg)
	})
}
