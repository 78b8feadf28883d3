package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/lb"
)

// composed is a node as newNode makes it, of which nothing runs.
func composed(t *testing.T, more string) *node {
	t.Helper()
	return composedAs(t, "token: none", more)
}

// client is a kubeconfig's user with a certificate.
func client(t *testing.T) string {
	t.Helper()
	cert, key := pair(t)
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("client-certificate-data: %s, client-key-data: %s", b64(cert), b64(key))
}

// composedAs is composed for another user of the kubeconfig.
func composedAs(t *testing.T, user, more string) *node {
	t.Helper()
	link(t)
	dir := t.TempDir()
	must(t, writeSite(dir, authority(t), more))
	conf, err := os.ReadFile(filepath.Join(dir, "kube.conf"))
	must(t, err)
	conf = bytes.Replace(conf, []byte("token: none"), []byte(user), 1)
	must(t, os.WriteFile(filepath.Join(dir, "kube.conf"), conf, 0o600))
	cfg, err := config.Load(filepath.Join(dir, "agent.yaml"))
	must(t, err, os.Mkdir(cfg.RunDir, 0o755), os.Mkdir(cfg.StateDir, 0o755))
	s := &supervisor{
		path: filepath.Join(dir, "agent.yaml"), log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		registry: prometheus.NewRegistry(),
	}
	n, err := newNode(cfg, s)
	must(t, err)
	return n
}

func addrs(all ...string) []lb.Backend {
	var out []lb.Backend
	for _, a := range all {
		out = append(out, lb.BackendAt(netip.MustParseAddrPort(a)))
	}
	return out
}

func namesOf(all []lb.Backend) string {
	var out []string
	for _, b := range all {
		out = append(out, b.Addr.String())
	}
	return strings.Join(out, " ")
}

// TestSeeds: what a cold site knows of its API servers. A virtual IP that got
// into the file would make the agent ask itself.
func TestSeeds(t *testing.T) {
	for _, s := range []struct{ name, conf, file, want string }{
		{"nothing", "", "", ""},
		{"configuration", "10.0.0.11:6443", "", "10.0.0.11:6443"},
		{"last run", "", `["10.0.0.12:6443"]`, "10.0.0.12:6443"},
		{"both, each once, the configuration first", "10.0.0.12:6443", `["10.0.0.11:6443","10.0.0.12:6443"]`,
			"10.0.0.12:6443 10.0.0.11:6443"},
		{"a virtual IP is left out", "", `["10.9.0.10:6443","10.0.0.11:6443"]`, "10.0.0.11:6443"},
		{"garbage", "10.0.0.11:6443", `["10.0`, "10.0.0.11:6443"},
		{"another shape", "10.0.0.11:6443", `{"a":1}`, "10.0.0.11:6443"},
		{"none then", "10.0.0.11:6443", "null", "10.0.0.11:6443"},
		{"an empty address", "", `[""]`, ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			n := &node{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			n.cfg.StateDir = t.TempDir()
			n.cfg.APIServer.VIPs = []netip.Addr{netip.MustParseAddr("10.9.0.10")}
			if s.conf != "" {
				n.cfg.APIServer.Servers = []netip.AddrPort{netip.MustParseAddrPort(s.conf)}
			}
			if s.file != "" {
				must(t, os.WriteFile(n.serversFile(), []byte(s.file), 0o600))
			}
			if got := namesOf(n.seeds()); got != s.want {
				t.Errorf("got %s, want %s", got, s.want)
			}
			if got := len(n.cfg.APIServer.Servers); s.conf != "" && got != 1 {
				t.Errorf("the configuration's own list has %d entries now", got)
			}
		})
	}
}

// TestBackendsAreKept: the cluster's list reaches the way to the API servers,
// the agent and the disk, where the next start finds it.
func TestBackendsAreKept(t *testing.T) {
	n := composed(t, "")
	n.onBackends(addrs("10.0.0.11:6443", "10.0.0.12:6443"))
	if got := namesOf(n.seeds()); got != "10.0.0.11:6443 10.0.0.12:6443" {
		t.Errorf("kept %s", got)
	}
	got := fmt.Sprint(n.servers.State())
	if !strings.Contains(got, "127.0.0.1:6443") || !strings.Contains(got, "10.0.0.12:6443") {
		t.Errorf("the agent asks %s", got)
	}
	n.onBackends(addrs("10.0.0.12:6443"))
	if got := namesOf(n.seeds()); got != "10.0.0.12:6443" {
		t.Errorf("kept %s after one went", got)
	}
	// A disk that is full is said and nothing else.
	n.cfg.StateDir = filepath.Join(n.cfg.StateDir, "gone")
	n.onBackends(addrs("10.0.0.13:6443"))
	if got := fmt.Sprint(n.servers.State()); !strings.Contains(got, "10.0.0.13:6443") {
		t.Errorf("without a disk the agent asks %s", got)
	}
}

// TestMembersAreKept: an agent that restarts in an API outage knows its peers.
func TestMembersAreKept(t *testing.T) {
	n := composed(t, "")
	all := []election.Member{{Node: "n1", Live: true}, {Node: "n2", MACs: []string{"02:00:00:00:00:02"}, Live: true}}
	n.deliver(election.Members{All: all})
	n.deliver(election.Tick{}) // and nothing else is
	var got []election.Member
	must(t, recall(n.membersFile(), &got))
	if len(got) != 2 || got[1].Node != "n2" || !slices.Equal(got[1].MACs, all[1].MACs) {
		t.Errorf("kept %+v", got)
	}
	for name, text := range map[string]string{"garbage": "{", "none": "[]"} {
		must(t, os.WriteFile(n.membersFile(), []byte(text), 0o600))
		n.rememberMembers() // says so, or nothing, and goes on
		if entries, err := os.ReadDir(n.cfg.StateDir); err != nil || len(entries) == 0 {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
	}
}

// TestKeep: a reader never sees half a file, and what is missing changes nothing.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kept.json")
	v := []string{"as it was"}
	must(t, recall(path, &v))
	if v[0] != "as it was" {
		t.Errorf("a missing file gave %v", v)
	}
	must(t, keep(path, []string{"one"}), keep(path, []string{"two"}), recall(path, &v))
	if v[0] != "two" {
		t.Errorf("got %v", v)
	}
	if left, err := filepath.Glob(path + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := keep(path, func() {}); err == nil {
		t.Error("something without a text was kept")
	}
	must(t, recall(path, &v))
	if err := keep(filepath.Join(path, "below a file"), v); err == nil {
		t.Error("no error below a file")
	}
}

// TestCheckFiles: what HAProxy's health check needs is in the run directory, the
// client's key only when it is to be presented.
func TestCheckFiles(t *testing.T) {
	n := composed(t, "")
	c, err := n.checkFiles(false)
	must(t, err)
	want := lb.Check{Path: "/readyz", ServerName: "kubernetes", CAFile: n.cfg.RunDir + "/ca.pem"}
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
	data, err := os.ReadFile(c.CAFile)
	must(t, err)
	if block, _ := pem.Decode(data); block == nil || block.Type != "CERTIFICATE" {
		t.Errorf("ca.pem holds %q", data)
	}
	if c, err = n.checkFiles(true); err != nil || c.ClientPEM != "" {
		t.Errorf("a user with a token has no certificate to present: %+v, %v", c, err)
	}
	if _, err := os.Stat(n.file("client.pem")); err == nil {
		t.Error("client.pem without a client certificate")
	}
	n.cfg.RunDir = filepath.Join(n.cfg.RunDir, "gone")
	if _, err := n.checkFiles(false); err == nil || !strings.Contains(err.Error(), "runDir") {
		t.Errorf("no run directory: %v", err)
	}
}

// complained is the report's, but for that of hellos that do not run.
func (n *node) complained() []string {
	return slices.DeleteFunc(n.report(n.agent).Complaints, func(c string) bool { return c == "hellos: not running" })
}

// TestComplaints: each stands until it is settled, is news once, and they are
// shown in one order.
func TestComplaints(t *testing.T) {
	n := composed(t, "")
	n.complain("b", "second")
	for _, s := range []struct {
		text string
		news bool
	}{{"first", true}, {"first", false}, {"other", true}, {"", true}, {"", false}, {"first", true}} {
		if got := n.complain("a", s.text); got != s.news {
			t.Errorf("%q is news: %t, want %t", s.text, got, s.news)
		}
	}
	if got := n.complained(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("complaints %q", got)
	}
	n.refuse("agent.yaml:3: wrong")
	n.onNote(election.Note{Reason: election.Foreign, MAC: "02:00:00:00:99:99"})
	n.onNote(election.Note{Reason: election.AddressFailed, Detail: "operation not permitted"})
	got := strings.Join(n.report(n.agent).Complaints, "\n")
	for _, want := range []string{
		"agent.yaml:3", "MAC 02:00:00:00:99:99; find it", "refuses the address: operation not permitted",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	n.refuse("")
	n.onNote(election.Note{Reason: election.Became, Cause: election.CauseMove, Took: 80 * time.Millisecond})
	got = strings.Join(n.report(n.agent).Complaints, "\n")
	if strings.Contains(got, "agent.yaml") || strings.Contains(got, "refuses") || !strings.Contains(got, "99:99") {
		t.Errorf("after two were settled:\n%s", got)
	}
}

// TestStrangerIsForgotten: a minute after its last claim the complaint is gone.
func TestStrangerIsForgotten(t *testing.T) {
	n := composed(t, "")
	n.onNote(election.Note{Reason: election.Foreign, MAC: "02:00:00:00:99:99"})
	for _, s := range []struct {
		silent time.Duration
		shown  int
	}{{0, 1}, {50 * time.Second, 1}, {70 * time.Second, 0}} {
		n.mu.Lock()
		n.foreign = time.Now().Add(-s.silent)
		n.mu.Unlock()
		if got := n.complained(); len(got) != s.shown {
			t.Errorf("after %v of silence: %v", s.silent, got)
		}
	}
}

// TestClientCertificate: the health check presents the kubeconfig's certificate
// when it is asked to, or always; the key is nobody else's to read.
func TestClientCertificate(t *testing.T) {
	for _, s := range []struct {
		setting  string
		ask, has bool
	}{{"auto", false, false}, {"auto", true, true}, {"always", false, true}, {"always", true, true}} {
		t.Run(fmt.Sprint(s.setting, s.ask), func(t *testing.T) {
			n := composedAs(t, client(t), "")
			n.cfg.APIServer.Check.ClientCertificate = config.ClientCertificate(s.setting)
			c, err := n.checkFiles(s.ask)
			must(t, err)
			if (c.ClientPEM != "") != s.has {
				t.Fatalf("presents %q", c.ClientPEM)
			}
			if !s.has {
				return
			}
			st, err := os.Stat(c.ClientPEM)
			must(t, err)
			data, err := os.ReadFile(c.ClientPEM)
			must(t, err)
			cert, rest := pem.Decode(data)
			key, _ := pem.Decode(rest)
			if cert == nil || key == nil || cert.Type != "CERTIFICATE" || !strings.HasSuffix(key.Type, "PRIVATE KEY") {
				t.Errorf("HAProxy wants certificate and key, got %q", data)
			}
			if st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", st.Mode())
			}
		})
	}
}

// TestReport: what a node that knows nothing yet says of itself.
func TestReport(t *testing.T) {
	n := composed(t, "")
	r := n.report(n.agent)
	if r.Node != "n1" || r.Holder != "" || !r.HeldSince.IsZero() || r.State != "Standby" || r.Version != version ||
		!slices.Equal(r.VIPs, []string{"10.9.0.10"}) || len(r.APIServers) != 1 || len(n.complained()) != 0 || len(r.Complaints) != 1 {
		t.Errorf("report %+v", r)
	}
}

// TestMember: what this node's member Lease says: the link's MAC and the node's
// own addresses on it, never a virtual IP.
func TestMember(t *testing.T) {
	l := link(t)
	n := composed(t, "")
	m, err := n.member()
	must(t, err)
	if m.Node != "n1" || !m.Live || !slices.Equal(m.MACs, []string{l.Attrs().HardwareAddr.String()}) ||
		!slices.Equal(m.Addrs, []string{"10.9.0.1"}) {
		t.Errorf("member %+v", m)
	}
}

// TestCertificateIsNotCompared: no API server, no judgement about its
// certificate, and no wait.
func TestCertificateIsNotCompared(t *testing.T) {
	n := composed(t, "")
	begun, refusals := time.Now(), 0
	if n.compareCertificate(t.Context()) || n.settleCheck(t.Context(), &refusals) || refusals != 0 {
		t.Error("an API server that is not there was judged")
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	if got := n.complained(); len(got) != 0 {
		t.Errorf("complaints %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, n.watchCertificate(ctx))
}

// TestMetricsPortTaken: who cannot serve its probes says which setting it is.
func TestMetricsPortTaken(t *testing.T) {
	link(t)
	l, err := net.Listen("tcp", "127.0.0.1:19441")
	must(t, err)
	defer l.Close()
	n := composed(t, "metrics: {bind: 127.0.0.1:19441}\n")
	if err := n.serveMetrics(t.Context()); err == nil || !strings.Contains(err.Error(), "metrics.bind") {
		t.Errorf("error %v", err)
	}
}
