package hello

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Status is what the loop can say of itself.
type Status struct {
	// Precedence says that ordinary work does not delay it: it has the
	// highest niceness.
	Precedence bool
	// Why is what is wrong and the way out, or "".
	Why string
	// Interval is how often hellos are sent; a peer may ask for fewer.
	Interval time.Duration
	// Stalls counts how often the thread itself did not run for an interval.
	Stalls uint64
	// Rejected counts datagrams from no peer's address, by Reason.Slug.
	Rejected map[string]uint64
	Peers    []PeerStatus
}

// PeerStatus is what the loop can say of a peer.
type PeerStatus struct {
	Node  string
	Addr  netip.Addr
	Link  string
	State election.PeerState
	// Why is what keeps the peer from being Up, and the way out, or "".
	Why string
	// Since is when it came into its state, Heard when its last hello came; 0 is
	// never.
	Since, Heard lb.Instant
	// Sent and Received count hellos, Rejected those refused, by Reason.Slug.
	Sent, Received uint64
	Rejected       map[string]uint64
}

// view is what the thread publishes of itself.
type view struct {
	precedence bool
	why        []string // slow, and targets that cannot be spoken with
	interval   time.Duration
	port       uint16
	keys       int
	stalls     *atomic.Uint64
	// strangers are datagrams from addresses of no peer.
	strangers *counts
	peers     []*tally
}

// counts are refused datagrams by reason.
type counts [reasons]atomic.Uint64

// slugged gives those that are not zero.
func (c *counts) slugged() map[string]uint64 {
	out := map[string]uint64{}
	for r := range c {
		if n := c[r].Load(); n > 0 {
			out[Reason(r).Slug()] = n
		}
	}
	return out
}

// tally is what the thread publishes of a peer, without locks.
type tally struct {
	target       Target
	state        atomic.Uint32
	since, heard atomic.Int64
	sent, got    atomic.Uint64
	rejected     counts
	sendErr      atomic.Int32           // errno of the last send, 0 for sent
	socketErr    atomic.Pointer[string] // why there is no socket, or nil
}

// Status may be called at any time.
func (l *Loop) Status() Status {
	if l.helper != nil {
		s := l.statusFar()
		if text := l.unsaid.Load(); text != nil {
			s.Why = strings.TrimPrefix(s.Why+"; "+*text, "; ")
		}
		return s
	}
	v := l.view.Load()
	if v == nil {
		return Status{Why: "not running"}
	}
	s := Status{Precedence: v.precedence, Interval: v.interval, Stalls: v.stalls.Load(), Rejected: v.strangers.slugged()}
	why := append([]string(nil), v.why...)
	if v.keys == 0 {
		why = append(why, "silent and deaf, as there is no hello key: "+howKey+" and give it to all nodes")
	} else if l.silent(l.opt.Now()) {
		why = append(why, "silent, as the agent's state loop has not run for a second")
	}
	if text := l.unsaid.Load(); text != nil {
		why = append(why, *text)
	}
	s.Why = strings.Join(why, "; ")
	for _, t := range v.peers {
		s.Peers = append(s.Peers, t.status(v.port))
	}
	return s
}

// status reads the tally.
func (t *tally) status(port uint16) PeerStatus {
	return PeerStatus{
		Node: t.target.Node, Addr: t.target.Addr, Link: t.target.Link,
		State: election.PeerState(t.state.Load()),
		Why:   t.why(port),
		Since: lb.Instant(t.since.Load()), Heard: lb.Instant(t.heard.Load()),
		Sent: t.sent.Load(), Received: t.got.Load(),
		Rejected: t.rejected.slugged(),
	}
}

// why explains a peer that cannot be spoken with, or that never came Up.
func (t *tally) why(port uint16) string {
	if text := t.socketErr.Load(); text != nil {
		return *text
	}
	if errno := syscall.Errno(t.sendErr.Load()); errno != 0 {
		return fmt.Sprintf("hellos to %s are refused here: %v", t.target.Addr, errno)
	}
	if election.PeerState(t.state.Load()) != election.PeerUnknown {
		return ""
	}
	for _, r := range []Reason{ErrKey, ErrMAC, ErrVersion, ErrHops, ErrNode, ErrFormat, ErrTiming, ErrEcho} {
		if t.rejected[r].Load() > 0 {
			return "its hellos are refused: " + r.Error()
		}
	}
	return fmt.Sprintf("never heard: allow UDP port %d between %s and this node if it is running", port, t.target.Addr)
}
