// Command demo shows Mooring's main job on a real three-node control plane in
// network namespaces: the VIP comes up, serves, outlives its node, and moves
// without losing a request. KEEP=1 leaves everything running to look around.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
	"mooring.dev/mooring/e2e/stage"
)

const (
	vip    = lab.VIP4
	readyz = "https://" + vip + ":6443/readyz"
)

func main() {
	if lab.Serves() {
		os.Exit(1)
	}
	os.Exit(stage.Run("demo", os.Exit, play))
}

// show is one demonstration under way.
type show struct{ *stage.Cluster }

// play tells the story in four scenes; each fails loudly if it goes otherwise.
func play(s *stage.Stage) {
	d := &show{s.Build()}
	for _, n := range d.All() {
		n.StartAgent(config(n))
	}
	took := d.Eventually(30*time.Second, "a node holds the VIP", func() bool { return d.Holder(vip) != nil })
	s.Logf("%s is up on %s, %.1f s after the agents started", vip, d.Holder(vip).Name(), took.Seconds())
	d.await()
	d.picture()

	s.Title("kubectl through the VIP")
	d.kubectl("get", "--raw", "/livez/ping")
	d.kubectl("get", "leases", "-n", "mooring-system")
	d.spread()

	s.Title("Power off: the holder's node dies")
	d.powerOff()

	s.Title("A planned move, with a request every 20 ms and a connection every 10 ms")
	d.move()

	s.Title("A Service of type LoadBalancer: an address, three pods, TLS")
	d.service()
	if os.Getenv("KEEP") != "" {
		d.instructions()
		s.Title("Left running; Ctrl-C ends it and cleans up")
		select {}
	}
}

// config makes an agent serve the VIP and Services.
func config(n *lab.Node) string { return n.AgentConfig(vip) + "services: {enabled: true}\n" }

// await waits until the data plane is whole on every node.
func (d *show) await() {
	d.Settle()
	d.Logf("HAProxy on every node balances over %d API servers", len(d.All()))
}

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

// kubectl shows a command as a user types it, and what it prints.
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

// powerOff shows the takeover as a client and as the wire see it.
func (d *show) powerOff() {
	old := d.Holder(vip)
	answers := d.Wire().Answers(vip)
	probe := d.Client().Probe(vip+":6443", 10*time.Millisecond)
	time.Sleep(time.Second)
	d.Logf("%s loses power", old.Name())
	old.Kill()
	d.Eventually(20*time.Second, "another node holds the VIP", func() bool { return d.Holder(vip) != nil })
	d.Logf("%s holds it", d.Holder(vip).Name())
	time.Sleep(2 * time.Second)
	r, a := probe.Stop(), answers.Stop()
	d.Logf("client: no connection for %d ms; on the wire two nodes answered for %s", r.Longest.Milliseconds(), a.TwoHolders(0))
	d.Logf("%s comes back, as a standby", old.Name())
	old.Boot()
	d.AwaitReady(old)
	old.StartAgent(config(old))
	d.await()
	d.picture()
}

// move shows that a planned move loses nothing; if it does, the demo fails.
func (d *show) move() {
	from := d.Holder(vip)
	answers := d.Wire().Answers(vip)
	connects := d.Client().Probe(vip+":6443", 10*time.Millisecond)
	requests := d.Client().Requests(readyz, 20*time.Millisecond)
	time.Sleep(time.Second)
	fmt.Printf("    %s$ mooring move\n    %s", from.Name(), from.Exec(d.Bin, "move", "--config", d.Config(from)))
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
	for _, line := range strings.Split(strings.TrimSpace(n.Exec(d.Bin, "status", "--config", d.Config(n))), "\n") {
		fmt.Println("    " + line)
	}
}

// instructions are for KEEP=1: what to look at, ready to paste.
func (d *show) instructions() {
	n := d.Holder(vip)
	d.Title("Look around (in another shell, as root)")
	fmt.Printf(`  export KUBECONFIG=%s
  ip netns exec %s %s kubectl --server=https://%s:6443 get leases -A
  ip netns exec %s %s status --config %s
  ip netns exec %s ip addr show eth0
  ip netns exec %s nft list ruleset
  ls %s        # logs of every process under */log
`, d.AdminKubeconfig(), d.Client().Namespace(), d.KubernetesBinary(), vip,
		n.Namespace(), d.Bin, d.Config(n), n.Namespace(), n.Namespace(), d.Dir())
}
