package election

import (
	"fmt"
	"time"
)

// Record is what a group's Lease says: who holds it and in which term.
type Record struct {
	// Holder is the node's name.
	Holder string `json:"holder"`
	// Transitions counts the terms; every new holder adds one
	// (coordination.k8s.io LeaseSpec.leaseTransitions).
	Transitions int64 `json:"transitions"`
	// From names the node that handed this term over; the new holder's first
	// renewal, written only after address and announcement, removes it.
	From string `json:"from,omitempty"`
	// Cause is why the term began.
	Cause Cause `json:"cause,omitempty"`
	// Lease is what the holder promised (LeaseSpec.leaseDurationSeconds): its
	// kernel may answer that long.
	Lease time.Duration `json:"lease,omitempty"`
	// Unwritten: this node holds by it, and no API server has said that it stands.
	Unwritten bool `json:"unwritten,omitempty"`
	// UID and Version are the Lease's, both opaque to the machine.
	UID     string `json:"uid,omitempty"`
	Version string `json:"version,omitempty"`
	// Beat names the last renewal of the holder's member Lease, for a group whose
	// own Lease is written only when it changes; else "".
	Beat string `json:"-"`
}

// stamp tells one renewal of the record from the next, "" for no Lease.
func (r Record) stamp() string {
	if r.Beat == "" || r.Version == "" {
		return r.Version
	}
	return r.Version + "+" + r.Beat
}

// String prints the record as "holder/transitions".
func (r Record) String() string {
	s := fmt.Sprintf("%s/%d", r.Holder, r.Transitions)
	if r.From != "" {
		s += " from " + r.From
	}
	return s
}

// term says whether both are the same holder in the same term.
func (r Record) term(o Record) bool { return r.Holder == o.Holder && r.Transitions == o.Transitions }

// Cause is why a group changed hands or why that was tried.
type Cause string

// The causes, as they stand in the Lease's annotation, in Events and metrics.
const (
	CauseFirst     Cause = "first-claim"
	CauseExpired   Cause = "lease-expired"
	CauseMove      Cause = "move"
	CauseShutdown  Cause = "shutdown"
	CauseAddress   Cause = "address-failed"
	CauseCarrier   Cause = "link-down"
	CauseUndone    Cause = "hand-over-undone"
	CauseAdopted   Cause = "adopted"
	CauseFenced    Cause = "fenced"
	CauseNamed     Cause = "named-by-record"
	CauseRecreated Cause = "recreated"
	CauseSilent    Cause = "holder-silent"
	CauseBootstrap Cause = "bootstrap"
	CauseStale     Cause = "holder-without-api"
	CauseUnhealthy Cause = "unhealthy"
	CauseDrain     Cause = "drain"
	CausePreempt   Cause = "preempt"
)

// View is one look at the group's Lease, by watch, read or own write.
type View struct {
	// Exists is false when the API server says that there is no such Lease.
	Exists bool
	// Sound is false when the Lease exists but does not carry a record of
	// ours: emptied, garbage, or edited without the term that proves it.
	Sound bool
	// Candidate says that the holder is a known candidate (has a member Lease).
	Candidate bool
	Record    Record
}

// verdict is what a View means beside the record known so far.
type verdict uint8

const (
	same      verdict = iota // the known term, renewed or not
	successor                // a later term of a known candidate
	damage                   // scribbled on: not to be believed
	missing                  // deleted
)

// judge compares a view with the record known so far. A valid successor has
// more transitions, or as many in a Lease that was made anew, and a known candidate
// as holder; anything else that differs is damage. Without a known record every sound one is believed.
func judge(known Record, ever bool, v View) verdict {
	switch {
	case !v.Exists:
		return missing
	case !v.Sound:
		return damage
	case !ever:
		return successor
	case v.Record.term(known):
		return same
	case v.Record.Transitions > known.Transitions && v.Candidate:
		return successor
	case v.Record.Transitions == known.Transitions && v.Candidate && v.Record.remade(known):
		return successor
	}
	return damage
}

// remade says whether the record stands in another Lease than the one known: that
// was deleted, and this one made by a node that did not know of its last term.
func (r Record) remade(known Record) bool {
	return r.UID != "" && known.UID != "" && r.UID != known.UID
}
