package hello

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring.dev/mooring/election"
)

const (
	unknown = election.PeerUnknown
	up      = election.PeerUp
	late    = election.PeerLate
	down    = election.PeerDown
)

// pair starts agents on two new hosts that are each other's peer.
func pair(t *testing.T) (l *lab, a, b *agent) {
	t.Helper()
	l = newLab(t, 2)
	a = l.hosts[0].start(l.hosts[0].options(), l.hosts[1].target())
	b = l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	a.await("n2", up)
	b.await("n1", up)
	return l, a, b
}

// TestUp: both families, and what one says the other hears.
func TestUp(t *testing.T) {
	for _, target := range []func(*host) Target{(*host).target, (*host).targetV6} {
		l := newLab(t, 2)
		a := l.hosts[0].start(l.hosts[0].options(), target(l.hosts[1]))
		must(t, a.Say(term(5)))
		b := l.hosts[1].start(l.hosts[1].options(), target(l.hosts[0]))
		a.await("n2", up)
		eventually(t, "n2 hears the term", func() bool { return b.await("n1", up).saysTerm(5) })
		p := b.peer("n1")
		if p.State != up || p.Why != "" || p.Since == 0 || p.Heard < p.Since || p.Received == 0 || p.Sent == 0 {
			t.Errorf("status %+v", p)
		}
		if s := b.Status(); s.Why != "" || s.Interval != 20*time.Millisecond || !s.Precedence {
			t.Errorf("status %+v", s)
		}
	}
}

// TestAtOnce: coming up and news do not wait for the interval.
func TestAtOnce(t *testing.T) {
	l := newLab(t, 2)
	var agents []*agent
	for i, h := range l.hosts {
		opt := h.options()
		opt.Interval, opt.Multiplier = MaxInterval, 3
		agents = append(agents, h.start(opt, l.hosts[1-i].target()))
	}
	a, b := agents[0], agents[1]
	// The first hello may be lost while the switch learns, so this may take one
	// interval; what follows may not.
	b.await("n1", up)
	for n := range int64(20) {
		begun := boottime()
		must(t, a.Say(term(n)))
		eventually(t, "the news", func() bool { return b.await("n1", up).saysTerm(n) })
		if took := boottime() - begun; took > MaxInterval/4 {
			t.Errorf("the news took %v", took)
		}
	}
}

// TestForged: what is not a peer's hello of this link is refused, counted, and
// changes nothing.
func TestForged(t *testing.T) {
	l, a, b := pair(t)
	must(t, b.Say(term(5)))
	eventually(t, "the term", func() bool { return a.await("n2", up).saysTerm(5) })
	real := l.hosts[0].record(l.hosts[1], 1)[0]
	var m Message
	must(t, m.decode(real, []Key{keyOf(t, secretA)}))
	m.Sequence, m.Groups = 1<<60, []Group{{Name: "forged"}}
	forged := func(spoil func(*Message), key string) []byte {
		f := m
		spoil(&f)
		return encoded(t, f, keyOf(t, key))
	}
	for _, c := range []struct {
		want    Reason
		ttl     int
		payload []byte
	}{
		{ErrHops, 254, forged(func(*Message) {}, secretA)},
		{ErrHops, 1, forged(func(*Message) {}, secretA)},
		{ErrKey, hops, forged(func(*Message) {}, secretB)},
		{ErrNode, hops, forged(func(m *Message) { m.Node = "n3" }, secretA)},
		{ErrReplay, hops, real},
		{ErrEcho, hops, forged(func(m *Message) { m.Incarnation++; m.Echo++ }, secretA)},
		{ErrMAC, hops, append(slices.Clone(real), 0)},
		{ErrShort, hops, []byte("hello")},
		{ErrVersion, hops, bytes.Repeat([]byte("x"), 100)},
		{ErrLong, hops, bytes.Repeat([]byte("x"), 1400)},
	} {
		before := a.peer("n2").Rejected[c.want.Slug()]
		l.hosts[1].inject(l.hosts[0], c.ttl, c.payload)
		a.awaitRejected("n2", c.want, before+1)
	}
	a.awaitReceived("n2", 3)
	last := a.await("n2", up)
	if !last.saysTerm(5) {
		t.Errorf("a forged hello was taken: %+v", last)
	}
	if got := a.states("n2"); slices.Contains(got, down) {
		t.Errorf("states %v", got)
	}
}

// TestStranger: a host that is no peer is not heard, whatever key it has.
func TestStranger(t *testing.T) {
	l := newLab(t, 3)
	var log bytes.Buffer
	opt := l.hosts[0].options()
	opt.Log = slog.New(slog.NewTextHandler(&log, nil))
	a := l.hosts[0].start(opt, l.hosts[2].target())
	l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	eventually(t, "datagrams of a stranger", func() bool { return a.Status().Rejected["source"] >= 10 })
	a.stop()
	if n := strings.Count(log.String(), "hello refused"); n != 1 || !strings.Contains(log.String(), "10.8.0.2") {
		t.Errorf("%d lines for ten datagrams: %s", n, &log)
	}
	if got := a.all("n2"); len(got) > 0 {
		t.Errorf("changes %v", got)
	}
}

// TestRotation: a new key is added behind the old one everywhere, put first, and
// the old one is taken away. Nobody goes down.
func TestRotation(t *testing.T) {
	_, a, b := pair(t)
	first, second := keyOf(t, secretA), keyOf(t, secretB)
	for _, keys := range [][]Key{{first, second}, {second, first}, {second}} {
		for _, one := range []*agent{a, b} {
			one.SetKeys(keys)
			a.awaitReceived("n2", 3)
			b.awaitReceived("n1", 3)
		}
	}
	for _, got := range [][]election.PeerState{a.states("n2"), b.states("n1")} {
		if slices.Contains(got, down) {
			t.Errorf("states %v", got)
		}
	}
	a.SetKeys(nil)
	b.await("n1", down)
	if why := a.Status().Why; !strings.Contains(why, "no hello key") {
		t.Errorf("without keys the status says %q", why)
	}
}

// TestBlocked: behind a firewall a node is unknown, never down, and the status
// says what to do on both sides.
func TestBlocked(t *testing.T) {
	l := newLab(t, 2)
	l.hosts[0].in(func() error {
		return exec.Command("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "+
			"add rule inet t in udp dport 7947 drop").Run()
	})
	opts := []Options{l.hosts[0].options(), l.hosts[1].options()}
	for i := range opts {
		opts[i].Multiplier = 2
	}
	a := l.hosts[0].start(opts[0], l.hosts[1].target())
	b := l.hosts[1].start(opts[1], l.hosts[0].target())
	// Many times what a Down would take.
	b.awaitRejected("n1", ErrEcho, 20)
	if len(a.all("n2")) > 0 || len(b.all("n1")) > 0 {
		t.Errorf("changes %v, %v", a.all("n2"), b.all("n1"))
	}
	if why := a.peer("n2").Why; !strings.Contains(why, "allow UDP port 7947 between 10.8.0.2") {
		t.Errorf("the deaf one says %q", why)
	}
	if why := b.peer("n1").Why; !strings.Contains(why, "has not heard this agent") {
		t.Errorf("the other one says %q", why)
	}
}

// TestCut: a cut link makes the peer Late, then Down, and Up when it is mended.
func TestCut(t *testing.T) {
	l, a, b := pair(t)
	l.sw.set(l.hosts[1].port, false)
	a.await("n2", down)
	b.await("n1", down)
	l.sw.set(l.hosts[1].port, true)
	a.await("n2", up)
	b.await("n1", up)
	got := a.states("n2")
	// It may have been Late before, on a busy machine.
	if i := slices.Index(got, down); i < 1 || got[i-1] != late || got[i+1] != up {
		t.Errorf("states %v", got)
	}
}

// TestSilentStateLoop: an agent whose state loop is stuck falls silent, and still
// hears its peers.
func TestSilentStateLoop(t *testing.T) {
	_, a, b := pair(t)
	a.beats.Store(false)
	b.await("n1", down)
	if why := a.Status().Why; !strings.Contains(why, "state loop") {
		t.Errorf("the status says %q", why)
	}
	a.awaitReceived("n2", 10)
	a.beats.Store(true)
	b.await("n1", up)
}

// TestNoBeat: an agent whose state loop never ran has never been there.
func TestNoBeat(t *testing.T) {
	l := New(Options{Node: "a", Port: port, Now: boottime})
	if !l.silent(boottime()) {
		t.Error("speaks before the first beat")
	}
	l.Beat(boottime())
	if l.silent(boottime()) || !l.silent(boottime()+beatLimit) {
		t.Error("a beat counts for a second")
	}
}

// TestRestart: a new run comes Up again, and what was recorded of the earlier one
// is worth nothing, neither to the peer nor to its own next run.
func TestRestart(t *testing.T) {
	l, a, b := pair(t)
	must(t, b.Say(term(5)))
	eventually(t, "the term", func() bool { return a.await("n2", up).saysTerm(5) })
	recorded := l.hosts[0].record(l.hosts[1], 5)
	b.stop()
	again := l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	must(t, again.Say(term(6)))
	again.await("n1", up)
	eventually(t, "the new run's term", func() bool { return a.await("n2", up).saysTerm(6) })
	for i, old := range recorded {
		l.hosts[1].inject(l.hosts[0], hops, old)
		a.awaitRejected("n2", ErrRetired, uint64(i+1))
	}
	again.stop()
	a.await("n2", down)
	a.stop()

	// The same on a new run of ours, which never knew the peer: unknown for good.
	fresh := l.hosts[0].start(l.hosts[0].options(), l.hosts[1].target())
	eventually(t, "the new run's socket", func() bool { return fresh.peer("n2").Sent > 0 })
	for i, old := range recorded {
		l.hosts[1].inject(l.hosts[0], hops, old)
		fresh.awaitRejected("n2", ErrEcho, uint64(i+1))
	}
	if got := fresh.all("n2"); len(got) > 0 {
		t.Errorf("replayed hellos made changes: %+v", got)
	}
}

// TestLinkMadeAnew: hellos go on over a link of the same name.
func TestLinkMadeAnew(t *testing.T) {
	l, a, b := pair(t)
	link, err := l.hosts[0].nl.LinkByName("eth0")
	must(t, err, l.hosts[0].nl.LinkDel(link))
	b.await("n1", down)
	eventually(t, "a says that the link is gone", func() bool { return strings.Contains(a.peer("n2").Why, "link eth0") })
	l.plug(l.hosts[0])
	a.await("n2", up)
	b.await("n1", up)
	eventually(t, "a says that all is well", func() bool { return a.peer("n2").Why == "" })
}

// TestPlainPriority: without SYS_NICE hellos are slow on both sides, and the
// status says why.
func TestPlainPriority(t *testing.T) {
	l := newLab(t, 2)
	opt := l.hosts[0].options()
	opt.Interval, opt.Multiplier = 50*time.Millisecond, 3
	a := &agent{t: t}
	opt.Changed = a.changed
	a.Loop = New(opt)
	a.precede = errRefused
	enter := l.hosts[0].start(l.hosts[0].options()) // borrowed for its namespace
	enter.stop()
	a.enter = enter.enter
	a.SetKeys([]Key{keyOf(t, secretA)})
	a.SetPeers([]Target{l.hosts[1].target()})
	a.run()
	b := l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	a.await("n2", up)
	b.await("n1", up)
	if s := a.Status(); s.Precedence || s.Interval != 300*time.Millisecond || !strings.Contains(s.Why, "SYS_NICE") {
		t.Errorf("status %+v", s)
	}
	// The quick one keeps to what the slow one can take.
	sent := b.peer("n1").Sent
	begun := boottime()
	a.awaitReceived("n2", 4)
	if n, took := b.peer("n1").Sent-sent, boottime()-begun; n > uint64(took/(200*time.Millisecond))+2 {
		t.Errorf("%d hellos in %v", n, took)
	}
}

// TestSetPeers: those that stay keep their state, those that go are unknown, those
// that cannot be are named.
func TestSetPeers(t *testing.T) {
	l, a, b := pair(t)
	since := a.peer("n2").Since
	self, twin, clash := l.hosts[0].target(), l.hosts[1].target(), l.hosts[1].target()
	clash.Node = "n9"
	a.SetPeers([]Target{l.hosts[1].target(), self, twin, clash, {Node: "N3", Addr: self.Addr, Link: "eth0"},
		{Node: "n4", Link: "eth0"}, {Node: "n5", Addr: l.hosts[0].v4(), Link: "gone0"}})
	eventually(t, "the new peers", func() bool { return len(a.Status().Peers) == 2 })
	s := a.Status()
	for _, want := range []string{`"n1" at 10.8.0.1: it has this node's own name`, `"n2" at 10.8.0.2: the node stands among the peers twice`,
		`"n9" at 10.8.0.2: node n2 has this address`, `"N3" at 10.8.0.1: a name is`, `"n4" at invalid IP: not a global`} {
		if !strings.Contains(s.Why, want) {
			t.Errorf("status %q lacks %q", s.Why, want)
		}
	}
	eventually(t, "the missing link", func() bool { return strings.Contains(a.peer("n5").Why, "link gone0") })
	a.awaitReceived("n2", 3)
	if p := a.peer("n2"); p.Since != since && !slices.Contains(a.states("n2"), late) {
		t.Errorf("a peer that stayed: %+v", p)
	}
	// The same node by another address is the same peer.
	a.SetPeers([]Target{l.hosts[1].targetV6()})
	b.SetPeers([]Target{l.hosts[0].targetV6()})
	eventually(t, "the other address", func() bool { return a.peer("n2").Addr.Is6() && a.peer("n2").Received > 3 })
	if got := a.states("n2"); slices.Contains(got, down) || slices.Contains(got, unknown) {
		t.Errorf("states %v", got)
	}
	a.SetPeers(nil)
	a.await("n2", unknown)
	b.await("n1", down)
}

// TestSecondAgent: two agents on a node do not share the port.
func TestSecondAgent(t *testing.T) {
	l, a, _ := pair(t)
	twin := l.hosts[0].start(l.hosts[0].options(), l.hosts[1].target())
	eventually(t, "the second one says why", func() bool {
		return strings.Contains(twin.peer("n2").Why, "is another agent running")
	})
	a.stop()
	twin.await("n2", up)
}

// TestManyGroups: what does not fit into one hello goes in several, and all of it is
// heard, also by a peer that was away; what is taken back is gone.
func TestManyGroups(t *testing.T) {
	l, a, b := pair(t)
	says := saysOf(many(1000, "g"))
	hears := func() bool { return maps.Equal(b.await("n1", up).Groups, says) }
	must(t, a.Say(says))
	eventually(t, "all is heard", hears)

	l.sw.set(l.hosts[1].port, false)
	b.await("n1", down)
	a.await("n2", down)
	says = saysOf(many(500, "g"))
	for i := range 20 {
		says[fmt.Sprintf("g%04d", 20*i)] = election.Say{Phase: election.Claiming, Transitions: 7}
	}
	must(t, a.Say(maps.Clone(says)))
	l.sw.set(l.hosts[1].port, true)
	eventually(t, "all news are heard", hears)
}

// TestManyGroupsAtOnce: news of many groups do not wait for the interval either,
// nor does all that a peer does not know yet.
func TestManyGroupsAtOnce(t *testing.T) {
	l := newLab(t, 2)
	slow := func(i int) *agent {
		opt := l.hosts[i].options()
		opt.Interval, opt.Multiplier = MaxInterval, 3
		return l.hosts[i].start(opt, l.hosts[1-i].target())
	}
	a := slow(0)
	says := saysOf(many(200, "g"))
	must(t, a.Say(maps.Clone(says)))
	b := slow(1)
	b.await("n1", up)
	begun := boottime()
	for n := range int64(20) {
		eventually(t, "all is heard", func() bool { return maps.Equal(b.await("n1", up).Groups, says) })
		if took := boottime() - begun; took > MaxInterval/4 {
			t.Fatalf("the news took %v", took)
		}
		says["g0150"], says["g0020"] = election.Say{Transitions: n}, election.Say{Transitions: n}
		begun = boottime()
		must(t, a.Say(maps.Clone(says)))
	}
}

// TestTooMuchToSay: what does not fit is named, the rest is said.
func TestTooMuchToSay(t *testing.T) {
	_, a, b := pair(t)
	says := term(5)
	says["no such name"] = election.Say{}
	if err := a.Say(says); err == nil {
		t.Error("no error")
	}
	eventually(t, "the rest", func() bool { return b.await("n1", up).saysTerm(5) })
	if why := a.Status().Why; !strings.Contains(why, `"no such name"`) {
		t.Errorf("status %q", why)
	}
	must(t, a.Say(term(6)))
	if why := a.Status().Why; why != "" {
		t.Errorf("status %q", why)
	}
}

// TestOptions: what cannot be run is refused with the way out.
func TestOptions(t *testing.T) {
	good := Options{Node: "a", Port: port, Now: boottime}
	for want, spoil := range map[string]func(*Options){
		"node name":            func(o *Options) { o.Node = "A" },
		"hello interval 1ms":   func(o *Options) { o.Interval = time.Millisecond },
		"hello interval 1m":    func(o *Options) { o.Interval = time.Minute },
		"hello multiplier 1":   func(o *Options) { o.Multiplier = 1 },
		"hello multiplier 300": func(o *Options) { o.Multiplier = 300 },
		"no hello port":        func(o *Options) { o.Port = 0 },
		"no clock":             func(o *Options) { o.Now = nil },
	} {
		opt := good
		spoil(&opt)
		if err := New(opt).Run(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	l := New(good)
	if err := l.Run(ended); err != nil {
		t.Error(err)
	}
	if why := l.Status().Why; why != "not running" {
		t.Errorf("status %q", why)
	}
}

// TestAnotherSource: a node's kernel sends from another of its addresses than the
// one that peers send to.
func TestAnotherSource(t *testing.T) {
	l := newLab(t, 2)
	second := netip.MustParseAddr("10.8.1.2")
	l.hosts[1].address(second.String() + "/16")
	to := Target{Node: "n2", Addr: second, Link: "eth0"}
	to.SetAlso([]netip.Addr{l.hosts[1].v6(), second, l.hosts[1].v4()})
	a := l.hosts[0].start(l.hosts[0].options(), to)
	b := l.hosts[1].start(l.hosts[1].options(), l.hosts[0].target())
	a.await("n2", up)
	b.await("n1", up)
	// Two nodes cannot have one address: who is sent to there keeps it.
	a.SetPeers([]Target{to, {Node: "n3", Addr: l.hosts[1].v4(), Link: "eth0"}})
	a.await("n2", down)
}

// TestFromAllSides: every method at once, for the race detector.
func TestFromAllSides(t *testing.T) {
	l, a, b := pair(t)
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			for n := range int64(200) {
				_ = a.Say(term(1000*i + n))
				a.SetKeys([]Key{keyOf(t, secretA)})
				a.SetPeers([]Target{l.hosts[1].target()})
				a.Beat(boottime())
				a.Status()
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
	must(t, a.Say(term(9)))
	eventually(t, "the last word", func() bool { return b.await("n1", up).saysTerm(9) })
}

// TestReasons: each has a text and a name of its own.
func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := ErrShort; r < reasons; r++ {
		if r.Error() == "" || r.Slug() == "" || seen[r.Error()] || seen[r.Slug()] {
			t.Errorf("reason %d: %q, %q", r, r.Error(), r.Slug())
		}
		seen[r.Error()], seen[r.Slug()] = true, true
	}
	if Reason(99).Error() != "no reason" || Reason(99).Slug() != "" {
		t.Error("an unknown reason")
	}
}
