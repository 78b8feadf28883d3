package election

import (
	"time"

	"mooring.dev/mooring/internal/lb"
)

// timer names one deadline of the machine.
type timer uint8

const (
	onRefresh     timer = iota // write the address again
	onWake                     // the fence: passed means that this agent was frozen
	onLease                    // the last write no longer proves the term
	onRead                     // look at the record again
	onClaim                    // the permission to claim ends
	onSign                     // the hand-over's target has not shown itself
	onSwap                     // a swap has had its time and its answer is missing
	onForward                  // the forwarding to the old holder has had its time
	onUnloop                   // a forwarding to the new holder has had its time
	onPing                     // ask whether the node forwarded to is alive
	onProbe                    // ask the wire again for a suspected holder
	onProvisional              // the API server has not answered a claim
	onIdle                     // the record's holder says that it holds nothing
	onBoot                     // no API server has answered since the start
	onSick                     // the own load balancer has not served for a while
	onDrain                    // this node shall be empty
	onPreempt                  // look for a better-ranked candidate
	onRepair                   // the record may be written again
	onCarrierLost              // the link has been down for a while
	timers
)

// deadlines are the machine's pending timers; zero is none.
type deadlines [timers]lb.Instant

// lasting are the deadlines that no change of phase ends.
func (d *deadlines) lasting() deadlines {
	var out deadlines
	for _, t := range []timer{onForward, onUnloop, onPing, onSick, onDrain, onPreempt} {
		out[t] = d[t]
	}
	return out
}

// set replaces a pending timer; clear forgets some.
func (d *deadlines) set(t timer, at lb.Instant) { d[t] = at }
func (d *deadlines) clear(ts ...timer) {
	for _, t := range ts {
		d[t] = 0
	}
}

// next is the earliest deadline, or 0.
func (d *deadlines) next() lb.Instant {
	var first lb.Instant
	for _, at := range d {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// take returns the earliest timer due at now and clears it.
func (d *deadlines) take(now lb.Instant) (timer, bool) {
	best, found := timer(0), false
	for t, at := range d {
		if at != 0 && at <= now && (!found || at < d[best]) {
			best, found = timer(t), true
		}
	}
	if found {
		d[best] = 0
	}
	return best, found
}

// ageing measures how old a record is. Only time covered by this node's own
// quorum reads counts: a hung API server looks healthy to a watch for 45 s, and
// a holder that cannot write because nobody can has not died.
type ageing struct {
	version string
	// seen is when this version was first seen, in any way.
	seen lb.Instant
	// since begins an unbroken chain of quick reads that all showed this
	// version; 0 is none.
	since lb.Instant
	// broken says that a read of this version failed or was slow.
	broken bool
	// last is when the last read was answered.
	last lb.Instant
}

// slowRead is the longest a read may take without breaking the chain.
const slowRead = time.Second

// saw notes a look at the record by any way.
func (a *ageing) saw(now lb.Instant, version string) {
	if a.seen == 0 || version != a.version {
		*a = ageing{version: version, seen: now}
	}
}

// answered notes that a read begun at begun showed the version now known. The
// first one, a missed renewal after the version came, proves the time between:
// less than the two seconds that leaseDuration has to spare. A pause between two
// reads is this node's own sleep and proves nothing.
func (a *ageing) answered(now, begun lb.Instant) {
	gap := a.since != 0 && a.last != 0 && begun-a.last > 2*time.Second
	a.last = now
	switch {
	case now-begun > slowRead, gap:
		a.broken, a.since = true, now
	case a.since == 0 && !a.broken && begun-a.seen < 2*time.Second:
		a.since = a.seen
	case a.since == 0:
		a.since = now
	}
}

// failed notes a read without an answer: the age starts again at zero.
func (a *ageing) failed() { a.broken, a.since = true, 0 }

// at is the record's proven age at the instant a read was begun.
func (a *ageing) at(begun lb.Instant) time.Duration {
	if a.since == 0 || begun < a.since {
		return 0
	}
	return begun - a.since
}
