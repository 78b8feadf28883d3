package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Node is a host that is a machine of the cluster: one etcd, one API server, an agent.
type Node struct {
	*Host
	index int
	group *cgroup // etcd and kube-apiserver, slowed down while cut off
	etcd  *Process
	api   *Process
	echo  *Process // answers datagrams; nil until a UDPProbe needs it
	pods  []*Host
	wake  []*Process // what Kill ended and Boot starts again
}

// Etcd is the node's etcd, nil before Lab.Start.
func (n *Node) Etcd() *Process { return n.etcd }

// APIServer is the node's kube-apiserver, nil before Lab.Start.
func (n *Node) APIServer() *Process { return n.api }

// Kill is a power failure: the link goes down, every process ends without a last
// word, and the kernel forgets addresses, routes, rules, connections and what was
// in the run directory. The disk (Dir) stays. Pods of the node die with it.
func (n *Node) Kill() {
	n.wake = n.running()
	for _, pod := range n.pods {
		n.lab.must(pod.powerOff())
	}
	if err := n.powerOff(); err != nil {
		n.lab.fatalf("switching %s off: %v", n.name, err)
	}
	n.lab.must(os.RemoveAll(filepath.Join(n.Dir(), "run")))
	n.lab.balance()
}

// Boot switches the node on again and starts what ran when it was killed, etcd
// and API server among it; it does not wait until they are ready.
func (n *Node) Boot() {
	if n.space() != nil {
		n.lab.fatalf("%s is on already: Boot is for a node that was killed", n.name)
	}
	n.lab.must(n.plug())
	for _, pod := range n.pods {
		n.lab.must(pod.plug())
	}
	n.lab.must(n.lab.routePods())
	for _, p := range n.wake {
		p.Start()
	}
	n.wake = nil
	n.lab.balance()
}

// Freeze stops every process of the node, also those its agent started, as a
// stalled hypervisor does to user space. The kernel goes on: it answers ARP and
// accepts connections.
func (n *Node) Freeze() {
	n.signalAll(syscall.SIGSTOP)
	n.lab.balance()
}

// Thaw lets a frozen node run on.
func (n *Node) Thaw() {
	n.signalAll(syscall.SIGCONT)
	n.lab.balance()
}

// signalAll repeats until a pass finds no process that it had not seen: one may
// fork while the list is read.
func (n *Node) signalAll(sig syscall.Signal) {
	seen := map[int]bool{}
	for fresh := true; fresh; {
		fresh = false
		for _, pid := range n.space().pids() {
			if !seen[pid] {
				seen[pid], fresh = true, true
				_ = syscall.Kill(pid, sig) // gone in between: nothing to signal
			}
		}
	}
}

// Processes are the pids of everything that runs in the node, also of what has
// left its parent, such as a load balancer that outlives its agent.
func (n *Node) Processes() []int { return n.space().pids() }

// AgentConfig is a complete configuration of the agent for this node that holds
// the given API server addresses. Tests append to it or replace parts.
func (n *Node) AgentConfig(vips ...string) string {
	quoted := make([]string, len(vips))
	for i, v := range vips {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	return fmt.Sprintf(`apiVersion: mooring.dev/v1alpha1
kind: AgentConfig
node: %s
kubeconfig: %s
interface: eth0
runDir: %s
stateDir: %s
apiServer: {vips: [%s]}
metrics: {bind: "127.0.0.1:9441"}
`, n.name, n.AgentKubeconfig(), n.RunDir(), n.StateDir(), strings.Join(quoted, ", "))
}

// RunDir is the node's /run/mooring: lost at Kill.
func (n *Node) RunDir() string { return filepath.Join(n.Dir(), "run") }

// StateDir is the node's /var/lib/mooring: it survives Kill.
func (n *Node) StateDir() string { return filepath.Join(n.Dir(), "lib") }

// StartAgent writes the configuration to the node's disk and runs the agent on
// it. It returns at once; a second agent of the same node may be started beside the first.
func (n *Node) StartAgent(configYAML string) *Process {
	file := filepath.Join(n.Dir(), "agent.yaml")
	n.lab.must(os.WriteFile(file, []byte(configYAML), 0o600))
	for _, dir := range []string{n.RunDir(), n.StateDir()} {
		n.lab.must(os.MkdirAll(dir, 0o755))
	}
	p := n.Command("agent", Mooring(n.lab.t), "agent", "--config", file)
	p.before = func() error { return os.MkdirAll(n.RunDir(), 0o755) } // Kill took it
	p.Start()
	return p
}

// AgentKubeconfig is the path of credentials for this node's agent: CN
// mooring:node:NAME, O mooring:agents, towards the node's own API server.
func (n *Node) AgentKubeconfig() string {
	return n.kubeconfig("agent", "mooring:node:"+n.name, "mooring:agents")
}

// AdminKubeconfig is the path of cluster-admin credentials towards this node's API server.
func (n *Node) AdminKubeconfig() string {
	return n.kubeconfig("admin", "kubernetes-admin", "system:masters")
}

// kubeconfig issues credentials once and keeps them on the node's disk.
func (n *Node) kubeconfig(file, user string, groups ...string) string {
	path := filepath.Join(n.Dir(), file+".kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	text, err := n.lab.keys().kubeconfig("https://"+n.IP()+":6443", user, groups...)
	n.lab.must(err)
	n.lab.must(os.WriteFile(path, text, 0o600))
	return path
}

// Pod puts a pod behind the node: a namespace at 10.244.<node>.<2…> and
// fd98:<node>::<2…> that every other node has a route to. It is a Host without a
// port on the switch, so its link cannot be cut.
func (n *Node) Pod(name string) *Host {
	number := len(n.pods) + 2
	h := newPod(n, name, number)
	n.pods = append(n.pods, h)
	n.lab.must(h.plug())
	return h
}
