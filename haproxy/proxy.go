package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// Options are what a Proxy needs besides the configuration.
type Options struct {
	// Binary is HAProxy's file or its name in PATH, by default "haproxy".
	Binary string
	// Dir is the absolute run directory, for example
	// /run/mooring/haproxy-apiserver. It is made if it does not exist. One
	// directory means one HAProxy, whoever started it.
	Dir string
	// Log takes what an operator wants to know; by default it is discarded.
	Log *slog.Logger
	// ReloadGap is the least time from the begin of one reload to the next for
	// Services; what is asked for in between comes in one, done by Run. 0 is none. A
	// Service that comes just after a reload began answers after the gap and the
	// time of a reload, 0.6 s at 1,000 Services: 1 s keeps it below 2 s.
	ReloadGap time.Duration
	// Changed is called after every change of the state, from any goroutine but
	// never twice at a time. It must neither block nor call the Proxy.
	Changed func(lb.ProxyState)
}

// Proxy is one HAProxy process and its configuration. The process outlives it:
// a new Proxy on the same directory adopts what it finds there.
type Proxy struct {
	binary  string
	dir     string
	log     *slog.Logger
	changed func(lb.ProxyState)

	// turn serialises everything that starts, changes or ends HAProxy. It is a
	// channel and not a mutex so that waiting ends with a context.
	turn chan struct{}
	// kick tells Run that the process is another one.
	kick chan struct{}

	// mu guards what follows.
	mu   sync.Mutex
	proc *process
	// next is what Set asked for last, want what was begun with: it lags behind
	// next as long as next cannot be used (a certificate file is missing).
	next *Config
	want *wish
	// problem is why want could not be reached, "" if it was.
	problem string
	// due is when a reload that waits may come, zero for none.
	due time.Time

	// gap is Options.ReloadGap.
	gap time.Duration
	services

	// publishing is held while Changed runs and guards last.
	publishing sync.Mutex
	last       lb.ProxyState
	published  bool
}

// New checks the options. It starts nothing.
func New(o Options) (*Proxy, error) {
	if o.Binary == "" {
		o.Binary = "haproxy"
	}
	if err := checkFile("Options.Dir", o.Dir); err != nil {
		return nil, err
	}
	if len(o.Dir) > maxDir {
		return nil, fieldErr("Options.Dir", o.Dir, fmt.Sprintf("use at most %d bytes", maxDir))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(lb.ProxyState) {}
	}
	return &Proxy{
		binary: o.Binary, dir: o.Dir, changed: o.Changed,
		log:  o.Log.With("room", "haproxy", "dir", o.Dir),
		turn: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		gap: o.ReloadGap, services: services{refused: map[*block]refusal{}},
	}, nil
}

// Set makes HAProxy serve c and returns what was reached. It is idempotent:
// when HAProxy, also one started by a predecessor, serves c already, nothing
// is written or reloaded. Another set of backends goes over the runtime
// socket, everything else is a reload without a lost connection. Calls queue
// up; a reload takes 0.1 to 0.7 s, a refused one up to 10 s.
//
// Of Services, a frontend that is not valid or cannot be served is left out and
// named in the state's Skipped; one that waits for a reload is in Pending.
//
// An invalid c (*FieldError) changes nothing. After any other error c stays
// wanted and Run tries again; what ran before goes on until it can be replaced.
func (p *Proxy) Set(ctx context.Context, c Config) (lb.ProxyState, error) {
	if c.Dir == "" {
		c.Dir = p.dir
	}
	if c.Dir != p.dir {
		return p.State(), fieldErr("Dir", c.Dir, "must be empty or the proxy's own "+p.dir)
	}
	c, err := c.wanted()
	if err != nil {
		return p.State(), err
	}
	if err := p.take(ctx); err != nil {
		return p.State(), err
	}
	defer p.give()
	if _, want, _ := p.current(); want != nil && len(c.Frontends) == 0 {
		// When the last Service goes it is still a proxy for Services.
		c.service = want.cfg.service
	}
	p.mu.Lock()
	p.next = &c
	p.mu.Unlock()
	err = p.apply(ctx, c)
	if _, unseen := p.observe(ctx); err == nil {
		err = unseen
	}
	st := p.State()
	if err == nil && !st.Serving {
		err = errors.New("haproxy: " + st.Why)
	}
	return st, err
}

// wanted is c, valid, as it is kept: API servers' is normal, of Services only what
// concerns all of them is judged yet.
func (c Config) wanted() (Config, error) {
	if c.forServices() {
		return c.copied(), c.validateGlobal()
	}
	return c.normal(), c.Validate()
}

// Stop ends HAProxy with all its connections, for when balancing is switched
// off, and removes what it left in the directory except its log. It also ends
// a HAProxy that a predecessor left. No HAProxy there is no error.
func (p *Proxy) Stop(ctx context.Context) error {
	if err := p.take(ctx); err != nil {
		return err
	}
	defer p.give()
	p.mu.Lock()
	p.next, p.want, p.problem, p.due = nil, nil, "", time.Time{}
	p.mu.Unlock()
	p.forget()
	err := p.end(ctx, Config{Dir: p.dir})
	p.publish(nil, lb.ProxyState{Why: "HAProxy is switched off"})
	return err
}

// State is the state last published, at first one that serves nothing.
func (p *Proxy) State() lb.ProxyState {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	st := cloneState(p.last)
	if !p.published {
		st.Why = "HAProxy was not started yet"
	}
	return st
}

// publish makes a state known if it is another than before. A state that
// serves is dropped when its process has ended meanwhile: the notice of the
// end may overtake an answer on its way.
func (p *Proxy) publish(proc *process, st lb.ProxyState) {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if st.Serving && !proc.alive() {
		return
	}
	same := st.Serving == p.last.Serving && st.Why == p.last.Why && slices.Equal(st.Up, p.last.Up) &&
		slices.Equal(st.Pending, p.last.Pending) && maps.Equal(st.Skipped, p.last.Skipped)
	if p.published && same {
		return
	}
	p.last, p.published = cloneState(st), true
	log := p.log
	if len(st.Pending)+len(st.Skipped) > 0 {
		log = log.With("pending", len(st.Pending), "skipped", len(st.Skipped))
	}
	log.Info("proxy state", "serving", st.Serving, "up", st.Up, "why", st.Why)
	p.changed(cloneState(st))
}

func cloneState(st lb.ProxyState) lb.ProxyState {
	st.Up, st.Pending, st.Skipped = slices.Clone(st.Up), slices.Clone(st.Pending), maps.Clone(st.Skipped)
	return st
}

// observe asks HAProxy how it is and publishes the answer. It returns the
// worker's status, or an error when HAProxy does not answer.
func (p *Proxy) observe(ctx context.Context) (worker, error) {
	proc, want, problem := p.current()
	if want == nil {
		return worker{}, errNoProcess
	}
	if !proc.alive() {
		p.publish(nil, lb.ProxyState{Why: cmp.Or(problem, "HAProxy does not run")})
		return worker{}, errNoProcess
	}
	w, err := status(ctx, want.cfg)
	if errors.Is(err, context.Canceled) || ctx.Err() != nil {
		// Our own end says nothing of HAProxy.
		return w, ctx.Err()
	}
	if err != nil {
		p.publish(proc, lb.ProxyState{Why: "HAProxy runs but does not answer: " + err.Error()})
		return w, err
	}
	st := stateOf(w, *want)
	if !st.Serving && problem != "" {
		st.Why = problem
	}
	p.publish(proc, st)
	return w, nil
}

// status asks the worker for its status.
func status(ctx context.Context, c Config) (worker, error) {
	if c.service {
		// Thousands of servers are not asked for twice a second; what was made known
		// to this worker is kept by the Proxy.
		id, err := workerID(ctx, c)
		return worker{id: id}, err
	}
	text, err := ask(ctx, c.file(fileStats), statusCommand)
	if err != nil {
		return worker{}, err
	}
	return parseStatus(text)
}

// take waits for the turn to change HAProxy, give ends it.
func (p *Proxy) take(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Proxy) give() { <-p.turn }

// current returns process, wish and problem of one moment.
func (p *Proxy) current() (*process, *wish, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc, p.want, p.problem
}

// asked is what Set asked for last, nil before it and after Stop.
func (p *Proxy) asked() *Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// become takes over another process (nil for none) and closes the former.
func (p *Proxy) become(proc *process) {
	p.mu.Lock()
	former := p.proc
	p.proc = proc
	p.mu.Unlock()
	if former != nil && former != proc {
		// Its end, if it has ended, was ours to collect.
		former.reap()
		former.close()
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// settle notes what is wanted and how far it was reached.
func (p *Proxy) settle(want *wish, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want, p.problem = want, ""
	if err != nil {
		p.problem = err.Error()
	}
}

// program finds HAProxy's file; its own reloads need an absolute name.
func (p *Proxy) program() (string, error) {
	name, err := exec.LookPath(p.binary)
	if err != nil {
		return "", fmt.Errorf("haproxy: %q cannot be run, install the package haproxy (2.6 or later): %w",
			p.binary, err)
	}
	return name, nil
}

// makeDir makes the run directory for its owner only: who can write to the
// sockets in it commands HAProxy.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("haproxy: the run directory cannot be made: %w", err)
	}
	return nil
}
