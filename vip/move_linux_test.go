package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

const drainTime = 60 * second

// move makes a planned move of the VIPs as the machine orders it: the new holder
// arms its chain before it has the address; the old one, which has announced
// nothing since the move began, lets go; then the chains that lead to the new
// holder go. Gone earlier, frames of its own connections that still come to an
// older holder would be answered with a reset.
func move(from, to *node, stop []*node, vips ...lb.Address) {
	moveFor(drainTime, from, to, vips...)
	for _, n := range stop {
		n.forward(nil, 0)
	}
}

// moveFor is a move whose drain takes so long.
func moveFor(d lb.Instant, from, to *node, vips ...lb.Address) {
	silent := wish(60*second, vips...)
	silent.Mute = true
	from.do(order{Set: &silent})
	to.forward(from, d-second, vips...)
	to.hold(vips...)
	from.drain(d, vips...)
}

// received counts the frames that the nodes' links took in.
func received(nodes ...*node) (sum uint64) {
	for _, n := range nodes {
		n.t.Helper()
		link, err := n.nl.LinkByName("eth0")
		must(n.t, err)
		sum += link.Attrs().Statistics.RxPackets
	}
	return sum
}

// TestConnectionsOutliveMoves: there and back, and round a chain of three. Every
// connection stays with the node at which it began; no frame runs in a circle.
func TestConnectionsOutliveMoves(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b, c := lab.agent("a"), lab.agent("b"), lab.agent("c")
		for _, n := range []*node{a, b, c} {
			serveAs(t, n.host, n.name, at)
		}
		a.hold(v)
		chats := []*chat{client.chat(at, "a")}
		check := func(what string) {
			t.Helper()
			for _, k := range chats {
				k.goesOn(t, what)
			}
		}
		check("before")
		move(a, b, nil, v)
		chats = append(chats, client.chat(at, "b"))
		check("a to b")
		move(b, a, []*node{b}, v)
		chats = append(chats, client.chat(at, "a"))
		check("and back")
		move(a, b, []*node{a}, v)
		chats = append(chats, client.chat(at, "b"))
		check("and there again")
		// b forwards to a.
		move(b, c, nil, v)
		chats = append(chats, client.chat(at, "c"))
		check("b to c")
		// c forwards to b; b's chain leads to the new holder.
		move(c, a, []*node{b}, v)
		chats = append(chats, client.chat(at, "a"))
		check("c to a")
		before, begun := received(a, b, c), time.Now()
		check("at last")
		// Six connections, an exchange is two frames in and three hops at most.
		limit := uint64(time.Since(begun)/(20*time.Millisecond)+10) * uint64(len(chats)) * 2 * 3 * 2
		if got := received(a, b, c) - before; got > limit {
			t.Errorf("%d frames for %d connections, want at most %d: frames run in a circle", got, len(chats), limit)
		}
		for i, k := range chats {
			k.end()
			t.Logf("connection %d: %d exchanges, the slowest took %v", i, k.count, k.worst)
		}
	})
}

// TestMovesThroughDNAT: the port that clients see is not that of the sockets.
func TestMovesThroughDNAT(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		a, b := lab.agent("a"), lab.agent("b")
		for _, n := range []*node{a, b} {
			serveAs(t, n.host, n.name, netip.AddrPortFrom(v.IP, 7443).String())
			n.sh(fmt.Sprintf("nft 'table inet mooring-api { chain pre { type nat hook prerouting priority -100; "+
				"%s daddr %s tcp dport 6443 fib daddr type local dnat %[1]s to %[3]s; }; }'", family(v.IP), v.IP,
				netip.AddrPortFrom(v.IP, 7443)))
		}
		at := netip.AddrPortFrom(v.IP, 6443).String()
		a.hold(v)
		first := client.chat(at, "a")
		move(a, b, nil, v)
		second := client.chat(at, "b")
		move(b, a, []*node{b}, v)
		third := client.chat(at, "a")
		for what, k := range map[string]*chat{"the first": first, "the second": second, "the third": third} {
			k.goesOn(t, what)
		}
	})
}

// TestDrainEnds: at its end copies, rules and the forward are gone, and the
// client is told with a reset, not with silence.
func TestDrainEnds(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b := lab.agent("a"), lab.agent("b")
		serveAs(t, a.host, "a", at)
		serveAs(t, b.host, "b", at)
		a.hold(v)
		busy := client.chat(at, "a")
		idle, err := client.dial(at)
		must(t, err)
		wantAnswer(t, "before the move", idle, "a", 10)
		moveFor(4*second, a, b, v)
		busy.goesOn(t, "in the drain")
		busy.breaks(t, "after the drain")
		must(t, idle.conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, err := idle.r.ReadString('\n'); err == nil || isTimeout(err) {
			t.Errorf("who only listens: %v, want a reset", err)
		}
		eventually(t, 5*time.Second, "a is clean", func() bool {
			mute := strings.Contains(a.rules(), muteTable)
			if copied := strings.Contains(a.sh("ip -o addr show dev lo"), v.IP.String()); copied && !mute {
				t.Error("there is a copy that is not mute any more")
			}
			return a.clean()
		})
		eventually(t, 5*time.Second, "b is clean", b.clean)
		if left := b.do(order{}).Forwards; len(left) != 0 {
			t.Errorf("forwards %v", left)
		}
	})
}

// TestNoCircle: two nodes that forward to each other, as for a moment they may. A
// frame of a flow that neither knows is not sent back to where it came from and,
// where a longer circle hides that, dies after a few hops.
func TestNoCircle(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		a, b := lab.agent("a"), lab.agent("b")
		b.hold(v)
		const frames = 50
		frame := strayACK(client, b, v.IP)
		for _, guard := range []bool{true, false} {
			both := func(n, to *node) {
				f := lb.Forward{VIP: v, To: to.own[0], Until: boottime() + drainTime}
				if v.IP.Is6() {
					f.To = to.own[1]
				}
				if guard {
					f.MACs = to.mac().String()
				}
				n.do(order{Forward: &[]lb.Forward{f}})
			}
			both(a, b)
			both(b, a)
			before := received(a, b)
			client.send(slices.Repeat([][]byte{frame}, frames)...)
			time.Sleep(100 * time.Millisecond)
			got, limit := received(a, b)-before, uint64(frames*9+30) // eight hops and the first
			if guard {
				limit = 2*frames + 30
			}
			if got > limit || got < frames {
				t.Errorf("MACs known: %v: %d frames became %d, want at most %d", guard, frames, got, limit)
			}
		}
	})
}

// strayACK is a frame of a connection that nobody has, from the host to the VIP
// at the node.
func strayACK(from *host, to *node, v netip.Addr) []byte {
	tcp := []byte{0x27, 0x10, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, 0x10, 1, 0, 0, 0, 0, 0}
	if v.Is6() {
		src := netip.MustParseAddr("fd07::2")
		head := append([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, append(src.AsSlice(), v.AsSlice()...)...)
		return append(append(etherHeader(to.mac(), from.mac(), unix.ETH_P_IPV6), head...), tcp...)
	}
	head := append([]byte{0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 7, 0, 2}, v.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(head); i += 2 {
		sum += uint32(head[i])<<8 | uint32(head[i+1])
	}
	sum = sum&0xffff + sum>>16
	head[10], head[11] = byte(^sum>>8), byte(^sum)
	frame := append(append(etherHeader(to.mac(), from.mac(), unix.ETH_P_IP), head...), tcp...)
	return append(frame, make([]byte, etherMin-len(frame))...)
}
