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
	if w.last {
		defer a.end(false)
	}
	if len(w.hold.Addresses) == 0 {
		// Letting go waits for nothing, so not for nft either.
		text := ""
		if _, err := a.opt.Addresses.Set(ctx, w.hold); err != nil {
			text = "the VIPs were not given up as wanted: " + err.Error()
			a.opt.Log.Error("VIPs not given up as wanted", "err", err)
		}
		a.opt.Complain("drain", text)
		a.setForward(ctx, w.forward)
		return
	}
	// Forwards first, or this kernel would reset the flows of the old holder; but
	// the address waits only so long, or its fence would end it.
	if w.forward.seq > a.tried.Load() {
		soon, cancel := context.WithTimeout(ctx, forwardLimit)
		a.setForward(soon, w.forward)
		cancel()
	}
	held, err := a.opt.Addresses.Set(ctx, w.hold)
	ev := election.AddressIs{Held: err == nil && !held.Late, Begun: held.Begun, Late: held.Late}
	if err != nil {
		ev.Err = err.Error()
	}
	if w.seq == a.wished.Load() {
		a.Deliver(ev)
	}
}

// setForward reports a refusal and goes on: without forwarding a move still loses
// no new connection. Two tasks come here; an older wish does not undo a newer.
func (a *Agent) setForward(ctx context.Context, f forwarding) {
	if f.seq <= a.armed.Load() {
		return // also when it is under way: no refresh waits for nft
	}
	select {
	case a.arming <- struct{}{}:
		defer func() { <-a.arming }()
	case <-ctx.Done():
		a.tried.Store(f.seq)
		a.forwardAgain(f.seq)
		return
	}
	before := a.armed.Load()
	if f.seq <= before {
		return
	}
	a.armed.Store(f.seq)
	text := ""
	if err := a.opt.Addresses.Forward(ctx, f.all); err != nil {
		text = "connections made before the last move may have ended with it: " + err.Error()
		if a.tried.Swap(f.seq) != f.seq {
			a.opt.Log.Warn("established connections do not outlive this move yet", "err", err)
		}
		a.armed.Store(before)
		a.forwardAgain(f.seq)
	}
	a.opt.Complain("forward", text)
}

const (
	// forwardLimit is how long an address waits for its forwards, well within any fence.
	forwardLimit = 500 * time.Millisecond
	forwardRetry = time.Second
)

// forwardAgain tries this forwarding once more soon, if it is still the newest.
func (a *Agent) forwardAgain(seq uint64) {
	time.AfterFunc(forwardRetry, func() {
		a.input(func(a *Agent) bool {
			if a.forward.seq == seq {
				a.fwd.post(a.forward)
			}
			return false
		})
	})
}

// askNode asks the wire for a member's own addresses.
func (a *Agent) askNode(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var addrs []lb.Address
	for _, m := range *a.known.Load() {
		if m.Node == node {
			for _, ip := range sound(m.Addrs) {
				addrs = append(addrs, lb.Address{IP: ip, Link: a.VIPs()[0].Link})
			}
		}
	}
	// What cannot be asked is not dead.
	ev := election.Pinged{Node: node, Alive: true}
	if len(addrs) > 0 {
		answers, err := a.opt.Addresses.Probe(ctx, addrs, false)
		// The gateway may have been asked too: its answer says nothing of the node.
		ev.Alive = err != nil || slices.ContainsFunc(answers, func(an lb.Answer) bool {
			return slices.ContainsFunc(addrs, func(own lb.Address) bool { return own.IP == an.IP })
		})
	}
	a.Deliver(ev)
}

// sampleSize is how many of a group's VIPs are asked for in a quick probe.
const sampleSize = 32

// sample is some of many VIPs: quick probes, each 20 ms, ask whether the holder's kernel
// lives, and its addresses live and die together. A thousand of them would be 50,000
// frames a second to everybody.
func sample(vips []lb.Address) []lb.Address {
	if len(vips) <= sampleSize {
		return vips
	}
	out := make([]lb.Address, sampleSize)
	for i := range out {
		out[i] = vips[i*len(vips)/sampleSize]
	}
	return out
}

// askWire probes for the VIPs and the witnesses at once.
func (a *Agent) askWire(ctx context.Context, witnesses []lb.Address, quick bool) {
	begun := a.opt.Now()
	vips := a.VIPs()
	if quick {
		vips = sample(vips)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second+time.Duration(len(vips))*time.Millisecond)
	defer cancel()
	answers, err := a.opt.Addresses.Probe(ctx, slices.Concat(vips, witnesses), quick)
	ev := election.Probed{Begun: begun, Asked: begun, Quick: quick}
	if err != nil {
		ev.Err = err.Error()
	}
	for _, an := range answers {
		vip := slices.ContainsFunc(vips, func(v lb.Address) bool { return v.IP == an.IP })
		switch {
		case !vip:
			ev.Witness = true
		case !slices.Contains(ev.Answers, an.MAC.String()):
			ev.Answers = append(ev.Answers, an.MAC.String())
		}
	}
	a.Deliver(ev)
}

// announce defends the VIPs; the sink limits the rate.
func (a *Agent) announce(ctx context.Context, _ struct{}) {
	if err := a.opt.Addresses.Announce(ctx, a.VIPs()); err != nil {
		a.opt.Log.Warn("announcement not sent", "err", err)
	}
}

// setFrontends brings HAProxy to the newest wish, which may take seconds.
func (a *Agent) setFrontends(ctx context.Context, f []lb.Frontend) {
	state, err := a.opt.DataPlane.Frontends(ctx, f)
	if err != nil && ctx.Err() == nil {
		a.metrics.proxyErrors.Inc()
		a.opt.Log.Error("load balancer not as wanted", "err", err)
		a.retry()
	}
	a.SetProxy(state)
}

// setRedirects sends the VIP's port to HAProxy, or not.
func (a *Agent) setRedirects(ctx context.Context, r []lb.Redirect) {
	if err := a.opt.DataPlane.Redirects(ctx, r); err != nil && ctx.Err() == nil {
		a.metrics.proxyErrors.Inc()
		a.opt.Log.Error("VIP not redirected to the load balancer, the local API server answers", "err", err)
		a.retry()
	}
}

// remember keeps the record for the next agent on this node.
func (a *Agent) remember(_ context.Context, r election.Record) {
	if err := a.opt.Memory.Save(r); err != nil {
		a.opt.Log.Warn("record not kept on disk: a restart during an API outage will not know it", "err", err)
	}
}

// again is the input that changes nothing and plans anew.
func again(*Agent) bool { return true }

// retry plans the data plane anew in two seconds: its wishes stand. However
// many sinks fail it is one retry, or two that fail would double them each time.
func (a *Agent) retry() {
	if a.retrying.CompareAndSwap(false, true) {
		time.AfterFunc(2*time.Second, func() {
			a.retrying.Store(false)
			a.input(again)
		})
	}
}
