package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// gossip notes the frames from one MAC at a host's eth0 that name an address:
// ARP senders, sources and targets of neighbour discovery.
type gossip struct {
	mu    sync.Mutex
	words []string
}

// overhear begins to note until the test ends.
func (h *host) overhear(from net.HardwareAddr) *gossip {
	h.t.Helper()
	g := &gossip{}
	for _, proto := range []int{unix.ETH_P_ARP, unix.ETH_P_IPV6} {
		var conn *packet.Conn
		h.in(func() error {
			ifi, err := ethernetLink("eth0")
			if err != nil {
				return err
			}
			conn, err = packet.Listen(ifi, packet.Raw, proto, nil)
			return err
		})
		h.t.Cleanup(func() { conn.Close() })
		mac := string(from)
		go func() {
			buf := make([]byte, 2048)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				if word := named(buf[:n]); word != "" && string(buf[6:12]) == mac {
					g.mu.Lock()
					g.words = append(g.words, word)
					g.mu.Unlock()
				}
			}
		}()
	}
	return g
}

// named says how a frame names an address: "ARP 10.7.0.9", "ND fd07::9".
func named(frame []byte) string {
	if len(frame) >= etherLen+arpLen && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP {
		ip, _ := netip.AddrFromSlice(frame[arpSender : arpSender+4])
		return "ARP " + ip.String()
	}
	body, ok := icmpBody(frame)
	if !ok || len(body) < 24 || body[0] != nsType && body[0] != naType {
		return ""
	}
	src, _ := netip.AddrFromSlice(frame[ipv6Src : ipv6Src+16])
	if body[0] == naType {
		src, _ = netip.AddrFromSlice(body[8:24])
	}
	return "ND " + src.String()
}

// heard lists what was noted, each once, and forgets it.
func (g *gossip) heard() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.words)
	all := strings.Join(slices.Compact(g.words), ", ")
	g.words = nil
	return all
}

// TestOldHolderIsMute: nobody hears the VIP named by an old holder, asked or
// not, also when it must ask for its client again; the connection goes on.
func TestOldHolderIsMute(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client, other := lab.peers[0], lab.peers[1]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b := lab.agent("a"), lab.agent("b")
		serveAs(t, a.host, "a", at)
		a.hold(v)
		k := client.chat(at, "a")
		move(a, b, nil, v)
		k.goesOn(t, "after the move")
		heard := client.overhear(a.mac())
		for range 3 {
			a.sh("ip neigh flush dev eth0")
			k.goesOn(t, "after the old holder forgot its neighbours")
		}
		words := heard.heard()
		own, name := a.own[0], "ARP "
		if v.IP.Is6() {
			own, name = a.own[1], "ND "
		}
		if strings.Contains(words, v.IP.String()) {
			t.Errorf("the old holder names the VIP: %s", words)
		}
		// IPv6 asks with the link-local address.
		if v.IP.Is4() && !strings.Contains(words, name+own.String()) || v.IP.Is6() && !strings.Contains(words, "ND fe80::") {
			t.Errorf("the old holder asks in none of its own names: %q", words)
		}
		// Only the new holder answers, who may have been another's neighbour.
		other.in(func() error {
			got, err := New(Options{Now: boottime}).Probe(t.Context(), []lb.Address{v})
			if len(got) != 1 || got[0].MAC.String() != b.mac().String() {
				t.Errorf("a probe is answered by %v, want %s", got, b.mac())
			}
			return err
		})
		b.hold()
		other.in(func() error {
			got, err := New(Options{Now: boottime}).Probe(t.Context(), []lb.Address{v})
			if len(got) != 0 {
				t.Errorf("without the new holder %v answers", got)
			}
			return err
		})
	})
}

// TestIPv6CopyIsMuteByItself: the kernel answers for a /128 on lo on no other
// link and names it in none of its questions; our rules are not needed for it.
func TestIPv6CopyIsMuteByItself(t *testing.T) {
	lab := newLab(t)
	client := lab.peers[0]
	a := lab.agent("a")
	v := lab.onEth0()[1]
	serveAs(t, a.host, "a", netip.AddrPortFrom(v.IP, 7000).String())
	a.sh("ip -6 addr add fd07::9/128 dev lo nodad")
	client.sh("ip -6 neigh replace fd07::9 lladdr " + a.mac().String() + " dev eth0")
	k := client.chat(netip.AddrPortFrom(v.IP, 7000).String(), "a")
	heard := client.overhear(a.mac())
	for range 3 {
		a.sh("ip neigh flush dev eth0")
		k.goesOn(t, "after it forgot its neighbours")
	}
	if words := heard.heard(); strings.Contains(words, "fd07::9") || !strings.Contains(words, "fe80::") {
		t.Errorf("it says %q", words)
	}
	client.in(func() error {
		got, err := New(Options{Now: boottime}).Probe(t.Context(), []lb.Address{v})
		if len(got) != 0 {
			t.Errorf("%v answers", got)
		}
		return err
	})
}

// TestMuteOnlyTheVIP: the node's own address and VIPs that it holds are heard.
func TestMuteOnlyTheVIP(t *testing.T) {
	lab := newLab(t)
	a, asker := lab.agent("a"), lab.peers[1]
	gone := lab.onEth0()
	kept := addrs(t, "10.7.0.8 eth0, fd07::8 eth0")
	a.hold(append(kept, gone...)...)
	h := wish(60*second, kept...)
	h.Copies, h.CopyFor = gone, drainTime
	a.do(order{Set: &h})
	asker.in(func() error {
		got, err := New(Options{Now: boottime}).Probe(t.Context(), append(kept, gone...))
		if len(got) != 2 || got[0].IP != kept[0].IP || got[1].IP != kept[1].IP {
			t.Errorf("answers: %v", got)
		}
		return err
	})
	// Wanted again: heard, on the link, and nothing is left of the copy.
	a.hold(append(kept, gone...)...)
	asker.in(func() error {
		got, err := New(Options{Now: boottime}).Probe(t.Context(), append(kept, gone...))
		if len(got) != 4 {
			t.Errorf("answers once all is held again: %v", got)
		}
		return err
	})
	if out := a.sh("ip -o addr show dev lo") + a.rules(); strings.Contains(out, "10.7.0.9") || strings.Contains(out, "fd07::9") {
		t.Errorf("left:\n%s", out)
	}
}

// TestCopyWithoutNFT: without a way to be mute there is no copy; the address
// leaves its link all the same, and the error says what to install.
func TestCopyWithoutNFT(t *testing.T) {
	for story, c := range map[string]struct {
		script, want string
		atMost       time.Duration
	}{
		"missing": {"", "install the package nftables", time.Second},
		"refused": {"echo 'Operation not supported' >&2; exit 1", "Operation not supported", time.Second},
		"hung":    {"exec sleep 20", "no answer within 800ms", 2 * time.Second},
	} {
		t.Run(story, func(t *testing.T) {
			lab := newLab(t)
			l := New(Options{Now: boottime})
			set(t, l, wish(30*second, lab.vips()...))
			if c.script == "" {
				t.Setenv("PATH", t.TempDir())
			} else {
				fakeNFT(t, c.script)
			}
			begun := time.Now()
			_, err := l.Set(t.Context(), lb.Holding{Copies: lab.vips(), CopyFor: drainTime})
			wantError(t, err, c.want)
			wantError(t, err, "established connections end, or pause")
			if took := time.Since(begun); took > c.atMost {
				t.Errorf("it took %v", took)
			}
			if lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) {
				t.Error("the addresses are still on the link")
			}
			if there, err := present(); err != nil || there[lb.Address{IP: lab.vips()[0].IP, Link: "lo"}] {
				t.Errorf("there is a copy: %v", err)
			}
		})
	}
}

// TestLateCopy: nft was too slow at first; the copy comes later, and goes with the
// wish for the address.
func TestLateCopy(t *testing.T) {
	lab := newLab(t)
	v := lab.vips()[0]
	copied := lb.Address{IP: v.IP, Link: loopback}
	l := New(Options{Now: boottime})
	l.drains.ruling = 20 * time.Second
	run(t, l)
	set(t, l, wish(30*second, v))
	path := os.Getenv("PATH")
	fakeNFT(t, "exec sleep 2")
	_, err := l.Set(t.Context(), lb.Holding{Copies: lab.vips()[:1], CopyFor: drainTime})
	wantError(t, err, "no answer")
	must(t, os.Setenv("PATH", path))
	eventually(t, 20*time.Second, "a copy", func() bool {
		there, err := present()
		return err == nil && there[copied]
	})
	set(t, l, wish(30*second, v))
	if there, err := present(); err != nil || there[copied] || !there[v] {
		t.Errorf("held again: %v, %v", there, err)
	}
}

// TestFenceRunsNoNFT: letting go at once waits for nothing, also with copies and
// forwards about and while a change of rules hangs.
func TestFenceRunsNoNFT(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(30*second, lab.vips()...))
	calls := fakeNFT(t, "exec sleep 20")
	hung := make(chan error)
	go func() {
		hung <- l.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.8", lab.link, "10.7.0.2")})
	}()
	eventually(t, time.Second, "nft hangs", func() bool { return calls() == 1 })
	begun := time.Now()
	set(t, l, lb.Holding{})
	if took := time.Since(begun); took > 500*time.Millisecond {
		t.Errorf("the fence took %v", took)
	}
	if lab.has(lab.vips()[0]) || calls() != 1 {
		t.Errorf("not gone, or %d runs of nft", calls())
	}
	wantError(t, <-hung, "no answer within 2s")
}

// TestCopiesOnlyOfWhatIsThere: a wish that comes again after its end makes no new
// copy, and a VIP that was not on its link none at all.
func TestCopiesOnlyOfWhatIsThere(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	again := lb.Holding{Copies: lab.vips()[:1], CopyFor: drainTime}
	set(t, l, again)
	if there, err := present(); err != nil || there[lb.Address{IP: lab.vips()[0].IP, Link: "lo"}] {
		t.Errorf("copied from nowhere: %v", err)
	}
	set(t, l, wish(30*second, lab.vips()[0]))
	set(t, l, lb.Holding{Copies: lab.vips()[:1], CopyFor: second / 2})
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(out), muteTable) {
		t.Errorf("a drain of no time: %s, %v", out, err)
	}
}
