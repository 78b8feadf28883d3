package vip

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// TestDrainOutlivesTheAgents: both are killed in a drain; their successors keep
// the connection, also through their sweep, and end the drain in time.
func TestDrainOutlivesTheAgents(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b := lab.agent("a"), lab.agent("b")
		serveAs(t, a.host, "a", at)
		serveAs(t, b.host, "b", at)
		a.hold(v)
		old := client.chat(at, "a")
		moveFor(9*second, a, b, v)
		fresh := client.chat(at, "b")
		for _, n := range []*node{a, b} {
			n.kill()
		}
		old.goesOn(t, "without agents")
		for _, n := range []*node{a, b} {
			n.start()
		}
		if got := b.do(order{}).Forwards; len(got) != 1 || got[0].VIP != v {
			t.Errorf("the new agent finds the forwards %v", got)
		}
		if swept := a.do(order{Sweep: true}).Swept; len(swept) != 0 {
			t.Errorf("swept %v", swept)
		}
		b.hold(v)
		old.goesOn(t, "with new agents")
		fresh.goesOn(t, "with new agents, a new one")
		old.breaks(t, "after the drain")
		fresh.goesOn(t, "after the drain, a new one")
		for _, n := range []*node{a, b} {
			eventually(t, 5*time.Second, n.name+" is clean", n.clean)
		}
	})
}

// TestDrainEndsWithoutAgents: the kernel ends it; the next agent tidies up.
func TestDrainEndsWithoutAgents(t *testing.T) {
	lab := newLab(t)
	a, b := lab.agent("a"), lab.agent("b")
	a.hold(lab.onEth0()...)
	moveFor(3*second, a, b, lab.onEth0()...)
	a.kill()
	b.kill()
	eventually(t, 8*time.Second, "copies and elements expire", func() bool {
		return !strings.Contains(a.sh("ip -o addr show dev lo"), "proto 109") &&
			!strings.Contains(a.rules(), "expires") && !strings.Contains(b.rules(), "expires")
	})
	for _, n := range []*node{a, b} {
		if !strings.Contains(n.rules(), "mooring-") {
			t.Errorf("%s has no empty rules left, so this shows nothing", n.name)
		}
		n.start()
		if left := n.do(order{}).Forwards; len(left) != 0 {
			t.Errorf("%s: forwards %v", n.name, left)
		}
		eventually(t, 3*time.Second, n.name+" is clean", n.clean)
	}
}

// TestLostState: what no state explains goes.
func TestLostState(t *testing.T) {
	lab := newLab(t)
	a, b := lab.agent("a"), lab.agent("b")
	a.hold(lab.onEth0()...)
	move(a, b, nil, lab.onEth0()...)
	for _, n := range []*node{a, b} {
		n.kill()
		must(t, os.Remove(n.state))
		n.start()
		swept := n.do(order{Sweep: true}).Swept
		if len(swept) != 2 {
			t.Errorf("%s swept %v", n.name, swept)
		}
		eventually(t, 3*time.Second, n.name+" is clean", n.clean)
	}
}

// TestFlushedRules: a firewall that is loaded anew flushes all tables. The old
// holder falls silent again, and the new one knows its own flows.
func TestFlushedRules(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b := lab.agent("a"), lab.agent("b")
		serveAs(t, a.host, "a", at)
		serveAs(t, b.host, "b", at)
		a.hold(v)
		move(a, b, nil, v)
		fresh := client.chat(at, "b")
		for _, n := range []*node{a, b} {
			n.sh("nft flush ruleset")
		}
		eventually(t, 5*time.Second, "the rules are back", func() bool {
			return strings.Contains(a.rules(), muteTable) && strings.Contains(b.rules(), "fwd ")
		})
		fresh.goesOn(t, "after the flush")
	})
}
