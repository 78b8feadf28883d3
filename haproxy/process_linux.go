package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a HAProxy master, our child or not, held by a pidfd
// (pidfd_open(2)): neither a signal nor the notice of its end can reach a
// later process with the same number.
type process struct {
	pid int
	fd  *os.File
}

// openProcess takes hold of a running process.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("haproxy: process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// alive is false once the process has ended, also while it is a zombie: a
// container whose first process does not reap leaves our orphans as such.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	ended := false
	err := p.control(func(fd uintptr) { ended = readable(fd) })
	return err == nil && !ended
}

// wait returns nil when the process ends, or an error after release.
func (p *process) wait() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	// The runtime's poller waits: no thread is spent, and the end is noticed
	// in well under a millisecond.
	return conn.Read(readable)
}

// release makes wait return and keeps the process running.
func (p *process) release() {
	// A pidfd always takes deadlines; should it not, wait ends with the process.
	_ = p.fd.SetReadDeadline(time.Unix(1, 0))
}

// rearm lets wait wait again after release.
func (p *process) rearm() { _ = p.fd.SetReadDeadline(time.Time{}) }

// readable says whether the process behind a pidfd has ended.
func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

func (p *process) control(f func(fd uintptr)) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(f)
}

// signal sends a signal; a process that has ended is no error.
func (p *process) signal(sig unix.Signal) error {
	var sent error
	err := p.control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return errors.Join(err, sent)
}

// reap collects the process if it has ended and was our child, and says how it
// ended, or "" for a process that was adopted. The pidfd stays open.
func (p *process) reap() string {
	var info unix.Siginfo
	var failed error
	// P_PIDFD never collects another child that got the same number.
	err := p.control(func(fd uintptr) {
		failed = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil)
	})
	if err != nil || failed != nil {
		return ""
	}
	// waitid(2), si_code.
	const exited, killed, dumped = 1, 2, 3
	switch info.Code {
	case exited:
		return "it exited"
	case killed:
		return "it was killed"
	case dumped:
		return "it crashed"
	}
	return ""
}

// close gives up the hold on the process.
func (p *process) close() { p.fd.Close() }

// launch starts HAProxy as a master with workers (-W), in a session of its
// own, so that neither the agent's end nor a signal to its group reaches it.
// The lock file's descriptor is inherited and kept by master and workers, also
// over reloads: the lock is free exactly when none of them lives any more.
func launch(binary string, c Config, lock *os.File) (*process, error) {
	log, err := os.OpenFile(c.file(fileLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("haproxy: its log cannot be written: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "-W", "-S", c.file(fileMaster)+",mode,600", "-f", c.file(fileConfig))
	cmd.Dir = c.Dir
	// Nothing of our environment: HAProxy expands variables in its file, and
	// NOTIFY_SOCKET would make it speak to our service manager.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("haproxy: %s cannot be started: %w", binary, err)
	}
	// Not reaped yet, so the number is still its own.
	p, err := openProcess(cmd.Process.Pid)
	return p, errors.Join(err, cmd.Process.Release())
}

// errNoProcess says that no HAProxy of this run directory was found.
var errNoProcess = errors.New("haproxy: no process of this run directory is running")

// find takes hold of the master that runs in a directory. Its number comes
// from the kernel, which remembers who listens on the master socket
// (SO_PEERCRED, unix(7)), not from a file that may be old.
func find(ctx context.Context, c Config) (*process, error) {
	pid, err := listenerPID(ctx, c.file(fileMaster))
	if err != nil {
		return nil, errNoProcess
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil, errNoProcess
	}
	// Checked after the pidfd was opened, so it is the process we hold.
	if !runsConfig(pid, c.file(fileConfig)) {
		p.close()
		return nil, errNoProcess
	}
	return p, nil
}

// runsConfig says whether a process was started with our configuration file.
func runsConfig(pid int, file string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	words := strings.Split(string(line), "\x00")
	for i, w := range words {
		if w == "-f" && i+1 < len(words) && words[i+1] == file {
			return true
		}
	}
	return false
}

// running lists the processes, masters and workers, that were started with
// our configuration file and have not ended.
func running(c Config) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		// A zombie's command line is empty.
		if err == nil && runsConfig(pid, c.file(fileConfig)) {
			out = append(out, pid)
		}
	}
	return out
}

// killAll ends every process of a run directory, for good and at once.
func killAll(c Config) {
	for _, pid := range running(c) {
		p, err := openProcess(pid)
		if err != nil {
			continue
		}
		if runsConfig(pid, c.file(fileConfig)) {
			_ = p.signal(unix.SIGKILL)
		}
		p.close()
	}
}

// fileLimit is the hard limit of open files of a process, 0 for our own.
func fileLimit(pid int) (uint64, error) {
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &lim); err != nil {
		return 0, fmt.Errorf("haproxy: the limit of open files cannot be read: %w", err)
	}
	return lim.Max, nil
}

// tryLock opens the lock file and locks it, without waiting. A nil file says
// that another process has the lock.
func tryLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("haproxy: the lock file cannot be opened: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("haproxy: the lock file cannot be locked: %w", err)
}
