package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mooring.dev/mooring/internal/identity"
	"mooring.dev/mooring/internal/kube"
)

// signRequest signs a request as it is, for clients, for an hour.
func signRequest(t *testing.T, ca, key, request string) []byte {
	t.Helper()
	by, err := tls.LoadX509KeyPair(ca, key)
	must(t, err)
	b, _ := pem.Decode([]byte(request))
	r, err := x509.ParseCertificateRequest(b.Bytes)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: r.Subject, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, by.Leaf, r.PublicKey, by.PrivateKey)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// csrs is the API with the requests that were filed.
type csrs struct {
	filed map[string]string // name → PKCS #10
	state kube.Request
	err   error
}

func (c *csrs) File(_ context.Context, name string, pkcs10 []byte, _ time.Duration) error {
	if c.err == nil {
		c.filed[name] = string(pkcs10)
	}
	return c.err
}

func (c *csrs) Look(context.Context, string) (kube.Request, error) { return c.state, c.err }

// renewing is a node whose credentials are of this pki and life, at a moment.
func renewing(t *testing.T, life time.Duration) (r *renewal, api *csrs, pki string, now *time.Time) {
	t.Helper()
	n := composed(t, "")
	pki = pkiDir(t)
	at := time.Now()
	m := minting{node: n.cfg.Node, out: n.cfg.Kubeconfig, server: "https://127.0.0.1:6443", life: life, force: true, now: at,
		say: t.Output(), ca: places{client: filepath.Join(pki, "ca.crt"), key: filepath.Join(pki, "ca.key"),
			server: filepath.Join(pki, "ca.crt")}}
	must(t, m.issue())
	c, err := chooseCredentials(n.cfg, at)
	must(t, err)
	n.credentials, n.looked = c, credentialStamp(n.cfg)
	r, err = newRenewal(n)
	must(t, err)
	api = &csrs{filed: map[string]string{}, state: kube.Request{State: kube.RequestWaiting}}
	r.requests, r.now = api, func() time.Time { return at }
	return r, api, pki, &at
}

func (n *node) complaint(key string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.complaints[key]
}

// TestRenewal: nothing before two thirds; then one request, whose key stays here
// through restarts, and which is taken over when somebody approves.
func TestRenewal(t *testing.T) {
	r, api, pki, now := renewing(t, 50*time.Minute)
	n := r.n
	r.look(t.Context())
	if len(api.filed) != 0 || n.complaint("renewal")+n.complaint("credentials") != "" {
		t.Fatalf("it asks too early: %v, %q", api.filed, n.complaints)
	}
	*now = now.Add(40 * time.Minute)
	if r.look(t.Context()); len(api.filed) != 1 {
		t.Fatalf("%d requests", len(api.filed))
	}
	name, request := "", ""
	for name, request = range api.filed {
	}
	if got := n.complaint("renewal"); !strings.HasPrefix(name, "mooring-n1-") || !strings.Contains(got, "kubectl certificate approve "+name) {
		t.Errorf("request %s: %q", name, got)
	}
	if got := n.complaint("credentials"); !strings.Contains(got, "9 minutes left") {
		t.Errorf("the end is near, and nobody says so: %q", got)
	}
	if st, err := os.Stat(r.pendingPath()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its key: %v", err)
	}
	r.told = "" // as the next agent of this node
	if r.look(t.Context()); len(api.filed) != 1 || n.report(n.agent).Credentials.Request != name {
		t.Errorf("another request: %v", api.filed)
	}
	api.state = kube.Request{State: kube.RequestApproved}
	if r.look(t.Context()); !strings.Contains(n.complaint("renewal"), "waits for its signer") {
		t.Errorf("approved: %q", n.complaint("renewal"))
	}
	before := n.credentials
	if n.newCredentials() {
		t.Error("other credentials before any")
	}
	api.state = kube.Request{State: kube.RequestIssued,
		Cert: signRequest(t, filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"), request)}
	r.look(t.Context())
	if n.complaint("renewal") != "" || !n.newCredentials() {
		t.Fatalf("not taken over: %q", n.complaint("renewal"))
	}
	c, err := chooseCredentials(n.cfg, time.Now())
	if err != nil || c.path != n.cfg.Kubeconfig || !c.life.Of("n1") || !c.renews(before, time.Now()) {
		t.Errorf("in use is %s, %+v (%v)", c.path, c.life, err)
	}
	if _, err := os.Stat(r.pendingPath()); err == nil {
		t.Error("the request's key is left")
	}
}

// TestRenewalDenied: a denial is told, and no second request pesters whoever denied
// before its time; a request that cannot be filed is tried again.
func TestRenewalDenied(t *testing.T) {
	r, api, _, now := renewing(t, 50*time.Minute)
	*now = now.Add(40 * time.Minute)
	api.err = errors.New("forbidden")
	r.look(t.Context())
	if got := r.n.complaint("renewal"); !strings.Contains(got, "forbidden") || !strings.Contains(got, "mooring manifest rbac") {
		t.Errorf("not filed: %q", got)
	}
	api.err = nil
	r.look(t.Context())
	api.state = kube.Request{State: kube.RequestDenied, Why: "not now"}
	if r.look(t.Context()); !strings.Contains(r.n.complaint("renewal"), "is denied (not now)") {
		t.Errorf("denied: %q", r.n.complaint("renewal"))
	}
	api.state = kube.Request{State: kube.RequestGone}
	if r.look(t.Context()); len(api.filed) != 1 {
		t.Errorf("%d requests at once after a denial", len(api.filed))
	}
	*now = now.Add(6 * time.Minute) // more than a tenth of 55 minutes
	if r.look(t.Context()); len(api.filed) != 2 {
		t.Errorf("%d requests later", len(api.filed))
	}
}

// TestRenewalOfTheWrong: an answer that is of no use changes nothing.
func TestRenewalOfTheWrong(t *testing.T) {
	r, api, _, now := renewing(t, 50*time.Minute)
	*now = now.Add(40 * time.Minute)
	r.look(t.Context())
	before := readFile(t, r.n.cfg.Kubeconfig)
	other, _ := pair(t)
	api.state = kube.Request{State: kube.RequestIssued, Cert: other}
	r.look(t.Context())
	if got := r.n.complaint("renewal"); !strings.Contains(got, "of no use") || readFile(t, r.n.cfg.Kubeconfig) != before {
		t.Errorf("%q", got)
	}
}

// TestExpired: it is said with the way out, no request is possible any more, and
// nothing else happens.
func TestExpired(t *testing.T) {
	r, api, _, now := renewing(t, 50*time.Minute)
	*now = now.Add(51 * time.Minute)
	r.look(t.Context())
	if got := r.n.complaint("credentials"); !strings.Contains(got, "expired at ") || !strings.Contains(got, "mooring credentials --node n1") {
		t.Errorf("%q", got)
	}
	if len(api.filed) != 0 {
		t.Error("it asks an API server that refuses it")
	}
	text := gathered(t, r.n)
	if !strings.Contains(text, "mooring_credentials_expiry_seconds 1") {
		t.Errorf("no expiry in the metrics")
	}
}

// gathered is what /metrics has of credentials.
func gathered(t *testing.T, n *node) string {
	t.Helper()
	all, err := n.registry.Gather()
	must(t, err)
	var b strings.Builder
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "mooring_credentials") {
			v := f.GetMetric()[0].GetGauge().GetValue()
			b.WriteString(f.GetName() + " " + strings.TrimRight(strings.TrimRight(big.NewFloat(v).Text('f', 3), "0"), ".") + "\n")
		}
	}
	return b.String()
}

// TestKeptCredentials: where the configuration's file cannot be written the renewed
// one is kept beside the state, and the newer valid one of the same user counts.
func TestKeptCredentials(t *testing.T) {
	r, _, pki, now := renewing(t, 50*time.Minute)
	cfg := r.n.cfg
	old, renewed := readFile(t, cfg.Kubeconfig), *now
	m := minting{node: "n1", out: filepath.Join(t.TempDir(), "next.conf"), server: "https://127.0.0.1:6443", life: time.Hour,
		now: renewed.Add(10 * time.Minute), say: t.Output(), ca: places{client: filepath.Join(pki, "ca.crt"),
			key: filepath.Join(pki, "ca.key"), server: filepath.Join(pki, "ca.crt")}}
	must(t, m.issue())
	text := []byte(readFile(t, m.out))

	// A directory in the way of the temporary file stands for a mount that is read-only.
	must(t, os.MkdirAll(filepath.Join(cfg.Kubeconfig+".next", "x"), 0o755))
	path, err := keepRenewed(cfg, text)
	if err != nil || path != keptCredentials(cfg) || readFile(t, cfg.Kubeconfig) != old {
		t.Fatalf("kept in %s: %v", path, err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("it is readable as %v", st.Mode())
	}
	for _, s := range []struct {
		name string
		at   time.Duration
		edit func()
		want string
	}{
		{"the newer one", 20 * time.Minute, nil, path},
		{"not valid yet", 0, nil, cfg.Kubeconfig},
		{"the newer one has ended too", 3 * time.Hour, nil, cfg.Kubeconfig},
		{"the file leads elsewhere now", 20 * time.Minute, func() {
			must(t, os.WriteFile(cfg.Kubeconfig, []byte(strings.Replace(old, "6443", "7443", 1)), 0o600))
		}, cfg.Kubeconfig},
		{"the file is gone", 20 * time.Minute, func() { must(t, os.Remove(cfg.Kubeconfig)) }, cfg.Kubeconfig},
	} {
		if s.edit != nil {
			s.edit()
		}
		c, err := chooseCredentials(cfg, renewed.Add(s.at))
		if must(t, err); c.path != s.want || c.missing != (s.name == "the file is gone") {
			t.Errorf("%s: %s, missing %t", s.name, c.path, c.missing)
		}
	}
	must(t, os.RemoveAll(cfg.Kubeconfig+".next"), os.WriteFile(cfg.Kubeconfig, []byte(old), 0o600))
	if path, err := keepRenewed(cfg, text); err != nil || path != cfg.Kubeconfig || readFile(t, path) != string(text) {
		t.Errorf("written to %s: %v", path, err)
	}
	if _, err := os.Stat(keptCredentials(cfg)); err == nil {
		t.Error("the kept one stays beside it")
	}
}

// TestNewCredentials: what appears, changes, breaks or goes while an agent runs.
func TestNewCredentials(t *testing.T) {
	r, _, _, _ := renewing(t, 50*time.Minute)
	n := r.n
	good := readFile(t, n.cfg.Kubeconfig)
	for _, s := range []struct {
		name, text, complaint string
		want                  bool
	}{
		{"garbage", "{{{", "those read before stay in use", false},
		{"as it was", good, "", false},
		{"empty", "", "is gone; those read before stay", false},
		{"a token", "a token", "", true},
		{"a token file that is not there", "no token", "those read before stay in use", false},
	} {
		text := s.text
		if strings.HasSuffix(text, "token") {
			user := "{token: x}"
			if text == "no token" {
				user = "{tokenFile: /gone}"
			}
			text = good[:strings.Index(good, "users:")] + "users: [{name: 'mooring:node:n1', user: " + user + "}]\n"
		}
		must(t, os.WriteFile(n.cfg.Kubeconfig, []byte(text), 0o600))
		got := n.newCredentials()
		if c := n.complaint("credentials-file"); got != s.want || !strings.Contains(c, s.complaint) || s.complaint == "" && c != "" {
			t.Errorf("%s: %t, complaint %q", s.name, got, c)
		}
		if n.newCredentials() {
			t.Errorf("%s: again", s.name)
		}
	}
}

// TestAgentWithoutCredentials: no kubeconfig: the VIP is claimed by the wire, status
// says what is missing; when it is made the agent takes it over with the VIP in place,
// and so it does with the next ones.
func TestAgentWithoutCredentials(t *testing.T) {
	m := newMachine(t, "")
	conf := filepath.Join(m.dir, "kube.conf")
	must(t, os.Remove(conf))
	p := m.start()
	p.is("Holding")
	out, err := m.mooring("status")
	for _, want := range []string{"! no credentials: " + conf, "mooring credentials --node n1", "this agent asks: none",
		"claimed while no API server answers", "credentials: " + conf} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("status, %v, without %q:\n%s", err, want, out)
		}
	}
	if _, text := get(t, "/metrics"); !strings.Contains(text, "\nmooring_credentials_expiry_seconds 0\n") {
		t.Error("no expiry in the metrics")
	}
	must(t, os.WriteFile(conf, []byte("half of a ku"), 0o600))
	eventually(t, 5*time.Second, "a broken one is said", func() bool {
		return strings.Contains(strings.Join(p.report().Complaints, "\n"), "stay in use")
	})
	must(t, os.Remove(conf))
	pki := pkiDir(t)
	said, err := mint(t, pki, conf)
	must(t, err)
	t.Log(said)
	eventually(t, 5*time.Second, "the credentials are in use", func() bool {
		r := p.report()
		return r.Credentials.User == "mooring:node:n1" && len(r.APIServers) == 1 && r.State == "Holding"
	})
	if r := p.report(); !r.Provisional || strings.Contains(strings.Join(r.Complaints, "\n"), "credentials") {
		t.Errorf("report %+v", r)
	}
	if out, err := m.mooring("status"); err != nil || !strings.Contains(out, "credentials: mooring:node:n1, until ") {
		t.Errorf("status, %v:\n%s", err, out)
	}
	// The next certificate, and a hang-up besides.
	_, err = mint(t, pki, conf, "--force")
	must(t, err)
	p.signal(syscall.SIGHUP)
	eventually(t, 5*time.Second, "the next ones are taken over", func() bool {
		return strings.Count(p.text(), "other credentials, starting over") == 2
	})
	p.is("Holding")
	if m.lost.Load() != 0 || !m.has() {
		t.Errorf("the VIP left its link %d times", m.lost.Load())
	}
}

// TestLeft: as people read it.
func TestLeft(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]string{
		-1: "expired", 10*time.Minute + time.Second: "10 minutes left", 5*time.Hour + time.Second: "5 hours left",
		365*24*time.Hour + time.Second: "365 days left",
	} {
		if got := left(now.Add(d), now); got != want {
			t.Errorf("%s: %s", d, got)
		}
	}
	at := now.Add(time.Hour)
	r := credentialsReport{Kubeconfig: "/k", User: identity.User("n1"), Expires: &at, Request: "mooring-n1-0"}
	if got := r.line(now); !strings.Contains(got, "mooring:node:n1, until ") || !strings.Contains(got, "asked for: mooring-n1-0") {
		t.Error(got)
	}
	if got := (credentialsReport{}).line(now) + (credentialsReport{Kubeconfig: "/k"}).line(now); got != "credentials: /k" {
		t.Error(got)
	}
}

// TestBehindAMount: a file without a name is what a pod sees whose mounted file was
// replaced.
func TestBehindAMount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kube.conf")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	mounted := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if got := behindMount(mounted) + behindMount(path) + behindMount(path+".gone"); got != "" {
		t.Error(got)
	}
	must(t, replace(path, []byte("new")))
	if got := behindMount(mounted); !strings.Contains(got, "restart the pod") || behindMount(path) != "" {
		t.Errorf("%q", got)
	}
}
