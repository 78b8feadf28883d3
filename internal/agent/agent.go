package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Options are what an agent is made of; all are required but Witnesses and Forwards.
type Options struct {
	Machine election.Config
	// VIPs of the group, each on its link; SetVIPs changes them.
	VIPs []lb.Address
	// Witnesses are addresses, beside the other members', whose answer proves
	// that this node is not the one cut off.
	Witnesses []lb.Address
	// Start is the first event: what was found of an earlier run.
	Start election.Started
	// Plane is what the data plane is planned from at the start; without a
	// DataPlane, whose group has none of its own, it means nothing.
	Plane lb.Snapshot

	// Forwards are those of an earlier run that still stand.
	Forwards []lb.Forward

	Addresses Addresses
	Record    Record
	DataPlane DataPlane
	Memory    Memory
	Hellos    Hellos
	// Complain sets or, with an empty text, clears a standing complaint.
	Complain func(key, text string)
	// Noted takes every decision; it must not block.
	Noted func(election.Note)
	Now   func() lb.Instant
	Clock func() time.Time
	Log   *slog.Logger
}

// Agent runs one group on one node. One goroutine owns the state and does no
// I/O; each sink has a task and a mailbox of its own, so that a slow HAProxy
// never delays a fence.
type Agent struct {
	opt     Options
	machine *election.Machine
	metrics *Metrics
	plane   lb.Snapshot
	// proxyKnown says that plane.Proxy was seen, not assumed.
	proxyKnown bool
	members    []election.Member
	peers      map[string]election.Peer
	said       election.Say // in the last hello
	spoken     bool         // anything was

	events  chan election.Event
	inputs  chan func(*Agent) bool // change the plane; true: plan anew
	done    chan bool              // the machine is done; true: addresses kept
	address *mailbox[addressWish]
	probe   *mailbox[[]lb.Address]
	quick   *mailbox[[]lb.Address]
	ping    *mailbox[string]
	fwd     *mailbox[forwarding]
	defend  *mailbox[struct{}]
	fronts  *mailbox[[]lb.Frontend]
	redirs  *mailbox[[]lb.Redirect]
	record  *mailbox[election.Record]
	// retrying says that the data plane will be planned again soon.
	retrying atomic.Bool
	wished   atomic.Uint64 // sequence number of the newest address wish
	leaving  bool          // the machine is done: every further wish may be the last
	forward  forwarding
	carried  uint64        // sequence number of the forwarding in the newest address wish
	arming   chan struct{} // room for the one forwarding under way
	armed    atomic.Uint64 // sequence number of the newest forwarding carried out, or under way
	tried    atomic.Uint64 // and of the newest that failed: no address waits for it again
	// late has each peer's newest change that found no room in events: of a peer
	// nothing more may come, and its death must not be lost.
	lateMu   sync.Mutex
	late     map[string]election.Peer
	known    atomic.Pointer[[]election.Member]
	vips     atomic.Pointer[[]lb.Address] // written by the loop only
	last     lb.Holding                   // the newest address wish
	status   atomic.Pointer[Status]
	moves    []Move
	noted    Move            // the last decision
	lastMove *Move           // and the last that moved something
	ctx      context.Context // Run's, for the log
}

// addressWish is what the links shall hold.
type addressWish struct {
	seq     uint64
	hold    lb.Holding
	forward forwarding
	// last ends the loop when the wish was carried out.
	last bool
}

// forwarding is where frames of unknown flows shall go.
type forwarding struct {
	seq uint64
	all []lb.Forward
}

// New builds an agent; nothing starts before Run.
func New(opt Options) *Agent {
	a := &Agent{
		opt: opt, machine: election.New(opt.Machine), metrics: newMetrics(opt.Machine.Group), plane: opt.Plane,
		events: make(chan election.Event, 1024), inputs: make(chan func(*Agent) bool, 64), done: make(chan bool, 1),
		address: newMailbox[addressWish](), probe: newMailbox[[]lb.Address](), quick: newMailbox[[]lb.Address](),
		ping: newMailbox[string](), fwd: newMailbox[forwarding](), defend: newMailbox[struct{}](),
		fronts: newMailbox[[]lb.Frontend](), redirs: newMailbox[[]lb.Redirect](),
		record: newMailbox[election.Record](), peers: map[string]election.Peer{}, forward: forwarding{all: opt.Forwards},
		arming: make(chan struct{}, 1), late: map[string]election.Peer{},
	}
	a.known.Store(&a.members)
	a.vips.Store(&opt.VIPs)
	a.publish()
	return a
}

// VIPs are the group's addresses at present.
func (a *Agent) VIPs() []lb.Address { return *a.vips.Load() }

// SetVIPs changes the group's addresses, of which there must be one at least: a
// holder holds the new ones at once and lets the others go, without a change of
// hands.
func (a *Agent) SetVIPs(vips []lb.Address) {
	vips = slices.Clone(vips)
	a.input(func(a *Agent) bool {
		if slices.Equal(vips, a.VIPs()) {
			return false
		}
		a.vips.Store(&vips)
		if len(a.last.Addresses) > 0 {
			hold := a.last
			hold.Addresses = vips
			// A wish that is too late is void, and the first one's limit is short. Once it
			// has come true the fence is the limit, as of the machine's next refresh.
			if a.machine.Say().Phase != election.Claiming {
				hold.NotAfter = a.machine.Status().Wake
			}
			a.post(hold)
		}
		a.publish()
		return false
	})
}

// Deliver takes an event from an adapter. It does not block: when a thousand
// wait the loop is stuck and the fence will act. Only what comes again is
// dropped then; a peer's newest change is kept.
func (a *Agent) Deliver(ev election.Event) {
	peer, kept := ev.(election.Peer)
	if kept && a.overtakes(peer) {
		return
	}
	select {
	case a.events <- ev:
	default:
		if kept {
			a.lateMu.Lock()
			a.late[peer.Node] = peer
			a.lateMu.Unlock()
			return
		}
		a.metrics.dropped.Inc()
	}
}

// overtakes keeps the order of a peer's changes: while an older one is late the
// newer takes its place.
func (a *Agent) overtakes(peer election.Peer) bool {
	a.lateMu.Lock()
	defer a.lateMu.Unlock()
	_, waits := a.late[peer.Node]
	if waits {
		a.late[peer.Node] = peer
	}
	return waits
}

// stepLate takes what found no room, once the events before it are through.
func (a *Agent) stepLate() {
	if len(a.events) > 0 {
		return
	}
	a.lateMu.Lock()
	late := a.late
	if len(late) > 0 {
		a.late = map[string]election.Peer{}
	}
	a.lateMu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(late)) {
		a.step(late[node])
	}
}

// SetBackends takes the API servers as the cluster says.
func (a *Agent) SetBackends(b []lb.Backend) {
	a.input(func(a *Agent) bool {
		a.plane.Backends = b
		return true
	})
}

// SetProxy takes HAProxy's state; the same state again plans nothing.
func (a *Agent) SetProxy(s lb.ProxyState) {
	a.input(func(a *Agent) bool {
		old, first := a.plane.Proxy, !a.proxyKnown
		a.proxyKnown = true
		if !first && old.Serving == s.Serving && old.Why == s.Why && slices.Equal(old.Up, s.Up) {
			return false
		}
		a.plane.Proxy = s
		if a.plane.Balance {
			a.step(election.Health{OK: s.Serving && len(s.Up) > 0})
		}
		return true
	})
}

// input enqueues a change of what the data plane is planned from. Like Deliver
// it does not block.
func (a *Agent) input(f func(*Agent) bool) {
	select {
	case a.inputs <- f:
	default:
		a.metrics.dropped.Inc()
	}
}

// Run works until ctx ends, which leaves everything as it is for the next
// agent to adopt, or until a Shutdown event has been carried out. It returns
// whether the addresses were kept.
func (a *Agent) Run(ctx context.Context) (kept bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	a.ctx = ctx
	g.Go(func() error { return a.address.serve(ctx, a.setAddresses) })
	g.Go(func() error {
		return a.probe.serve(ctx, func(ctx context.Context, w []lb.Address) { a.askWire(ctx, w, false) })
	})
	g.Go(func() error {
		return a.quick.serve(ctx, func(ctx context.Context, w []lb.Address) { a.askWire(ctx, w, true) })
	})
	g.Go(func() error { return a.ping.serve(ctx, a.askNode) })
	g.Go(func() error { return a.fwd.serve(ctx, a.setForward) })
	g.Go(func() error { return a.defend.serve(ctx, a.announce) })
	g.Go(func() error { return a.fronts.serve(ctx, a.setFrontends) })
	g.Go(func() error { return a.redirs.serve(ctx, a.setRedirects) })
	g.Go(func() error { return a.record.serve(ctx, a.remember) })
	g.Go(func() error {
		defer cancel()
		kept = a.loop(ctx)
		return nil
	})
	err = g.Wait()
	return kept, err
}

// loop owns the state.
func (a *Agent) loop(ctx context.Context) (kept bool) {
	a.step(a.opt.Start)
	a.replan()
	timer := time.NewTimer(0)
	defer timer.Stop()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		a.opt.Hellos.Beat(a.opt.Now())
		a.stepLate()
		timer.Reset(a.untilNext())
		select {
		case <-ctx.Done():
			return true
		case ev := <-a.events:
			a.step(ev)
		case f := <-a.inputs:
			if f(a) {
				a.replan()
			}
		case <-timer.C:
			a.step(election.Tick{})
		case <-beat.C:
			// Timers do not count a suspend, the machine's clock does.
			a.step(election.Tick{})
		case kept := <-a.done:
			return kept
		}
	}
}

// beatEvery is how often an idle loop shows that it runs: four times in the
// second after which hellos fall silent.
const beatEvery = 250 * time.Millisecond

// untilNext is how long the loop may sleep before the machine has a deadline.
func (a *Agent) untilNext() time.Duration {
	next := a.machine.Next()
	if next == 0 {
		return time.Hour
	}
	return max(next-a.opt.Now(), 0)
}

// step feeds the machine and hands its actions to the sinks.
func (a *Agent) step(ev election.Event) {
	switch ev := ev.(type) {
	case election.Members:
		a.members = ev.All
		a.known.Store(&ev.All)
	case election.Peer:
		a.peers[ev.Node] = ev
	}
	armed := a.forward.seq
	for _, act := range a.machine.Step(a.opt.Now(), ev) {
		a.carryOut(act)
	}
	if a.forward.seq != armed && a.forward.seq != a.carried {
		a.fwd.post(a.forward)
	}
	if say := a.machine.Say(); say != a.said || !a.spoken {
		a.said, a.spoken = say, true
		a.opt.Hellos.Say(map[string]election.Say{a.opt.Machine.Group: say})
	}
	a.publish()
}

// carryOut hands one action to its sink. It must stay free of I/O: a fence may
// be the next action.
func (a *Agent) carryOut(act election.Action) {
	switch act := act.(type) {
	case election.Hold:
		a.wish(lb.Holding{
			Addresses: a.VIPs(), ValidLft: a.opt.Machine.ValidLft, NotAfter: act.NotAfter, Mute: act.Mute,
		})
	case election.LetGo:
		a.wish(lb.Holding{})
	case election.Drain:
		a.wish(lb.Holding{Copies: a.VIPs(), CopyFor: act.For})
	case election.Announce:
		a.defend.post(struct{}{})
	case election.Probe:
		box := a.probe
		if act.Quick {
			box = a.quick
		}
		box.post(a.witnesses())
	case election.Ping:
		a.ping.post(act.Node)
	case election.Forward:
		a.forward = forwarding{seq: a.forward.seq + 1, all: a.forwards(act.Node)}
	case election.Remember:
		a.record.post(act.Record)
	case election.Note:
		a.note(act)
	case election.Done:
		a.finish(act.Kept)
	default:
		a.opt.Record.Do(act)
	}
}

// wish is a new wish of the machine's for the links.
func (a *Agent) wish(h lb.Holding) {
	a.wished.Add(1)
	a.post(h)
}

// post hands the newest wish over; the forwards go in before an address. The same
// wish with other addresses keeps its number: what was reached of it counts, or no
// refresh would while addresses come one after the other.
func (a *Agent) post(h lb.Holding) {
	a.last, a.carried = h, a.forward.seq
	a.address.post(addressWish{seq: a.wished.Load(), hold: h, forward: a.forward, last: a.leaving})
}

// finish ends the loop, after the addresses are gone unless they are kept.
func (a *Agent) finish(kept bool) {
	if kept {
		a.end(true)
		return
	}
	a.leaving = true
	last := a.last
	if len(last.Addresses) > 0 {
		last = lb.Holding{}
	}
	a.wish(last) // again: it may not have been taken yet, and its copies are wanted
}

// end makes the loop return; the first of several ends counts.
func (a *Agent) end(kept bool) {
	select {
	case a.done <- kept:
	default:
	}
}

// witnesses are all hosts whose answer proves that this node is not cut off;
// the suspected holder never counts.
func (a *Agent) witnesses() []lb.Address {
	out := slices.Clone(a.opt.Witnesses)
	holder := a.machine.Status().Record.Holder
	for _, m := range a.members {
		if m.Node == a.opt.Machine.Self || m.Node == holder {
			continue
		}
		for _, ip := range sound(m.Addrs) {
			out = append(out, lb.Address{IP: ip, Link: a.VIPs()[0].Link})
		}
	}
	return out
}

// sound are those of a member's addresses that can be asked for and written
// into a rule: they come from a Lease, which anybody with its rights may edit,
// and one that is none must not stop a failover.
func sound(addrs []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range addrs {
		ip, err := netip.ParseAddr(s)
		if err == nil && ip.Zone() == "" && ip.IsGlobalUnicast() && len(out) < 8 {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// forwards lists where frames of unknown flows go while node drains.
func (a *Agent) forwards(node string) []lb.Forward {
	var out []lb.Forward
	for _, m := range a.members {
		if m.Node != node || node == "" {
			continue
		}
		for _, vip := range a.VIPs() {
			for _, ip := range sound(m.Addrs) {
				if ip.Is4() == vip.IP.Is4() {
					until := a.opt.Now() + a.opt.Machine.Drain
					out = append(out, lb.Forward{VIP: vip, To: ip, MACs: strings.Join(m.MACs, ","), Until: until})
					break
				}
			}
		}
	}
	return out
}

// replan hands the data plane what follows from its inputs.
func (a *Agent) replan() {
	if a.opt.DataPlane == nil {
		return
	}
	d := lb.Plan(a.plane)
	// While no API server is known, a HAProxy of an earlier run goes on.
	if d.Reason != lb.NoBackends {
		a.fronts.post(d.Frontends)
	}
	// Until HAProxy's state is known the redirects of an earlier run stand:
	// taking them away would break the connections that they carry.
	if a.proxyKnown || len(d.Frontends) == 0 && !a.plane.Balance {
		a.redirs.post(d.Redirects)
	}
	a.metrics.plane(a.plane)
	a.publish()
}

// SetCheck takes another health check for the API servers.
func (a *Agent) SetCheck(c lb.Check) {
	a.input(func(a *Agent) bool {
		a.plane.Check = c
		return true
	})
}
