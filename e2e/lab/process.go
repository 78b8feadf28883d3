package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is one program in one host. It can be ended and started again any
// number of times; all runs write to the same log.
type Process struct {
	host   *Host
	name   string
	argv   []string
	group  *cgroup      // nil: not limited
	before func() error // run before each start

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the current run has ended
	err  error         // of the last run
}

// Command describes a process of the host without starting it. Its output goes
// to Dir()/log/NAME.log.
func (h *Host) Command(name string, argv ...string) *Process {
	p := &Process{host: h, name: name, argv: argv}
	h.mu.Lock()
	h.procs = append(h.procs, p)
	h.mu.Unlock()
	return p
}

// Spawn describes and starts a process of the host.
func (h *Host) Spawn(name string, argv ...string) *Process {
	p := h.Command(name, argv...)
	p.Start()
	return p
}

// running are the host's processes that are alive, in the order of their creation.
func (h *Host) running() []*Process {
	h.mu.Lock()
	procs := append([]*Process(nil), h.procs...)
	h.mu.Unlock()
	var out []*Process
	for _, p := range procs {
		if p.Alive() {
			out = append(out, p)
		}
	}
	return out
}

// Start runs the program; if it runs already, nothing happens.
func (p *Process) Start() {
	if err := p.start(); err != nil {
		p.host.lab.fatalf("starting %s on %s: %v", p.name, p.host.name, err)
	}
	p.host.lab.balance()
}

// start is Start with an error; it never waits for the program to be of use.
func (p *Process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() {
		return nil
	}
	if p.host.space() == nil {
		return errGone
	}
	if p.before != nil {
		if err := p.before(); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(p.LogPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	// ip replaces itself by the program: the pid is the program's.
	cmd := exec.Command("ip", append([]string{"netns", "exec", p.host.Namespace()}, p.argv...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.Dir = log, log, p.host.env(), p.host.Dir()
	// A Ctrl-C at the terminal is for the test; the watchdog sees to the children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.err = cmd, nil
	done := make(chan struct{})
	p.done = done
	p.group.admit(cmd.Process.Pid)
	go p.reap(cmd, done)
	return nil
}

// reap notices an end nobody asked for as well: a crashed etcd costs quorum too.
func (p *Process) reap(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	p.err = err
	close(done)
	p.mu.Unlock()
	p.host.lab.balance()
}

// alive wants mu held.
func (p *Process) alive() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Alive says whether the process runs or is frozen.
func (p *Process) Alive() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alive()
}

// Frozen says whether the process is stopped by Freeze.
func (p *Process) Frozen() bool {
	st, err := readStat(p.PID())
	return err == nil && st.state == 'T'
}

// Kill ends the process with SIGKILL and returns when it is gone. What it
// started itself lives on.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	p.awaitReaped()
}

// awaitReaped waits for a process that has been killed.
func (p *Process) awaitReaped() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		p.host.lab.fatalf("%s on %s (pid %d) does not die", p.name, p.host.name, p.PID())
	}
}

// Term asks the process to end (SIGTERM) and returns at once; Wait for it.
func (p *Process) Term() { p.signal(syscall.SIGTERM) }

// Freeze stops the process where it stands (SIGSTOP); its sockets stay open.
func (p *Process) Freeze() {
	p.signal(syscall.SIGSTOP)
	p.host.lab.balance()
}

// Thaw lets a frozen process run on.
func (p *Process) Thaw() {
	p.signal(syscall.SIGCONT)
	p.host.lab.balance()
}

// Restart is Term, Wait and Start: what a supervisor does at an upgrade. A process
// that does not end within 30 s is killed and the test is over.
func (p *Process) Restart() {
	p.Term()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
		p.Kill()
		p.host.lab.fatalf("%s on %s did not end within 30 s of SIGTERM; see %s", p.name, p.host.name, p.LogPath())
	}
	p.Start()
}

// signal does nothing to a process that has ended.
func (p *Process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() {
		// os.Process knows whether the pid was already reaped and may be another's.
		_ = p.cmd.Process.Signal(sig)
	}
}

// Wait returns when the process has ended: nil after exit code 0, else an
// *exec.ExitError; ctx's error if that comes first.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return fmt.Errorf("%s on %s was never started", p.name, p.host.name)
	}
	select {
	case <-done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PID of the current or last run, 0 before the first.
func (p *Process) PID() int {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// RSS is the resident memory in bytes, 0 if the process does not run.
func (p *Process) RSS() int64 {
	st, err := readStat(p.PID())
	if err != nil || !p.Alive() {
		return 0
	}
	return st.rss()
}

// Child is what RSS and CPU say of the child that was started with arg, 0 if there
// is none.
func (p *Process) Child(arg string) (rss int64, cpu time.Duration) {
	st, found := child(p.PID(), arg)
	if !found {
		return 0, 0
	}
	return st.rss(), st.cpu()
}

// CPU is the processor time the current run has used so far, in steps of 10 ms;
// 0 if the process does not run.
func (p *Process) CPU() time.Duration {
	st, err := readStat(p.PID())
	if err != nil || !p.Alive() {
		return 0
	}
	return st.cpu()
}

// Name is the name given to Command or Spawn.
func (p *Process) Name() string { return p.name }

// LogPath is the file with the output of all runs.
func (p *Process) LogPath() string { return filepath.Join(p.host.Dir(), "log", p.name+".log") }

// Log is what the process has printed so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.LogPath())
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(b)
}

// logTail is the end of the log, for failure messages.
func (p *Process) logTail() string {
	const most = 2000
	s := p.Log()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
