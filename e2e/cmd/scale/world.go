package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"mooring.dev/mooring/e2e/lab"
	"mooring.dev/mooring/e2e/stage"
)

// The Services' own subnet, on the link that the nodes have anyway: there are more of
// them than a small one has room for.
const (
	subnet       = "10.101"
	firstBlock   = 16
	mostServices = 40 << 8
)

// endpointsEach is how many pods are behind each Service.
const endpointsEach = 10

// scale is one measurement under way.
type scale struct {
	*stage.Cluster
	options
	kube    kubernetes.Interface
	client  *http.Client // the client's host
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	agents  map[string]*lab.Process
	pods    []*lab.Host // twice endpointsEach: the second half replaces the first in a rollout
	servers []*lab.Process
	hosts   map[string]string // the node of each pod's address
	there   population
	addrs   map[string]string // of Services, by name
	figures []figure
}

// open builds the cluster with pods and a pool, and no agent yet.
func open(s *stage.Stage, o options) *scale {
	b := &scale{
		Cluster: s.Build(), options: o, agents: map[string]*lab.Process{}, hosts: map[string]string{},
		addrs: map[string]string{},
	}
	b.kube, b.client = b.Kube(), b.Client().HTTP(0)
	if t, ok := b.client.Transport.(*http.Transport); ok {
		b.dial = t.DialContext
	}
	b.Client().Exec("ip", "addr", "add", subnet+".0.100/16", "dev", "eth0")
	for i, n := range b.All() {
		n.Exec("ip", "addr", "add", fmt.Sprintf("%s.0.%d/16", subnet, 11+i), "dev", "eth0")
	}
	for i := range 2 * endpointsEach {
		n := b.All()[i%len(b.All())]
		pod := n.Pod(fmt.Sprint("web", i))
		b.pods, b.servers = append(b.pods, pod), append(b.servers, pod.Web(8080))
		b.hosts[pod.IP()] = n.Name()
	}
	b.pool(8)
	return b
}

// pool makes the one pool spread its addresses over so many groups.
func (b *scale) pool(shards int) {
	text := fmt.Sprintf(`apiVersion: mooring.dev/v1alpha1
kind: AddressPool
metadata: {name: many}
spec: {addresses: [%s.%d.0-%s.%d.255], announce: {l2: {shards: %d}}}`,
		subnet, firstBlock, subnet, firstBlock+mostServices>>8-1, shards)
	var last error
	b.Eventually(10*time.Second, "the pool is accepted", func() bool {
		_, last = b.TryKubectl([]byte(text), "apply", "--server-side", "--force-conflicts", "-f", "-")
		if last != nil {
			b.Logf("%v", last)
		}
		return last == nil
	})
}

// run starts the agents of these nodes, and ends those of all others as if their
// nodes had lost power, except that their control planes go on.
func (b *scale) run(edit func(string) string, nodes ...*lab.Node) {
	on := map[string]bool{}
	for _, n := range nodes {
		on[n.Name()] = true
	}
	for _, n := range b.All() {
		if !on[n.Name()] {
			b.off(n)
		}
	}
	for _, n := range nodes {
		b.agentOn(n, edit)
	}
}

// agentOn starts a node's agent if it does not run. It serves Services alone.
func (b *scale) agentOn(n *lab.Node, edit func(string) string) {
	if a := b.agents[n.Name()]; a.Alive() {
		return
	}
	cfg := regexp.MustCompile(`(?m)^apiServer: .*\n`).ReplaceAllString(n.AgentConfig(lab.VIP4), "") +
		"services: {enabled: true}\n"
	if edit != nil {
		cfg = edit(cfg)
	}
	b.agents[n.Name()] = n.StartAgent(cfg)
}

// off leaves nothing of a node's agent and its HAProxy but what is on disk, as a
// power failure does.
func (b *scale) off(n *lab.Node) {
	if a := b.agents[n.Name()]; a.Alive() {
		a.Kill()
	}
	for _, pid := range b.haproxies(n) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
	}
	b.Eventually(10*time.Second, "HAProxy of "+n.Name()+" has ended", func() bool { return len(b.haproxies(n)) == 0 })
	_, _ = n.Try("nft", "flush", "ruleset") // none there is as good
	for _, line := range strings.Split(n.Exec("ip", "-o", "-4", "addr", "show", "dev", "eth0"), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[3], subnet+".") || strings.HasPrefix(f[3], subnet+".0.") {
			continue
		}
		for block := firstBlock; block < firstBlock+mostServices>>8; block += 16 {
			n.Exec("ip", "addr", "flush", "dev", "eth0", "to", fmt.Sprintf("%s.%d.0/20", subnet, block))
		}
		break
	}
	if err := os.RemoveAll(n.RunDir()); err != nil {
		b.Fatalf("%v", err)
	}
}

// haproxies are the processes of a node's HAProxy.
func (b *scale) haproxies(n *lab.Node) (pids []int) {
	for _, pid := range n.Processes() {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(name)) == "haproxy" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reloads counts the reloads of the Services' HAProxies since the agents' first start.
func (b *scale) reloads() (n int) {
	for _, a := range b.agents {
		n += strings.Count(a.Log(), "Services reloaded")
	}
	return n
}

// widenNeighbourTable makes room for a client that knows thousands of addresses; the
// limit is the machine's and not a namespace's.
func widenNeighbourTable(s *stage.Stage) {
	for _, name := range []string{"gc_thresh3", "gc_thresh2", "gc_thresh1"} {
		path := filepath.Join("/proc/sys/net/ipv4/neigh/default", name)
		old, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte("65536\n"), 0o644)
		}
		if err != nil {
			s.Fatalf("room for neighbours: %v", err)
		}
		s.Cleanup(func() { _ = os.WriteFile(path, old, 0o644) })
	}
}
