package lab_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// streams opens one of each kind through n1's API server.
func streams(t *testing.T, l *lab.Lab) {
	c, n := l.Client(), l.Node(1)
	address := n.IP() + ":6443"
	const size = 20 << 20
	all := []*lab.Stream{c.Watch(address), c.Upgraded(address), c.Download(address, size, 3*time.Second)}
	begun := time.Now()
	select {
	case <-all[2].Done():
	case <-time.After(20 * time.Second):
		t.Error("a download of 3 s has not ended after 20 s")
	}
	if d := time.Since(begun); d < 2*time.Second {
		t.Errorf("a download of 3 s ended after %s", d)
	}
	for i, s := range all {
		r := s.Stop()
		t.Log(r)
		if len(r.Breaks)+r.Failed > 0 || r.Messages < 10 || r.Silence > 2*time.Second {
			t.Errorf("left alone, the %s", r)
		}
		if i == 2 && (!r.Complete || r.Bytes != size) {
			t.Errorf("%d of %d bytes came", r.Bytes, size)
		}
	}
}

// streamsBreak: a dead server is seen as a break, a hung one as silence.
func streamsBreak(t *testing.T, l *lab.Lab) {
	c, n := l.Client(), l.Node(1)
	address := n.IP() + ":6443"
	all := []*lab.Stream{c.Watch(address), c.Upgraded(address), c.Download(address, 1<<30, time.Hour)}
	n.APIServer().Freeze()
	time.Sleep(1500 * time.Millisecond)
	n.APIServer().Thaw()
	time.Sleep(500 * time.Millisecond)
	for _, s := range all {
		if r := s.Snapshot(); r.Silence < 1300*time.Millisecond || len(r.Breaks) > 0 {
			t.Errorf("frozen for 1.5 s, and the %s", r)
		}
	}
	n.APIServer().Kill()
	l.Eventually(5*time.Second, "every stream notices", func() bool {
		for _, s := range all {
			if r := s.Snapshot(); len(r.Breaks) != 1 || r.Failed == 0 {
				return false
			}
		}
		return true
	})
	n.APIServer().Start()
	l.AwaitReady(n)
	before := all[1].Snapshot().Messages
	l.Eventually(5*time.Second, "the upgraded stream is open again", func() bool {
		return all[1].Snapshot().Messages > before
	})
	for _, s := range all {
		r := s.Stop()
		t.Log(r)
		if r.Complete {
			t.Errorf("broken and complete: %s", r)
		}
	}
}

// TestUDPProbe: answers come from the address that was asked, and tell who gave them.
func TestUDPProbe(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	nodes := l.Nodes(2)
	for _, vip := range []string{lab.VIP4, lab.VIP6} {
		bits := map[bool]string{true: "/128", false: "/32"}[strings.Contains(vip, ":")]
		nodes[0].Exec("ip", "addr", "add", vip+bits, "dev", "eth0")
		p := l.Client().UDPProbe(vip, 5*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		nodes[0].CutLink(lab.SilentCut)
		time.Sleep(300 * time.Millisecond)
		nodes[1].Exec("ip", "addr", "add", vip+bits, "dev", "eth0")
		// No announcement: the client must forget whom it knew.
		l.Client().Exec("ip", "neigh", "flush", "all")
		time.Sleep(300 * time.Millisecond)
		r := p.Stop()
		t.Log(r)
		if len(r.Outages) != 1 || r.Outages[0].Open || r.Longest < 250*time.Millisecond || r.Longest > 1500*time.Millisecond {
			t.Errorf("%s unanswered for 0.3 s: %s", vip, r)
		}
		if len(r.Spans) != 2 || r.Spans[0].Server != "n1" || r.Spans[1].Server != "n2" {
			t.Errorf("n1 answered, then n2; reported %v", r.Spans)
		}
		nodes[0].HealLink()
	}
}

// TestUDPProbeOutlivesPower: the echo comes back with its node.
func TestUDPProbeOutlivesPower(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	n := l.Nodes(1)[0]
	p := l.Client().UDPProbe(n.IP(), 5*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	n.Kill()
	time.Sleep(300 * time.Millisecond)
	n.Boot()
	l.Eventually(5*time.Second, "the echo answers again", func() bool {
		r := p.Snapshot()
		return len(r.Outages) > 0 && !r.Outages[len(r.Outages)-1].Open
	})
	if r := p.Stop(); r.ByServer["n1"] == 0 || r.Failed == 0 {
		t.Errorf("a node without power for 0.3 s: %s", r)
	}
}

// TestOneWayCuts: a mute host hears, a deaf one is heard.
func TestOneWayCuts(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("arping"); err != nil {
		t.Skip("arping is missing: run make setup")
	}
	l := lab.New(t)
	nodes := l.Nodes(2)
	w := l.Wire()
	// heard counts n1's questions for a name nobody has that reach the switch.
	heard := func(ip string) int {
		_, _ = nodes[0].Try("arping", "-c", "2", "-w", "1", "-I", "eth0", ip)
		return len(w.Frames(ip))
	}
	// hears says whether frames of n2 reach n1: its neighbour table learns from questions for it.
	hears := func() bool {
		before := rxPackets(t, nodes[0])
		_, _ = nodes[1].Try("arping", "-c", "3", "-w", "1", "-I", "eth0", "10.99.0.77")
		return rxPackets(t, nodes[0]) >= before+2
	}
	for i, c := range []struct {
		cut          lab.Cut
		heard, hears bool
	}{{lab.Mute, false, true}, {lab.Deaf, true, false}, {lab.SilentCut, false, false}} {
		nodes[0].CutLink(c.cut)
		if got := heard(fmt.Sprintf("10.99.0.%d", 70+i)) > 0; got != c.heard {
			t.Errorf("cut %d: heard %t, want %t", c.cut, got, c.heard)
		}
		if got := hears(); got != c.hears {
			t.Errorf("cut %d: hears %t, want %t", c.cut, got, c.hears)
		}
		nodes[0].HealLink()
		if !reaches(nodes[0].Host, nodes[1].IP()) || !reaches(nodes[1].Host, nodes[0].IP()) {
			t.Errorf("cut %d: not whole after the heal", c.cut)
		}
	}
	nodes[0].CutLink(lab.Mute)
	nodes[0].Kill() // a rule must not wait for the next port of that name
	nodes[0].Boot()
	if !reaches(nodes[0].Host, nodes[1].IP()) {
		t.Error("still cut after a new start")
	}
}

// rxPackets is what eth0 has received.
func rxPackets(t *testing.T, n *lab.Node) (packets int) {
	t.Helper()
	if _, err := fmt.Sscan(n.Exec("cat", "/sys/class/net/eth0/statistics/rx_packets"), &packets); err != nil {
		t.Fatal(err)
	}
	return packets
}

// TestTwoLinks: etcd and the API servers are on the second link, and each link
// can be cut alone.
func TestTwoLinks(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	l.TwoLinks()
	l.Nodes(3)
	l.Start()
	out := l.Kubectl("get", "endpointslices", "-n", "default", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}")
	l.Eventually(20*time.Second, "all API servers are found on the second link", func() bool {
		out = l.Kubectl("get", "endpointslices", "-n", "default", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}")
		return strings.Contains(out, "10.98.0.11") && strings.Contains(out, "10.98.0.12") && strings.Contains(out, "10.98.0.13")
	})
	n := l.Node(1)
	n.CutLink(lab.SilentCut, lab.VIPLink)
	if reaches(n.Host, l.Node(2).IP()) {
		t.Error("the VIP's link is cut and leads to n2")
	}
	ready := func() bool { _, err := n.Try("true"); return err == nil && localReady(n) == nil }
	if !ready() {
		t.Error("n1's API server lost its etcd with the VIP's link")
	}
	n.HealLink()
	n.CutLink(lab.CarrierLoss, lab.APILink)
	if !reaches(n.Host, l.Node(2).IP()) {
		t.Error("the API's link is cut and n2 is not reached over the other")
	}
	l.Eventually(20*time.Second, "n1's API server misses its quorum", func() bool { return !ready() })
	n.HealLink()
	l.Eventually(30*time.Second, "n1's API server is back", ready)
}

// localReady asks the node's own API server for something that needs a quorum.
func localReady(n *lab.Node) error {
	resp, err := n.HTTP(2 * time.Second).Get("https://" + n.IP() + ":6443/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return errors.New(resp.Status)
	}
	return nil
}
