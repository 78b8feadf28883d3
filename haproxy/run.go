package haproxy

import (
	"context"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const (
	// pollTime is the pace at which servers' states are read.
	pollTime = 500 * time.Millisecond
	// renewTime is the pace at which the wish is applied again: it mends what
	// others changed, notices renewed certificates, and forgets removed servers
	// whose connections have ended.
	renewTime = time.Minute
	// retryLeast and retryMost bound the back-off of starts that fail.
	retryLeast = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	// provenTime is how long HAProxy must have lived to be started again
	// without delay.
	provenTime = 10 * time.Second
	// hungPolls is how many polls in a row may go unanswered, each for
	// answerTime, before a HAProxy that serves no one is killed.
	hungPolls = 10
)

// watch is what one Run remembers.
type watch struct {
	p *Proxy
	// ended receives each process that ends.
	ended chan *process
	// seen is the process being waited for, since when.
	seen  *process
	since time.Time
	wait  sync.WaitGroup

	failures   int
	retry      <-chan time.Time
	due        <-chan time.Time
	unanswered int
	silence    silence
}

// Run watches HAProxy until ctx ends and then returns nil, leaving HAProxy
// running. It starts it again when it dies (at once if it had lived for ten
// seconds, else with growing delay), retries what Set could not reach, polls
// the servers' states and calls Options.Changed. Set and Stop may be called
// before, during and after it. Only one Run at a time.
func (p *Proxy) Run(ctx context.Context) error {
	w := &watch{p: p, ended: make(chan *process, 1), silence: silence{}}
	defer w.unwatch()
	poll, renew := time.NewTicker(pollTime), time.NewTicker(renewTime)
	defer poll.Stop()
	defer renew.Stop()
	w.follow()
	w.arm()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.kick:
			w.follow()
			w.arm()
		case <-w.due:
			w.reload(ctx)
		case proc := <-w.ended:
			w.died(proc)
		case <-w.retry:
			w.again(ctx, false)
		case <-poll.C:
			w.poll(ctx)
		case <-renew.C:
			w.again(ctx, true)
		}
	}
}

// follow waits for the end of the process that is ours now.
func (w *watch) follow() {
	proc, _, _ := w.p.current()
	if proc == w.seen {
		return
	}
	w.unwatch()
	w.seen, w.since, w.unanswered = proc, time.Now(), 0
	if proc == nil {
		return
	}
	proc.rearm()
	w.wait.Go(func() {
		if proc.wait() != nil {
			return
		}
		// Published here and not by the loop, which may be waiting for an answer
		// that will never come.
		if now, want, _ := w.p.current(); now == proc && want != nil {
			w.p.publish(nil, lb.ProxyState{Why: "HAProxy ended and is started again"})
		}
		w.ended <- proc
	})
}

// unwatch stops waiting for the current process.
func (w *watch) unwatch() {
	if w.seen == nil {
		return
	}
	w.seen.release()
	w.seen = nil
	// A notice that was just being sent is taken, or its sender would block.
	done := make(chan struct{})
	go func() { w.wait.Wait(); close(done) }()
	for {
		select {
		case <-w.ended:
		case <-done:
			return
		}
	}
}

// died plans the next start.
func (w *watch) died(proc *process) {
	if now, _, _ := w.p.current(); now != proc {
		return
	}
	if time.Since(w.since) >= provenTime {
		w.failures = 0
	}
	w.p.log.Warn("HAProxy ended", "pid", proc.pid, "how", proc.reap())
	w.plan()
}

// plan sets the timer for the next try.
func (w *watch) plan() {
	w.retry = time.After(backOff(w.failures))
	w.failures++
}

// backOff is the delay before a try after so many failures in a row: none for
// the first, then doubling from retryLeast to retryMost.
func backOff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(retryMost, retryLeast<<min(failures-1, 10))
}

// arm sets the timer for the reload that waits, if one does.
func (w *watch) arm() {
	w.due = nil
	if at := w.p.dueAt(); !at.IsZero() {
		w.due = time.After(time.Until(at))
	}
}

// reload does the reload that waits, or goes on waiting.
func (w *watch) reload(ctx context.Context) {
	w.due = nil
	p := w.p
	if p.take(ctx) != nil {
		return
	}
	wait := time.Duration(0)
	if _, want, _ := p.current(); want != nil && !p.dueAt().IsZero() {
		// Asked here first: it is much less work than to apply.
		if wait = p.reloadWait(ctx, want.cfg); wait > 0 {
			p.reloadIn(wait)
		}
	}
	p.give()
	if wait == 0 {
		w.again(ctx, false)
	}
	w.arm()
}

// again applies what is wanted once more, after a look at everything if full says
// so.
func (w *watch) again(ctx context.Context, full bool) {
	w.retry = nil
	if err := w.p.take(ctx); err != nil {
		return
	}
	defer w.p.give()
	next := w.p.asked()
	if next == nil {
		return
	}
	// A worker that waits for a reload is looked at after it: what runs beside the
	// wish is only known until then.
	if full && w.p.dueAt().IsZero() {
		w.p.forget()
	}
	err := w.p.apply(ctx, *next)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.p.log.Error("HAProxy does not serve what is wanted", "err", err)
	}
	if proc, _, _ := w.p.current(); !proc.alive() {
		w.plan()
	}
	// Its error is in the published state.
	_, _ = w.p.observe(ctx)
	w.follow()
}

// poll reads the servers' states once, unless a change is going on.
func (w *watch) poll(ctx context.Context) {
	p := w.p
	select {
	case p.turn <- struct{}{}:
		defer p.give()
	default:
		return
	}
	proc, want, _ := p.current()
	if want == nil {
		return
	}
	if !proc.alive() {
		if w.retry == nil {
			w.plan()
		}
		return
	}
	if err := boundLog(want.cfg.file(fileLog)); err != nil {
		p.log.Warn("HAProxy's log cannot be kept short", "err", err)
	}
	status, err := p.observe(ctx)
	if err != nil {
		w.missed(ctx, want.cfg)
		return
	}
	w.unanswered = 0
	if !want.cfg.service {
		w.cut(ctx, status, want.cfg)
	}
}

// missed counts polls without an answer and ends a HAProxy that hangs. What
// notices its end starts it again.
func (w *watch) missed(ctx context.Context, c Config) {
	if ctx.Err() != nil {
		return
	}
	w.unanswered++
	if w.unanswered < hungPolls {
		return
	}
	w.unanswered = 0
	w.p.log.Error("HAProxy hangs and is killed", "polls", hungPolls)
	killAll(c)
}

// cut ends the sessions of servers that have been silent for long: their
// clients connect again, to another one.
func (w *watch) cut(ctx context.Context, status worker, c Config) {
	for _, s := range w.silence.cut(status, c) {
		if (change{backend: s[0], server: s[1]}).check() != nil {
			continue
		}
		w.p.log.Warn("ending the sessions of a server that does not answer", "backend", s[0], "server", s[1])
		if _, err := ask(ctx, c.file(fileStats), "shutdown sessions server "+s[0]+"/"+s[1]); err != nil {
			w.p.log.Warn("sessions were not ended", "err", err)
		}
	}
}
