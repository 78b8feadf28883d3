package election

import (
	"time"

	"mooring.dev/mooring/internal/lb"
)

// PeerState is what the hellos of another node say of it (election/hello).
type PeerState uint8

// The states. Only a peer that was Up can be Late or Down: a firewall is no death.
const (
	PeerUnknown PeerState = iota // never heard since this agent's start
	PeerUp                       // both hear each other
	PeerLate                     // a hello is missing
	PeerDown                     // three are
)

// String names the state.
func (s PeerState) String() string { return [...]string{"unknown", "up", "late", "down"}[s] }

// Say is what a node says of the group in each of its hellos.
type Say struct {
	Phase Phase
	// Transitions is the term that it holds or claims, else the newest it knows;
	// a provisional claim counts as the claimed term + 1, one at bootstrap as 0.
	Transitions int64
	// From is the holder that this node asks to drain: it took the record over in
	// a planned move that the holder, without API servers, cannot see. In Standby:
	// the holder to which it has given up a provisional term.
	From string
	// To is whom a Draining node hands over to.
	To string
	// Forwards is the node to which it forwards frames of flows it does not know.
	Forwards string
	// Healthy: its own load balancer serves.
	Healthy bool
	// API: an API server has answered it lately.
	API bool
}

// Event is something that happened, the only input of Machine.Step.
type Event interface{ event() }

// Via says how a View was come by.
type Via uint8

// The ways to learn of the record. Only Read and Write are quorum operations.
const (
	ByWatch Via = iota
	ByRead
	ByWrite
)

// String names the way.
func (v Via) String() string { return [...]string{"watch", "read", "write"}[v] }

type (
	// Started is the first event. Alive: every VIP was found on its link,
	// marked ours, and was refreshed silently at Begun.
	Started struct {
		Alive bool
		Begun lb.Instant
		// Last is the record remembered on disk, if Known.
		Last  Record
		Known bool
		// Forwards is the node to which an earlier run forwards, Until when.
		Forwards string
		Until    lb.Instant
		// SameBoot says that Last was written since this boot.
		SameBoot bool
	}
	// Saw is a look at the record; Begun is when the request was sent.
	Saw struct {
		View  View
		Via   Via
		Begun lb.Instant
	}
	// Renewed is a write of this node's member Lease, begun at Begun: it is what
	// renews a record that is itself written only when it changes.
	Renewed struct{ Begun lb.Instant }
	// ReadFailed is a read that was not answered in time, or with an error.
	ReadFailed struct{ Begun lb.Instant }
	// Members are all nodes that may hold the group.
	Members struct{ All []Member }
	// AddressIs is what the address sink reached.
	AddressIs struct {
		Held  bool
		Begun lb.Instant
		Late  bool
		Err   string
	}
	// AddressGone is an address of ours that somebody else deleted.
	AddressGone struct{}
	// Probed is the result of a Probe: who answered for the VIPs, and whether
	// any witness answered.
	Probed struct {
		Answers []string // MACs
		Witness bool
		Begun   lb.Instant
		// Asked is when the last of its probes was sent.
		Asked lb.Instant
		// Quick says that it answers a Quick probe.
		Quick bool
		Err   string
	}
	// Peer is another node as its hellos show it, at each change of its state or
	// of what it says. Heard is when its last hello came.
	Peer struct {
		Node  string
		State PeerState
		Say   Say
		Heard lb.Instant
	}
	// Pinged says whether the wire knows a node's own address.
	Pinged struct {
		Node  string
		Alive bool
	}
	// Rival is a host that asks for a VIP as one does who wants to take it (RFC
	// 5227 §2.1.1 probe).
	Rival struct{ MAC string }
	// Health is whether this node's own load balancer serves.
	Health struct{ OK bool }
	// Taints are nodes that the cluster's operators have declared out of service
	// (they are dead for sure), or to be emptied.
	Taints struct{ Out, Leave []string }
	// Claimed is a frame in which another host says it has a VIP of the group.
	Claimed struct{ MAC string }
	// Swapped is the result of a Swap.
	Swapped struct {
		To     string
		Result SwapResult
	}
	// Carrier is the announcing link's state.
	Carrier struct{ Up bool }
	// Ask is a wish for a planned move; To empty is the best live candidate.
	Ask struct {
		To    string
		Cause Cause
	}
	// Shutdown asks to give the group away and to end.
	Shutdown struct{}
	// Tick is a deadline that may have passed.
	Tick struct{}
)

func (Started) event()     {}
func (Saw) event()         {}
func (Renewed) event()     {}
func (ReadFailed) event()  {}
func (Members) event()     {}
func (AddressIs) event()   {}
func (AddressGone) event() {}
func (Probed) event()      {}
func (Claimed) event()     {}
func (Swapped) event()     {}
func (Peer) event()        {}
func (Pinged) event()      {}
func (Rival) event()       {}
func (Health) event()      {}
func (Taints) event()      {}
func (Carrier) event()     {}
func (Ask) event()         {}
func (Shutdown) event()    {}
func (Tick) event()        {}

// SwapResult is how a swap of the record ended.
type SwapResult uint8

// A swap was written, refused because the record had changed, or not answered
// (and may have been written all the same).
const (
	SwapWon SwapResult = iota
	SwapLost
	SwapUnanswered
)

// String names the result.
func (r SwapResult) String() string { return [...]string{"won", "lost", "unanswered"}[r] }

// Action is what the machine wants done, the only output of Machine.Step.
type Action interface{ action() }

// LockMode is what the resource lock may write.
type LockMode uint8

// The lock writes nothing, may swap the record to this node, or renews it.
const (
	LockClosed LockMode = iota
	LockClaim
	LockRenew
)

// String names the mode.
func (m LockMode) String() string { return [...]string{"closed", "claim", "renew"}[m] }

type (
	// Hold puts the group's addresses on their links or refreshes them.
	Hold struct {
		NotAfter lb.Instant
		// Mute: as the old holder in a hand-over, without announcements.
		Mute bool
	}
	// LetGo deletes them, at once.
	LetGo struct{}
	// Drain takes them from their links and leaves mute copies on lo, for For, so
	// that connections made before a hand-over live on.
	Drain struct{ For time.Duration }
	// Announce sends one announcement, in defence.
	Announce struct{}
	// Probe asks the wire for the VIPs and the witnesses: three times in 60 ms, or
	// Quick, once.
	Probe struct{ Quick bool }
	// Ping asks the wire for a node's own address.
	Ping struct{ Node string }
	// Read reads the record from an API server (quorum), within Timeout.
	Read struct{ Timeout time.Duration }
	// Lock sets what the elector may write.
	Lock struct {
		Mode LockMode
		// Record to write; for LockClaim Version is the one to replace.
		Record Record
		// NotAfter ends the permission.
		NotAfter lb.Instant
	}
	// Repair writes our record over a damaged or deleted one.
	Repair struct{ Record Record }
	// Swap writes Record over our own, with our own client.
	Swap struct {
		Record  Record
		Timeout time.Duration
	}
	// Forward sends frames of flows that this node does not know to Node, the
	// old holder; an empty Node stops it.
	Forward struct{ Node string }
	// Remember keeps the record on disk.
	Remember struct{ Record Record }
	// Note is a decision, for people.
	Note struct {
		Reason Reason
		Record Record
		Cause  Cause
		MAC    string
		Node   string
		Took   time.Duration
		Detail string
	}
	// Done ends the agent: nothing of the group is left to do. Kept says that
	// the addresses stay for the kernel to expire.
	Done struct{ Kept bool }
)

func (Hold) action()     {}
func (LetGo) action()    {}
func (Drain) action()    {}
func (Ping) action()     {}
func (Announce) action() {}
func (Probe) action()    {}
func (Read) action()     {}
func (Lock) action()     {}
func (Repair) action()   {}
func (Swap) action()     {}
func (Forward) action()  {}
func (Remember) action() {}
func (Note) action()     {}
func (Done) action()     {}

// Reason is a decision's name in logs, Events, metrics and tests.
type Reason string

// The reasons.
const (
	Became         Reason = "Holding"          // holds and announces the VIPs
	Adopted        Reason = "Adopted"          // found its own live VIPs at start
	GaveUp         Reason = "HandedOver"       // let go after the target's sign
	Fenced         Reason = "Fenced"           // let go at once
	Frozen         Reason = "WokeUp"           // the agent slept past the fence
	Unsure         Reason = "Unconfirmed"      // the API server no longer confirms
	Sure           Reason = "Confirmed"        // and does again
	Repaired       Reason = "RecordRepaired"   // Lease deleted or scribbled on
	Foreign        Reason = "ForeignClaim"     // a stranger says it has the VIP
	PeerClaim      Reason = "PeerClaim"        // a candidate says it has the VIP
	Stranger       Reason = "AddressInUse"     // a stranger answers: not claimed
	NoWitness      Reason = "NoWitness"        // cut off: not claimed
	HolderAlive    Reason = "HolderStillThere" // record old, holder answers
	MoveDropped    Reason = "MoveDropped"      // planned move not possible
	MoveUndone     Reason = "MoveUndone"       // target did not take over
	NoCandidate    Reason = "NoCandidate"      // nobody to hand over to
	AddressFailed  Reason = "AddressFailed"    // the kernel refused the address
	AddressBack    Reason = "AddressRestored"  // hand-deleted VIP put back
	Claims         Reason = "Claiming"         // swaps the record to itself
	HandingOver    Reason = "HandingOver"      // swapped the record to the target
	NamedByRecord  Reason = "NamedByRecord"    // takes over as the record says
	ClaimAbandoned Reason = "ClaimAbandoned"   // a claim ended without the swap
	HelloBlocked   Reason = "HelloBlocked"     // a living holder's hellos do not come
	NoForwarding   Reason = "NoForwarding"     // the chain of old holders comes back here
)
