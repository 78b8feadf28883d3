package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/check"
)

// checkSite is a node of its own for `mooring check`: link stand0, 10.8.0.1/24,
// with another host at its other end.
type checkSite struct {
	t    *testing.T
	dir  string
	host string // the process whose namespace the other host is
}

func newCheckSite(t *testing.T, more string) *checkSite {
	t.Helper()
	link(t)
	s := &checkSite{t: t, dir: t.TempDir()}
	other := exec.Command("unshare", "-n", "sleep", "60")
	must(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	s.host = fmt.Sprint(other.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	eventually(t, 5*time.Second, "the other host has a namespace", func() bool {
		there, err := os.Readlink("/proc/" + s.host + "/ns/net")
		return err == nil && there != own
	})
	s.sh("ip link add stand0 type veth peer name eth0 netns " + s.host)
	t.Cleanup(func() { s.sh("ip link del stand0") })
	s.sh("ip addr add 10.8.0.1/24 dev stand0; ip link set stand0 up")
	s.there("ip link set lo up; ip link set eth0 up; ip addr add 10.8.0.2/24 dev eth0")
	must(t, writeSite(s.dir, authority(t), more))
	path := filepath.Join(s.dir, "agent.yaml")
	text, err := os.ReadFile(path)
	must(t, err)
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("node0"), []byte("stand0")), []byte("10.9.0.10"),
		[]byte("10.8.0.10"))
	must(t, os.WriteFile(path, text, 0o600))
	eventually(t, 5*time.Second, "stand0 has carrier", func() bool {
		l, err := net.InterfaceByName("stand0")
		return err == nil && l.Flags&net.FlagRunning != 0
	})
	return s
}

// sh runs a command here, there in the other host.
func (s *checkSite) sh(script string) {
	s.t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func (s *checkSite) there(script string) {
	s.t.Helper()
	s.sh("nsenter -n -t " + s.host + " sh -ec '" + script + "'")
}

// check runs the program.
func (s *checkSite) check() checkReport {
	s.t.Helper()
	cmd := exec.Command("mooring", "check", "-o", "json", "--config", filepath.Join(s.dir, "agent.yaml"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	var r checkReport
	if bad := json.Unmarshal(out, &r); bad != nil {
		s.t.Fatalf("%v, %v: %s%s", bad, err, out, said.String())
	}
	if (err != nil) != (r.Worst == check.Problem) {
		s.t.Errorf("worst is %s, and the exit %v", r.Worst, err)
	}
	return r
}

// want fails the test unless the check has a finding with these words.
func (s *checkSite) want(r checkReport, name string, severity check.Severity, words string) {
	s.t.Helper()
	var of []check.Finding
	for _, f := range r.Findings {
		if f.Check == name {
			of = append(of, f)
		}
	}
	if !slices.ContainsFunc(of, func(f check.Finding) bool {
		return f.Severity == severity && strings.Contains(f.What,
			words)
	}) {
		s.t.Errorf("%s does not say as %s %q but %+v", name, severity, words, of)
	}
}

// TestCheckWire: a host that has the VIP, gateways that answer, and a link that fails.
func TestCheckWire(t *testing.T) {
	s := newCheckSite(t, "witnesses: [10.8.0.2, 10.8.0.3]\n")
	r := s.check()
	s.want(r, "claims", check.OK, "no other host answers for 10.8.0.10")
	s.want(r, "witness", check.OK, "10.8.0.2 answers; 10.8.0.3 does not")

	s.there("ip addr add 10.8.0.10/32 dev eth0")
	r = s.check()
	mac, _, _ := strings.Cut(s.output("nsenter -n -t "+s.host+" ip -br link show eth0 | awk \"{print \\$3}\""), "\n")
	s.want(r, "claims", check.Warning, "10.8.0.10 is answered by MAC "+mac+"; the candidates' MACs are not known")

	s.there("ip link set eth0 down")
	r = s.check()
	s.want(r, "interface", check.Problem, "no carrier")
	s.want(r, "claims", check.Unseen, "nothing can be heard on stand0")
}

// TestCheckStranger: with peers known by their MACs a stranger is a problem, a peer none.
func TestCheckStranger(t *testing.T) {
	s := newCheckSite(t, "peers: [{node: n2, address: 10.8.0.2, mac: \"02:00:00:00:08:02\"}]\n")
	s.there("ip addr add 10.8.0.10/32 dev eth0")
	s.want(s.check(), "claims", check.Problem, "a host that is no candidate")
	s.there("ip link set eth0 address 02:00:00:00:08:02")
	r := s.check()
	s.want(r, "claims", check.OK, "10.8.0.10 is answered by n2 (02:00:00:00:08:02)")
	s.want(r, "witness", check.Problem, "two candidates and no witness")
}

// TestCheckPorts: who has them.
func TestCheckPorts(t *testing.T) {
	s := newCheckSite(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:9441")
	must(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp", ":7444")
	must(t, err)
	defer u.Close()
	r := s.check()
	s.want(r, "ports", check.Problem, fmt.Sprintf("TCP port 9441 (metrics.bind): process %d (", os.Getpid()))
	s.want(r, "ports", check.Problem, "UDP port 7444 (hello.port): process")
	s.want(r, "ports", check.OK, "nobody listens yet")
}

// TestCheckKernel: sysctls and rules as they are.
func TestCheckKernel(t *testing.T) {
	s := newCheckSite(t, "")
	r := s.check()
	s.want(r, "arp", check.OK, "nothing")
	s.want(r, "nftables", check.OK, "takes")
	s.want(r, "firewall", check.OK, "no input chain")
	before := s.output("nft list ruleset")
	s.sh("sysctl -qw net.ipv4.conf.stand0.arp_ignore=8 net.ipv4.conf.stand0.rp_filter=1")
	s.sh("nft 'add table inet site; add chain inet site in { type filter hook input priority 0; policy drop; }; " +
		"add rule inet site in iifname lo accept; add rule inet site in tcp dport { 22, 7443 } accept; " +
		"add table ip kube-proxy; add chain ip kube-proxy services'")
	t.Cleanup(func() { s.sh("nft 'delete table inet site; delete table ip kube-proxy'") })
	r = s.check()
	s.want(r, "arp", check.Problem, "arp_ignore is 8")
	s.want(r, "firewall", check.Warning, "inet site in drops by default, and no rule names udp dport 7444")
	s.want(r, "kube-proxy", check.OK, "mode nftables, says this node's kernel")
	proxy, err := net.Listen("tcp", "127.0.0.1:10249")
	must(t, err)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ipvs") })}
	go func() { _ = web.Serve(proxy) }()
	s.want(s.check(), "kube-proxy", check.Warning, "mode ipvs (says kube-proxy itself) without strictARP")
	must(t, web.Close())
	if before != "" {
		t.Errorf("the check has left rules:\n%s", before)
	}
	// The way out of a finding mends it.
	i := slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.Check == "firewall" })
	s.sh(r.Findings[i].Fix)
	s.want(s.check(), "firewall", check.OK, "names the agents' ports")
	i = slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.Check == "arp" })
	s.sh(r.Findings[i].Fix)
	t.Cleanup(func() { s.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=0") })
	s.want(s.check(), "arp", check.OK, "nothing")
}

// TestArpIgnoreSilences: what the check calls a problem is one.
func TestArpIgnoreSilences(t *testing.T) {
	s := newCheckSite(t, "")
	asks := func() bool {
		return exec.Command("nsenter", "-n", "-t", s.host, "arping", "-c1", "-w1", "-I", "eth0", "10.8.0.10").Run() == nil
	}
	s.sh("ip addr add 10.8.0.10/32 dev stand0 preferred_lft 0")
	for value, answers := range map[string]bool{"0": true, "1": true, "2": true, "8": false} {
		s.sh("sysctl -qw net.ipv4.conf.stand0.arp_ignore=" + value)
		if got := asks(); got != answers {
			t.Errorf("with arp_ignore %s the kernel answers: %t", value, got)
		}
	}
}

// output is what a command prints.
func (s *checkSite) output(script string) string {
	s.t.Helper()
	out, err := exec.Command("sh", "-ec", script).Output()
	must(s.t, err)
	return string(out)
}

// TestCheckAgent: beside a running agent its ports are its own, and its rights are
// looked at.
func TestCheckAgent(t *testing.T) {
	m := newMachine(t, other)
	p := m.start()
	p.is("Standby")
	out, err := m.mooring("check", "-o", "json")
	text, _, _ := strings.Cut(out, "\nmooring: ")
	var r checkReport
	must(t, json.Unmarshal([]byte(text), &r))
	s := &checkSite{t: t}
	if !r.Agent || (err != nil) != (r.Worst == check.Problem) {
		t.Errorf("agent %t, worst %s, %v", r.Agent, r.Worst, err)
	}
	s.want(r, "ports", check.OK, "TCP port 9441 (metrics.bind): the agent's")
	s.want(r, "ports", check.OK, "UDP port 7444 (hello.port): the agent's")
	s.want(r, "capabilities", check.OK, fmt.Sprintf("the agent (process %d)", p.cmd.Process.Pid))
	s.want(r, "agent", check.OK, "version dev, Standby")
	s.want(r, "key", check.OK, "1 key")
	s.want(r, "api", check.Problem, "127.0.0.1:6443")
	p.signal(os.Interrupt)
	must(t, p.end(10*time.Second))
}

// TestGather: what is late, fails or panics leaves a gap each, hides no other, and a
// person is told what is waited for.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &exam{facts: check.Facts{Gaps: map[check.Part]check.Gap{}}}
		var told bytes.Buffer
		good := 0
		look := func(after time.Duration, err error) func(context.Context) (func(), error) {
			return func(ctx context.Context) (func(), error) {
				time.Sleep(after) // also one that heeds no context
				return func() { good++ }, err
			}
		}
		begun := time.Now()
		x.gather(t.Context(), []gatherer{
			{"good", time.Second, look(0, nil)}, {"slow", 5 * time.Second, look(4500*time.Millisecond, nil)},
			{"late", 5 * time.Second, look(time.Hour, nil)}, {"failed", time.Second, look(0, errors.New("why"))},
			{"moot", time.Second, look(0, moot("no need"))},
			{"broken", time.Second, func(context.Context) (func(), error) { panic("oh") }},
		}, &told)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		if good != 2 {
			t.Errorf("%d came back", good)
		}
		want := map[check.Part]check.Gap{
			"late": {Why: "no answer within 5s"}, "failed": {Why: "why"}, "moot": {Why: "no need", Moot: true},
			"broken": {Why: "this is a bug of mooring check: oh"},
		}
		if fmt.Sprint(x.facts.Gaps) != fmt.Sprint(want) {
			t.Errorf("gaps %+v, want %+v", x.facts.Gaps, want)
		}
		if got, want := told.String(), "mooring check: waiting for late, slow\nmooring check: waiting for late, slow\n"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		time.Sleep(2 * time.Hour) // the late one ends, and nobody minds
	})
}

// TestCheckTable: what is not seen for one reason stands together at the end; commands
// are never broken.
func TestCheckTable(t *testing.T) {
	long := strings.Repeat("word ", 40)
	var b strings.Builder
	must(t, printCheck(&b, checkReport{Node: "n1", Took: 1.26, Findings: []check.Finding{
		{Check: "a", Severity: check.OK, What: "first"}, {Check: "a", Severity: check.OK, What: "second"},
		{Check: "b", Severity: check.Unseen, What: "not seen: x", Fix: "see"},
		{Check: "c", Severity: check.Problem, What: long, Why: "because", Fix: "run " + long},
		{Check: "d", Severity: check.Unseen, What: "not seen: x", Fix: "see"},
	}}))
	pad := strings.Repeat(" ", indent)
	lines := strings.Split(b.String(), "\n")
	want := []string{
		"node n1, no agent runs here", "", "ok       a               first", "ok                       second",
		"PROBLEM  c               " + strings.TrimSpace(strings.Repeat("word ",
			17)), pad + strings.TrimSpace(strings.Repeat("word ", 17)),
		pad + strings.TrimSpace(strings.Repeat("word ", 6)), pad + "why: because", pad + "do:  run " + long, "",
		"?        not seen        b, d: x", pad + "do:  see", "", "1 problem, no warning, 2 not seen, 2 ok, in 1.3 s", "",
	}
	for i := range max(len(lines), len(want)) {
		if i >= len(lines) || i >= len(want) || lines[i] != want[i] {
			t.Fatalf("line %d:\n%s\nwant\n%s", i, b.String(), strings.Join(want, "\n"))
		}
	}
}

func TestFaultsOf(t *testing.T) {
	if got := faultsOf(errors.Join(errors.New("a: 1"), errors.New("b: 2\n"))); !slices.Equal(got, []string{"a: 1",
		"b: 2"}) {
		t.Errorf("%q", got)
	}
	missing := fmt.Errorf("open x: %w; the shortest file is:\na\nb", fs.ErrNotExist)
	if got := faultsOf(missing); len(got) != 1 || strings.Contains(got[0], "shortest") {
		t.Errorf("%q", got)
	}
}
