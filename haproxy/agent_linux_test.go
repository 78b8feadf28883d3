package haproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envAgent holds the configuration for a copy of this program that plays the
// agent.
const envAgent = "MOORING_TEST_AGENT"

// TestAgentProcess is the agent of TestAgentIsKilled, not a test by itself.
func TestAgentProcess(t *testing.T) {
	text := os.Getenv(envAgent)
	if text == "" {
		return
	}
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Dir: c.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	p.Run(context.Background())
}

// The agent's whole process group is killed, as a supervisor or a terminal
// does it. HAProxy and its connections must not notice.
func TestAgentIsKilled(t *testing.T) {
	b, _ := newBench(t, 2)
	text, err := json.Marshal(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(os.Args[0], "-test.run=^TestAgentProcess$")
	agent.Env = append(os.Environ(), envAgent+"="+string(text))
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	group := -agent.Process.Pid
	defer unix.Kill(group, unix.SIGKILL)
	p := b.proxy()
	eventually(t, 10*time.Second, "the agent started HAProxy", func() bool {
		m, err := showProc(context.Background(), b.cfg)
		return err == nil && m.worker != 0
	})
	master, worker := b.pids()
	if parent := parentOf(t, master); parent != agent.Process.Pid {
		t.Fatalf("HAProxy's parent is %d, the agent %d", parent, agent.Process.Pid)
	}
	conn := b.pki.dial(t, vip)
	if err := unix.Kill(group, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agent.Wait()
	if _, err := askOver(conn); err != nil {
		t.Error("the connection broke:", err)
	}
	b.set(p, b.cfg)
	if m, w := b.pids(); m != master || w != worker {
		t.Errorf("master %d→%d, worker %d→%d", master, m, worker, w)
	}
	if _, err := askOver(conn); err != nil {
		t.Error("the connection broke at the adoption:", err)
	}
}

func parentOf(t *testing.T, pid int) (parent int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var name, state string
	if _, err := fmt.Sscanf(string(stat), "%d %s %s %d", &pid, &name, &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}
