package agent

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Status is what an agent says of itself on its socket, as JSON.
type Status struct {
	Node  string   `json:"node"`
	Group string   `json:"group"`
	VIPs  []string `json:"vips"`
	// State is Standby, Claiming, Holding or Draining; Confirmed whether an API
	// server says so too.
	State     string `json:"state"`
	Confirmed bool   `json:"confirmed"`
	Holder    string `json:"holder"`
	Term      int64  `json:"term"`
	// Cause is why the holder's term began, as the record says.
	Cause election.Cause `json:"cause,omitempty"`
	// HeldFor is how long this node has held, in seconds; 0 when it does not.
	HeldFor float64 `json:"heldForSeconds"`
	// Fence is how long the kernel keeps the address without this agent.
	Fence   float64           `json:"fenceSeconds"`
	Proxy   lb.ProxyState     `json:"proxy"`
	Plan    lb.Reason         `json:"plan,omitempty"`
	Members []election.Member `json:"members"`
	// Provisional: it holds without an API server's word.
	Provisional bool `json:"provisional,omitempty"`
	// Forwards is the old holder to which connections made before a move go.
	Forwards string `json:"forwards,omitempty"`
	// Peers are the other candidates as their hellos show them.
	Peers []PeerStatus `json:"peers"`
	// Last is when this node last took, kept or gave up the VIPs.
	Last *Move `json:"last,omitempty"`
	// Moves are the last decisions, newest first.
	Moves []Move `json:"moves"`
	// Beat is the instant of this status by CLOCK_BOOTTIME, nanoseconds.
	Beat lb.Instant `json:"beat"`
}

// PeerStatus is another candidate as its hellos show it.
type PeerStatus struct {
	Node string `json:"node"`
	// State is unknown, up, late or down.
	State string `json:"state"`
	// Says is the phase that it says it is in; Healthy whether it serves.
	Says    string `json:"says,omitempty"`
	Term    int64  `json:"term,omitempty"`
	Healthy bool   `json:"healthy"`
	// Heard is how long ago its state last changed or it said something new, in seconds.
	Heard float64 `json:"heardSecondsAgo,omitempty"`
}

// Move is one decision worth remembering.
type Move struct {
	At     time.Time       `json:"at"`
	Reason election.Reason `json:"reason"`
	Cause  election.Cause  `json:"cause,omitempty"`
	Node   string          `json:"node,omitempty"`
	MAC    string          `json:"mac,omitempty"`
	Took   time.Duration   `json:"took,omitempty"`
	Detail string          `json:"detail,omitempty"`
}

// repeatAfter is how long the same decision about the same host is not told
// again: a stranger's ten claims a second are one story.
const repeatAfter = time.Second

// keepMoves is how many decisions a status remembers.
const keepMoves = 20

// publish makes the present state readable from other goroutines.
func (a *Agent) publish() {
	m := a.machine.Status()
	now := a.opt.Now()
	s := Status{
		Node: a.opt.Machine.Self, Group: a.opt.Machine.Group, State: m.Phase.String(), Confirmed: m.Confirmed,
		Holder: m.Record.Holder, Term: m.Record.Transitions, Cause: m.Record.Cause, Proxy: a.plane.Proxy,
		Members: a.members, Beat: now, Plan: lb.Plan(a.plane).Reason,
		Moves: append([]Move(nil), a.moves...), Last: a.lastMove,
		Provisional: m.Provisional, Forwards: m.Forwards, Peers: a.peerStatus(now),
	}
	for _, v := range a.VIPs() {
		s.VIPs = append(s.VIPs, v.IP.String())
	}
	if m.Since != 0 {
		s.HeldFor = (now - m.Since).Seconds()
		s.Fence = max(m.Wake-now, 0).Seconds()
	}
	a.status.Store(&s)
	a.metrics.publish(m, s)
}

// peerStatus lists the peers by name.
func (a *Agent) peerStatus(now lb.Instant) []PeerStatus {
	var out []PeerStatus
	for _, node := range slices.Sorted(maps.Keys(a.peers)) {
		p := a.peers[node]
		s := PeerStatus{Node: node, State: p.State.String()}
		if p.Heard != 0 {
			s.Says, s.Term, s.Healthy = p.Say.Phase.String(), p.Say.Transitions, p.Say.Healthy
			s.Heard = (now - p.Heard).Seconds()
		}
		out = append(out, s)
	}
	return out
}

// Status returns the state as last published, at most half a second old.
func (a *Agent) Status() Status { return *a.status.Load() }

// Healthy says whether the loop runs and a holder really holds; the error says
// what does not. A standby without an API server is healthy: it can do nothing
// better, and a restart would not help.
func (a *Agent) Healthy() error {
	s := a.Status()
	if idle := a.opt.Now() - s.Beat; idle > 2*time.Second {
		return errStuck
	}
	if s.State == election.Holding.String() && s.Fence == 0 && s.HeldFor > 2 {
		return errNotHeld
	}
	return nil
}

// Ready says whether the agent knows the record and its data plane serves.
func (a *Agent) Ready() error {
	if err := a.Healthy(); err != nil {
		return err
	}
	s := a.Status()
	switch {
	case s.Holder == "":
		return errNoRecord
	case s.Plan != "" && s.Plan != lb.NotAsked:
		return errNoProxy
	}
	return nil
}

// healthError is why an agent is not healthy or not ready.
type healthError string

// Error says what is missing.
func (e healthError) Error() string { return string(e) }

const (
	errStuck    healthError = "the state loop has not run for 2 s"
	errNotHeld  healthError = "holding, but the addresses are not on their links (see the log for the kernel's refusal)"
	errNoRecord healthError = "the Lease has not been read yet (see `mooring status` for the API servers)"
	errNoProxy  healthError = "HAProxy does not serve yet (see its log in the run directory)"
)

// note remembers, logs and counts a decision and passes it on.
func (a *Agent) note(n election.Note) {
	a.metrics.note(n)
	if last := a.noted; provoked(n.Reason) && last.Reason == n.Reason && last.MAC == n.MAC &&
		a.opt.Clock().Sub(last.At) < repeatAfter {
		return
	}
	m := Move{
		At: a.opt.Clock(), Reason: n.Reason, Cause: n.Cause, Node: n.Node, MAC: n.MAC, Took: n.Took,
		Detail: n.Detail,
	}
	a.noted = m
	if moved(n.Reason) {
		a.lastMove = &m
	}
	a.moves = append([]Move{m}, a.moves[:min(len(a.moves), keepMoves-1)]...)
	level := slog.LevelInfo
	if Warns(n.Reason) {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("group", a.opt.Machine.Group), slog.String("record", n.Record.String())}
	for _, kv := range [][2]string{
		{"cause", string(n.Cause)}, {"node", n.Node}, {"mac", n.MAC}, {"detail", n.Detail},
	} {
		if kv[1] != "" {
			attrs = append(attrs, slog.String(kv[0], kv[1]))
		}
	}
	if n.Took != 0 {
		attrs = append(attrs, slog.Duration("took", n.Took))
	}
	a.opt.Log.LogAttrs(a.ctx, level, string(n.Reason), attrs...)
	a.opt.Noted(n)
}

// provoked says whether others can make this node decide so again and again.
func provoked(r election.Reason) bool {
	switch r {
	case election.Foreign, election.PeerClaim, election.Repaired, election.AddressBack:
		return true
	default:
		return false
	}
}

// moved says whether a decision changed what this node answers for.
func moved(r election.Reason) bool {
	switch r {
	case election.Became, election.Adopted, election.GaveUp, election.Fenced, election.Frozen, election.MoveUndone:
		return true
	default:
		return false
	}
}

// Warns says whether a decision is one that somebody should look at.
func Warns(r election.Reason) bool {
	switch r {
	case election.Fenced, election.Frozen, election.Foreign, election.PeerClaim, election.Stranger,
		election.NoWitness, election.AddressFailed, election.AddressBack, election.MoveDropped,
		election.MoveUndone, election.NoCandidate, election.Repaired, election.Unsure, election.HolderAlive,
		election.HelloBlocked, election.NoForwarding:
		return true
	default:
		return false
	}
}
