package lab_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// echoServer is a listener inside a host that accepts for ever.
func echoServer(t *testing.T, h *lab.Host, port int) *lab.Process {
	t.Helper()
	p := h.Spawn(fmt.Sprintf("listen-%d", port), os.Args[0], "-test.run=^TestChild$", "--", "listen", fmt.Sprint(port))
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(p.Log(), "listening") {
		if time.Now().After(deadline) {
			t.Fatalf("the listener says: %s", p.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return p
}

// TestChild is what this binary does when a test runs it as another process.
func TestChild(t *testing.T) {
	args := os.Args
	for len(args) > 0 && args[0] != "--" {
		args = args[1:]
	}
	if len(args) < 2 {
		t.Skip("only as a child of other tests")
	}
	switch args[1] {
	case "listen":
		listen(t, args[2])
	case "lab":
		childLab(t, args[2])
	}
}

func listen(t *testing.T, port string) {
	ln, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening")
	for {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

func TestProbeSeesACutLink(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	n := l.Nodes(2)[0]
	echoServer(t, n.Host, 80)
	for _, how := range []lab.Cut{lab.CarrierLoss, lab.SilentCut} {
		for _, address := range []string{n.IP() + ":80", "[" + n.IP6() + "]:80"} {
			p := l.Client().Probe(address, 10*time.Millisecond)
			time.Sleep(200 * time.Millisecond)
			n.CutLink(how)
			wantCarrier := how == lab.SilentCut
			if up := strings.Contains(n.Exec("ip", "link", "show", "eth0"), "LOWER_UP"); up != wantCarrier {
				t.Errorf("cut %d: carrier %t, want %t", how, up, wantCarrier)
			}
			time.Sleep(400 * time.Millisecond)
			n.HealLink()
			// Healed for longer than an attempt may take: neighbours are asked again once a second.
			time.Sleep(1500 * time.Millisecond)
			r := p.Stop()
			t.Logf("cut %d, %s: %s", how, address, r)
			one := len(r.Outages) == 1 && !r.Outages[0].Open
			if !one || r.Longest < 350*time.Millisecond || r.Longest > 1500*time.Millisecond {
				t.Errorf("cut %d for 0.4 s: want one outage of about that, not %s", how, r)
			}
		}
	}
}

// reaches says whether the address can be reached at all: a port where nobody
// listens refuses at once.
func reaches(from *lab.Host, ip string) bool {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	p := from.Probe(ip+":9", 50*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	return p.Stop().Errors["refused"] > 0
}

func TestSilentCutIsCompleteAndLocal(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	nodes := l.Nodes(3)
	nodes[0].CutLink(lab.SilentCut)
	for _, to := range []string{nodes[1].IP(), nodes[1].IP6(), lab.Gateway4, lab.Gateway6} {
		if reaches(nodes[0].Host, to) {
			t.Errorf("n1 is cut off and reaches %s", to)
		}
		if !reaches(nodes[2].Host, to) {
			t.Errorf("n3 is not cut off and does not reach %s", to)
		}
	}
}

func TestWireSeesTwoHolders(t *testing.T) {
	needRoot(t)
	for _, vip := range []string{lab.VIP4, lab.VIP6} {
		t.Run(vip, func(t *testing.T) {
			l := lab.New(t)
			nodes := l.Nodes(2)
			a := l.Wire().Answers(vip)
			put := func(n *lab.Node, verb string) {
				args := []string{"ip", "address", verb, vip, "dev", "eth0"}
				if strings.Contains(vip, ":") && verb == "add" {
					args = append(args, "nodad")
				}
				n.Exec(args...)
			}
			time.Sleep(300 * time.Millisecond) // nobody
			put(nodes[0], "add")
			if !nodes[0].Has(vip) || nodes[1].Has(vip) || !nodes[0].HasOn("eth0", vip) || nodes[0].HasOn("lo", vip) {
				t.Error("n1 and only n1 has the address, on eth0")
			}
			time.Sleep(500 * time.Millisecond) // n1
			put(nodes[1], "add")
			if len(l.Holders(vip)) != 2 {
				t.Errorf("want two holders, not %v", l.Holders(vip))
			}
			time.Sleep(500 * time.Millisecond) // both
			put(nodes[0], "del")
			time.Sleep(500 * time.Millisecond) // n2
			r := a.Stop()
			t.Log(r)
			if two := r.TwoHolders(0); two < 400*time.Millisecond || two > 700*time.Millisecond {
				t.Errorf("two holders for 0.5 s, reported %s", two)
			}
			if s := r.Silence(); s < 200*time.Millisecond || s > 500*time.Millisecond {
				t.Errorf("silent for 0.3 s, reported %s", s)
			}
			if h := r.Holders(); len(h) != 2 || h[0].Name != "n1" || h[1].Name != "n2" {
				t.Errorf("n1 then n2 held it, reported %v", h)
			}
		})
	}
}

func TestWireSeesAnnouncements(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	n := l.Nodes(1)[0]
	w := l.Wire()
	// Told to, the kernel announces its addresses when the hardware address changes.
	n.Exec("sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1", "net.ipv6.conf.eth0.ndisc_notify=1")
	const mac = "02:00:00:00:00:01"
	n.Exec("ip", "link", "set", "eth0", "address", mac)
	for _, ip := range []string{n.IP(), n.IP6()} {
		l.Eventually(5*time.Second, "an announcement of "+ip, func() bool {
			for _, f := range w.Frames(ip) {
				if f.Kind == lab.Announcement && f.MAC.String() == mac && time.Since(f.At) < time.Minute {
					return true
				}
			}
			return false
		})
	}
	w.Stop()
	if len(w.Frames("")) < 2 {
		t.Error("the frames should be readable after Stop")
	}
}

// stubAgent stands in for the product: it leaves a daemon behind, as a load
// balancer that outlives its agent does.
func stubAgent(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mooring")
	script := "#!/bin/sh\necho \"$@\"\nsetsid -f sleep 600\nexec sleep 600\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MOORING_BINARY", path)
}

func TestAgentLife(t *testing.T) {
	needRoot(t)
	stubAgent(t)
	l := lab.New(t)
	n := l.Nodes(1)[0]
	a := n.StartAgent(n.AgentConfig(lab.VIP4, lab.VIP6))
	l.Eventually(5*time.Second, "agent and its daemon run", func() bool { return len(n.Processes()) == 2 })
	if want := "agent --config " + filepath.Join(n.Dir(), "agent.yaml"); !strings.Contains(a.Log(), want) {
		t.Errorf("the agent was run with %q, want %q", a.Log(), want)
	}
	n.Freeze()
	if !a.Frozen() || !a.Alive() {
		t.Error("a frozen agent is frozen and alive")
	}
	n.Thaw()
	if a.Frozen() {
		t.Error("a thawed agent is not frozen")
	}
	first := a.PID()
	a.Restart()
	if !a.Alive() || a.PID() == first {
		t.Error("a restarted agent is another process")
	}
	a.Kill()
	if a.Alive() || len(n.Processes()) == 0 {
		t.Error("Kill ends the agent and not what it has left behind")
	}
	var exit *exec.ExitError
	if err := a.Wait(context.Background()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Wait says %v (%T)", err, exit)
	}
	a.Start()
	n.Kill()
	if a.Alive() || len(n.Processes()) != 0 {
		t.Error("after a power cut nothing runs")
	}
	if _, err := os.Stat(n.RunDir()); err == nil {
		t.Error("the run directory survived the power cut")
	}
	if _, err := os.Stat(n.StateDir()); err != nil {
		t.Errorf("the state directory did not survive the power cut: %v", err)
	}
	n.Boot()
	l.Eventually(5*time.Second, "the agent is back", func() bool { return a.Alive() && len(n.Processes()) == 2 })
	if !reaches(n.Host, l.Client().IP()) {
		t.Error("a booted node has no network")
	}
}

func TestPods(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	nodes := l.Nodes(2)
	a, b := nodes[0].Pod("web-a"), nodes[1].Pod("web-b")
	echoServer(t, b, 8080)
	reach := func(from *lab.Host, what string) {
		t.Helper()
		for _, address := range []string{b.IP() + ":8080", "[" + b.IP6() + "]:8080"} {
			// Neighbours have to learn anew after a power cut: it may take some tries.
			for try := range 5 {
				p := from.Probe(address, 20*time.Millisecond)
				time.Sleep(time.Duration(100<<try) * time.Millisecond)
				r := p.Stop()
				if r.Failed < r.Sent {
					break
				}
				if try == 4 {
					t.Errorf("%s: %s does not reach %s: %s", what, from.Name(), address, r)
				}
			}
		}
	}
	reach(a, "pod to pod of another node")
	reach(l.Client(), "client to pod, through the gateway")
	nodes[0].Kill()
	nodes[0].Boot()
	reach(a, "after a power cut")
}

func TestTwoLabsAtOnce(t *testing.T) {
	needRoot(t)
	a, b := lab.New(t), lab.New(t)
	a.Nodes(1)
	b.Nodes(1)
	echoServer(t, a.Node(1).Host, 80)
	pa := a.Client().Probe("10.99.0.11:80", 20*time.Millisecond)
	pb := b.Client().Probe("10.99.0.11:80", 20*time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	if r := pa.Stop(); r.Failed > 0 {
		t.Errorf("its own node: %s", r)
	}
	if r := pb.Stop(); r.Errors["refused"] != r.Sent {
		t.Errorf("same address in another lab, where nobody listens: %s", r)
	}
}
