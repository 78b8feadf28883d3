package election

import (
	"fmt"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// Phase is the state of one group on one node.
type Phase uint8

// The phases; the diagram stands in ARCHITECTURE.md.
const (
	Standby Phase = iota
	Claiming
	Holding
	Draining
)

// String names the phase.
func (p Phase) String() string {
	return [...]string{"Standby", "Claiming", "Holding", "Draining"}[p]
}

// Config are a machine's constants.
type Config struct {
	// Group is the Lease's name; Self this node's.
	Group, Self string
	// Lease is the age at which a record may be taken without evidence, Renew
	// the period of its renewal, ValidLft the kernel's fence.
	// Lease >= Renew + ValidLft + 2 s, or a dead agent's address could still
	// be answered when the next one takes it.
	Lease, Renew, ValidLft time.Duration
	// Drain is how long connections made before a planned move are carried over
	// by their old holder; 0 lets them end.
	Drain time.Duration
	// Preempt hands over to a better-ranked candidate that has been well for
	// PreemptDelay.
	Preempt      bool
	PreemptDelay time.Duration
	// MAC is the announcing link's, to settle a bootstrap among strangers.
	MAC string
}

// The machine's fixed waits.
const (
	refreshEvery = time.Second             // of the address, a quarter of the fence
	signWait     = 500 * time.Millisecond  // for a hand-over's target to show itself
	swapTimeout  = time.Second             // for an answer to a swap
	copySpare    = 5 * time.Second         // of an old holder's copies, past the last forwarding
	readTimeout  = 200 * time.Millisecond  // of a read that decides
	ageTimeout   = 1500 * time.Millisecond // of a read that measures the age
	askAgain     = 300 * time.Millisecond
	firstClaim   = time.Second            // silence before a Lease is first made
	rankStep     = 50 * time.Millisecond  // between candidates of adjoining rank
	lateClients  = 600 * time.Millisecond // until those who missed the first announcements know
	idleWait     = 200 * time.Millisecond
	silentProbes = 3                      // in a row without an answer
	probeFresh   = 22 * time.Millisecond  // the last question before an address is added
	claimWait    = 20 * time.Millisecond  // for the API server, before a provisional claim
	claimTime    = 2 * time.Second        // after which a claim that could not end is given up
	sickWait     = 2 * time.Second        // hysteresis of the load balancer's health
	bootWait     = 500 * time.Millisecond // for hellos and an API server, before a bootstrap
	bootAgain    = 300 * time.Millisecond
	drainAgain   = 5 * time.Second
	preemptEvery = time.Second
	repairEvery  = 100 * time.Millisecond
	// maxLease is the longest promise of another node that is believed.
	maxLease = 5 * time.Minute
	// carrierPatience is how long a holder's link may be down: a switch port
	// that negotiates again is no reason to move.
	carrierPatience = 2 * time.Second
)

// Machine decides for one group on one node: events in, actions out. It has no
// clock, does no I/O and logs nothing, so that a transcript is a test and a
// simulation is a proof. Not safe for concurrent use.
type Machine struct {
	cfg   Config
	phase Phase
	now   lb.Instant
	due   deadlines
	out   []Action

	known   Record // the last record believed
	ever    bool   // whether there was one
	sure    bool   // Holding: confirmed by the API server
	members []Member
	carrier bool
	woke    lb.Instant // last start or fence: only younger reads count
	age     ageing
	actual  string // version of the Lease as it is, believed or not; "" is none

	wake     lb.Instant // wakeDeadline: last refresh begun + ValidLft
	held     bool       // the address was reached in this phase
	began    lb.Instant // when this change of hands began, for Took
	since    lb.Instant // when this node came to hold
	unsure   lb.Instant // when it stopped being sure
	failing  lb.Instant // since when the address sink fails; 0 is not
	how      Cause      // how this node came to hold
	past     bool       // a record of an earlier run is remembered
	claimed  bool       // Claiming: the lock may swap
	quarrel  quarrel    // with a candidate that claims the VIP too
	read     lb.Instant // begin of the last read that measured the age
	noted    Reason     // last complaint, so that it is said once
	hand     handover
	summon   summons
	shutdown bool

	peers   map[string]*peer
	names   []string // of peers, sorted: the machine must not know a map's order
	taints  Taints
	tainted lb.Instant            // when the taints changed
	doubt   suspicion             // against the group's owner
	rivals  map[string]lb.Instant // MACs that asked for a VIP, and when
	reached bool                  // an API server has answered since the start
	boot    bool                  // a bootstrap's probe is under way

	claim       Record // as tried to be written
	base        Record // what it replaces
	shown       Record // provisional: a successor of base that the watch has shown
	yielded     int64  // the last provisional term that was given up unwritten
	byEvidence  bool   // Claiming: by hellos and probes, not by age
	won         bool   // Claiming: swapped, one question to the wire is missing
	provisional bool   // Holding: without an API server's word

	forwards string     // node to which flows that are not known are sent
	unheard  int        // questions in a row that it did not answer
	ill      lb.Instant // since when the own load balancer does not serve
}

// handover is a planned move under way.
type handover struct {
	active bool
	target string
	cause  Cause
	tried  []string
	record Record // as last swapped, or tried to
	lost   int    // swaps refused because the record had changed
	yields bool   // to a claim, not by an own swap
	cut    bool   // the last swap was not answered
}

// quarrel is the time in which a candidate was heard to claim the VIP that this
// node holds.
type quarrel struct {
	with        string
	since, last lb.Instant
}

// summons is a record that names this node while it does not hold: a
// hand-over's target, or a node that woke before anyone claimed.
type summons struct {
	active, read, probed bool
	answers              []string
}

// New returns a machine in Standby. The first event must be Started.
func New(cfg Config) *Machine {
	return &Machine{cfg: cfg, carrier: true, peers: map[string]*peer{}, rivals: map[string]lb.Instant{}}
}

// Status is what a machine can say of itself.
type Status struct {
	Phase     Phase
	Confirmed bool
	// Provisional: it holds without an API server's word.
	Provisional bool
	// Forwards is the node to which frames of flows that are not known go, or "".
	Forwards string
	Record   Record
	Known    bool
	// Since is when this node came to hold; 0 while it does not.
	Since lb.Instant
	// Wake is the fence: when the kernel removes the address unless refreshed.
	Wake lb.Instant
}

// Status returns the state as it is after the last Step.
func (m *Machine) Status() Status {
	s := Status{
		Phase: m.phase, Confirmed: m.sure, Provisional: m.provisional, Forwards: m.forwards,
		Record: m.known, Known: m.ever,
	}
	if m.phase == Holding || m.phase == Draining {
		s.Since, s.Wake = m.since, m.wake
	}
	return s
}

// Next is the instant of the earliest deadline (send Tick then), or 0.
func (m *Machine) Next() lb.Instant { return m.due.next() }

// Step takes one event at the instant now and returns what to do, in order.
// Deadlines that passed before now come first: an agent that was frozen lets go
// before it believes anything it finds in its queue.
func (m *Machine) Step(now lb.Instant, ev Event) []Action {
	m.now, m.out = now, nil
	if at := m.due[onWake]; at != 0 && at <= now {
		// The fence before all else: a refresh that was due meanwhile is void.
		m.due.clear(onWake)
		m.fire(onWake)
	}
	for t, ok := m.due.take(now); ok; t, ok = m.due.take(now) {
		m.fire(t)
	}
	m.handle(ev)
	m.suspect()
	return m.out
}

// handle gives an event to its handler. An event nobody knows is a mistake of the
// adapters, not of the network: it panics.
func (m *Machine) handle(ev Event) {
	switch ev := ev.(type) {
	case Started:
		m.onStarted(ev)
	case Saw:
		m.onSaw(ev)
	case Renewed:
		m.onRenewed(ev)
	case ReadFailed:
		m.onReadFailed()
	case Members:
		m.onMembers(ev.All)
	case AddressIs:
		m.onAddress(ev)
	case AddressGone:
		m.onAddressGone()
	case Swapped:
		m.onSwapped(ev)
	case Health:
		m.onHealth(ev.OK)
	case Taints:
		m.onTaints(ev)
	case Ask:
		m.onAsk(ev)
	case Shutdown:
		m.onShutdown()
	case Tick:
	default:
		m.sense(ev)
	}
}

// sense takes what comes from the wire.
func (m *Machine) sense(ev Event) {
	switch ev := ev.(type) {
	case Probed:
		m.onProbed(ev)
	case Claimed:
		m.onClaimed(ev.MAC)
	case Peer:
		m.onPeer(ev)
	case Pinged:
		m.onPinged(ev)
	case Rival:
		m.onRival(ev.MAC)
	case Carrier:
		m.onCarrier(ev.Up)
	default:
		panic(fmt.Sprintf("election: unknown event %T", ev))
	}
}

// fire handles one deadline that has passed.
func (m *Machine) fire(t timer) {
	switch t {
	case onWake:
		m.becomeFenced(Frozen)
	case onRefresh:
		m.refresh()
	case onLease:
		m.becomeUnsure("no write within the lease")
	case onRead:
		m.lookAgain()
	case onClaim:
		m.abandon()
	case onSign:
		m.tryNext()
	case onSwap:
		m.onSwapped(Swapped{To: m.hand.target, Result: SwapUnanswered})
	case onProbe:
		m.askWire()
	case onProvisional:
		m.goProvisional()
	case onIdle: // suspect, after each step, sees that the time is over
	case onBoot:
		m.tryBootstrap()
	case onSick:
		m.sickHolder()
	case onRepair:
		m.lookAgain()
	case onCarrierLost:
		m.carrierLost()
	default:
		m.fireSlow(t)
	}
}

// fireSlow handles the deadlines of wishes and of forwarding.
func (m *Machine) fireSlow(t timer) {
	switch t {
	case onDrain:
		m.considerDrain()
	case onPreempt:
		m.considerPreempt()
	case onForward:
		m.forwardTo("")
	case onUnloop:
		m.unloop()
	case onPing:
		if m.forwards != "" {
			m.do(Ping{Node: m.forwards})
		}
	default:
		panic(fmt.Sprintf("election: unknown timer %d", t))
	}
}

// do appends actions, in the order in which they shall be carried out.
func (m *Machine) do(a ...Action) { m.out = append(m.out, a...) }

// say appends a Note about the record now known.
func (m *Machine) say(r Reason, n Note) {
	n.Reason, n.Record = r, m.known
	m.do(n)
}

// complain says a thing once until something else is said or it is settled.
func (m *Machine) complain(r Reason, n Note) {
	if m.noted != r {
		m.noted = r
		m.say(r, n)
	}
}

// believe takes a record as the known one and keeps it on disk.
func (m *Machine) believe(r Record) {
	changed := !m.ever || !r.term(m.known)
	m.known, m.ever = r, true
	if changed {
		m.do(Remember{Record: r})
		m.noteUp()
	}
}

// mine is the record that this node writes in its present term.
func (m *Machine) mine() Record {
	r := m.known
	r.Holder, r.From = m.cfg.Self, ""
	return r
}

// onStarted adopts an address that is still alive, or waits as Standby. A
// remembered record that names another is enough to let go: this node was told.
func (m *Machine) onStarted(ev Started) {
	m.woke = m.now
	m.known, m.past = ev.Last, ev.Known
	// Who handed over, before this agent ended, has let go by now.
	m.known.Version, m.known.From = "", ""
	m.age.saw(m.now, "")
	if m.forwards = ev.Forwards; m.forwards != "" {
		m.due.set(onForward, max(ev.Until, m.now))
	}
	recent := ev.Known && ev.SameBoot
	if m.cfg.Preempt {
		m.due.set(onPreempt, m.now+preemptEvery)
	}
	if ev.Alive && (!recent || ev.Last.Holder == m.cfg.Self) {
		m.began, m.ever = m.now, recent
		m.becomeHolding(CauseAdopted)
		if m.provisional = recent && ev.Last.Unwritten; m.provisional {
			m.base = Record{Transitions: ev.Last.Transitions - 1}
		}
		m.onAddress(AddressIs{Held: true, Begun: ev.Begun})
		m.sure = false
		m.unsure = m.now
		m.due.clear(onLease)
		m.do(Read{Timeout: readTimeout})
		m.due.set(onRead, m.now+readTimeout+50*time.Millisecond)
		return
	}
	m.do(LetGo{}, Read{Timeout: ageTimeout})
	m.due.set(onRead, m.now+time.Second)
	m.due.set(onBoot, m.now+bootWait)
}

// onSaw is the centre: a look at the record decides by phase.
func (m *Machine) onSaw(ev Saw) {
	m.reached = true
	v := judge(m.known, m.ever, ev.View)
	switch m.phase {
	case Standby, Claiming:
		m.standbySaw(ev, v)
	case Holding:
		if m.provisional {
			m.provisionalSaw(ev)
			return
		}
		m.holdingSaw(ev, v)
	case Draining:
		m.drainingSaw(ev, v)
	}
}

// onReadFailed: silence proves nothing about a holder, so the age starts again;
// a quarrel must be settled without an API server.
func (m *Machine) onReadFailed() {
	m.age.failed()
	if m.phase == Holding && m.quarrel.with != "" {
		m.settleQuarrel()
	}
}

// onCarrier follows the announcing link. Losing it fences nothing: nobody hears
// this node anyway, and the cable may be back in a moment.
func (m *Machine) onCarrier(up bool) {
	back, lost := up && !m.carrier, !up && m.carrier
	m.carrier = up
	if up {
		m.due.clear(onCarrierLost)
	}
	if lost && m.phase == Holding {
		m.due.set(onCarrierLost, m.now+carrierPatience)
	}
	// A link that comes back may rejoin a network in which another holds.
	if back && m.phase == Holding {
		m.becomeUnsure("the link came back")
		m.do(Read{Timeout: readTimeout})
		m.due.set(onRead, m.now+readTimeout+50*time.Millisecond)
	}
}

// carrierLost: a holder whose link is down answers nobody, but an API server
// that it reaches another way would have it hold for ever. It asks a candidate.
func (m *Machine) carrierLost() {
	if m.phase != Holding || m.carrier {
		return
	}
	m.due.set(onCarrierLost, m.now+5*carrierPatience)
	if m.sure && !m.hand.active {
		m.onAsk(Ask{Cause: CauseCarrier})
	}
}

// lookAgain reads the record, as often as the phase wants it.
func (m *Machine) lookAgain() {
	switch {
	case m.phase == Holding && m.sure:
		// Only a repair is pending: the read shows whether it is still needed.
		m.do(Read{Timeout: readTimeout})
	case m.phase == Holding, m.phase == Draining:
		m.do(Read{Timeout: readTimeout})
		if m.phase == Holding {
			// A parted wire may have been joined: ask who else answers.
			m.do(Probe{})
		}
		every := time.Second
		if m.now-m.unsure < 5*time.Second || m.phase == Draining {
			every = readTimeout + 50*time.Millisecond
		}
		m.due.set(onRead, m.now+every)
	default:
		// Not answered soon, ask again beside it: a read sent after etcd has a
		// new leader is answered before one that waited for it.
		m.do(Read{Timeout: ageTimeout})
		m.due.set(onRead, m.now+askAgain)
	}
}
