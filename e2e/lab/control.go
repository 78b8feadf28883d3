package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

const (
	// serviceRange is where ClusterIPs come from; .1 is the kubernetes Service.
	serviceRange = "10.96.0.0/16,fd96::/112"
	podRange     = "10.244.0.0/16,fd98::/32"
	// readyLimit bounds a boot; 4 s on an idle machine, 8 s on a busy one.
	readyLimit = 3 * time.Minute
)

// Start makes the keys, starts an etcd and a kube-apiserver on every node, all in
// parallel, waits until every API server says /readyz and registers the Nodes.
func (l *Lab) Start() {
	nodes := l.All()
	if len(nodes) == 0 {
		l.fatalf("Start needs nodes: call Nodes first")
	}
	binary, err := ClusterBinary(context.Background(), l.t.Logf)
	l.must(err)
	l.cluster = binary
	begun := time.Now()
	for _, n := range nodes {
		l.must(l.keys().serving(n.name, l.servingSANs(nodes)))
		n.etcd = n.Command("etcd", l.etcdArgs(n)...)
		n.api = n.Command("kube-apiserver", l.apiArgs(n)...)
		n.etcd.group, n.api.group = n.group, n.group
		n.etcd.Start()
		n.api.Start()
	}
	l.AwaitReady(nodes...)
	l.t.Logf("lab: %d control plane(s) ready after %s", len(nodes), time.Since(begun).Round(100*time.Millisecond))
	l.mu.Lock()
	l.booted = true
	l.mu.Unlock()
	l.registerNodes()
}

// KubernetesBinary is the path of the running cluster's [ClusterBinary], for
// commands of one's own; empty before Start.
func (l *Lab) KubernetesBinary() string { return l.cluster }

// keys are made when first needed, so that an agent can be started before there
// is a cluster.
func (l *Lab) keys() *pki {
	nodes := l.All()
	hosts := make([]string, len(nodes))
	for i, n := range nodes {
		hosts[i] = n.apiIP().String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pki == nil {
		keys, err := newPKI(filepath.Join(l.dir, "pki"), hosts)
		if err != nil {
			l.t.Fatalf("lab: making keys: %v", err)
		}
		l.pki = keys
	}
	return l.pki
}

// servingSANs are what kubeadm puts into a serving certificate, and the VIPs. All
// nodes' addresses are in each, as with --apiserver-cert-extra-sans.
func (l *Lab) servingSANs(nodes []*Node) []string {
	sans := []string{"localhost", "127.0.0.1", "::1", "10.96.0.1", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, n := range nodes {
		sans = append(sans, n.name, n.IP(), n.IP6())
		if n.api4.IsValid() {
			sans = append(sans, n.api4.String(), n.api6.String())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.noVIP {
		sans = append(sans, l.vips...)
	}
	return sans
}

// etcdArgs are kubeadm's with the election timing written out: measurements depend on it.
func (l *Lab) etcdArgs(n *Node) []string {
	var peers []string
	for _, m := range l.All() {
		peers = append(peers, fmt.Sprintf("%s=https://%s:2380", m.name, m.apiIP()))
	}
	k, client, peer := l.keys(), "https://"+n.apiIP().String()+":2379", "https://"+n.apiIP().String()+":2380"
	return []string{l.cluster, "etcd", "--name=" + n.name, "--data-dir=" + filepath.Join(n.Dir(), "etcd"),
		"--listen-client-urls=https://127.0.0.1:2379," + client, "--advertise-client-urls=" + client,
		"--listen-metrics-urls=http://127.0.0.1:2381",
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(peers, ","), "--initial-cluster-state=new",
		"--cert-file=" + k.path("etcd.crt"), "--key-file=" + k.path("etcd.key"),
		"--trusted-ca-file=" + k.path("etcd-ca.crt"), "--client-cert-auth",
		"--peer-cert-file=" + k.path("etcd.crt"), "--peer-key-file=" + k.path("etcd.key"),
		"--peer-trusted-ca-file=" + k.path("etcd-ca.crt"), "--peer-client-cert-auth",
		// A lab's disk is as mortal as the lab: waiting for it would only add noise.
		"--unsafe-no-fsync", "--heartbeat-interval=100", "--election-timeout=1000", "--logger=zap", "--log-level=warn",
	}
}

// apiArgs are kubeadm's as far as a cluster without kubelets needs them.
func (l *Lab) apiArgs(n *Node) []string {
	k := l.keys()
	return []string{l.cluster, "kube-apiserver",
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + k.path("etcd-ca.crt"),
		"--etcd-certfile=" + k.path("etcd.crt"), "--etcd-keyfile=" + k.path("etcd.key"),
		// No --bind-address: *:6443 as kubeadm has it, both families.
		"--advertise-address=" + n.apiIP().String(), "--secure-port=6443", "--client-ca-file=" + k.path("ca.crt"),
		"--tls-cert-file=" + k.path("apiserver-"+n.name+".crt"),
		"--tls-private-key-file=" + k.path("apiserver-"+n.name+".key"),
		"--service-account-key-file=" + k.path("sa.pub"), "--service-account-signing-key-file=" + k.path("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=" + serviceRange,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--requestheader-client-ca-file=" + k.path("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + k.path("front-proxy-client.crt"),
		"--proxy-client-key-file=" + k.path("front-proxy-client.key"),
		"--kubelet-client-certificate=" + k.path("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + k.path("apiserver-kubelet-client.key"),
	}
}

// AwaitReady waits until the API servers of these nodes (without arguments: of
// all nodes that are on) say /readyz, asked from the client's host.
func (l *Lab) AwaitReady(nodes ...*Node) {
	if len(nodes) == 0 {
		nodes = l.on()
	}
	limit := time.Now().Add(readyLimit)
	for _, n := range nodes {
		for err := n.ready(); err != nil; err = n.ready() {
			if !n.api.Alive() {
				l.fatalf("kube-apiserver of %s has ended; the end of its log:\n%s", n.name, n.api.logTail())
			}
			if time.Now().After(limit) {
				l.fatalf("kube-apiserver of %s is not ready after %s: %v; see %s", n.name, readyLimit, err, n.api.LogPath())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// on are the nodes with power.
func (l *Lab) on() []*Node {
	var out []*Node
	for _, n := range l.All() {
		if n.space() != nil {
			out = append(out, n)
		}
	}
	return out
}

// Leader is the node whose etcd leads, nil if none does or says so within 1 s.
func (l *Lab) Leader() *Node {
	for _, n := range l.on() {
		resp, err := n.HTTP(time.Second).Get("http://127.0.0.1:2381/metrics")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && strings.Contains(string(body), "\netcd_server_is_leader 1\n") {
			return n
		}
	}
	return nil
}

// Ready says whether the node's API server answers /readyz with ok within 2 s.
func (n *Node) Ready() bool { return n.ready() == nil }

// ready asks anonymously and verifies the certificate. A server that has just begun
// to listen answers 403 until it has read its roles.
func (n *Node) ready() error {
	resp, err := n.lab.Client().HTTP(2 * time.Second).Get("https://" + n.IP() + ":6443/readyz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// StartControllers runs kube-controller-manager on the given nodes, without
// arguments on the first, and waits until it has made the default ServiceAccount.
// The controllers that judge nodes and pods by their kubelets are off: the lab has none.
func (l *Lab) StartControllers(on ...*Node) {
	if len(on) == 0 {
		on = l.on()[:1]
	}
	k := l.keys()
	for _, n := range on {
		cfg := n.kubeconfig("controllers", "system:kube-controller-manager")
		n.Spawn("kube-controller-manager", l.cluster, "kube-controller-manager", "--kubeconfig="+cfg,
			"--authentication-kubeconfig="+cfg, "--authorization-kubeconfig="+cfg, "--bind-address=127.0.0.1",
			fmt.Sprintf("--leader-elect=%t", len(on) > 1), "--use-service-account-credentials=true",
			"--service-account-private-key-file="+k.path("sa.key"), "--root-ca-file="+k.path("ca.crt"),
			"--client-ca-file="+k.path("ca.crt"), "--cert-dir="+filepath.Join(n.Dir(), "controllers"),
			"--cluster-signing-cert-file="+k.path("ca.crt"), "--cluster-signing-key-file="+k.path("ca.key"),
			"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,"+
				"-node-ipam-controller,-pod-garbage-collector-controller")
	}
	l.awaitServiceAccount()
}

// StartKubeProxy runs kube-proxy on the node, mode nftables or iptables.
func (l *Lab) StartKubeProxy(n *Node, mode string) *Process {
	return n.Spawn("kube-proxy", l.cluster, "kube-proxy",
		"--kubeconfig="+n.kubeconfig("kube-proxy", "system:kube-proxy"), "--hostname-override="+n.name,
		"--proxy-mode="+mode, "--cluster-cidr="+podRange,
		// These settings belong to the whole machine, not to a namespace.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
		"--conntrack-tcp-timeout-close-wait=0s", "--healthz-bind-address=0.0.0.0:10256", "--v=2")
}

// Outage says how the API servers fail.
type Outage int

const (
	// Hung servers keep their sockets and answer nothing.
	Hung Outage = iota
	// Killed servers refuse connections.
	Killed
)

// StopAPI makes every API server fail in the given way, until StartAPI.
func (l *Lab) StopAPI(how Outage) {
	for _, n := range l.on() {
		if how == Hung {
			n.api.Freeze()
		} else {
			n.api.Kill()
		}
	}
}

// StartAPI undoes StopAPI on every node that is on and waits until all are ready.
func (l *Lab) StartAPI() {
	for _, n := range l.on() {
		n.api.Thaw()
		n.api.Start()
	}
	l.AwaitReady()
}
