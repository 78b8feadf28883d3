package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// hang is a sink's call that does not return: until the gate opens, or its
// context ends.
type hang struct {
	mu   sync.Mutex
	gate chan struct{}
}

// close makes the next calls wait.
func (h *hang) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gate = make(chan struct{})
}

// open lets all waiting calls go on.
func (h *hang) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gate != nil {
		close(h.gate)
		h.gate = nil
	}
}

func (h *hang) wait(ctx context.Context) {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate == nil {
		return
	}
	select {
	case <-gate:
	case <-ctx.Done():
	}
}

// links is one node's kernel: it expires an address by itself.
type links struct {
	*node
	setting, probing, announcing, forwarding hang

	mu      sync.Mutex
	until   lb.Instant // the address is there until then
	fault   error      // what Set says
	noFwd   error      // what Forward says
	forward string
	holds   []lb.Holding
}

// has says whether the kernel answers for the VIP.
func (l *links) has() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until > l.now()
}

func (l *links) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
}

// Set does as vip.Links.Set promises.
func (l *links) Set(ctx context.Context, h lb.Holding) (lb.Held, error) {
	if len(h.Addresses) == 0 {
		l.did("let go")
	} else {
		l.did("hold%s", map[bool]string{true: " mute"}[h.Mute])
	}
	begun := l.now()
	l.setting.wait(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = append(l.holds, h)
	if len(h.Addresses) == 0 {
		l.until = 0
		return lb.Held{}, l.fault
	}
	if l.fault != nil {
		return lb.Held{Begun: begun}, l.fault
	}
	if h.NotAfter != 0 && l.now() >= h.NotAfter {
		l.until = 0
		return lb.Held{Late: true}, nil
	}
	held := lb.Held{Begun: begun, Have: h.Addresses}
	if l.until <= l.now() {
		held.Added = h.Addresses
	}
	l.until = begun + h.ValidLft
	return held, nil
}

// Probe asks the gateway and the nodes' kernels, for 60 ms if one is silent.
func (l *links) Probe(ctx context.Context, addrs []lb.Address) ([]lb.Answer, error) {
	var names []string
	var out []lb.Answer
	l.site.mu.Lock()
	gateway := l.gateway
	l.site.mu.Unlock()
	for _, a := range addrs {
		names = append(names, a.IP.String())
		if a == l.agent.opt.Witnesses[0] && gateway {
			out = append(out, lb.Answer{IP: a.IP, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 254}})
		}
		for _, n := range l.all() {
			vip := slices.Contains(vips(), a) && n.links.has()
			if n != l.node && (vip || slices.Contains(n.member().Addrs, a.IP.String()) && n.running()) {
				out = append(out, lb.Answer{IP: a.IP, MAC: n.mac()})
			}
		}
	}
	l.did("probe %s", strings.Join(names, " "))
	l.probing.wait(ctx)
	if len(out) < len(addrs) {
		time.Sleep(60 * time.Millisecond)
	}
	return out, ctx.Err()
}

func (n *node) mac() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n.name[0]} }

func (l *links) Announce(ctx context.Context, _ []lb.Address) error {
	l.did("announce")
	l.announcing.wait(ctx)
	return ctx.Err()
}

// Forward notes changes only, as vip.Forwarder does.
func (l *links) Forward(ctx context.Context, all []lb.Forward) error {
	var text []string
	for _, f := range all {
		text = append(text, f.VIP.IP.String()+" to "+f.To.String())
	}
	if s := strings.Join(text, ", "); s != l.forward {
		l.forward = s
		l.did("forward %s", s)
	}
	l.forwarding.wait(ctx)
	return l.noFwd
}

// plane is HAProxy and the redirects.
type plane struct {
	*node
	hangFrontends, hangRedirects hang
	takes                        time.Duration // a call of Frontends

	mu          sync.Mutex
	state       lb.ProxyState
	noFrontends error
	noRedirects error
	fronts      []lb.Frontend
	redirs      []lb.Redirect
	// changed is told of the state before Frontends returns, as HAProxy's
	// watcher does.
	changed func(lb.ProxyState)
}

func (p *plane) set(f func(*plane)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func (p *plane) Frontends(ctx context.Context, f []lb.Frontend) (lb.ProxyState, error) {
	p.did("frontends %d", len(f))
	time.Sleep(p.takes)
	p.hangFrontends.wait(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fronts = f
	if p.changed != nil {
		p.changed(p.state)
	}
	return p.state, p.noFrontends
}

func (p *plane) Redirects(ctx context.Context, r []lb.Redirect) error {
	p.did("redirects %d", len(r))
	time.Sleep(p.takes / 5) // the two never end at one instant
	p.hangRedirects.wait(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.redirs = r
	return p.noRedirects
}

// disk keeps what was saved.
type disk struct {
	*node
	saving hang
	full   bool
}

func (d *disk) Save(r election.Record) error {
	d.did("save %s", r)
	d.saving.wait(d.t.Context())
	if d.full {
		return errors.New("no space left on device")
	}
	return nil
}
