package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTicks is USER_HZ, the unit of processor times in /proc, 100 on every
// architecture Go runs on.
const clockTicks = 100

// procStat is what the lab reads of /proc/PID/stat, proc(5).
type procStat struct {
	state    byte // R, S, D, T, Z, …
	parent   int
	ticks    int64 // user + system time
	rssPages int64
}

// rss is the resident memory in bytes.
func (s procStat) rss() int64 { return s.rssPages * int64(os.Getpagesize()) }

// cpu is the processor time used.
func (s procStat) cpu() time.Duration { return time.Duration(s.ticks) * (time.Second / clockTicks) }

// readStat reads the state from the kernel: who froze a process does not matter.
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(string(b))
}

// parseStat reads one line. The second field is the program's name in brackets
// and may itself contain brackets and spaces: the last bracket ends it.
func parseStat(line string) (procStat, error) {
	_, rest, ok := cutLast(line, ")")
	f := strings.Fields(rest)
	const parent, utime, stime, rss = 4 - 3, 14 - 3, 15 - 3, 24 - 3 // proc(5) counts from 1, f starts at field 3
	if !ok || len(f) <= rss {
		return procStat{}, fmt.Errorf("not a line of /proc/PID/stat: %q", line)
	}
	var n [4]int64
	for i, at := range []int{utime, stime, rss, parent} {
		v, err := strconv.ParseInt(f[at], 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("/proc/PID/stat: %v", err)
		}
		n[i] = v
	}
	return procStat{state: f[0][0], parent: int(n[3]), ticks: n[0] + n[1], rssPages: n[2]}, nil
}

// child finds the child of a process that was started with arg.
func child(pid int, arg string) (procStat, bool) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(line), "\x00"), arg) {
			continue
		}
		found, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if st, err := readStat(found); err == nil && st.parent == pid {
			return st, true
		}
	}
	return procStat{}, false
}

// RSS is the resident memory in bytes of all processes of the node with that name.
func (n *Node) RSS(name string) (sum int64) {
	for _, pid := range n.Processes() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if st, err := readStat(pid); err == nil && strings.TrimSpace(string(comm)) == name {
			sum += st.rss()
		}
	}
	return sum
}

// cutLast is strings.Cut from the end.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// pidsIn are the processes whose main thread is in the named network namespace,
// this process excepted. An ended process that nobody waited for has no namespace
// and does not count.
func pidsIn(namespace string) []int {
	want, err := inode(netnsDir + namespace)
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if ino, err := inode(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && ino == want {
			pids = append(pids, pid)
		}
	}
	return pids
}

// inode identifies a namespace: bind mounts and /proc links of one share it.
func inode(path string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// killAll kills what is in the namespace until nothing is, and returns what
// survives for 10 s. Repeating is needed: a process may fork while the list is read.
func killAll(namespace string) []int {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := pidsIn(namespace)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return pids
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone in between is as good
		}
		time.Sleep(2 * time.Millisecond)
	}
}
