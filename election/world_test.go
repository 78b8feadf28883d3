package election

import (
	"fmt"
	"math/rand/v2"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const ms = time.Millisecond

// world is a wire, API servers, hellos, a client and some nodes in one queue of
// happenings ordered by time: no goroutine and no real clock, so the same seed
// ends the same way every time. What it takes from the real adapters: the
// mailbox and the fence of the address sink, the announcer's burst, the claims'
// rate, the lock's rules, the watch that lags behind, the hellos' detector, and
// a kernel that removes an address a little late.
type world struct {
	now   lb.Instant
	queue queue
	count int
	rnd   *rand.Rand // nil: every latency is the same each time
	cfg   Config
	nodes []*node
	store store
	mode  apiMode
	slow  time.Duration // of one request in apiSlow
	stuck []func()      // requests that a hung API server may still carry out
	late  bool          // one of them gives the record to another node

	gateway  bool
	remember bool     // members are kept on disk
	services bool     // the group is one of Services
	stranger bool     // a host of no candidate answers for the VIP
	deaf     [][]bool // [to][from]: the wire carries no frame that way
	blocked  [][]bool // the same for hellos only, as a firewall does
	loss     float64  // of frames, 0 to 1
	out      []string // nodes tainted out of service

	say      func(format string, args ...any)
	quiet    bool // nobody reads what is said
	wire     wire
	client   client
	rules    rules      // the invariants and what they remember
	wroteAt  lb.Instant // when the record was last written
	holder   string     // whom an agent last wrote into the record
	moves    int        // how often that changed
	repairs  int
	requests int    // to API servers
	fault    string // an invariant that was broken, the first one
}

// node is one machine: its kernel, clock and links outlive its agent.
type node struct {
	w          *world
	id         int
	name, mac  string
	power      bool
	link       bool
	paused     bool // as a whole, by its hypervisor
	refuses    bool // the kernel refuses the address
	sick       bool // its load balancer does not serve
	api        apiMode
	until      lb.Instant // the announcing link has the address until then
	copies     lb.Instant // and lo a mute copy
	gave       lb.Instant // since when
	mute       bool       // rules keep it from answering for the VIP
	forward    *node      // where frames of unknown flows go
	chained    lb.Instant // until when
	disk       Record
	kept       bool     // disk holds a record
	met        []Member // and the members
	boot, told int
	left       bool       // its member Lease says leaving
	drain      bool       // or that its operator wants it empty
	lost       bool       // its member Lease was deleted
	beat       int        // how often that was renewed
	beatAt     lb.Instant // and when last, in world time
	apiless    lb.Instant // when it last was without API servers, in world time
	excludes   *node      // takes that one for no candidate
	died       lb.Instant // since when its member Lease is not renewed; 0: it is

	base, set lb.Instant // its clock showed base at set
	skew      int64      // how much faster its clock runs, in millionths
	held      []happening

	agent   *agent
	stopped lb.Instant // by its clock, when its last agent ended or froze
	frames  int        // announcements sent
	claimed lb.Instant // last claim reported
	asked   lb.Instant // last rival's probe reported
}

// agent is one run of the program on a node.
type agent struct {
	n      *node
	m      *Machine
	phase  Phase // after the last step
	status Status
	since  lb.Instant // of phase, in world time
	frozen bool
	asleep []happening // what came while frozen
	tick   lb.Instant
	ticks  int
	steps  int
	second lb.Instant // of steps
	wish   wish
	seq    int        // of the wish
	busy   bool       // the address sink is at work
	until  lb.Instant // the announcer may send until then
	burst  int        // of the announcer
	still  bool       // it was told to announce nothing
	to     string     // where frames of unknown flows shall go
	defend lb.Instant
	ended  bool
	el     electorModel
	knows  bool // members were told
	told   []Member
	said   Say
	hears  []session
}

// testConfig is the product's default profile.
func testConfig(self string) Config {
	return Config{
		Group: "apiserver", Self: self, Lease: 15 * time.Second, Renew: 5 * time.Second, ValidLft: 4 * time.Second,
		Drain: 5 * time.Minute,
	}
}

// newWorld makes nodes n1…; nothing runs yet. Seed 0 is a world without chance.
func newWorld(n int, seed uint64) *world {
	w := &world{now: time.Second, cfg: testConfig(""), gateway: true, quiet: true, say: func(string, ...any) {}}
	if seed != 0 {
		w.rnd = rand.New(rand.NewPCG(seed, 1))
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		w.nodes = append(w.nodes, &node{w: w, id: i, name: name, mac: "mac-" + name, power: true, link: true, left: true})
	}
	// Two hosts more: the client and the gateway.
	w.deaf, w.blocked = matrix(n+2), matrix(n)
	w.client = client{w: w, id: n, arp: nobody}
	w.rules.begin(w)
	w.wire.since = w.now
	return w
}

func matrix(n int) [][]bool {
	m := make([][]bool, n)
	for i := range m {
		m[i] = make([]bool, n)
	}
	return m
}

func (w *world) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// vary is d, or around d in a random world.
func (w *world) vary(d time.Duration) time.Duration {
	if w.rnd == nil {
		return d
	}
	return d/2 + time.Duration(w.rnd.Int64N(int64(d)+1))
}

// upTo is between 0 and d; half of it in a world without chance.
func (w *world) upTo(d time.Duration) time.Duration {
	if w.rnd == nil {
		return d / 2
	}
	return time.Duration(w.rnd.Int64N(int64(d) + 1))
}

// unlucky is true now and then, never in a world without chance.
func (w *world) unlucky(p float64) bool { return p > 0 && w.rnd != nil && w.rnd.Float64() < p }

// clock is CLOCK_BOOTTIME of the node. It stands still while the hypervisor has
// paused the whole node.
func (n *node) clock() lb.Instant {
	if n.paused {
		return n.base
	}
	d := n.w.now - n.set
	return n.base + d + d*time.Duration(n.skew)/1e6
}

// setClock begins anew at some instant: a boot, a pause, another rate.
func (n *node) setClock(at lb.Instant) { n.base, n.set = at, n.w.now }

// outside is how long d of this node's clock lasts in the world.
func (n *node) outside(d time.Duration) time.Duration {
	return max(d-d*time.Duration(n.skew)/(1e6+time.Duration(n.skew)), 0)
}

// runUntil lets happen what is due until then, or until an invariant breaks.
func (w *world) runUntil(t lb.Instant) {
	for w.fault == "" && w.queue.due(t) {
		h := w.queue.pop()
		w.now = h.at
		if h.on == nil || w.ready(&h) {
			if h.do != nil {
				h.do()
			}
			w.look()
		}
	}
	w.now = max(w.now, t)
}

// broken notes the first breach; name is an invariant of ownership.md.
func (w *world) broken(name, format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf("%s: %.3fs ", name, w.now.Seconds()) + fmt.Sprintf(format, args...)
		w.say("!! %s", w.fault)
	}
}

// deliver gives the machine an event, carries out what it wants, and lets the
// hellos tell.
func (a *agent) deliver(ev Event) {
	w := a.n.w
	defer func() {
		if r := recover(); r != nil {
			w.broken("panic", "%s: %s: %v", a.n.name, describe(ev), r)
			a.ended = true
		}
	}()
	if w.now-a.second > time.Second {
		a.second, a.steps = w.now, 0
	}
	if a.steps++; a.steps > 2000 {
		w.broken("spin", "%s: %s", a.n.name, describe(ev))
		return
	}
	if _, ok := ev.(Members); ok && !a.knows {
		a.knows = true
		w.rehear()
	}
	for _, act := range a.m.Step(a.n.clock(), ev) {
		a.carryOut(act)
	}
	a.status = a.m.Status()
	if a.status.Phase != a.phase {
		a.phase, a.since = a.status.Phase, w.now
	}
	a.planTick()
	a.spread()
}

func (a *agent) planTick() {
	next := a.m.Next()
	if next == a.tick || next == 0 {
		return
	}
	a.tick = next
	a.ticks++
	mine := a.ticks
	a.later(max(next-a.n.clock(), 0), func() {
		if mine == a.ticks {
			a.tick = 0
			a.deliver(Tick{})
		}
	})
}
