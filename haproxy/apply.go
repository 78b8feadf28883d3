package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startTime is how long a start may take until the sockets answer, and how
	// long another agent's start is waited for.
	startTime = 10 * time.Second
	// reloadTime bounds a reload; a refused bind alone is retried for 2 s.
	reloadTime = 10 * time.Second
	// execTime bounds every command that is run to its end.
	execTime = 5 * time.Second
	// stopTime is how long HAProxy may take to end before it is killed.
	stopTime = 3 * time.Second
	// lookAgain is the pace of waiting for another process.
	lookAgain = 10 * time.Millisecond
)

// apply brings HAProxy to c, a valid and normal configuration, from wherever
// it is. The caller has the turn.
func (p *Proxy) apply(ctx context.Context, c Config) error {
	want, err := p.reach(ctx, c)
	var unusable *configError
	_, former, _ := p.current()
	if former != nil && (want == nil || errors.As(err, &unusable) && !want.cfg.service) {
		// Nothing was begun: the former wish is still what runs. Of Services some of
		// it may have been.
		return err
	}
	if want == nil {
		want = &wish{cfg: c}
	}
	p.settle(want, err)
	return err
}

// reach is apply without the bookkeeping. The wish is nil if it could not even
// be begun with.
func (p *Proxy) reach(ctx context.Context, c Config) (*wish, error) {
	if err := makeDir(c.Dir); err != nil {
		return nil, err
	}
	lock, err := p.attach(ctx, c)
	if err != nil {
		return nil, err
	}
	if lock != nil {
		defer lock.Close()
	}
	want, err := p.prepare(c)
	if err != nil {
		return nil, err
	}
	switch {
	case want.cfg.service && lock != nil:
		return p.startServices(ctx, want, lock)
	case want.cfg.service:
		return p.changeServices(ctx, want)
	case lock != nil:
		return want, p.start(ctx, want, lock)
	}
	return want, p.change(ctx, want)
}

// attach finds out whether a HAProxy runs in the directory. If so it becomes
// ours and the returned lock is nil. If not, the lock is held by the caller,
// who may start one.
func (p *Proxy) attach(ctx context.Context, c Config) (*os.File, error) {
	if proc, _, _ := p.current(); proc != nil {
		if proc.alive() {
			return nil, nil
		}
		p.become(nil)
		p.forget()
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		lock, err := tryLock(c.file(fileLock))
		if lock != nil || err != nil {
			return lock, err
		}
		proc, err := find(ctx, c)
		if err == nil {
			p.log.Info("adopted a running HAProxy", "pid", proc.pid)
			p.become(proc)
			p.forget()
			p.began = time.Now()
			return nil, nil
		}
		if err := pause(ctx); err != nil {
			return nil, p.stuck(c)
		}
	}
}

// stuck says who holds the lock although no master answers. Leftovers of a
// HAProxy without a master serve no one and are ended, so that the next try
// succeeds.
func (p *Proxy) stuck(c Config) error {
	left := running(c)
	if len(left) == 0 {
		return fmt.Errorf("haproxy: %s is locked by a process that is no HAProxy; "+
			"is a second agent running on this node?", c.file(fileLock))
	}
	p.log.Warn("ending processes without a master that answers", "pids", left)
	killAll(c)
	return fmt.Errorf("haproxy: processes %v of a former HAProxy had no master and were ended, trying again", left)
}

// prepare renders c with what this machine allows.
func (p *Proxy) prepare(c Config) (*wish, error) {
	// A running HAProxy keeps the limit it was started with.
	pid := 0
	if proc, _, _ := p.current(); proc != nil {
		pid = proc.pid
	}
	limit, err := fileLimit(pid)
	if err != nil {
		return nil, err
	}
	if c.forServices() {
		return p.prepareServices(c, limit)
	}
	if c.MaxConn, err = FitMaxConn(c, limit); err != nil {
		return nil, err
	}
	if c.files, err = filesDigest(c); err != nil {
		return nil, err
	}
	return &wish{cfg: c, text: render(c), id: structureID(c)}, nil
}

// start runs a new HAProxy. The caller has the lock.
func (p *Proxy) start(ctx context.Context, want *wish, lock *os.File) error {
	p.forget()
	if err := checkPorts(append(want.cfg.binds(), want.cfg.extraBinds()...), nil); err != nil {
		return err
	}
	// A view of the servers from a former life is old: start with an empty one
	// (version 1, no servers).
	if err := writeAtomic(want.cfg.file(fileStates), "1\n"); err != nil {
		return err
	}
	// A file that is there already was checked when it was written; after a
	// crash that check would only cost time.
	if err := p.keepFile(ctx, want); err != nil {
		return err
	}
	return p.run(ctx, want, lock)
}

// run starts HAProxy with the file that is there.
func (p *Proxy) run(ctx context.Context, want *wish, lock *os.File) error {
	binary, err := p.program()
	if err != nil {
		return err
	}
	logged := fileSize(want.cfg.file(fileLog))
	proc, err := launch(binary, want.cfg, lock)
	if err != nil {
		return err
	}
	if err := p.awaitStart(ctx, proc, want); err != nil {
		_ = proc.signal(unix.SIGKILL)
		why := proc.reap()
		proc.close()
		return fmt.Errorf("haproxy: it did not start (%w%s): %s", err, prefixed(", ", why),
			alerts(want.cfg.file(fileLog), logged))
	}
	p.log.Info("started HAProxy", "pid", proc.pid, "configuration", want.id)
	p.become(proc)
	p.began = time.Now()
	return nil
}

// awaitStart waits until the new process answers with our configuration.
func (p *Proxy) awaitStart(ctx context.Context, proc *process, want *wish) error {
	ctx, cancel := context.WithTimeout(ctx, patience(want.cfg, startTime))
	defer cancel()
	for {
		if !proc.alive() {
			return errors.New("it ended")
		}
		if w, err := status(ctx, want.cfg); err == nil && w.id == want.id {
			// The worker serves before its master listens: that one executes itself
			// anew first.
			if _, err := showProc(ctx, want.cfg); err == nil {
				return nil
			}
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// end stops the process that is ours, by force if it must be, and sweeps.
func (p *Proxy) end(ctx context.Context, c Config) error {
	proc, _, _ := p.current()
	if !proc.alive() {
		// What a predecessor left; if there is no master, killAll does the rest.
		proc, _ = find(ctx, c)
	}
	p.become(proc)
	if proc != nil {
		// Not SIGUSR1: that waits for every connection.
		_ = proc.signal(unix.SIGTERM)
		awaitEnd(ctx, proc, stopTime)
	}
	killAll(c)
	if proc != nil {
		awaitEnd(ctx, proc, time.Second)
		p.become(nil)
	}
	for _, name := range []string{fileMaster, fileStats, fileHealth, fileStates, fileConfig} {
		if err := os.Remove(c.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("haproxy: the run directory cannot be cleaned: %w", err)
		}
	}
	sweepLists(c, nil)
	return nil
}

// awaitEnd waits for the end of a process, but not for ever.
func awaitEnd(ctx context.Context, proc *process, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for proc.alive() && pause(ctx) == nil {
	}
}

// pause waits until it is worth looking again, or for the end of ctx, whose
// error it returns.
func pause(ctx context.Context) error {
	t := time.NewTimer(lookAgain)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
