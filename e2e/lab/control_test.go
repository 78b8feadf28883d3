package lab_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mooring.dev/mooring/e2e/lab"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// One control plane is booted for the whole story: each chapter leaves it whole.
func TestControlPlane(t *testing.T) {
	needRoot(t)
	l := lab.New(t)
	l.Nodes(3)
	l.Start()

	t.Run("kubectl sees the nodes", func(t *testing.T) {
		out := l.Kubectl("get", "nodes")
		for _, n := range l.All() {
			if !strings.Contains(out, n.Name()+" ") || strings.Contains(out, "NotReady") {
				t.Errorf("want %s Ready, kubectl says:\n%s", n.Name(), out)
			}
		}
	})
	t.Run("apply", func(t *testing.T) { applyTwice(t, l) })
	t.Run("agents' credentials", func(t *testing.T) { agentCredentials(t, l) })
	t.Run("requests tell the servers apart", func(t *testing.T) { serversApart(t, l) })
	t.Run("an API server killed and started", func(t *testing.T) { killOneServer(t, l) })
	t.Run("every API server hung", func(t *testing.T) { hangAll(t, l) })
	t.Run("every API server killed", func(t *testing.T) { killAllServers(t, l) })
	t.Run("one etcd leads", func(t *testing.T) {
		old := l.Leader()
		old.Etcd().Freeze()
		l.Eventually(10*time.Second, "another etcd leads", func() bool {
			now := l.Leader()
			return now != nil && now.Name() != old.Name()
		})
		old.Etcd().Thaw()
		l.AwaitReady()
	})
	t.Run("streams", func(t *testing.T) { streams(t, l) })
	t.Run("streams break", func(t *testing.T) { streamsBreak(t, l) })
	t.Run("power cut of a node", func(t *testing.T) { powerCut(t, l) })
	t.Run("a cut-off control plane does not spin", func(t *testing.T) { cutOffIsCapped(t, l) })
	t.Run("controllers", func(t *testing.T) { controllers(t, l) })
}

func applyTwice(t *testing.T, l *lab.Lab) {
	doc := func(v string) []byte {
		return []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: default}\ndata: {v: " + v + "}\n")
	}
	l.Apply(doc("one"))
	l.Apply(doc("two"), []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: second}\n"))
	cm, err := l.Kube().CoreV1().ConfigMaps("default").Get(context.Background(), "x", metav1.GetOptions{})
	if err != nil || cm.Data["v"] != "two" {
		t.Errorf("the second apply did not arrive: %v, %v", cm.Data, err)
	}
	l.Kubectl("get", "namespace", "second")
	if _, err := l.TryKubectl([]byte("nonsense: true\n"), "apply", "-f", "-"); err == nil {
		t.Error("a document without a kind was applied")
	}
}

func agentCredentials(t *testing.T, l *lab.Lab) {
	out, err := l.Client().Try(l.KubernetesBinary(), "kubectl", "--kubeconfig="+l.Node(2).AgentKubeconfig(),
		"auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
	if err != nil || !strings.Contains(out, "mooring:node:n2") || !strings.Contains(out, "mooring:agents") {
		t.Errorf("the API server takes n2's agent for %q, %v", out, err)
	}
}

func serversApart(t *testing.T, l *lab.Lab) {
	for _, n := range l.All() {
		for _, host := range []string{n.IP(), "[" + n.IP6() + "]"} {
			p := l.Client().Requests("https://"+host+":6443/readyz", 20*time.Millisecond)
			time.Sleep(100 * time.Millisecond)
			r := p.Stop()
			if r.Failed > 0 || len(r.ByServer) != 1 || r.ByServer[n.Name()] != r.Sent {
				t.Errorf("all answers of %s should be %s's: %s", host, n.Name(), r)
			}
		}
	}
}

func killOneServer(t *testing.T, l *lab.Lab) {
	n := l.Node(1)
	p := l.Client().Requests("https://"+n.IP()+":6443/readyz", 20*time.Millisecond)
	rss, cpu := n.APIServer().RSS(), n.APIServer().CPU()
	if rss < 50<<20 || cpu < 100*time.Millisecond {
		t.Errorf("an API server of %d bytes that has used %s of CPU", rss, cpu)
	}
	time.Sleep(100 * time.Millisecond)
	n.APIServer().Kill()
	if n.APIServer().Alive() || n.Ready() || n.APIServer().RSS() != 0 {
		t.Error("a killed server is alive, ready or has memory")
	}
	if l.Kubectl("get", "nodes", "-o", "name") == "" {
		t.Error("the other servers should answer")
	}
	n.APIServer().Start()
	l.AwaitReady(n)
	// The first request after /readyz, not that request itself, ends the gap.
	time.Sleep(100 * time.Millisecond)
	r := p.Stop()
	t.Log(r)
	if r.Errors["refused"] == 0 || r.Longest < 500*time.Millisecond || r.Outages[len(r.Outages)-1].Open {
		t.Errorf("want one refused outage of a restart, not %s", r)
	}
}

func hangAll(t *testing.T, l *lab.Lab) {
	tcp := l.Client().Probe(l.Node(1).IP()+":6443", 20*time.Millisecond)
	https := l.Client().Requests("https://"+l.Node(1).IP()+":6443/readyz", 100*time.Millisecond)
	l.StopAPI(lab.Hung)
	if !l.Node(1).APIServer().Frozen() || !l.Node(1).APIServer().Alive() {
		t.Error("a hung server is alive and frozen")
	}
	time.Sleep(time.Second)
	l.StartAPI()
	if r := tcp.Stop(); r.Failed > 0 {
		t.Errorf("the kernel accepts for a hung server: %s", r)
	}
	// Requests put during the hang wait, and are answered late or never.
	if r := https.Stop(); r.Failed == 0 && r.Slowest < 500*time.Millisecond {
		t.Errorf("nobody noticed the hang: %s", r)
	}
}

func killAllServers(t *testing.T, l *lab.Lab) {
	l.StopAPI(lab.Killed)
	for _, n := range l.All() {
		if n.APIServer().Alive() || !n.Etcd().Alive() {
			t.Errorf("%s: want the API server dead and etcd alive", n.Name())
		}
	}
	l.StartAPI()
	if _, err := l.Kube().CoreV1().Nodes().List(context.Background(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

func powerCut(t *testing.T, l *lab.Lab) {
	n := l.Node(3)
	n.Exec("ip", "address", "add", lab.VIP4+"/32", "dev", "eth0")
	if h := l.Holder(lab.VIP4); h == nil || h.Name() != "n3" {
		t.Fatalf("n3 has the VIP, Holder says %v", h)
	}
	n.Kill()
	if l.Holder(lab.VIP4) != nil || len(n.Processes()) > 0 || n.APIServer().Alive() {
		t.Error("a node without power holds an address or runs something")
	}
	n.Boot()
	l.AwaitReady(n)
	if n.Has(lab.VIP4) {
		t.Error("the address survived the power cut")
	}
}

func cutOffIsCapped(t *testing.T, l *lab.Lab) {
	n := l.Node(2)
	n.CutLink(lab.CarrierLoss)
	// The spinning begins when the connections that were open have given up.
	time.Sleep(4 * time.Second)
	busy := func() time.Duration { return n.APIServer().CPU() + n.Etcd().CPU() }
	before, begun := busy(), time.Now()
	time.Sleep(4 * time.Second)
	share := float64(busy()-before) / float64(time.Since(begun))
	n.HealLink()
	t.Logf("cut off, the control plane took %.2f of a processor", share)
	if share > 0.22 { // 0.15 and rounding; 0.4 to 0.8 without a cap
		t.Errorf("a cut-off control plane took %.2f of a processor", share)
	}
	l.AwaitReady()
}

func controllers(t *testing.T, l *lab.Lab) {
	l.StartControllers()
	l.Apply([]byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: third}\n"))
	l.Eventually(20*time.Second, "a new namespace has its ServiceAccount", func() bool {
		_, err := l.Kube().CoreV1().ServiceAccounts("third").Get(context.Background(), "default", metav1.GetOptions{})
		return err == nil
	})
	n := l.Node(1)
	p := l.StartKubeProxy(n, "nftables")
	l.Eventually(30*time.Second, "kube-proxy is healthy", func() bool {
		resp, err := n.HTTP(time.Second).Get("http://127.0.0.1:10256/livez")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	l.Eventually(30*time.Second, "the kubernetes Service is programmed", func() bool {
		out, err := n.Try("nft", "list", "table", "ip", "kube-proxy")
		return err == nil && strings.Contains(out, "10.96.0.1")
	})
	p.Kill()
}
