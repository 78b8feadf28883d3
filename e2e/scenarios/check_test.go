package scenarios

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// checked is the part of `mooring check -o json` that stories ask about.
type checked struct {
	Agent    bool
	Worst    string
	Findings []struct{ Check, Severity, What, Why, Fix string }
}

// check runs `mooring check` on the node; its exit code fits what it says.
func (w *world) check(n *lab.Node, more ...string) checked {
	w.t.Helper()
	argv := append([]string{lab.Mooring(w.t), "check", "-o", "json", "--config", filepath.Join(n.Dir(), "agent.yaml")},
		more...)
	// Its complaint about problems goes to standard error.
	out, err := n.Try(append([]string{"sh", "-c", `"$@" 2>/dev/null; echo "exit $?"`, "sh"}, argv...)...)
	if err != nil {
		w.t.Fatalf("%s: mooring check: %v", n.Name(), err)
	}
	text, code, _ := strings.Cut(out, "\nexit ")
	var c checked
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		w.t.Fatalf("%s: mooring check: %v\n%s", n.Name(), err, out)
	}
	if want := map[bool]string{true: "1", false: "0"}[c.Worst == "problem"]; strings.TrimSpace(code) != want {
		w.t.Errorf("%s: exit code %s with the worst finding a %s", n.Name(), code, c.Worst)
	}
	return c
}

// says is the first finding of a check with a severity, and whether it has the words.
func (c checked) says(check, severity, words string) bool {
	for _, f := range c.Findings {
		if f.Check == check && f.Severity == severity && strings.Contains(f.What, words) {
			return severity == "ok" || severity == "unseen" || f.Why != "" && f.Fix != ""
		}
	}
	return false
}

// want fails the test unless the check says so.
func (c checked) want(t *testing.T, check, severity, words string) {
	t.Helper()
	if c.says(check, severity, words) {
		return
	}
	for _, f := range c.Findings {
		if f.Check == check {
			t.Errorf("%s: %s: %s (do: %s)", f.Check, f.Severity, f.What, f.Fix)
		}
	}
	t.Errorf("check %s does not say, as %s, with a reason and a way out: %q", check, severity, words)
}

// sound fails the test at problems.
func (c checked) sound(t *testing.T, when string) {
	t.Helper()
	for _, f := range c.Findings {
		if f.Severity == "problem" {
			t.Errorf("%s: %s: %s (do: %s)", when, f.Check, f.What, f.Fix)
		}
	}
}

// TestCheck: before the first start, beside running agents, and with the faults that
// sites have.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := bare(t)
	withServices := func(s string) string { return s + "services: {enabled: true}\n" }
	n := w.Node(1)

	t.Log("before the first start: a wrong file, then a right one that no agent has read yet")
	file := filepath.Join(n.Dir(), "agent.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("kind: none\n")
	c := w.check(n)
	c.want(t, "configuration", "problem", "agent.yaml")
	c.want(t, "capabilities", "ok", "NET_ADMIN")
	write(withServices(n.AgentConfig(vip)))
	c = w.check(n)
	c.sound(t, "before the first start")
	c.want(t, "agent", "unseen", "no agent")
	c.want(t, "key", "ok", "the first agent makes it")
	c.want(t, "claims", "ok", "no other host answers")
	write(strings.Replace(withServices(n.AgentConfig(vip)), n.AgentKubeconfig(), "/nowhere/mooring.conf", 1))
	c = w.check(n, "--kubeconfig", n.AdminKubeconfig())
	c.sound(t, "without credentials for the agent, with an operator's")
	c.want(t, "credentials", "warning", "no credentials yet")
	c.want(t, "rights", "ok", "mooring:node:"+n.Name()+" has all")
	c.want(t, "load-balancers", "ok", "none")

	for _, m := range w.All() {
		w.startAgent(m, withServices)
	}
	holder := w.settle()
	standby := w.other(holder)
	t.Log("with agents")
	c = w.check(standby, "--kubeconfig", standby.AdminKubeconfig())
	c.sound(t, "sound site, standby, operator's credentials")
	if !c.Agent {
		t.Error("the running agent is not seen")
	}
	c.want(t, "claims", "ok", "is answered by "+holder.Name())
	c.want(t, "hello", "ok", holder.Name())
	c.want(t, "rights", "ok", "mooring:node:"+standby.Name())
	c.want(t, "ports", "ok", "7443 (apiServer.proxyPort): the agent's")
	c.want(t, "ports", "ok", "7444 (hello.port): the agent's")
	c.want(t, "api", "ok", holder.IP())
	c.want(t, "clock", "ok", holder.IP())
	c.want(t, "key", "ok", "1 key")
	c.want(t, "network", "ok", "nothing")
	c.want(t, "pools", "warning", "no AddressPool")
	c = w.check(holder)
	c.sound(t, "sound site, holder, the agent's credentials")
	c.want(t, "claims", "ok", "no other host")
	c.want(t, "load-balancers", "unseen", "credentials")
	out, _ := holder.Try(lab.Mooring(t), "check", "--config", filepath.Join(holder.Dir(), "agent.yaml"))
	t.Log("\n" + out)

	t.Log("the optional manifest lets the agent see it")
	rbac := holder.Exec(lab.Mooring(t), "manifest", "rbac-check")
	w.Apply([]byte(rbac))
	w.Eventually(5*time.Second, "the check sees DaemonSets", func() bool {
		return w.check(holder).says("load-balancers",
			"ok", "none")
	})
	w.faults(holder, standby)
}

// faults makes one after the other, on the standby.
func (w *world) faults(holder, n *lab.Node) {
	t := w.t
	t.Log("another load balancer, kube-proxy in ipvs mode, a cluster without namespace rights")
	w.Apply([]byte(metalLB), []byte(looseIPVS))
	w.Kubectl("delete", "clusterrolebinding", "mooring-nodes")
	rogue := w.Host("rogue")
	rogue.Exec("ip", "address", "add", vip+"/32", "dev", "eth0")
	n.Exec("nft", "add table inet site; add chain inet site input { type filter hook input priority 0; policy drop; }; "+
		"add rule inet site input iifname lo accept; add rule inet site input tcp dport { 22, 6443, 2379, 2380 } accept; "+
		"add rule inet site input tcp sport { 6443, 2379, 2380 } accept; add rule inet site input meta l4proto ipv6-icmp accept")
	n.Exec("sysctl", "-qw", "net.ipv4.conf.all.drop_gratuitous_arp=1")
	w.Eventually(10*time.Second, "every fault is found", func() bool {
		c := w.check(n)
		return c.says("rights", "problem", "list nodes") && c.says("claims", "problem", rogue.MAC()) && c.says("hello",
			"warning", holder.Name())
	})
	c := w.check(n)
	for _, f := range c.Findings {
		if f.Severity != "ok" {
			t.Logf("%s: %s: %s (do: %s)", f.Severity, f.Check, f.What, f.Fix)
		}
	}
	c.want(t, "load-balancers", "problem", "MetalLB")
	c.want(t, "kube-proxy", "problem", "strictARP")
	c.want(t, "rights", "problem", "mooring:node:"+n.Name()+" may not: get nodes, list nodes, watch nodes")
	c.want(t, "claims", "problem", "no candidate")
	c.want(t, "firewall", "warning", "udp dport 7444")
	c.want(t, "arp", "warning", "drop_gratuitous_arp")
	c.want(t, "node", "unseen", "credentials")

	t.Log("all API servers hang: what else there is to say is said, in time")
	w.StopAPI(lab.Hung)
	begun := time.Now()
	c = w.check(holder)
	took := time.Since(begun).Round(10 * time.Millisecond)
	t.Logf("with hung API servers the check took %s", took)
	if took > 20*time.Second {
		t.Error("that is too long")
	}
	c.want(t, "api", "problem", holder.IP())
	c.want(t, "rights", "unseen", "")
	c.want(t, "claims", "problem", rogue.MAC())
	c.want(t, "interface", "ok", vip)
	w.StartAPI()
}

const metalLB = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: default}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec:
      containers: [{name: speaker, image: "quay.io/metallb/speaker:v0.14.9"}]
`

const looseIPVS = `apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data:
  config.conf: |
    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    kind: KubeProxyConfiguration
    mode: ipvs
    ipvs: {strictARP: false}
`
