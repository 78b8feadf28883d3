package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// childLab is the test that dies. It prints what it has made, then ends as told.
func childLab(t *testing.T, how string) {
	l := lab.New(t)
	n := l.Nodes(2)[0]
	n.Spawn("child", "sleep", "600")
	// A daemon: neither our child nor in our session.
	n.Exec("setsid", "-f", "sh", "-c", "exec sleep 600 >/dev/null 2>&1 </dev/null")
	l.Eventually(5*time.Second, "both sleep", func() bool { return len(n.Processes()) == 2 })
	fmt.Printf("prefix %s\n", strings.TrimSuffix(n.Namespace(), "n1"))
	fmt.Printf("dir %s\n", l.Dir())
	for _, pid := range n.Processes() {
		fmt.Printf("pid %d\n", pid)
	}
	fmt.Println("ready")
	switch how {
	case "return":
	case "fatal":
		t.Fatal("the test fails")
	case "lab fatal":
		l.Node(9)
	case "panic":
		panic("the test panics")
	default:
		time.Sleep(time.Minute) // until somebody kills us
	}
}

type child struct {
	cmd    *exec.Cmd
	prefix string
	dir    string
	pids   []string
	output string
}

// startChild runs this binary as a test of its own and reads what it has made.
func startChild(t *testing.T, how string) (*child, *bufio.Scanner) {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v", "--", "lab", how)}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.cmd.Stdout
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		c.output += sc.Text() + "\n"
		kind, value, _ := strings.Cut(sc.Text(), " ")
		switch kind {
		case "prefix":
			c.prefix = value
		case "dir":
			c.dir = value
		case "pid":
			c.pids = append(c.pids, value)
		case "ready":
			if c.prefix == "" || len(c.pids) != 2 {
				t.Fatalf("the child made less than expected:\n%s", c.output)
			}
			return c, sc
		}
	}
	t.Fatalf("the child ended early:\n%s", c.output)
	return nil, nil
}

// leftovers lists what is still there of the child's lab.
func (c *child) leftovers() []string {
	var left []string
	for _, pattern := range []string{"/run/netns/", "/sys/fs/cgroup/cpu/", "/sys/fs/cgroup/"} {
		found, _ := filepath.Glob(pattern + c.prefix + "*")
		left = append(left, found...)
	}
	for _, pid := range c.pids {
		if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
			left = append(left, "process "+pid)
		}
	}
	return left
}

func TestNothingIsLeft(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		how      string
		signal   syscall.Signal // to its whole process group, as a terminal does
		keepsLog bool
	}{
		{how: "return"},
		{how: "fatal", keepsLog: true},
		{how: "lab fatal", keepsLog: true},
		{how: "panic", keepsLog: true},
		{how: "interrupt", signal: syscall.SIGINT, keepsLog: true},
		{how: "terminate", signal: syscall.SIGTERM, keepsLog: true},
		{how: "kill", signal: syscall.SIGKILL, keepsLog: true},
	} {
		t.Run(tc.how, func(t *testing.T) {
			c, rest := startChild(t, tc.how)
			if tc.signal != 0 {
				if len(c.leftovers()) < 6 { // a switch, two nodes, a client, two processes
					t.Fatalf("while it lives there is only %v", c.leftovers())
				}
				if err := syscall.Kill(-c.cmd.Process.Pid, tc.signal); err != nil {
					t.Fatal(err)
				}
			}
			for rest.Scan() {
				c.output += rest.Text() + "\n"
			}
			err := c.cmd.Wait()
			if (err == nil) != (tc.how == "return") {
				t.Errorf("the child ended with %v:\n%s", err, c.output)
			}
			begun := time.Now()
			for len(c.leftovers()) > 0 {
				if time.Since(begun) > 10*time.Second {
					t.Fatalf("still there: %v\n%s", c.leftovers(), c.output)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("all gone %s after the end", time.Since(begun).Round(time.Millisecond))
			if _, err := os.Stat(c.dir); (err == nil) != tc.keepsLog {
				t.Errorf("logs kept: %t, want %t", err == nil, tc.keepsLog)
			}
			checkOutput(t, tc.how, c)
			_ = os.RemoveAll(filepath.Dir(c.dir))
		})
	}
}

func checkOutput(t *testing.T, how string, c *child) {
	t.Helper()
	if (how == "fatal" || how == "lab fatal") && !strings.Contains(c.output, c.dir) {
		t.Errorf("the failure does not name the logs in %s:\n%s", c.dir, c.output)
	}
	if how == "lab fatal" && !strings.Contains(c.output, "cleanup_test.go:") {
		t.Errorf("the failure does not name the line that asked for it:\n%s", c.output)
	}
}

// The watchdog may be killed with its owner: then the next lab sweeps.
func TestNextLabSweeps(t *testing.T) {
	needRoot(t)
	c, _ := startChild(t, "kill")
	watchdog := ""
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "lab-watchdog\x00"+c.prefix) {
			watchdog = strings.Split(p, "/")[2]
		}
	}
	if watchdog == "" {
		t.Fatal("no watchdog runs for the child's lab")
	}
	var pid int
	if _, err := fmt.Sscan(watchdog, &pid); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{pid, c.cmd.Process.Pid} {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.cmd.Wait()
	time.Sleep(300 * time.Millisecond)
	if len(c.leftovers()) < 6 {
		t.Fatalf("somebody cleaned up although the watchdog is dead: left %v", c.leftovers())
	}
	lab.New(t)
	if left := c.leftovers(); len(left) > 0 {
		t.Errorf("after the next lab began there is still %v", left)
	}
	_ = os.RemoveAll(filepath.Dir(c.dir))
}
