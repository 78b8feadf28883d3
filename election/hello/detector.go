package hello

import (
	"slices"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

const (
	// retiredKept is how many ended runs of a peer are remembered, so that their
	// datagrams prove nothing.
	retiredKept = 32
	// window is how far out of order a datagram may come (RFC 4303 §3.4.3).
	window = 64
	// wireProbes at most wireGap apart shall be over when a peer turns from Late
	// to Down: whoever takes over asks the wire meanwhile.
	wireProbes = 3
	wireGap    = 20 * time.Millisecond
)

// Self is what a Detector must know of the node it runs on.
type Self struct {
	// Incarnation names this run of the agent; not 0.
	Incarnation uint64
	// Interval and Floor are what the node's own hellos say.
	Interval, Floor time.Duration
}

// Detector follows one peer, much as RFC 5880 does:
//
//	Unknown ──heard, and it echoes us──► Up ──► Late ──► Down
//	                                     ▲ heard │        │
//	                                     └───────┴────────┘
//
// Only a peer that has heard this run of ours comes Up: both directions work, and
// what was recorded during an earlier run proves nothing. From then on its
// sequence proves that a hello is new. Values in, values out; not safe for
// concurrent use.
type Detector struct {
	self  Self
	state election.PeerState
	// current is the run that came Up, last the one heard last.
	current, last uint64
	retired       [retiredKept]uint64
	ended         int // how many runs are retired, ever
	// newest is the highest sequence of current; bit i of had is newest - i.
	newest, had uint64
	heard       lb.Instant // when the newest came
	base        lb.Instant // what silence is counted from
	interval    time.Duration
	floor       time.Duration
	multiplier  uint8
	groups      []Group
}

// NewDetector returns the detector of a peer never heard.
func NewDetector(self Self) *Detector { return &Detector{self: self} }

// Receive takes an authentic message of the peer. It says whether the state or
// what the peer says has changed; a peer that runs anew is always a change. The
// error is a Reason; then nothing but Echo has changed.
func (d *Detector) Receive(now lb.Instant, m Message) (changed bool, err error) {
	if !timely(m.Interval, m.Floor, m.Multiplier) {
		return false, ErrTiming
	}
	if slices.Contains(d.retired[:min(d.ended, retiredKept)], m.Incarnation) {
		return false, ErrRetired
	}
	if m.Incarnation != d.current {
		// Echoed although nothing is proven yet: each waits for the other's echo.
		d.last = m.Incarnation
		if m.Echo != d.self.Incarnation {
			return false, ErrEcho
		}
		d.begin(m)
		changed = true
	} else {
		fresh, late := d.fresh(m.Sequence)
		if !fresh {
			return false, ErrReplay
		}
		if late {
			// Sent before what is known already: neither news nor a later sign of
			// life, or a delayed datagram would prolong a dead peer's.
			return false, nil
		}
		d.last = m.Incarnation
	}
	return d.take(now, m) || changed, nil
}

// fresh notes a sequence of the current run: fresh if it was not had before, late
// if a newer one was.
func (d *Detector) fresh(sequence uint64) (fresh, late bool) {
	if sequence > d.newest {
		d.had <<= min(sequence-d.newest, window) // a shift by 64 leaves nothing
		d.had |= 1
		d.newest = sequence
		return true, false
	}
	back := d.newest - sequence
	if back >= window || d.had&(1<<back) != 0 {
		return false, true
	}
	d.had |= 1 << back
	return true, true
}

// begin retires the peer's run known so far, if any, for the message's.
func (d *Detector) begin(m Message) {
	if d.current != 0 {
		d.retired[d.ended%retiredKept] = d.current
		d.ended++
	}
	d.current, d.newest, d.had = m.Incarnation, m.Sequence, 1
	d.groups = d.groups[:0]
}

// take makes the message the newest known.
func (d *Detector) take(now lb.Instant, m Message) (changed bool) {
	d.heard, d.base = now, now
	d.interval, d.floor, d.multiplier = m.Interval, m.Floor, m.Multiplier
	if d.state == election.PeerDown {
		// What it said before it fell silent counts no more; this page may be one of many.
		d.groups = d.groups[:0]
	}
	if d.state != election.PeerUp {
		d.state, changed = election.PeerUp, true
	}
	groups, news := merge(d.groups, m)
	d.groups = groups
	return changed || news
}

// Tick tells the time. It says whether the state has changed.
func (d *Detector) Tick(now lb.Instant) (changed bool) {
	was := d.state
	late, down := d.deadlines()
	switch was {
	case election.PeerUp, election.PeerLate:
		if now >= down {
			d.state = election.PeerDown
		} else if now >= late {
			d.state = election.PeerLate
		}
	case election.PeerUnknown, election.PeerDown:
		// Only a hello ends these.
	}
	return d.state != was
}

// Next is when Tick changes the state if nothing is heard, or 0 for never.
func (d *Detector) Next() lb.Instant {
	late, down := d.deadlines()
	switch d.state {
	case election.PeerUp:
		return late
	case election.PeerLate:
		return down
	case election.PeerUnknown, election.PeerDown:
	}
	return 0
}

// deadlines are when silence makes the peer Late, and Down.
func (d *Detector) deadlines() (late, down lb.Instant) {
	// How often the peer sends to us (RFC 5880 §6.8.4).
	every := max(d.self.Floor, d.interval)
	patience := every * time.Duration(d.multiplier)
	gap := min(wireGap, every*2/5)
	return d.base + max(every*6/5, patience-wireProbes*gap), d.base + patience
}

// Stalled says that this node itself has not run for a while until now: what was
// not heard meanwhile says nothing of the peer, whose time begins anew. A state of
// Late stays, as does when the peer was heard.
func (d *Detector) Stalled(now lb.Instant) { d.base = max(d.base, now) }

// SendEvery is how often to send to the peer: as often as we like, but not more
// often than it can take (RFC 5880 §6.8.7).
func (d *Detector) SendEvery() time.Duration { return max(d.self.Interval, d.floor) }

// Echo is what to tell the peer as Message.Echo: the run heard last, or 0.
func (d *Detector) Echo() uint64 { return d.last }

// State is the peer's state.
func (d *Detector) State() election.PeerState { return d.state }

// Heard is when the peer's newest hello came, or 0.
func (d *Detector) Heard() lb.Instant { return d.heard }

// Say is what the peer says of the group, if it says anything.
func (d *Detector) Say(group string) (election.Say, bool) {
	for i := range d.groups {
		if d.groups[i].Name == group {
			return d.groups[i].Say, true
		}
	}
	return election.Say{}, false
}

// Groups is all that the peer says, as a copy.
func (d *Detector) Groups() map[string]election.Say {
	all := make(map[string]election.Say, len(d.groups))
	for _, g := range d.groups {
		all[g.Name] = g.Say
	}
	return all
}
