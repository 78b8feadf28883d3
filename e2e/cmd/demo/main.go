// Command demo shows Mooring's main job on a real three-node control plane in
// network namespaces: the VIP comes up, serves, outlives its node, and moves
// without losing a request. KEEP=1 leaves everything running to look around.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

const (
	vip    = lab.VIP4
	readyz = "https://" + vip + ":6443/readyz"
	bold   = "\033[1m"
	plain  = "\033[0m"
)

// stage is the lab's host outside tests: it prints and cleans up.
type stage struct {
	begin    time.Time
	cleanups []func()
	failed   bool
}

// Name names the lab.
func (s *stage) Name() string { return "demo" }

// Cleanup registers what ends the lab, last first.
func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Logf prints progress.
func (s *stage) Logf(format string, args ...any) {
	fmt.Printf("  %5.1fs  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, args...))
}

// failure is what Fatalf unwinds with.
type failure struct{ text string }

// Fatalf ends the demo; everything is cleaned up.
func (s *stage) Fatalf(format string, args ...any) {
	s.failed = true
	panic(failure{fmt.Sprintf(format, args...)})
}

// Failed keeps the logs of a demo that went wrong.
func (s *stage) Failed() bool { return s.failed }

func (s *stage) end() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
	s.cleanups = nil
}

func (s *stage) title(text string) { fmt.Printf("\n%s%s%s\n", bold, text, plain) }

func main() { os.Exit(run()) }

func run() (code int) {
	s := &stage{begin: time.Now()}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	go func() {
		select {
		case <-stop:
			fmt.Println("\ninterrupted, cleaning up")
			s.end()
			os.Exit(130)
		case <-over:
		}
	}()
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				s.failed = true
				s.end()
				panic(r)
			}
			fmt.Println("\nfailed:", f.text)
			code = 1
		}
		s.end()
	}()
	s.play()
	close(over)
	if os.Getenv("KEEP") != "" {
		s.title("Left running; Ctrl-C ends it and cleans up")
		<-stop
	}
	return 0
}

// show is one demonstration under way.
type show struct {
	*stage
	*lab.Lab
	bin string
}

func (s *stage) play() {
	s.title("1. Building (the first time takes some minutes: a whole Kubernetes is compiled)")
	bin := lab.Mooring(s)
	s.Logf("mooring built")
	d := &show{stage: s, Lab: lab.New(s), bin: bin}
	s.title("2. Three control-plane nodes: etcd, kube-apiserver, Mooring, each in a namespace of its own")
	d.Nodes(3)
	d.Start()
	for _, m := range []string{"namespace", "rbac"} {
		out, err := exec.Command(bin, "manifest", m).Output()
		if err != nil {
			s.Fatalf("mooring manifest %s: %v", m, err)
		}
		d.Apply(out)
	}
	for _, n := range d.All() {
		n.StartAgent(n.AgentConfig(vip))
	}
	took := d.Eventually(30*time.Second, "a node holds the VIP", func() bool { return d.Holder(vip) != nil })
	s.Logf("%s is up on %s, %.1f s after the agents started", vip, d.Holder(vip).Name(), took.Seconds())
	d.await(3)
	d.picture()

	s.title("3. kubectl through the VIP")
	d.kubectl("get", "--raw", "/version")
	d.kubectl("get", "leases", "-n", "mooring-system")
	d.spread()

	s.title("4. Power off: the holder's node dies")
	d.powerOff()

	s.title("5. A planned move, with a request every 20 ms and a connection every 10 ms")
	d.move()
	d.instructions()
}

// await waits until the load balancers use n API servers.
func (d *show) await(n int) {
	d.Eventually(30*time.Second, fmt.Sprintf("HAProxy balances over %d API servers", n), func() bool {
		ready := 0
		for _, node := range d.All() {
			out, err := node.Try(d.bin, "status", "-o", "json", "--config", d.config(node))
			var st struct {
				Proxy   struct{ Up []string }
				Members []struct{ Node string }
			}
			if err == nil && json.Unmarshal([]byte(out), &st) == nil && len(st.Proxy.Up) >= n && len(st.Members) >= n {
				ready++
			}
		}
		return ready >= n
	})
	d.Logf("HAProxy on every node balances over %d API servers", n)
}

func (d *show) config(n *lab.Node) string { return filepath.Join(n.Dir(), "agent.yaml") }

// picture draws who is where.
func (d *show) picture() {
	holder := d.Holder(vip)
	fmt.Printf("\n      client ── %s:6443\n                    │\n", vip)
	for _, n := range d.All() {
		mark, note := "○", ""
		if holder != nil && n.Name() == holder.Name() {
			mark, note = "●", "  ← answers for the VIP, HAProxy spreads over all three"
		}
		fmt.Printf("         %s  %s  %s  kube-apiserver :6443%s\n", mark, n.Name(), n.IP(), note)
	}
	fmt.Println()
}

func (d *show) kubectl(args ...string) {
	full := append([]string{"--server=https://" + vip + ":6443"}, args...)
	fmt.Printf("    $ kubectl --server=https://%s:6443 %s\n", vip, strings.Join(args, " "))
	for _, line := range strings.Split(strings.TrimSpace(d.Kubectl(full...)), "\n") {
		fmt.Println("    " + line)
	}
}

// spread counts which API server answers.
func (d *show) spread() {
	p := d.Client().Requests(readyz, 10*time.Millisecond)
	time.Sleep(3 * time.Second)
	r := p.Stop()
	var names []string
	for name := range r.ByServer {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Printf("\n    %d requests, %d failed; answered by\n", r.Sent, r.Failed)
	for _, name := range names {
		fmt.Printf("      %s %4d  %s\n", name, r.ByServer[name], strings.Repeat("█", r.ByServer[name]*60/max(r.Sent, 1)))
	}
}

func (d *show) powerOff() {
	old := d.Holder(vip)
	answers := d.Wire().Answers(vip)
	probe := d.Client().Probe(vip+":6443", 10*time.Millisecond)
	time.Sleep(time.Second)
	d.Logf("%s loses power", old.Name())
	old.Kill()
	took := d.Eventually(20*time.Second, "another node holds the VIP", func() bool { return d.Holder(vip) != nil })
	d.Logf("%s holds it, %.1f s later", d.Holder(vip).Name(), took.Seconds())
	time.Sleep(2 * time.Second)
	r, a := probe.Stop(), answers.Stop()
	d.Logf("client: no connection for %.1f s; on the wire two nodes answered for %s", r.Longest.Seconds(), a.TwoHolders(0))
	d.Logf("%s comes back, as a standby", old.Name())
	old.Boot()
	d.AwaitReady(old)
	old.StartAgent(old.AgentConfig(vip))
	d.await(3)
	d.picture()
}

func (d *show) move() {
	from := d.Holder(vip)
	answers := d.Wire().Answers(vip)
	connects := d.Client().Probe(vip+":6443", 10*time.Millisecond)
	requests := d.Client().Requests(readyz, 20*time.Millisecond)
	time.Sleep(time.Second)
	fmt.Printf("    %s$ mooring move\n    %s", from.Name(), from.Exec(d.bin, "move", "--config", d.config(from)))
	time.Sleep(3 * time.Second)
	c, r, a := connects.Stop(), requests.Stop(), answers.Stop()
	d.Logf("connections: %d, lost %d; requests: %d, lost %d; longest silence on the wire %s",
		c.Sent, c.Failed, r.Sent, r.Failed, a.Silence().Round(time.Millisecond))
	if c.Failed+r.Failed > 0 {
		d.Fatalf("a planned move lost %d connections and %d requests: %v %v", c.Failed, r.Failed, c, r)
	}
	d.picture()
	n := d.Holder(vip)
	fmt.Printf("    %s$ mooring status\n", n.Name())
	for _, line := range strings.Split(strings.TrimSpace(n.Exec(d.bin, "status", "--config", d.config(n))), "\n") {
		fmt.Println("    " + line)
	}
}

func (d *show) instructions() {
	if os.Getenv("KEEP") == "" {
		return
	}
	n := d.Holder(vip)
	d.title("Look around (in another shell, as root)")
	fmt.Printf(`  export KUBECONFIG=%s
  ip netns exec %s %s kubectl --server=https://%s:6443 get leases -A
  ip netns exec %s %s status --config %s
  ip netns exec %s ip addr show eth0
  ip netns exec %s nft list ruleset
  ls %s        # logs of every process under */log
`, d.AdminKubeconfig(), d.Client().Namespace(), d.KubernetesBinary(), vip,
		n.Namespace(), d.bin, d.config(n), n.Namespace(), n.Namespace(), d.Dir())
}
