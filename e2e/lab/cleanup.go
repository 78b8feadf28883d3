package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// namePrefix begins the name of every namespace and cgroup of every lab; the
// owner's pid and the lab's number follow, then the host: moor-4711-0-n1.
const namePrefix = "moor-"

// keepLogs is how long logs of failed labs stay.
const keepLogs = 24 * time.Hour

// claimPrefix takes the first free number by making the switch's namespace under
// it: the kernel decides between two labs that start at once.
func (l *Lab) claimPrefix() error {
	for k := range 1000 {
		prefix := fmt.Sprintf("%s%d-%d-", namePrefix, os.Getpid(), k)
		if _, err := os.Stat(netnsDir + prefix + "sw"); err == nil {
			continue
		}
		sw, err := newSpace(prefix + "sw")
		if err == nil {
			l.prefix, l.sw = prefix, sw
			return nil
		}
		if !strings.Contains(err.Error(), "File exists") {
			return err
		}
	}
	return errors.New("this process has 1000 labs: end some")
}

// close is the regular end of a lab.
func (l *Lab) close() {
	l.mu.Lock()
	stops := l.stops
	l.stops, l.booted = nil, false
	l.mu.Unlock()
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	var errs []error
	l.mu.Lock()
	hosts := append([]*Host(nil), l.hosts...)
	l.mu.Unlock()
	for _, h := range hosts {
		if ns := h.space(); ns != nil {
			_ = killAll(ns.name) // reported by the check below
		}
	}
	for _, h := range hosts {
		if ns := h.space(); ns != nil {
			errs = append(errs, ns.remove())
		}
	}
	errs = append(errs, l.sw.remove())
	if l.groups != nil {
		errs = append(errs, retry(func() error { return l.groups.remove() }))
	}
	l.keepOrRemoveDir()
	if l.guard != nil {
		errs = append(errs, l.guard.dismiss())
	}
	if err := errors.Join(errs...); err != nil {
		l.t.Logf("lab: cleaning up: %v", err)
	}
}

// retry is for cgroups, which are busy until the kernel has buried their processes.
func retry(f func() error) error {
	err := f()
	for i := 0; err != nil && i < 50; i++ {
		time.Sleep(20 * time.Millisecond)
		err = f()
	}
	return err
}

// keepOrRemoveDir removes the lab's files after a good run; after a failed one,
// or with MOORING_LAB_KEEP set, the logs stay and the test says where.
func (l *Lab) keepOrRemoveDir() {
	if l.dir == "" {
		return
	}
	if !l.hasFailed() && os.Getenv("MOORING_LAB_KEEP") == "" {
		_ = os.RemoveAll(l.dir)
		_ = os.Remove(filepath.Dir(l.dir)) // empty unless other labs of this process are at work
		return
	}
	dbs, _ := filepath.Glob(filepath.Join(l.dir, "*", "etcd"))
	for _, db := range dbs {
		_ = os.RemoveAll(db)
	}
	l.t.Logf("lab: logs are kept for a day in %s (one directory per host, log/*.log)", l.dir)
}

// hasFailed believes the test, if it can tell, and the lab's own Fatalf.
func (l *Lab) hasFailed() bool {
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	t, ok := l.t.(interface{ Failed() bool })
	return failed || ok && t.Failed() || panicking()
}

// panicking says whether clean-up runs because of a panic: testing marks the test
// as failed only afterwards.
func panicking() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		f, more := frames.Next()
		if f.Function == "runtime.gopanic" {
			return true
		}
		if !more {
			return false
		}
	}
}

// ownerDir holds the directories of all labs of one process.
func ownerDir(pid int) string {
	return filepath.Join(os.TempDir(), "mooring-lab", strconv.Itoa(pid))
}

// sweep removes what labs of dead owners left: namespaces with everything that
// still runs in them, cgroups, binaries, and logs older than a day.
func sweep() {
	for _, name := range dirNames(netnsDir) {
		if ownerDead(name) {
			_ = killAll(name)
			_ = run("ip", "netns", "del", name) // another lab may be sweeping too
		}
	}
	if root, _ := cgroupRoot(); root != "" {
		for _, name := range dirNames(root) {
			if ownerDead(name) {
				_ = os.Remove(filepath.Join(root, name))
			}
		}
	}
	top := filepath.Dir(ownerDir(0))
	for _, name := range dirNames(top) {
		dir := filepath.Join(top, name)
		if !ownerDead(namePrefix + name + "-") {
			continue
		}
		_ = os.RemoveAll(filepath.Join(dir, "bin"))
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > keepLogs {
			_ = os.RemoveAll(dir)
		}
		_ = os.Remove(dir) // succeeds if no logs are in it
	}
}

// dirNames is empty for a directory that is not there: nothing to sweep.
func dirNames(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// ownerDead says that the name is a lab's and that the lab's process is no more.
func ownerDead(name string) bool {
	pid := ownerOf(name)
	return pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// ownerOf is the pid in the name of a lab's namespace or cgroup, 0 if it is not one.
func ownerOf(name string) int {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return 0
	}
	digits, _, ok := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(digits)
	if !ok || err != nil || pid < 0 {
		return 0
	}
	return pid
}

// watchdog is a process of its own that outlives this one for as long as it takes
// to clean up after it. It holds the reading end of a pipe: a regular end writes
// a word into it, any other death just closes it. (A parent-death signal would not
// do: what has made itself a daemon in the lab has another parent.)
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// watchdogScript gets the prefix and the cgroup directory as arguments.
const watchdogScript = `
read -r word && [ "$word" = done ] && exit 0
for try in 1 2 3; do
	for ns in $(ip netns list | cut -d' ' -f1); do
		case $ns in "$1"*) ;; *) continue;; esac
		for again in 1 2 3 4 5 6 7 8 9 10; do
			pids=$(ip netns pids "$ns")
			[ -z "$pids" ] && break
			kill -9 $pids
			sleep 0.05
		done
		ip netns del "$ns"
	done
done
[ -n "$2" ] && for g in "$2/$1"*; do [ -d "$g" ] && rmdir "$g"; done
exit 0
`

// startWatchdog is called before anything that it would have to clean up, the
// switch's namespace excepted.
func startWatchdog(prefix, cgroupRoot string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "lab-watchdog", prefix, cgroupRoot)
	cmd.Dir = "/"
	// A session of its own: a signal to the test's process group is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the lab's watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: pipe}, nil
}

// dismiss tells the watchdog that everything is cleaned up.
func (w *watchdog) dismiss() error {
	_, err := io.WriteString(w.pipe, "done\n")
	return errors.Join(err, w.pipe.Close(), w.cmd.Wait())
}
