package scenarios

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// mooringConf is the node's agent's kubeconfig in these stories.
func mooringConf(n *lab.Node) string { return filepath.Join(n.Dir(), "mooring.conf") }

// ownConf changes a configuration to that kubeconfig, which may not exist.
func ownConf(n *lab.Node) func(string) string {
	return func(cfg string) string {
		return strings.Replace(cfg, n.AgentKubeconfig(), mooringConf(n), 1)
	}
}

// credentials runs `mooring credentials` on the node, with the lab's authority.
func (w *world) credentials(n *lab.Node, args ...string) {
	w.t.Helper()
	pki := filepath.Join(w.Dir(), "pki")
	args = append([]string{"--ca", filepath.Join(pki, "ca.crt"), "--ca-key", filepath.Join(pki, "ca.key")}, args...)
	w.mooring(n, "credentials", args...)
}

// issue writes a kubeconfig for the node's agent with a certificate of this life,
// as `mooring credentials` would have done at some time in the past.
func (w *world) issue(n *lab.Node, from, until time.Time) {
	w.t.Helper()
	pki := filepath.Join(w.Dir(), "pki")
	ca, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	must(w.t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(w.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: from, NotAfter: until,
		Subject:     pkix.Name{CommonName: "mooring:node:" + n.Name(), Organization: []string{"mooring:agents"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.Leaf, key.Public(), ca.PrivateKey)
	must(w.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.t, err)
	authority, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	must(w.t, err)
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s:6443", certificate-authority-data: %s}}]
users: [{name: lab, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
`, n.IP(), b64(authority), b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		b64(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	must(w.t, os.WriteFile(mooringConf(n)+".next", []byte(text), 0o600), os.Rename(mooringConf(n)+".next", mooringConf(n)))
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirstBootWithoutCredentials: a cluster is made behind its VIP by agents that
// have no kubeconfig at all. The VIP serves as soon as an API server does, and
// nothing is lost or moved when each node is given its identity, the holder last.
func TestFirstBootWithoutCredentials(t *testing.T) {
	w := &world{Lab: lab.New(t), t: t, agents: map[string]*lab.Process{}}
	w.Nodes(3)
	answers := w.Wire().Answers(vip)
	for _, n := range w.All() {
		w.startAgent(n, ownConf(n))
	}
	took := w.Eventually(room*3*time.Second, "somebody holds", func() bool { return w.Holder(vip) != nil })
	holder := w.Holder(vip)
	t.Logf("%s holds after %s", holder.Name(), took)
	w.stays(holder, 3*time.Second, "before the first API server")
	for _, n := range w.All() {
		if !w.complains(n, "no credentials: "+mooringConf(n)) || !w.complains(n, "mooring credentials --node "+n.Name()) {
			t.Errorf("%s says nothing of its missing credentials: %q", n.Name(), w.status(n).Complaints)
		}
	}

	w.Start()
	c := w.Client().HTTP(time.Second)
	w.Eventually(5*time.Second, "the VIP serves through the holder's own API server", func() bool {
		resp, err := c.Get(readyz)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	seen := w.look()
	w.stays(holder, 2*time.Second, "the API servers are up")

	t.Log("identities before rights: refused is not told apart from not yet reached")
	nodes := slices.DeleteFunc(w.All(), func(n *lab.Node) bool { return n.Name() == holder.Name() })
	w.credentials(nodes[0])
	w.Eventually(15*time.Second, "status tells that rights are missing", func() bool {
		return w.complains(nodes[0], "no right to the Leases (403)")
	})
	w.stays(holder, 2*time.Second, "one is refused")
	w.Install()
	w.credentials(nodes[1])
	w.stays(holder, 5*time.Second, "the others have credentials")
	w.credentials(holder)
	w.settleWithin(time.Minute) // client-go asks again 30 s after a refusal
	w.Eventually(20*time.Second, "an API server confirms", func() bool { return w.status(holder).Confirmed })
	w.stays(holder, 3*time.Second, "confirmed")
	w.Eventually(10*time.Second, "nobody complains of credentials", func() bool {
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool { return w.complains(n, "credentials") })
	})
	seen.end(0, 0)
	one(t, answers.Stop(), 0)
	w.credentials(holder) // nothing to do
}

// TestCredentialsRenewed: an agent whose certificate has lived two thirds of its
// life asks for the next one, waits for a person, and takes it over; the VIP
// and its clients see nothing of it.
func TestCredentialsRenewed(t *testing.T) {
	w := bare(t)
	w.StartControllers()
	for _, n := range w.All() {
		w.identified(n)
	}
	holder := w.settle()
	seen, open := w.look(), w.connect(20*time.Second)
	w.issue(holder, time.Now().Add(-2*time.Hour), time.Now().Add(30*time.Minute))
	name := ""
	w.Eventually(20*time.Second, "the agent asks for a certificate", func() bool {
		name = strings.TrimSpace(w.Kubectl("get", "csr", "-o", "name"))
		return name != ""
	})
	name = strings.TrimPrefix(name, "certificatesigningrequest.certificates.k8s.io/")
	w.Eventually(20*time.Second, "status says how to approve", func() bool {
		return w.complains(holder, "kubectl certificate approve "+name)
	})
	w.Eventually(20*time.Second, "an Event says so too", func() bool {
		return strings.Contains(w.Kubectl("get", "events", "--field-selector", "reason=CredentialsRenewal"), name)
	})
	t.Log(w.Kubectl("certificate", "approve", name))
	w.Eventually(30*time.Second, "the certificate is taken over", func() bool { return strings.Contains(w.agent(holder).Log(), "certificate renewed") })
	w.Eventually(20*time.Second, "it is in use and confirmed", func() bool {
		return !w.complains(holder, "certificate") && w.status(holder).Confirmed
	})
	if out := w.Kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--kubeconfig", mooringConf(holder)); out !=
		"mooring:node:"+holder.Name() {
		t.Errorf("the new kubeconfig is %q's", out)
	}
	w.stays(holder, 3*time.Second, "renewed")
	open.end(20 * time.Second)
	seen.end(0, 0)
}

// TestCredentialsExpire: certificates that were all made on one day expire on
// one, too. No API server knows the agents any more, and the VIP stays where it is.
func TestCredentialsExpire(t *testing.T) {
	t.Parallel()
	w := bare(t)
	for _, n := range w.All() {
		w.identified(n)
	}
	holder := w.settle()
	end := time.Now().Add(10 * time.Second)
	for _, n := range w.All() {
		w.issue(n, time.Now().Add(-time.Hour), end)
	}
	seen := w.look()
	w.Eventually(30*time.Second, "every agent says that it is refused", func() bool {
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool { return !w.complains(n, "expired at") })
	})
	w.stays(holder, 40*time.Second, "all certificates have expired") // two leases and more
	if s := w.status(holder); s.Confirmed {
		t.Errorf("%s is confirmed by an API server that refuses it", holder.Name())
	}
	for _, n := range w.All() {
		w.credentials(n)
	}
	w.Eventually(40*time.Second, "an API server confirms", func() bool { return w.status(holder).Confirmed })
	w.stays(holder, 3*time.Second, "new certificates")
	seen.end(0, 0)
}

// TestPowerLossWithoutQuorum: the whole site was dark, and when it comes back two
// of three etcds do not: no API server is ready. The VIP comes up at once on one
// node, for people and kubeadm to work through it, and stays when the quorum is there.
func TestPowerLossWithoutQuorum(t *testing.T) {
	t.Parallel()
	w := bare(t)
	for _, n := range w.All() {
		w.identified(n)
	}
	w.settle()
	w.Node(1).Etcd().Kill()
	w.Node(2).Etcd().Kill()
	for _, n := range w.All() {
		n.Kill()
	}
	answers := w.Wire().Answers(vip)
	for _, n := range w.All() {
		n.Boot()
	}
	took := w.Eventually(room*3*time.Second, "somebody holds", func() bool { return w.Holder(vip) != nil })
	holder := w.Holder(vip)
	t.Logf("%s holds after %s", holder.Name(), took)
	w.stays(holder, 10*time.Second, "etcd has no quorum")
	w.Node(1).Etcd().Start()
	w.Eventually(2*time.Minute, "an API server confirms", func() bool {
		w.restartAPIServers()
		return w.status(holder).Confirmed
	})
	w.Node(2).Etcd().Start()
	w.Eventually(2*time.Minute, "every API server is ready", func() bool {
		w.restartAPIServers()
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool { return !n.Ready() })
	})
	w.settleWithin(time.Minute)
	w.stays(holder, 3*time.Second, "the quorum is back")
	one(t, answers.Stop(), 0)
}

// restartAPIServers does what kubelet does: an API server ends without an etcd.
func (w *world) restartAPIServers() {
	for _, n := range w.All() {
		n.APIServer().Start()
	}
}

// identified gives a node its credentials and starts its agent.
func (w *world) identified(n *lab.Node) {
	w.t.Helper()
	pki := filepath.Join(w.Dir(), "pki")
	// Without a configuration, as before the agent is installed.
	n.Exec(lab.Mooring(w.t), "credentials", "--ca", filepath.Join(pki, "ca.crt"), "--ca-key", filepath.Join(pki, "ca.key"),
		"--node", n.Name(), "--out", mooringConf(n), "--server", "https://"+n.IP()+":6443")
	w.startAgent(n, ownConf(n))
}
