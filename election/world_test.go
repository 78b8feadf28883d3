package election

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const ms = time.Millisecond

// world is a wire, an API server and some nodes in one queue of happenings
// ordered by time: no clock, no goroutine, so the same story ends the same way
// every time. What it takes from the real adapters: the mailbox and the fence of
// the address sink, the announcer's burst, the claims' rate, the lock's rules,
// the watch that lags behind, and a kernel that removes an address a little late.
type world struct {
	now   lb.Instant
	queue happenings
	count int
	rnd   *rand.Rand // nil: every latency is the same each time
	cfg   Config
	nodes []*node
	store store
	mode  apiMode
	slow  time.Duration // of one request in apiSlow
	stuck []func()      // requests that a hung API server may still carry out

	gateway  bool
	remember bool // members are kept on disk
	stranger bool // a host of no candidate answers for the VIP
	say      func(format string, args ...any)
	wire     wire
	holder   string // whom an agent last wrote into the record
	moves    int    // how often that changed
	repairs  int
	fault    string // an invariant that was broken, the first one
}

// node is one machine: its kernel and links outlive its agent.
type node struct {
	w          *world
	name, mac  string
	power      bool
	link       bool
	refuses    bool // the kernel refuses the address
	api        apiMode
	until      lb.Instant // the kernel has the address until then; 0: not at all
	disk       Record
	kept       bool // disk holds a record
	boot, told int
	left       bool       // its member Lease says leaving
	died       lb.Instant // since when its member Lease is not renewed; 0: it is

	agent   *agent
	frames  int        // announcements sent
	claimed lb.Instant // last claim reported
}

// agent is one run of the program on a node.
type agent struct {
	n      *node
	m      *Machine
	frozen bool
	asleep []func() // what came while frozen
	tick   lb.Instant
	ticks  int
	steps  int
	second lb.Instant // of steps
	wish   *Hold      // nil: hold nothing
	seq    int        // of the wish
	busy   bool       // the address sink is at work
	until  lb.Instant // the announcer may send until then
	burst  int        // of the announcer
	mute   bool       // it was told to say nothing
	defend lb.Instant
	ended  bool
	el     electorModel
}

type happening struct {
	at  lb.Instant
	seq int
	do  func()
}

type happenings []happening

func (h happenings) Len() int { return len(h) }
func (h happenings) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h happenings) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *happenings) Push(x any)   { *h = append(*h, x.(happening)) }
func (h *happenings) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// testConfig is the product's default profile.
func testConfig(self string) Config {
	return Config{Group: "apiserver", Self: self, Lease: 7 * time.Second, Renew: time.Second, ValidLft: 4 * time.Second}
}

// newWorld makes nodes n1…; nothing runs yet.
func newWorld(n int, seed uint64) *world {
	w := &world{now: time.Second, cfg: testConfig(""), gateway: true, say: func(string, ...any) {}}
	if seed != 0 {
		w.rnd = rand.New(rand.NewPCG(seed, 1))
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		w.nodes = append(w.nodes, &node{w: w, name: name, mac: "mac-" + name, power: true, link: true, left: true})
	}
	w.wire.since = w.now
	return w
}

func (w *world) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// after plans something that no agent's end prevents.
func (w *world) after(d time.Duration, f func()) {
	w.count++
	heap.Push(&w.queue, happening{w.now + d, w.count, f})
}

// vary is d, or around d in a random world.
func (w *world) vary(d time.Duration) time.Duration {
	if w.rnd == nil {
		return d
	}
	return d/2 + time.Duration(w.rnd.Int64N(int64(d)+1))
}

// runUntil lets happen what is due until then, or until an invariant breaks.
func (w *world) runUntil(t lb.Instant) {
	for w.fault == "" && len(w.queue) > 0 && w.queue[0].at <= t {
		h := heap.Pop(&w.queue).(happening)
		w.now = h.at
		h.do()
		w.look()
	}
	w.now = max(w.now, t)
}

func (w *world) broken(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf("%.3fs ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	}
}

// answers says whether others reach the VIP at this node.
func (n *node) answers() bool { return n.power && n.link && n.until > n.w.now }

// later plans something that this run of the agent does; not after its end,
// and while it is frozen not before it thaws.
func (a *agent) later(d time.Duration, f func()) {
	a.n.w.after(d, func() {
		switch {
		case a.ended:
		case a.frozen:
			a.asleep = append(a.asleep, f)
		default:
			f()
		}
	})
}

func (a *agent) deliver(ev Event) {
	w := a.n.w
	defer func() {
		if r := recover(); r != nil {
			w.broken("%s: %s: panic: %v", a.n.name, describe(ev), r)
			a.ended = true
		}
	}()
	if w.now-a.second > time.Second {
		a.second, a.steps = w.now, 0
	}
	if a.steps++; a.steps > 2000 {
		w.broken("%s spins: %s", a.n.name, describe(ev))
		return
	}
	for _, act := range a.m.Step(w.now, ev) {
		a.carryOut(act)
	}
	a.planTick()
}

func (a *agent) planTick() {
	next := a.m.Next()
	if next == a.tick || next == 0 {
		return
	}
	a.tick = next
	a.ticks++
	mine := a.ticks
	a.later(max(next-a.n.w.now, 0), func() {
		if mine == a.ticks {
			a.tick = 0
			a.deliver(Tick{})
		}
	})
}

func (a *agent) carryOut(act Action) {
	w, n := a.n.w, a.n
	switch act := act.(type) {
	case Hold:
		a.post(&act)
	case LetGo:
		a.post(nil)
	case Announce:
		if w.now-a.defend >= time.Second && w.now < a.until {
			a.defend = w.now
			n.announce()
		}
	case Probe:
		a.probe()
	case Remember:
		n.disk, n.kept, n.told = act.Record, true, n.boot
	case Note:
		w.say("%s %s", n.name, noteText(act))
	case Done:
		w.say("%s ends%s", n.name, map[bool]string{true: ", the kernel keeps the address"}[act.Kept])
		a.later(5*ms, func() { n.leave() })
	case Forward:
	case Repair:
		w.repairs++
		a.el.do(act)
	default:
		a.el.do(act)
	}
}

// noteText prints a decision as the log would.
func noteText(n Note) string {
	s := string(n.Reason) + " " + n.Record.String()
	for _, f := range []struct{ k, v string }{{"cause", string(n.Cause)}, {"node", n.Node}, {"mac", n.MAC}} {
		if f.v != "" {
			s += " " + f.k + "=" + f.v
		}
	}
	if n.Took != 0 {
		s += fmt.Sprintf(" took=%.3fs", n.Took.Seconds())
	}
	if n.Detail != "" {
		s += " (" + n.Detail + ")"
	}
	return s
}

// post replaces the wish that the address sink has not taken yet.
func (a *agent) post(h *Hold) {
	a.wish = h
	a.seq++
	if !a.busy {
		a.busy = true
		a.later(a.n.w.vary(ms), a.takeWish)
	}
}

// takeWish is the address sink: begin, write a millisecond later, report.
func (a *agent) takeWish() {
	wish, seq, begun := a.wish, a.seq, a.n.w.now
	a.later(a.n.w.vary(ms), func() {
		a.write(wish, seq, begun)
		a.busy = a.seq != seq
		if a.busy {
			a.takeWish()
		}
	})
}

func (a *agent) write(wish *Hold, seq int, begun lb.Instant) {
	n, w := a.n, a.n.w
	ev := AddressIs{Begun: begun}
	switch {
	case wish == nil:
		n.until, a.until = 0, 0
		return
	case wish.NotAfter != 0 && w.now >= wish.NotAfter:
		n.until, a.until = 0, 0
		ev.Late = true
	case n.refuses:
		ev.Err = "operation not permitted"
	default:
		fresh := n.until <= w.now
		n.setUntil(begun + w.cfg.ValidLft)
		a.until = begun + w.cfg.ValidLft
		ev.Held = true
		switch {
		case wish.Mute:
			a.burst++
		case fresh || a.mute:
			a.startBurst()
		}
		a.mute = wish.Mute
	}
	if seq == a.seq {
		a.later(w.vary(ms), func() {
			if seq == a.seq {
				a.deliver(ev)
			}
		})
	}
}

// setUntil is the kernel: it removes an address up to half a second late.
func (n *node) setUntil(until lb.Instant) {
	n.until = until + 300*ms
	if n.w.rnd != nil {
		n.until = until + n.w.vary(250*ms)
	}
	n.w.after(n.until-n.w.now, func() {})
}

func (a *agent) startBurst() {
	a.burst++
	mine := a.burst
	for _, d := range []time.Duration{0, 50 * ms, 150 * ms, 500 * ms, time.Second, 2 * time.Second} {
		a.later(d, func() {
			if mine == a.burst && a.n.w.now < a.until {
				a.n.announce()
			}
		})
	}
}

// announce is heard by every agent on the wire, one MAC ten times a second.
func (n *node) announce() {
	n.frames++
	if n.power && n.link {
		n.w.heard(n, n.mac)
	}
}

func (w *world) heard(from *node, mac string) {
	for _, n := range w.nodes {
		if n == from || n.agent == nil || !n.link || from != nil && from.claimed != 0 && w.now-from.claimed < 100*ms {
			continue
		}
		a := n.agent
		a.later(w.vary(ms), func() { a.deliver(Claimed{MAC: mac}) })
	}
	if from != nil && w.now-from.claimed >= 100*ms {
		from.claimed = w.now
	}
}

// probe asks three times in 60 ms.
func (a *agent) probe() {
	ev := Probed{Begun: a.n.w.now}
	holder := a.m.Status().Record.Holder
	for i := range 3 {
		a.later(time.Duration(i)*20*ms+a.n.w.vary(ms), func() { a.ask(&ev, holder) })
	}
	a.later(60*ms, func() { a.deliver(ev) })
}

func (a *agent) ask(ev *Probed, holder string) {
	w := a.n.w
	if !a.n.link {
		return
	}
	answer := func(mac string) {
		if !slices.Contains(ev.Answers, mac) {
			ev.Answers = append(ev.Answers, mac)
		}
	}
	ev.Witness = ev.Witness || w.gateway
	for _, o := range w.nodes {
		if o == a.n || !o.power || !o.link {
			continue
		}
		if o.answers() {
			answer(o.mac)
		}
		ev.Witness = ev.Witness || o.name != holder
	}
	if w.stranger {
		answer("mac-stranger")
	}
}

// wire keeps who answered when.
type wire struct {
	who          string
	since        lb.Instant
	both, nobody time.Duration // the longest spell since the last reset
	withDead     time.Duration // and two, one of them only the kernel of an agent that ended or is frozen
	dead         bool          // one of who ended or is frozen: only its kernel answers
	seen         map[string]bool
}

// look notes who answers now.
func (w *world) look() {
	var who []string
	dead := false
	for _, n := range w.nodes {
		if n.answers() {
			who = append(who, n.name)
			dead = dead || n.agent == nil || n.agent.frozen
		}
	}
	x := &w.wire
	if s := strings.Join(who, "+"); s != x.who || dead != x.dead {
		x.tally(w.now)
		same := s == x.who
		x.who, x.since, x.dead = s, w.now, dead
		if same {
			return
		}
		w.say("~ %s", map[bool]string{true: "nobody answers", false: s + " answers"}[s == ""])
	}
	if x.seen == nil {
		x.seen = map[string]bool{}
	}
	for _, n := range who {
		x.seen[n] = true
	}
}

func (x *wire) tally(now lb.Instant) {
	d := now - x.since
	switch {
	case x.who == "":
		x.nobody = max(x.nobody, d)
	case strings.Contains(x.who, "+") && x.dead:
		x.withDead = max(x.withDead, d)
	case strings.Contains(x.who, "+"):
		x.both = max(x.both, d)
	}
}
