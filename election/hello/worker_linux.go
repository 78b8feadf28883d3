package hello

import (
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

const (
	// never is a deadline that does not come.
	never = lb.Instant(1<<63 - 1)
	// slack sends what is due so soon with what is due now, to wake less often.
	slack = time.Millisecond
	// spacing is the least time between two hellos to a peer that are sent at once,
	// spread how many pages of news go together.
	spacing = 2 * time.Millisecond
	spread  = 4
	// lookAgain is how often missing and replaced links are looked for.
	lookAgain = 100 * time.Millisecond
	// few peers' hellos are read as they come. With more of them, or after a flood,
	// the sockets are read once per breather: to wake for each costs more than to
	// read it, and a flood shall not keep a core busy.
	few      = 16
	breather = time.Millisecond
	// noteEvery is the least time between two log lines of a peer and reason.
	noteEvery = time.Minute
)

// worker is the state of the loop's thread; nobody else touches it.
type worker struct {
	*Loop
	self      Self
	keys      []Key
	groups    []Group
	pages     []page // of the groups
	peers     []*peer
	channels  map[place]*channel
	fds       []unix.PollFd // the bell, then one per entry of polled
	polled    []*channel
	in        *inbox
	out       []byte
	due       lb.Instant // no deadline is earlier
	look      lb.Instant // when to look at the links again
	crowded   bool       // datagrams were left in a queue
	slow      []string   // why there is no higher priority
	faults    []string   // targets that cannot be spoken with
	ahead     bool
	stalls    atomic.Uint64
	strangers counts
	said      [reasons]lb.Instant // of strangers
}

// channel is a place, with its socket while there is one.
type channel struct {
	at    place
	sock  socket // fd -1 for none
	err   string // why there is none
	peers map[netip.Addr]*peer
}

// peer is a target and what is known of it.
type peer struct {
	*tally
	det      *Detector
	via      *channel
	to       unix.Sockaddr
	sequence uint64
	sent     lb.Instant // the last hello
	send     lb.Instant // the next one
	// news are the pages that it has not been sent yet, again those to repeat with the
	// next hello, as one may be lost. Otherwise each hello has the page after turn's.
	news, again []int
	turn        int
	changed     bool // a report is due
	scratch     Message
	said        [reasons]lb.Instant
}

// newWorker sets the thread's priority.
func newWorker(l *Loop, bell int) *worker {
	// Random, as a counter would need a disk; |1 as 0 means none.
	var random [8]byte
	_, _ = crand.Read(random[:]) // cannot fail since Go 1.24
	w := &worker{Loop: l, in: newInbox(), out: make([]byte, 0, MaxSize), channels: map[place]*channel{},
		self:  Self{Incarnation: binary.NativeEndian.Uint64(random[:]) | 1, Interval: l.opt.Interval, Floor: MinInterval},
		pages: paginate(l.opt.Node, nil)}
	w.fds = []unix.PollFd{{Fd: int32(bell), Events: unix.POLLIN}}
	if err := l.precede(); err != nil {
		// A thread that others hold up is late itself, and takes others for late.
		w.self.Interval = min(plainFactor*w.self.Interval, MaxInterval)
		w.self.Floor = w.self.Interval
		w.slow = []string{fmt.Sprintf("hellos every %v instead of %v, as a higher priority was refused (%v): "+
			"give the agent the capability SYS_NICE", w.self.Interval, l.opt.Interval, err)}
	} else {
		w.ahead = true
	}
	w.publish()
	return w
}

// close ends what the worker has open.
func (w *worker) close() {
	for _, c := range w.channels {
		c.shut()
	}
	w.view.Store(nil)
}

// run is the loop.
func (w *worker) run() {
	for planned := never; !w.ended.Load(); {
		w.turn(w.opt.Now(), planned)
		planned = min(w.due, w.look)
		w.wait(planned)
	}
}

// turn is one round of the loop at now, planned for an instant or never. What
// waits in the sockets comes before the deadlines, so that a late thread does not
// take its own lateness for silence.
func (w *worker) turn(now, planned lb.Instant) {
	if planned != never && now-planned > w.self.Interval {
		w.stalled(now)
	}
	w.obey(now)
	if now >= w.look {
		w.openAll(now)
	}
	w.receive(now)
	if now >= w.due {
		w.tick(now)
	}
}

// stalled gives every peer its time anew: it was this node that slept.
func (w *worker) stalled(now lb.Instant) {
	w.stalls.Add(1)
	for _, p := range w.peers {
		p.det.Stalled(now)
	}
	w.due = 0
}

// wait sleeps until the instant, a datagram or the bell.
func (w *worker) wait(until lb.Instant) {
	fds, limit := w.fds, until-w.opt.Now()
	if w.crowded || len(w.peers) > few {
		// First a pause in which only the bell is heard; the sockets are read after
		// it.
		fds, limit = w.fds[:1], min(limit, breather)
	}
	pause := unix.NsecToTimespec(int64(max(limit, 0)))
	for i := range w.fds {
		w.fds[i].Revents = 0
	}
	if _, err := unix.Ppoll(fds, &pause, nil); err != nil {
		return // EINTR: whatever it was, look at everything
	}
	if fds[0].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(int(fds[0].Fd), count[:])
	}
}

// obey takes the newest wishes.
func (w *worker) obey(now lb.Instant) {
	if keys := w.Loop.keys.Swap(nil); keys != nil {
		w.keys = *keys
		w.publish()
	}
	if says := w.says.Swap(nil); says != nil && !slices.Equal(*says, w.groups) {
		w.speak(now, *says)
	}
	if targets := w.targets.Swap(nil); targets != nil {
		w.meet(now, *targets)
	}
}

// speak sends the peers what is new.
func (w *worker) speak(now lb.Instant, groups []Group) {
	old := w.pages
	w.groups, w.pages = groups, paginate(w.opt.Node, groups)
	fresh := news(old, w.pages)
	for _, p := range w.peers {
		p.mark(fresh, len(w.pages))
		w.hasten(p, now, spacing)
	}
}

// mark adds news to what the peer is to be sent, of n pages in all.
func (p *peer) mark(fresh []int, n int) {
	for _, list := range []*[]int{&p.news, &p.again} {
		all := append(slices.DeleteFunc(*list, func(i int) bool { return i >= n }), fresh...)
		slices.Sort(all)
		*list = slices.Compact(all)
	}
	if n == 1 {
		p.news, p.again = nil, nil // every hello says all
	}
}

// hasten sends the next hello at once, but not closer to the last one than that.
func (w *worker) hasten(p *peer, now lb.Instant, apart time.Duration) {
	p.send = min(p.send, max(now, p.sent+apart))
	w.due = min(w.due, p.send)
}

// receive takes what waits in the sockets, at most what a few stalls of all peers
// can have left there.
func (w *worker) receive(now lb.Instant) {
	all := w.crowded || len(w.peers) > few || now >= w.due
	w.crowded = false
	for i, c := range w.polled {
		if w.fds[i+1].Revents == 0 && !all {
			continue
		}
		n := batch
		for rounds := 8 + len(c.peers)/4; n == batch && rounds > 0; rounds-- {
			n = w.in.receive(c.sock.fd)
			for k := range n {
				w.take(now, c, k)
			}
		}
		w.crowded = w.crowded || n == batch
	}
	// Once for all that came: a peer of many groups has many pages of news.
	for _, p := range w.peers {
		if p.changed {
			w.report(now, p)
		}
	}
}

// take handles the k-th datagram of the inbox.
func (w *worker) take(now lb.Instant, c *channel, k int) {
	b, from, ttl := w.in.datagram(k)
	p := c.peers[from.Addr()]
	if p == nil || from.Port() != w.opt.Port {
		w.strangers[ErrSource].Add(1)
		if sayNow(now, &w.said, ErrSource) {
			w.note("hello refused", "from", from.String(), "link", c.at.link, "reason", ErrSource.Error())
		}
		return
	}
	changed, err := w.hear(now, p, b, ttl)
	if reason, refused := err.(Reason); refused {
		p.rejected[reason].Add(1)
		if sayNow(now, &p.said, reason) {
			w.note("hello refused", "from", p.target.Node, "address", p.target.Addr.String(), "reason", reason.Error())
		}
		return
	}
	p.got.Add(1)
	p.heard.Store(int64(p.det.Heard()))
	w.due = min(w.due, orNever(p.det.Next()))
	p.changed = p.changed || changed
}

// hear judges a datagram from a peer's address. The error is a Reason.
func (w *worker) hear(now lb.Instant, p *peer, b []byte, ttl int) (bool, error) {
	if ttl != hops {
		return false, ErrHops
	}
	if err := p.scratch.decode(b, w.keys); err != nil {
		return false, err
	}
	if p.scratch.Node != p.target.Node {
		return false, ErrNode
	}
	echo, was := p.det.Echo(), p.det.State()
	changed, err := p.det.Receive(now, p.scratch)
	if len(w.pages) > 1 && p.det.State() == election.PeerUp && (was == election.PeerUnknown || was == election.PeerDown) {
		// It may know nothing of ours.
		p.mark(news(nil, w.pages), len(w.pages))
		w.hasten(p, now, spacing)
	}
	if p.det.Echo() != echo {
		// The peer waits for this echo. Recorded datagrams make us answer no more
		// often than the fastest hellos.
		w.hasten(p, now, MinInterval)
	}
	return changed, err
}

// sayNow says whether a refusal is logged, at most once a minute per peer and
// reason. What happens to every agent as its peers restart must last a minute
// first.
func sayNow(now lb.Instant, said *[reasons]lb.Instant, r Reason) bool {
	last := said[r]
	if last != 0 && now-last < noteEvery {
		return false
	}
	said[r] = max(now, 1)
	return last != 0 || r != ErrEcho && r != ErrRetired && r != ErrReplay
}

// note hands a line to the log, or drops it when that is slow.
func (w *worker) note(text string, args ...any) {
	select {
	case w.notes <- note{text, args}:
	default:
	}
}

// report tells of a peer's change.
func (w *worker) report(now lb.Instant, p *peer) {
	p.changed = false
	if state := uint32(p.det.State()); p.state.Swap(state) != state {
		p.since.Store(int64(now))
	}
	w.opt.Changed(Change{Node: p.target.Node, State: p.det.State(), Heard: p.det.Heard(), Groups: p.det.Groups()})
}

// tick fires what is due and finds the next deadline.
func (w *worker) tick(now lb.Instant) {
	w.due = never
	for _, p := range w.peers {
		if p.det.Tick(now) {
			w.report(now, p)
		}
		if p.send <= now+slack {
			w.sendTo(now, p)
		}
		w.due = min(w.due, p.send, orNever(p.det.Next()))
	}
}

// sendTo sends the peer a hello, or some with all that is new, unless this agent
// shall be silent, and plans the next.
func (w *worker) sendTo(now lb.Instant, p *peer) {
	every := p.det.SendEvery()
	// Up to a tenth early, so that nodes do not fall into step (RFC 5880 §6.8.7).
	p.send = now + every - rand.N(every/10)
	if len(w.keys) == 0 || w.silent(now) || p.via.sock.fd < 0 {
		return
	}
	if len(p.news) == 0 {
		p.news, p.again = p.again, nil
	}
	if len(p.news) == 0 {
		p.turn++
		w.sendPage(now, p, p.turn%len(w.pages))
		return
	}
	n := min(len(p.news), spread)
	for _, i := range p.news[:n] {
		w.sendPage(now, p, i)
	}
	p.news = slices.Delete(p.news, 0, n)
	if len(p.news) > 0 {
		w.hasten(p, now, spacing)
	}
}

// sendPage sends the peer one datagram.
func (w *worker) sendPage(now lb.Instant, p *peer, i int) {
	page := &w.pages[i]
	p.sequence++
	b, err := Encode(w.out[:0], Message{Node: w.opt.Node, Incarnation: w.self.Incarnation, Echo: p.det.Echo(),
		Sequence: p.sequence, Interval: w.self.Interval, Floor: w.self.Floor, Multiplier: uint8(w.opt.Multiplier),
		Groups: page.groups, After: page.after, More: page.more}, w.keys[0])
	if err != nil {
		// Unreachable: names and sizes were checked by check and fit.
		panic("hello: " + err.Error())
	}
	p.sent = now
	errno, _ := unix.Sendto(p.via.sock.fd, b, unix.MSG_DONTWAIT, p.to).(unix.Errno)
	p.sendErr.Store(int32(errno))
	if errno == 0 {
		p.tally.sent.Add(1)
	}
}

// orNever turns 0 for never into never.
func orNever(at lb.Instant) lb.Instant {
	if at == 0 {
		return never
	}
	return at
}

// publish renews what Status reads.
func (w *worker) publish() {
	v := &view{precedence: w.ahead, why: append(slices.Clone(w.slow), w.faults...), interval: w.self.Interval,
		port: w.opt.Port, keys: len(w.keys), stalls: &w.stalls, strangers: &w.strangers}
	for _, p := range w.peers {
		v.peers = append(v.peers, p.tally)
	}
	w.view.Store(v)
}
