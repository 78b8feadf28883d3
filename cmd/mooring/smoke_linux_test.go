package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// machine is a node with the real program on it and no API server anywhere.
type machine struct {
	t    *testing.T
	dir  string
	link netlink.Link
	// lost counts how often the VIP left its link.
	lost atomic.Int32
}

// other is a candidate that never answers: a node that knows of others and hears
// nobody takes itself for cut off, and claims nothing.
const other = "peers: [{node: n2, address: 10.9.0.2}]\n"

// newMachine takes the namespace's link and has a key for hellos; nothing runs yet.
func newMachine(t *testing.T, more string) *machine {
	m := &machine{t: t, dir: t.TempDir(), link: link(t)}
	key := filepath.Join(m.dir, "hello.key")
	must(t, os.WriteFile(key, []byte(goodKey), 0o600), writeSite(m.dir, authority(t), more+"hello: {keyFile: "+key+"}\n"))
	text, err := os.ReadFile(filepath.Join(m.dir, "agent.yaml"))
	must(t, err, os.WriteFile(filepath.Join(m.dir, "ask.yaml"), text, 0o600))
	updates, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
	must(t, netlink.AddrSubscribe(updates, done))
	t.Cleanup(func() {
		close(done)
		_ = netlink.AddrDel(m.link, m.vip())
	})
	go func() {
		for u := range updates {
			if !u.NewAddr && u.LinkAddress.IP.Equal(m.vip().IP) {
				m.lost.Add(1)
			}
		}
	}()
	return m
}

func (m *machine) vip() *netlink.Addr {
	a, err := netlink.ParseAddr("10.9.0.10/32")
	must(m.t, err)
	return a
}

// has says whether the VIP is on the link.
func (m *machine) has() bool {
	m.t.Helper()
	all, err := netlink.AddrList(m.link, netlink.FAMILY_V4)
	must(m.t, err)
	for _, a := range all {
		if a.IP.Equal(m.vip().IP) {
			return true
		}
	}
	return false
}

// held puts the VIP on the link as an agent that died just now left it, with
// the record that it kept.
func (m *machine) held(holder string, lft time.Duration) {
	m.t.Helper()
	links := vip.New(vip.Options{Now: boottime})
	_, err := links.Set(m.t.Context(), lb.Holding{
		Addresses: []lb.Address{{IP: netip.MustParseAddr("10.9.0.10"), Link: "node0"}}, ValidLft: lft,
	})
	d := agent.Disk{Path: filepath.Join(m.dir, "state", "state.json"), Boot: agent.BootID()}
	must(m.t, err, d.Save(election.Record{Holder: holder, Transitions: 7}))
}

// process is a running agent.
type process struct {
	*machine
	cmd   *exec.Cmd
	ended chan error
	mu    sync.Mutex
	log   bytes.Buffer
}

// Write takes the agent's log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start starts an agent; the end of the test kills it.
func (m *machine) start() *process {
	m.t.Helper()
	p := &process{machine: m, ended: make(chan error, 1)}
	p.cmd = exec.Command("mooring", "agent", "--config", filepath.Join(m.dir, "agent.yaml"))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(m.t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	m.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if m.t.Failed() {
			m.t.Logf("the agent's log:\n%s", p.text())
		}
	})
	return p
}

// signal sends one.
func (p *process) signal(s os.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(s))
}

// end waits for the process and gives its exit error.
func (p *process) end(limit time.Duration) error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(limit):
		p.t.Fatalf("the agent has not ended within %v:\n%s", limit, p.text())
		return nil
	}
}

// eventually waits until ok holds.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// get asks the agent's HTTP server.
func get(t *testing.T, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9441"+path, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

// mooring runs the program with the machine's configuration as it was first:
// a story may make the agent's file one that nobody can read.
func (m *machine) mooring(args ...string) (string, error) {
	out, err := exec.Command("mooring", append(args, "--config", filepath.Join(m.dir, "ask.yaml"))...).CombinedOutput()
	return string(out), err
}

// report is the agent's own, nothing when it does not answer.
func (m *machine) report() (r report) {
	if out, err := m.mooring("status", "-o", "json"); err == nil {
		must(m.t, json.Unmarshal([]byte(out), &r))
	}
	return r
}

// is waits for a state.
func (p *process) is(state string) {
	p.t.Helper()
	eventually(p.t, 10*time.Second, "the agent is "+state, func() bool { return p.report().State == state })
}

// TestAgentWithoutAPIServer: it starts, claims nothing, says why it is not
// ready, refuses a second one and ends when asked.
func TestAgentWithoutAPIServer(t *testing.T) {
	m := newMachine(t, other)
	p := m.start()
	p.is("Standby")
	if code, text := get(t, "/healthz"); code != 200 {
		t.Errorf("/healthz: %d %s", code, text)
	}
	if code, text := get(t, "/readyz"); code != 503 || !strings.Contains(text, "the Lease has not been read yet") {
		t.Errorf("/readyz: %d %s", code, text)
	}
	if code, text := get(t, "/metrics"); code != 200 || !strings.Contains(text, "\nmooring_config_good 1\n") ||
		!strings.Contains(text, `mooring_holding{group="apiserver"} 0`) {
		t.Errorf("/metrics: %d %.2000s", code, text)
	}
	out, err := m.mooring("status")
	for _, want := range []string{
		"10.9.0.10  unknown  ", "Standby", "load balancer: off", "this agent asks: 127.0.0.1:6443",
	} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("status, %v, without %q:\n%s", err, want, out)
		}
	}
	if out, err := m.mooring("move", "--to", "n2"); err == nil || !strings.Contains(out, "n1 does not hold the VIPs") {
		t.Errorf("move: %v\n%s", err, out)
	}
	second := m.start()
	err = second.end(5 * time.Second)
	if err == nil || !strings.Contains(second.text(), "another agent runs on this node") {
		t.Errorf("a second agent: %v\n%s", err, second.text())
	}
	if st, err := os.Stat(filepath.Join(m.dir, "run", socketName)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st, err)
	}
	time.Sleep(time.Second)
	if m.has() || m.report().State != "Standby" {
		t.Errorf("the VIP was claimed: %t, %s", m.has(), m.report().State)
	}
	p.signal(syscall.SIGTERM)
	if err := p.end(3 * time.Second); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if out, err := m.mooring("status"); err == nil {
		t.Errorf("status of no agent: %s", out)
	}
}

// TestAgentBootstraps: before the first API server, and with no other candidate
// known, the VIP comes up, so that a cluster can be installed through it; nothing
// is moved then, and SIGTERM leaves the VIP to the next agent.
func TestAgentBootstraps(t *testing.T) {
	m := newMachine(t, "")
	p := m.start()
	p.is("Holding")
	if r := p.report(); !m.has() || !r.Provisional || r.Confirmed || r.Holder != "n1" || r.Last.Cause != election.CauseBootstrap {
		t.Errorf("the VIP is there: %t, report %+v", m.has(), r)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, text := get(t, path); code != 200 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if _, text := get(t, "/metrics"); !strings.Contains(text, `mooring_provisional{group="apiserver"} 1`) {
		t.Error("no provisional holder in the metrics")
	}
	for range 2 {
		if out, err := m.mooring("move"); err == nil || !strings.Contains(out, "no API server confirms this node") {
			t.Errorf("move: %v\n%s", err, out)
		}
	}
	p.signal(syscall.SIGTERM)
	if err := p.end(3 * time.Second); err != nil || !m.has() {
		t.Errorf("SIGTERM: %v, the VIP is there: %t", err, m.has())
	}
	p = m.start()
	p.is("Holding")
	if r := p.report(); !r.Provisional || m.lost.Load() != 0 {
		t.Errorf("the next agent's report %+v; the VIP left its link %d times", r, m.lost.Load())
	}
}

// TestAgentAdopts: an agent that comes back within the fence goes on with its
// VIP although no API server answers, again and again; when none comes back the
// kernel ends it, and an agent that is stopped without a successor leaves that
// to the kernel too.
func TestAgentAdopts(t *testing.T) {
	m := newMachine(t, "lease: {duration: 6s, renew: 1s}\nfence: {validLifetime: 3s}\n")
	m.held("n1", 3*time.Second)
	p := m.start()
	p.is("Holding")
	time.Sleep(3500 * time.Millisecond) // longer than the lifetime that it found
	if r := p.report(); r.Confirmed || r.Holder != "n1" || r.Term != 7 || r.Fence <= 0 || r.Fence > 3 {
		t.Errorf("report %+v", r)
	}
	if code, text := get(t, "/healthz"); code != 200 {
		t.Errorf("/healthz: %d %s", code, text)
	}
	out, err := m.mooring("status")
	if err != nil || !strings.Contains(out, "Holding (no API server confirms), fence ") ||
		!strings.Contains(out, "adopted") {
		t.Errorf("status, %v:\n%s", err, out)
	}

	p.signal(syscall.SIGKILL)
	_ = p.end(time.Second)
	p = m.start()
	p.is("Holding")
	p.signal(syscall.SIGTERM)
	if err := p.end(3 * time.Second); err != nil || !m.has() {
		t.Errorf("SIGTERM: %v, the VIP is there: %t", err, m.has())
	}
	p = m.start()
	p.is("Holding")
	if n := m.lost.Load(); n != 0 {
		t.Errorf("the VIP left its link %d times", n)
	}

	p.signal(syscall.SIGKILL)
	_ = p.end(time.Second)
	died := time.Now()
	eventually(t, 5*time.Second, "the kernel removes the VIP", func() bool { return !m.has() })
	if took := time.Since(died); took < time.Second || took > 4*time.Second {
		t.Errorf("the kernel removed the VIP %v after the end of its agent, want 2 to 3.5 s", took)
	}
}

// TestFrozenAgent: what was stopped past its fence finds its VIP gone and does
// not put it back.
func TestFrozenAgent(t *testing.T) {
	m := newMachine(t, other+"lease: {duration: 5s, renew: 1s}\nfence: {validLifetime: 2s}\n")
	m.held("n1", 2*time.Second)
	p := m.start()
	p.is("Holding")
	p.signal(syscall.SIGSTOP)
	eventually(t, 4*time.Second, "the kernel removes the VIP", func() bool { return !m.has() })
	time.Sleep(500 * time.Millisecond)
	p.signal(syscall.SIGCONT)
	p.is("Standby")
	for range 100 {
		if m.has() {
			t.Fatal("the VIP is back without an API server that allows it")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !strings.Contains(p.text(), "WokeUp") {
		t.Error("the log does not say that the agent was frozen")
	}
}

// TestAgentRemoves: what an agent finds at its start and may not keep.
func TestAgentRemoves(t *testing.T) {
	t.Run("another holds", func(t *testing.T) {
		m := newMachine(t, other)
		m.held("n2", 30*time.Second)
		p := m.start()
		p.is("Standby")
		if m.has() {
			t.Error("the VIP is still there although the record of this boot names another")
		}
		if r := p.report(); r.Holder != "n2" {
			t.Errorf("the holder is %q, want what the disk says", r.Holder)
		}
	})
	t.Run("another VIP", func(t *testing.T) {
		m := newMachine(t, other)
		m.held("n1", 30*time.Second)
		text, err := os.ReadFile(filepath.Join(m.dir, "agent.yaml"))
		must(t, err)
		text = bytes.Replace(text, []byte("10.9.0.10"), []byte("10.9.0.20"), 1)
		must(t, os.WriteFile(filepath.Join(m.dir, "agent.yaml"), text, 0o600))
		m.start().is("Standby")
		if m.has() {
			t.Error("a VIP that is not configured any more is still there")
		}
	})
	t.Run("not ours", func(t *testing.T) {
		m := newMachine(t, other)
		addr, err := netlink.ParseAddr("10.9.0.30/32")
		must(t, err, netlink.AddrAdd(m.link, addr))
		defer func() { must(t, netlink.AddrDel(m.link, addr)) }() // fails if it is gone
		m.start().is("Standby")
	})
}

// TestAgentReloads: a holder takes a new file over without letting go; one that
// it cannot use is said and changes nothing.
func TestAgentReloads(t *testing.T) {
	m := newMachine(t, "log: {level: info}\n")
	m.held("n1", 4*time.Second)
	p := m.start()
	p.is("Holding")
	path := filepath.Join(m.dir, "agent.yaml")
	good, err := os.ReadFile(path)
	must(t, err)
	write := func(old, to string) {
		t.Helper()
		must(t, os.WriteFile(path, bytes.Replace(good, []byte(old), []byte(to), 1), 0o600))
		p.signal(syscall.SIGHUP)
	}
	says := func(what string) func() bool {
		return func() bool { return strings.Contains(strings.Join(p.report().Complaints, "\n"), what) }
	}
	metric := func(text string) {
		t.Helper()
		if _, all := get(t, "/metrics"); !strings.Contains(all, "\n"+text+"\n") {
			t.Errorf("no %q in the metrics", text)
		}
	}

	write("{level: info}", "{level: debug}")
	eventually(t, 5*time.Second, "the new level", func() bool { return strings.Contains(p.text(), "starting over") })
	p.is("Holding")
	for _, bad := range []struct{ old, to, says string }{
		{"level: info", "level: loud", "log.level"},
		{"node: n1", "node: n2", "node take effect"},
		{"interface: node0", "interface: gone0", "gone0"},
		{"10.9.0.10", "10.77.0.1", "10.77.0.1"},
	} {
		write(bad.old, bad.to)
		eventually(t, 5*time.Second, fmt.Sprintf("a complaint about %q", bad.says), says(bad.says))
		metric("mooring_config_good 0")
		p.is("Holding")
	}
	write("", "")
	eventually(t, 5*time.Second, "no complaint but for the API server that is not there", func() bool {
		r := p.report()
		all := slices.DeleteFunc(r.Complaints, func(c string) bool {
			return strings.HasPrefix(c, "this node's API server") || strings.Contains(c, "a higher priority was refused")
		})
		return r.State == "Holding" && len(all) == 0
	})
	metric("mooring_config_good 1")
	if n := m.lost.Load(); n != 0 || !m.has() {
		t.Errorf("the VIP left its link %d times, is there: %t", n, m.has())
	}
}

// TestLongOutage: clients of the API server back off the longer the outage
// lasts; nobody waits for one of them when the agent starts over or ends, or the
// VIP would be gone meanwhile.
func TestLongOutage(t *testing.T) {
	m := newMachine(t, "log: {level: info}\n")
	m.held("n1", 4*time.Second)
	p := m.start()
	p.is("Holding")
	time.Sleep(5 * time.Second)
	path := filepath.Join(m.dir, "agent.yaml")
	text, err := os.ReadFile(path)
	must(t, err, os.WriteFile(path, bytes.Replace(text, []byte("info"), []byte("warn"), 1), 0o600))
	p.signal(syscall.SIGHUP)
	begun := time.Now()
	eventually(t, 20*time.Second, "the end of the old configuration", func() bool { return p.report().HeldFor < 4 })
	p.is("Holding")
	if took := time.Since(begun); took > 4*time.Second || m.lost.Load() != 0 {
		t.Errorf("starting over took %v, the VIP left its link %d times", took, m.lost.Load())
	}
	time.Sleep(5 * time.Second)
	p.signal(syscall.SIGTERM)
	begun = time.Now()
	if err := p.end(30 * time.Second); err != nil || time.Since(begun) > 2*time.Second {
		t.Errorf("SIGTERM: %v after %v", err, time.Since(begun))
	}
}

// TestSecondSignal: the first asks to hand over, which takes the time that API
// servers may need to answer; the second ends at once.
func TestSecondSignal(t *testing.T) {
	m := newMachine(t, other)
	p := m.start()
	p.is("Standby")
	p.signal(syscall.SIGTERM)
	time.Sleep(100 * time.Millisecond)
	p.signal(syscall.SIGINT)
	begun := time.Now()
	_ = p.end(3 * time.Second)
	st, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !st.Signaled() || st.Signal() != syscall.SIGINT || time.Since(begun) > 500*time.Millisecond {
		t.Errorf("ended after %v with %v", time.Since(begun), p.cmd.ProcessState)
	}
}
