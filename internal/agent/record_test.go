package agent

import (
	"strconv"
	"sync"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// api is an API server that has one Lease.
type api struct {
	site *site

	mu      sync.Mutex
	down    bool
	exists  bool
	record  election.Record
	version int
	writes  int
}

const answers = 2 * time.Millisecond

// set makes the Lease be that record, as if it had always been.
func (a *api) set(holder string, transitions int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	a.exists = true
	a.record = election.Record{Holder: holder, Transitions: transitions, UID: "u", Version: strconv.Itoa(a.version)}
}

func (a *api) outage(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}

// handOver makes the Lease name another node, as a node that is not in the
// story would.
func (a *api) handOver(from, to string, transitions int64) {
	a.mu.Lock()
	over := a.record.Version
	a.mu.Unlock()
	a.write(election.Record{Holder: to, Transitions: transitions, From: from, Cause: election.CauseMove}, over)
}

// view is what the Lease says now.
func (a *api) view() election.View {
	if !a.exists {
		return election.View{}
	}
	return election.View{Exists: true, Sound: true, Candidate: true, Record: a.record}
}

// written counts the writes so far.
func (a *api) written() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.writes
}

// holder is what the Lease says.
func (a *api) holder() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record.String()
}

// write replaces the record if it is still the one of that version, and shows
// it to everybody's watch.
func (a *api) write(r election.Record, over string) (election.View, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down || a.exists && over != a.record.Version || !a.exists && over != "" {
		return a.view(), false
	}
	a.version++
	a.writes++
	a.exists = true
	r.Version, r.UID = strconv.Itoa(a.version), "u"
	a.record = r
	v := a.view()
	for _, n := range a.site.all() {
		ev := election.Saw{View: v, Via: election.ByWatch, Begun: n.now()}
		time.AfterFunc(time.Millisecond, func() { n.agent.Deliver(ev) })
	}
	return v, true
}

// recorder is one node's elector: it answers from the API server by events.
type recorder struct {
	*node
	mu    sync.Mutex
	wish  election.Lock
	asked []election.Action
}

// Do does not block, as the agent's loop demands.
func (r *recorder) Do(act election.Action) {
	r.mu.Lock()
	r.asked = append(r.asked, act)
	r.mu.Unlock()
	begun := r.now()
	switch act := act.(type) {
	case election.Read:
		time.AfterFunc(answers, func() { r.read(begun, act.Timeout-answers) })
	case election.Lock:
		r.mu.Lock()
		old := r.wish
		r.wish = act
		r.mu.Unlock()
		if act.Mode == election.LockClaim || act.Mode == election.LockRenew && old.Mode != election.LockRenew {
			time.AfterFunc(answers, r.elect)
		}
	case election.Swap:
		time.AfterFunc(answers, func() { r.swap(begun, act) })
	case election.Repair:
		time.AfterFunc(answers, func() { r.repair(begun, act.Record) })
	}
}

func (r *recorder) repair(begun lb.Instant, rec election.Record) {
	r.api.mu.Lock()
	over := r.api.record.Version
	r.api.mu.Unlock()
	r.put(begun, rec, over)
}

func (r *recorder) read(begun lb.Instant, more time.Duration) {
	r.api.mu.Lock()
	v, down := r.api.view(), r.api.down
	r.api.mu.Unlock()
	if down {
		time.AfterFunc(more, func() { r.agent.Deliver(election.ReadFailed{Begun: begun}) })
		return
	}
	r.agent.Deliver(election.Saw{View: v, Via: election.ByRead, Begun: begun})
}

// put writes and tells its own node of the answer.
func (r *recorder) put(begun lb.Instant, rec election.Record, over string) bool {
	v, ok := r.api.write(rec, over)
	if ok {
		r.agent.Deliver(election.Saw{View: v, Via: election.ByWrite, Begun: begun})
	}
	return ok
}

// elect claims once, or renews as long as it may.
func (r *recorder) elect() {
	r.mu.Lock()
	wish := r.wish
	r.mu.Unlock()
	if wish.Mode == election.LockClosed || !r.running() {
		return
	}
	if wish.NotAfter == 0 || r.now() < wish.NotAfter {
		over := wish.Record.Version
		if wish.Mode == election.LockRenew {
			r.api.mu.Lock()
			over = r.api.record.Version
			ours := r.api.record.Holder == r.name && r.api.record.Transitions == wish.Record.Transitions
			r.api.mu.Unlock()
			if !ours {
				return
			}
		}
		r.put(r.now(), wish.Record, over)
	}
	if wish.Mode == election.LockRenew {
		time.AfterFunc(renewal, r.elect)
	}
}

func (r *recorder) swap(begun lb.Instant, act election.Swap) {
	r.api.mu.Lock()
	down, over := r.api.down, r.api.record.Version
	ours := r.api.record.Transitions < act.Record.Transitions
	r.api.mu.Unlock()
	tell := func(res election.SwapResult) {
		r.agent.Deliver(election.Swapped{To: act.Record.Holder, Result: res})
	}
	switch {
	case down:
		time.AfterFunc(act.Timeout, func() { tell(election.SwapUnanswered) })
	case ours && r.put(begun, act.Record, over):
		tell(election.SwapWon)
	default:
		tell(election.SwapLost)
	}
}
