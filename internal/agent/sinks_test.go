package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
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
	noProbe error      // what Probe says
	forward string
	fwdEnd  lb.Instant // the forwards' end
	copies  lb.Instant // a mute copy of the VIP is on lo until then
	holds   []lb.Holding
	slow    time.Duration // what Set takes
	asked   []int         // how many addresses each Probe was for
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

func (l *links) probeFault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noProbe = err
}

// Set does as vip.Links.Set promises.
func (l *links) Set(ctx context.Context, h lb.Holding) (lb.Held, error) {
	switch {
	case len(h.Addresses) > 0:
		l.did("hold%s", map[bool]string{true: " mute"}[h.Mute])
	case len(h.Copies) > 0:
		l.did("drain %v for %v", h.Copies, h.CopyFor)
	default:
		l.did("let go")
	}
	begun := l.now()
	l.setting.wait(ctx)
	time.Sleep(l.slow)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = append(l.holds, h)
	if len(h.Addresses) == 0 {
		// A copy is made of an address that is on its link; no wish ends it.
		if len(h.Copies) > 0 && l.until > l.now() {
			l.copies = l.now() + h.CopyFor
		}
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

// Probe asks the nodes' kernels, for 60 ms if one is silent, or once for 20 ms;
// like the real one it asks the gateway too, unasked.
func (l *links) Probe(ctx context.Context, addrs []lb.Address, quick bool) ([]lb.Answer, error) {
	l.mu.Lock()
	l.asked = append(l.asked, len(addrs))
	l.mu.Unlock()
	what, wait := "probe", 60*time.Millisecond
	if quick {
		what, wait = "quick", 20*time.Millisecond
	}
	for _, a := range addrs {
		what += " " + a.IP.String()
	}
	l.did("%s", what)
	l.probing.wait(ctx)
	l.mu.Lock()
	fault := l.noProbe
	l.mu.Unlock()
	if fault != nil {
		return nil, fault
	}
	var out []lb.Answer
	silent := false
	time.Sleep(time.Millisecond) // an answer takes a while
	for _, a := range addrs {
		mac := l.answers(a)
		if mac != nil {
			out = append(out, lb.Answer{IP: a.IP, MAC: mac})
		}
		silent = silent || mac == nil
	}
	if mac := l.answers(gateway()); mac != nil && !slices.Contains(addrs, gateway()) {
		out = append(out, lb.Answer{IP: gateway().IP, MAC: mac})
	}
	if silent {
		time.Sleep(wait - time.Millisecond)
	}
	return out, ctx.Err()
}

// gateway is the witness that every site has.
func gateway() lb.Address { return lb.Address{IP: netip.MustParseAddr("192.0.2.254"), Link: "eth0"} }

// answers is the MAC of the host that answers for an address, nil if none does.
func (l *links) answers(a lb.Address) net.HardwareAddr {
	l.site.mu.Lock()
	up := l.gateway
	l.site.mu.Unlock()
	if a == gateway() && up {
		return net.HardwareAddr{2, 0, 0, 0, 0, 254}
	}
	for _, n := range l.all() {
		vip := slices.Contains(vips(), a) && n.links.has()
		if n != l.node && (vip || slices.Contains(n.member().Addrs, a.IP.String()) && !n.off.Load()) {
			return n.mac()
		}
	}
	return nil
}

func (n *node) mac() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n.name[0]} }

func (l *links) Announce(ctx context.Context, _ []lb.Address) error {
	l.did("announce")
	l.announcing.wait(ctx)
	return ctx.Err()
}

// refuse makes Forward fail, or not.
func (l *links) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noFwd = err
}

// Forward notes tries at changes only, as vip.Forwarder makes them.
func (l *links) Forward(ctx context.Context, all []lb.Forward) error {
	var text []string
	for _, f := range all {
		text = append(text, f.VIP.IP.String()+" to "+f.To.String())
	}
	l.mu.Lock()
	if s := strings.Join(text, ", "); s != l.forward {
		if l.noFwd == nil {
			l.forward = s
		}
		l.did("forward %s", s)
	}
	l.fwdEnd = 0
	if len(all) > 0 {
		l.fwdEnd = all[0].Until
	}
	fault := l.noFwd
	l.mu.Unlock()
	l.forwarding.wait(ctx)
	return fault
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
