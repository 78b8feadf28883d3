package election

import (
	"fmt"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// The bounds of the invariants, with what the model itself may add: latencies,
// clocks that run 2 % apart, a hello that was missed.
const (
	yieldBound = 1200 * ms   // I1, I5: one second
	bothBound  = 700 * ms    // a planned move: half a second
	fenceBound = 500 * ms    // I2: past the address's lifetime
	deadBound  = 60 * ms     // two that asked the wire at the same instant
	loopBound  = time.Second // a chain about to be removed; TTL ends the frames
)

// rules are the invariants of ownership.md ("What must hold") and what they have
// to remember. A scenario adds promises of its own; the rest hold at every
// happening of every run.
type rules struct {
	w *world

	names map[string]bool  // every term that the record ever had
	terms map[int64]string // whom each term's record named, since it was last meddled with
	swap  lb.Instant       // when the record last changed hands
	mine  []int64          // the term in which each node holds

	over  []spell   // a superseded holder answers and could know
	pair  [][]spell // two answer, both agents at work, and could know of each other
	blind [][]spell // the same, and only claims on the wire tell
	ghost [][]spell // two answer, one of them only a kernel
	spare []bool    // orphans whose address was not alone when their agent stopped
	met   [][]bool  // orphans that another could know to be alive, when their agent stopped

	cutAt  lb.Instant // when the wire was last cut or joined
	harmAt lb.Instant // when a fault last began or ended
	last   int        // whose announcement the client could hear last

	pairs   bool // pair, blind or ghost may have begun
	promise promise
}

// promise is what a scenario expects for a while; all are off at zero.
type promise struct {
	name string // of the invariant that it belongs to
	// still: these nodes answer, no others, without a gap.
	still uint
	// unbroken: there is no instant without an answer, for the client neither.
	unbroken bool
	// alive: no connection breaks.
	alive bool
	// both is how long two may answer; 0 is no promise.
	both time.Duration
}

// spell is a state that may last only so long.
type spell struct{ since lb.Instant }

// lasts notes whether the state holds and for how long it has. A look is planned
// for the instant at which the bound is reached.
func (s *spell) lasts(w *world, on bool, bound time.Duration) bool {
	switch {
	case !on:
		s.since = 0
	case s.since == 0:
		s.since = w.now
		w.after(bound+1, nil)
	}
	return on && w.now-s.since > bound
}

func (r *rules) begin(w *world) {
	n := len(w.nodes)
	*r = rules{w: w, names: map[string]bool{}, terms: map[int64]string{}, mine: make([]int64, n), over: make([]spell, n),
		spare: make([]bool, n), last: nobody}
	for range n {
		r.pair, r.ghost = append(r.pair, make([]spell, n)), append(r.ghost, make([]spell, n))
		r.blind, r.met = append(r.blind, make([]spell, n)), append(r.met, make([]bool, n))
	}
}

// look checks what must hold at every instant.
func (r *rules) look() {
	for _, n := range r.w.nodes {
		r.confirmed(n)
		r.superseded(n)
		r.fence(n)
	}
	if m := r.w.wire.mask; m&(m-1) != 0 {
		r.pairs = true
		r.shared()
	} else if r.pairs {
		r.pairs = false
		r.alone()
	}
	r.promised()
}

// wrote: I1, "the record names one holder per resourceVersion": a term that was
// written names one holder for ever.
func (r *rules) wrote(by *node, rec Record) {
	if old, ok := r.terms[rec.Transitions]; ok && old != rec.Holder {
		r.w.broken("I1", "%s writes %s, but term %d was %s's", by.name, rec, rec.Transitions, old)
	}
	if r.terms[rec.Transitions] == "" {
		r.swap = r.w.now
		if r.w.now-r.harmAt > 3*r.w.cfg.Lease+r.w.cfg.PreemptDelay {
			r.w.broken("I7", "%s writes %s, and nothing has happened for %.0fs", by.name, rec, (r.w.now - r.harmAt).Seconds())
		}
	}
	r.terms[rec.Transitions] = rec.Holder
	r.names[key(rec)] = true
}

// meddled: somebody outside changed the Lease, so its terms may begin anew.
func (r *rules) meddled(s *store) {
	clear(r.terms)
	r.swap = r.w.now
	if s.exists && s.sound {
		r.terms[s.rec.Transitions] = s.rec.Holder
		r.names[key(s.rec)] = true
	}
}

func key(r Record) string { return fmt.Sprintf("%s/%d", r.Holder, r.Transitions) }

// confirmed: I1, nobody calls itself confirmed in a term that no record named.
func (r *rules) confirmed(n *node) {
	a := n.agent
	if a == nil || a.phase != Holding {
		return
	}
	st := &a.status
	r.mine[n.id] = st.Record.Transitions
	if st.Confirmed && a.since == r.w.now && !r.names[key(st.Record)] {
		r.w.broken("I1", "%s holds %s confirmed, but the record never said so", n.name, st.Record)
	}
}

// superseded: I1, "a superseded holder that runs and hears an API server or a
// hello lets go <= 1 s after the swap".
func (r *rules) superseded(n *node) {
	s := &r.w.store
	on := n.answers() && !n.orphan() && s.exists && s.sound && s.rec.Holder != n.name &&
		s.rec.Transitions >= r.mine[n.id] && r.couldKnow(n)
	if r.over[n.id].since < r.swap {
		r.over[n.id].since = 0 // a hand-over that goes on to the next target
	}
	if r.over[n.id].lasts(r.w, on, yieldBound) {
		r.w.broken("I1", "%s still answers, %.3fs after it could know of %s", n.name,
			(r.w.now - r.over[n.id].since).Seconds(), s.rec)
	}
}

// couldKnow: an API server answers it quickly, or it hears the new holder say so.
// Of two that hold provisionally in one term the better rank keeps ("compare by
// hello: transitions, then rank"), also if the other's swap is the one that was
// written: until that one's hello says that an API server confirms it.
func (r *rules) couldKnow(n *node) bool {
	if n.modeNow() == apiUp {
		return true
	}
	h := r.w.node(r.w.store.rec.Holder)
	if h == nil || h.agent == nil || n.agent.hears == nil {
		return false
	}
	s := &n.agent.hears[h.id]
	return s.comes && s.state == PeerUp && s.say.Phase == Holding && s.say.Transitions >= r.w.store.rec.Transitions &&
		(s.say.Transitions > r.mine[n.id] || s.say.API || !n.agent.m.outranks(h.name))
}

// announced: I1, "and never announces after it learned of it". The address sink
// may be at work for some milliseconds after the machine has decided.
func (r *rules) announced(n *node) {
	a := n.agent
	if a != nil && a.phase != Holding && r.w.now-a.since > 20*ms {
		r.w.broken("I1", "%s announces the VIP as %s", n.name, a.phase)
	}
	if r.w.carries(n.id, r.w.client.id) {
		r.last = n.id
	}
}

// fence: I2, "nobody answers for a VIP longer than valid_lft + 0.5 s after its
// agent stopped".
func (r *rules) fence(n *node) {
	if n.orphan() && n.answers() && n.clock() > n.stopped+r.w.cfg.ValidLft+fenceBound {
		r.w.broken("I2", "%s answers %.3fs after its agent stopped", n.name, (n.clock() - n.stopped).Seconds())
	}
}

// orphaned notes whether a node's address was alone when its agent stopped: in
// the middle of a hand-over or a quarrel its kernel goes on as the second one. And
// whether the others could know until then that the agent lived: behind a firewall
// that keeps its hellos, and with no API server to renew its record by, it was as
// good as dead to them ("at most valid_lft + 1 s, then claim"), so they may take
// the group in the very seconds in which it dies.
func (r *rules) orphaned(n *node) {
	w := r.w
	two := w.wire.mask&(w.wire.mask-1) != 0
	moving := n.agent != nil && (n.agent.m.hand.active || n.agent.m.shutdown)
	r.spare[n.id] = two || moving || w.store.rec.From != "" || w.now-r.swap < 500*ms || w.now-r.cutAt < 5*time.Second ||
		w.store.rec.Holder != n.name
	for _, o := range w.nodes {
		r.met[n.id][o.id] = r.told(n, o) && w.dates(o, n)
	}
}

// shared: I5, "a healed partition has one holder within 1 s", and nowhere two
// that could know of each other. What only a dead agent's kernel answers is
// never joined by another, but for a wire that was cut in between.
func (r *rules) shared() {
	w := r.w
	for i, a := range w.nodes {
		for _, b := range w.nodes[i+1:] {
			two := a.answers() && b.answers() && w.bothWays(a.id, b.id)
			dead := two && (a.orphan() || b.orphan())
			easy := two && !dead && r.told(a, b)
			if r.pair[i][b.id].lasts(w, easy, yieldBound) {
				w.broken("I5", "%s and %s both answer for %.3fs", a.name, b.name, (w.now - r.pair[i][b.id].since).Seconds())
			}
			hard := two && !dead && !easy && a.agent.knows && b.agent.knows
			if r.blind[i][b.id].lasts(w, hard, w.cfg.Lease+5*time.Second) {
				w.broken("I5", "%s and %s both answer for %.3fs and hear only claims", a.name, b.name,
					(w.now - r.blind[i][b.id].since).Seconds())
			}
			r.haunted(a, b, two)
			r.haunted(b, a, two)
		}
	}
	if p := r.promise; p.both != 0 && w.now-w.wire.since > p.both {
		w.broken(p.name, "%s answer together for %.3fs", w.who(), (w.now - w.wire.since).Seconds())
	}
}

// haunted: another answers beside a dead agent's kernel for a moment only, or, where
// that is excused, until the fence.
func (r *rules) haunted(dead, other *node, two bool) {
	w, bound := r.w, deadBound
	if r.excused(dead, other) || w.now-r.cutAt < 6*time.Second {
		bound = w.cfg.ValidLft + time.Second
	}
	if spell := &r.ghost[dead.id][other.id]; spell.lasts(w, two && dead.orphan(), bound) {
		w.broken("I5", "%s and %s both answer for %.3fs, the first a dead agent's kernel", dead.name, other.name,
			(w.now - spell.since).Seconds())
	}
}

// excused says whether another may answer beside a dead agent's kernel, until the
// fence.
func (r *rules) excused(dead, other *node) bool {
	return dead.orphan() && (r.spare[dead.id] || !r.met[dead.id][other.id])
}

// alone: whoever answers, no two do.
func (r *rules) alone() {
	for i := range r.pair {
		clear(r.pair[i])
		clear(r.ghost[i])
		clear(r.blind[i])
	}
}

// told: two whose agents are at work hear each other's hellos, or the API server
// tells both. Without that only each other's claims on the wire, asked for every
// second, settle it, and a term that was written a moment ago counts for as long
// as its lease.
func (r *rules) told(a, b *node) bool {
	w := r.w
	hello := w.passes(a, b) && w.passes(b, a) && a.speaks() && b.speaks()
	return hello || a.modeNow() == apiUp && b.modeNow() == apiUp
}

// split: the wire was cut or joined; within a second the last announcement has
// to be the true holder's.
func (r *rules) split() {
	r.cutAt = r.w.now
	r.harm()
}

// harm: a fault began or ended.
func (r *rules) harm() { r.harmAt = r.w.now }

// settled: I5, "and the last announcement is the true holder's".
func (r *rules) settled() {
	w := r.w
	if m := w.wire.mask; r.last != nobody && m != 0 && m&(1<<r.last) == 0 {
		w.broken("I5", "the last announcement was %s's, but %s answers", w.nodes[r.last].name, w.who())
	}
}

// promised: what a scenario expects.
//
//	I3 after any single fault some candidate answers within a bound
//	I4 an API outage of any length moves and removes nothing
//	I6 a planned move has no instant without an answering node
//	I7 nothing flaps: without a new fault nothing moves
func (r *rules) promised() {
	p, w := &r.promise, r.w
	switch {
	case p.still != 0 && w.wire.mask != p.still:
		w.broken(p.name, "%q answers, and %s should go on alone", w.who(), w.names(p.still))
	case p.unbroken && w.wire.mask == 0:
		w.broken(p.name, "nobody answers")
	case p.unbroken && w.client.down:
		w.broken(p.name, "the client gets no answer")
	}
}

// broke: I8, "an established connection of a client not on the new holder
// survives planned moves, there and back, while the old holder lives and
// drainTimeout runs": from the time at which its node let go of the link.
func (r *rules) broke(k *conn) {
	n := k.at
	over := n.until <= n.clock() && n.clock()-n.gave >= r.w.cfg.Drain*95/100
	if r.promise.alive && !over {
		r.w.broken("I8", "the connection to %s of %.3fs broke: %s", k.at.name, k.opened.Seconds(), k.why)
	}
}
