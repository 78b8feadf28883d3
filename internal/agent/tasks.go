package agent

import (
	"context"
	"slices"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// setAddresses carries out the newest wish and reports it, unless a newer one
// was made meanwhile: an old success must not prove a new term.
func (a *Agent) setAddresses(ctx context.Context, w addressWish) {
	if w.flushed != nil {
		defer close(w.flushed)
	}
	if err := a.opt.Addresses.Forward(ctx, w.forward); err != nil {
		a.opt.Log.Warn("established connections do not outlive this move", "err", err)
	}
	held, err := a.opt.Addresses.Set(ctx, w.hold)
	ev := election.AddressIs{Held: err == nil && !held.Late, Begun: held.Begun, Late: held.Late}
	if err != nil {
		ev.Err = err.Error()
	}
	if len(w.hold.Addresses) == 0 {
		if err != nil {
			a.opt.Log.Error("address not removed; the kernel will expire it", "err", err)
		}
		return
	}
	if w.seq == a.wished.Load() {
		a.Deliver(ev)
	}
}

// askWire probes for the VIPs and the witnesses at once.
func (a *Agent) askWire(ctx context.Context, witnesses []lb.Address) {
	begun := a.opt.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answers, err := a.opt.Addresses.Probe(ctx, slices.Concat(a.opt.VIPs, witnesses))
	ev := election.Probed{Begun: begun}
	if err != nil {
		ev.Err = err.Error()
	}
	for _, an := range answers {
		vip := slices.ContainsFunc(a.opt.VIPs, func(v lb.Address) bool { return v.IP == an.IP })
		switch {
		case !vip:
			ev.Witness = true
		case !slices.Contains(ev.Answers, an.MAC.String()):
			ev.Answers = append(ev.Answers, an.MAC.String())
		}
	}
	a.Deliver(ev)
}

func (a *Agent) announce(ctx context.Context, _ struct{}) {
	if err := a.opt.Addresses.Announce(ctx, a.opt.VIPs); err != nil {
		a.opt.Log.Warn("announcement not sent", "err", err)
	}
}

func (a *Agent) setFrontends(ctx context.Context, f []lb.Frontend) {
	state, err := a.opt.DataPlane.Frontends(ctx, f)
	if err != nil && ctx.Err() == nil {
		a.metrics.proxyErrors.Inc()
		a.opt.Log.Error("load balancer not as wanted", "err", err)
		// The wish stands: try again, unless a newer one has come.
		time.AfterFunc(2*time.Second, func() { a.input(again) })
	}
	a.SetProxy(state)
}

func (a *Agent) setRedirects(ctx context.Context, r []lb.Redirect) {
	if err := a.opt.DataPlane.Redirects(ctx, r); err != nil && ctx.Err() == nil {
		a.metrics.proxyErrors.Inc()
		a.opt.Log.Error("VIP not redirected to the load balancer, the local API server answers", "err", err)
		time.AfterFunc(2*time.Second, func() { a.input(again) })
	}
}

func (a *Agent) remember(_ context.Context, r election.Record) {
	if err := a.opt.Memory.Save(r); err != nil {
		a.opt.Log.Warn("record not kept on disk: a restart during an API outage will not know it", "err", err)
	}
}

// again is the input that changes nothing and plans anew.
func again(*Agent) bool { return true }
