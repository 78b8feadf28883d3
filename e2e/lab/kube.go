package lab

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Kube is a cluster-admin client towards a living API server. It sticks to the
// server it has reached: after breaking that one, ask for a new client.
func (l *Lab) Kube() kubernetes.Interface {
	cs, err := kubernetes.NewForConfig(l.RESTConfig())
	l.must(err)
	return cs
}

// RESTConfig is what Kube uses, for other kinds of clients. Connections go to a
// node whose API server lives, whatever the Host says, and start on that node
// itself, as from its console: no cut of a link is in the way.
func (l *Lab) RESTConfig() *rest.Config {
	cert, key, err := l.keys().client("kubernetes-admin", "system:masters")
	l.must(err)
	return &rest.Config{
		Host: "https://kubernetes:6443",
		TLSClientConfig: rest.TLSClientConfig{
			CAData: l.keys().ca.pem, CertData: cert, KeyData: key, ServerName: "kubernetes",
			// One request per connection at a time: a server that hangs holds up nobody else.
			NextProtos: []string{"http/1.1"},
		},
		QPS:  -1, // a test is never held back by its own client
		Dial: l.dialLiving,
	}
}

// dialLiving decides per connection, so a client made before a failure finds
// another server as soon as its old connection is closed.
func (l *Lab) dialLiving(ctx context.Context, _, _ string) (net.Conn, error) {
	n := l.living()
	if n == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errNoAPI}
	}
	return n.space().dial(ctx, netip.AddrPortFrom(n.ip4, 6443))
}

// living is the first node whose API server can answer: on, connected, neither
// ended nor frozen, and in reach of a quorum; nil if there is none.
func (l *Lab) living() *Node {
	for _, n := range l.All() {
		if n.linked() && n.api.Alive() && !n.api.Frozen() && n.etcd.Alive() && !n.etcd.Frozen() {
			return n
		}
	}
	return nil
}

// AdminKubeconfig is the path of cluster-admin credentials towards a living API
// server; the test is over if there is none.
func (l *Lab) AdminKubeconfig() string {
	n := l.living()
	if n == nil {
		l.fatalf("%v", errNoAPI)
	}
	return n.AdminKubeconfig()
}

// Kubectl runs kubectl as cluster-admin and returns what it printed; a failure
// ends the test.
func (l *Lab) Kubectl(args ...string) string {
	out, err := l.TryKubectl(nil, args...)
	l.must(err)
	return out
}

// TryKubectl is Kubectl for commands that may fail, with standard input.
func (l *Lab) TryKubectl(input []byte, args ...string) (string, error) {
	argv := append([]string{l.cluster, "kubectl", "--kubeconfig=" + l.AdminKubeconfig()}, args...)
	return l.Client().feed(string(input), argv...)
}

// Apply applies the documents server-side, in order, as cluster-admin.
func (l *Lab) Apply(yaml ...[]byte) {
	all := bytes.Join(yaml, []byte("\n---\n"))
	_, err := l.TryKubectl(all, "apply", "--server-side", "--force-conflicts", "--field-manager=lab", "-f", "-")
	l.must(err)
}

// registerNodes does what kubelets do: a Node with addresses, Ready.
func (l *Lab) registerNodes() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	nodes := l.Kube().CoreV1().Nodes()
	for _, n := range l.All() {
		want := n.object()
		made, err := nodes.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		l.must(err)
		made.Status = want.Status
		_, err = nodes.UpdateStatus(ctx, made, metav1.UpdateOptions{})
		l.must(err)
	}
}

// object is what a kubelet would report of the node.
func (n *Node) object() *corev1.Node {
	now := metav1.NewTime(time.Now())
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{
			"kubernetes.io/hostname": n.name, "kubernetes.io/os": "linux",
			"node-role.kubernetes.io/control-plane": "",
		}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: n.apiIP().String()},
				{Type: corev1.NodeInternalIP, Address: n.apiIP6().String()},
				{Type: corev1.NodeHostName, Address: n.name},
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Lab",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
		},
	}
}

// awaitServiceAccount waits for what Pods cannot be created without.
func (l *Lab) awaitServiceAccount() {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	kube, begun := l.Kube(), time.Now()
	for {
		_, err := kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			l.t.Logf("lab: controllers at work after %s", time.Since(begun).Round(100*time.Millisecond))
			return
		}
		if ctx.Err() != nil {
			l.fatalf("kube-controller-manager has made no default ServiceAccount: %v; see its log under %s", err, l.dir)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// errNoAPI: every API server is dead, hung or cut off.
var errNoAPI = errors.New("no API server of the lab is alive and connected: StartAPI, HealLink or Boot first")
