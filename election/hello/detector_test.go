package hello

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

const (
	ms   = time.Millisecond
	mine = uint64(100) // this run of ours
)

// fast is what the tests' own node says; slow is one without precedence.
var (
	fast = Self{Incarnation: mine, Interval: 50 * ms, Floor: 10 * ms}
	slow = Self{Incarnation: mine, Interval: 300 * ms, Floor: 300 * ms}
)

// from is a message of the peer's run.
func from(run, echo, sequence uint64) Message {
	return Message{Node: "b", Incarnation: run, Echo: echo, Sequence: sequence,
		Interval: 50 * ms, Floor: 10 * ms, Multiplier: 3}
}

// saying adds a term to a message.
func saying(m Message, term int64) Message {
	m.Groups = []Group{{"apiserver", election.Say{Transitions: term}}}
	return m
}

// TestDetectorStories: each story is what happens at which millisecond, and the
// state or the refusal that follows.
func TestDetectorStories(t *testing.T) {
	type step struct {
		at   int
		what string // "tick", "stalled" or "run echo sequence [term]"
		want string
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"heard both ways, late, down, back", []step{
			{1000, "1 0 1", "unknown echo"},
			{1050, "1 100 2", "up changed"},
			{1139, "tick", "up"},
			{1140, "tick", "late changed"},
			{1199, "tick", "late"},
			{1200, "tick", "down changed"},
			{9000, "tick", "down"},
			{9001, "1 100 3", "up changed"},
		}},
		{"late, and heard again", []step{
			{1000, "1 100 1", "up changed"},
			{1090, "tick", "late changed"},
			{1095, "1 100 2", "up changed"},
			{1184, "tick", "up"},
		}},
		{"a tick that comes late leaves nothing out but Late", []step{
			{1000, "1 100 1", "up changed"},
			{1150, "tick", "down changed"},
		}},
		{"a peer that never hears us is unknown for ever", []step{
			{1000, "1 0 1", "unknown echo"},
			{5000, "tick", "unknown"},
			{5000, "1 99 2", "unknown echo"},
			{9000, "tick", "unknown"},
		}},
		{"news, and no news", []step{
			{1000, "1 100 1 7", "up changed 7"},
			{1050, "1 100 2 7", "up 7"},
			{1100, "1 100 3 8", "up changed 8"},
		}},
		{"an older hello neither overwrites nor prolongs", []step{
			{1000, "1 100 5 8", "up changed 8"},
			{1080, "1 100 4 7", "up 8"},
			{1090, "tick", "late changed 8"},
			{1095, "1 100 3 7", "late 8"},
			{1150, "tick", "down changed 8"},
		}},
		{"duplicates and what is too old", []step{
			{1000, "1 100 70", "up changed"},
			{1001, "1 100 70", "up replay"},
			{1002, "1 100 7", "up"},
			{1003, "1 100 7", "up replay"},
			{1004, "1 100 6", "up replay"},
			{1005, "1 100 200", "up"},
			{1006, "1 100 137", "up"},
			{1007, "1 100 136", "up replay"},
			{1008, "1 100 70", "up replay"},
		}},
		{"within a run the sequence proves enough", []step{
			{1000, "1 100 1", "up changed"},
			{1050, "1 0 2", "up"},
		}},
		{"a restart, while the old run still counts as up", []step{
			{1000, "1 100 500 7", "up changed 7"},
			{1060, "2 0 1 7", "up echo 7"},
			{1061, "2 100 2 7", "up changed 7"},
			{1062, "1 100 501 6", "up retired 7"},
			{1210, "tick", "late changed 7"},
		}},
		{"a new run that never hears us saves nobody", []step{
			{1000, "1 100 1", "up changed"},
			{1050, "2 0 1", "up echo"},
			{1090, "tick", "late changed"},
			{1100, "2 0 2", "late echo"},
			{1150, "tick", "down changed"},
			{1151, "2 100 3", "up changed"},
		}},
		{"recorded during an earlier run of ours", []step{
			{1000, "1 99 500", "unknown echo"},
			{1001, "1 99 501", "unknown echo"},
		}},
		{"a stall of our own is nobody's silence", []step{
			{1000, "1 100 1", "up changed"},
			{3000, "stalled", "up"},
			{3000, "tick", "up"},
			{3089, "tick", "up"},
			{3090, "tick", "late changed"},
			{3100, "stalled", "late"},
			{3249, "tick", "late"},
			{3250, "tick", "down changed"},
			{3300, "stalled", "down"},
		}},
		{"time that goes back changes nothing", []step{
			{1000, "1 100 1", "up changed"},
			{900, "tick", "up"},
			{900, "stalled", "up"},
			{1090, "tick", "late changed"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := NewDetector(fast)
			for i, s := range c.steps {
				if got := play(t, d, s.at, s.what); got != s.want {
					t.Errorf("step %d, %d ms %q: %q, want %q", i, s.at, s.what, got, s.want)
				}
			}
		})
	}
}

// play does one step and prints what became of the detector.
func play(t *testing.T, d *Detector, at int, what string) string {
	t.Helper()
	now := lb.Instant(at) * ms
	var changed bool
	var err error
	switch what {
	case "tick":
		changed = d.Tick(now)
	case "stalled":
		d.Stalled(now)
	default:
		var run, echo, sequence uint64
		var term int64
		n, _ := fmt.Sscan(what, &run, &echo, &sequence, &term)
		m := from(run, echo, sequence)
		if n == 4 {
			m = saying(m, term)
		}
		changed, err = d.Receive(now, m)
	}
	out := []string{d.State().String()}
	if changed {
		out = append(out, "changed")
	}
	var reason Reason
	if errors.As(err, &reason) {
		out = append(out, reason.Slug())
	}
	if say, ok := d.Say("apiserver"); ok {
		out = append(out, fmt.Sprint(say.Transitions))
	}
	return strings.Join(out, " ")
}

// TestDetectorTimes: what both sides want decides when a silent peer is Late and
// Down, and how often we send.
func TestDetectorTimes(t *testing.T) {
	for _, c := range []struct {
		self              Self
		interval, floor   time.Duration
		multiplier        uint8
		late, down, every time.Duration
	}{
		{fast, 50 * ms, 10 * ms, 3, 90 * ms, 150 * ms, 50 * ms},
		{Self{mine, 20 * ms, 10 * ms}, 20 * ms, 10 * ms, 3, 36 * ms, 60 * ms, 20 * ms},
		{fast, 50 * ms, 10 * ms, 2, 60 * ms, 100 * ms, 50 * ms},
		{fast, 50 * ms, 10 * ms, 10, 440 * ms, 500 * ms, 50 * ms},
		{fast, 20 * ms, 10 * ms, 3, 36 * ms, 60 * ms, 50 * ms},      // a fast peer
		{fast, 300 * ms, 300 * ms, 3, 840 * ms, 900 * ms, 300 * ms}, // a slow peer
		{slow, 50 * ms, 10 * ms, 3, 840 * ms, 900 * ms, 300 * ms},   // we are slow
		{fast, 10 * time.Second, 10 * ms, 10, 99940 * ms, 100000 * ms, 50 * ms},
	} {
		d := NewDetector(c.self)
		if d.SendEvery() != c.self.Interval {
			t.Errorf("before anything is heard we send every %v", d.SendEvery())
		}
		m := from(1, mine, 1)
		m.Interval, m.Floor, m.Multiplier = c.interval, c.floor, c.multiplier
		const start = time.Hour
		if _, err := d.Receive(start, m); err != nil {
			t.Fatal(err)
		}
		late := d.Next()
		d.Tick(late)
		if down := d.Next(); late-start != c.late || down-start != c.down || d.SendEvery() != c.every {
			t.Errorf("%+v hears every %v × %d, floor %v: late %v, down %v, sends every %v", c.self,
				c.interval, c.multiplier, c.floor, late-start, down-start, d.SendEvery())
		}
	}
}

// TestDetectorRefusesTimes: no peer makes us spin or wait for ever.
func TestDetectorRefusesTimes(t *testing.T) {
	for _, spoil := range []func(*Message){
		func(m *Message) { m.Interval = MinInterval - 1 },
		func(m *Message) { m.Interval = MaxInterval + 1 },
		func(m *Message) { m.Interval = -1 },
		func(m *Message) { m.Floor = 0 },
		func(m *Message) { m.Floor = MaxInterval + 1 },
		func(m *Message) { m.Multiplier = 1 },
		func(m *Message) { m.Multiplier = 11 },
	} {
		d, m := NewDetector(fast), from(1, mine, 1)
		spoil(&m)
		if changed, err := d.Receive(time.Second, m); changed || err != ErrTiming || d.Echo() != 0 {
			t.Errorf("%+v: %v, %v", m, changed, err)
		}
	}
}

// TestDetectorEcho: what to echo while runs come and go.
func TestDetectorEcho(t *testing.T) {
	d := NewDetector(fast)
	for i, c := range []struct {
		m    Message
		echo uint64
	}{
		{from(1, 0, 1), 1}, // nothing proven, and echoed all the same
		{from(2, 0, 1), 2},
		{from(2, mine, 2), 2},
		{from(3, 0, 1), 3},    // a restart
		{from(2, mine, 2), 3}, // a duplicate proves nothing
		{from(2, mine, 3), 2},
		{from(3, mine, 2), 3},
		{from(2, mine, 4), 3}, // retired
	} {
		_, _ = d.Receive(time.Second, c.m)
		if d.Echo() != c.echo {
			t.Errorf("step %d: echo %d, want %d", i, d.Echo(), c.echo)
		}
	}
}

// TestDetectorRetires: the last 32 runs never come back.
func TestDetectorRetires(t *testing.T) {
	d := NewDetector(fast)
	const runs = 50
	for run := uint64(1); run <= runs; run++ {
		if changed, err := d.Receive(time.Second, from(run, mine, 1)); !changed || err != nil {
			t.Fatalf("run %d: %v, %v", run, changed, err)
		}
	}
	for run := uint64(runs - retiredKept); run < runs; run++ {
		if _, err := d.Receive(time.Second, from(run, mine, 99)); err != ErrRetired {
			t.Errorf("run %d: %v", run, err)
		}
	}
}

// TestDetectorKeepsItsOwn: the loop reads the next datagram into the same
// message.
func TestDetectorKeepsItsOwn(t *testing.T) {
	d := NewDetector(fast)
	m := saying(from(1, mine, 1), 7)
	_, _ = d.Receive(time.Second, m)
	m.Groups[0].Say.Transitions = 8
	if say, _ := d.Say("apiserver"); say.Transitions != 7 {
		t.Errorf("term %d", say.Transitions)
	}
	m.Sequence++
	if changed, _ := d.Receive(time.Second, m); !changed {
		t.Error("the change went unnoticed")
	}
	d.Groups()["apiserver"] = election.Say{}
	if say, _ := d.Say("apiserver"); say.Transitions != 8 {
		t.Error("Groups is not a copy")
	}
	if _, ok := d.Say("other"); ok {
		t.Error("says something of a group it has not named")
	}
}

// model is the detector written down naively: every datagram ever taken.
type model struct {
	taken   []Message
	had     map[[2]uint64]bool
	retired map[uint64]bool
	at      lb.Instant
}

// receive says whether a message is taken, without regard to windows: the test
// keeps sequences within them.
func (o *model) receive(now lb.Instant, m Message) (taken, refused bool) {
	newest := Message{}
	if len(o.taken) > 0 {
		newest = o.taken[len(o.taken)-1]
	}
	id := [2]uint64{m.Incarnation, m.Sequence}
	switch {
	case o.retired[m.Incarnation], o.had[id]:
		return false, true
	case m.Incarnation != newest.Incarnation && m.Echo != mine:
		return false, true
	case m.Incarnation != newest.Incarnation:
		o.retired[newest.Incarnation] = true
	case m.Sequence < newest.Sequence:
		o.had[id] = true
		return false, false
	}
	o.had[id] = true
	o.taken = append(o.taken, m)
	o.at = now
	return true, false
}

// state is what the state must be at now if it was was, with ticks at each step.
func (o *model) state(now lb.Instant) election.PeerState {
	switch silence := now - o.at; {
	case len(o.taken) == 0:
		return election.PeerUnknown
	case silence >= 150*ms:
		return election.PeerDown
	case silence >= 90*ms:
		return election.PeerLate
	default:
		return election.PeerUp
	}
}

// TestDetectorModel: a peer that restarts, loses, repeats and reorders at random,
// beside the model.
func TestDetectorModel(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := NewDetector(fast)
		o := &model{had: map[[2]uint64]bool{}, retired: map[uint64]bool{}}
		now, run, sequence := time.Second, uint64(1), uint64(0)
		var sent []Message
		for range 400 {
			now += time.Duration(rng.IntN(60)) * ms
			switch rng.IntN(20) {
			case 0: // a silence
				now += time.Duration(rng.IntN(200)) * ms
			case 1: // a restart, within what is remembered
				if run < retiredKept {
					run, sequence = run+1, 0
				}
			}
			was := d.State()
			if changed := d.Tick(now); changed != (d.State() != was) || d.State() != o.state(now) {
				t.Fatalf("seed %d at %v: %v after %v, want %v", seed, now, d.State(), was, o.state(now))
			}
			sequence++
			m := saying(from(run, []uint64{mine, mine, mine, 0}[rng.IntN(4)], sequence), int64(rng.IntN(3)))
			sent = append(sent, m)
			if rng.IntN(4) == 0 { // another one instead, of the last 30
				m = sent[max(0, len(sent)-1-rng.IntN(30))]
			}
			if rng.IntN(10) == 0 {
				continue // lost
			}
			taken, refused := o.receive(now, m)
			changed, err := d.Receive(now, m)
			if (err != nil) != refused || changed && !taken || d.State() != o.state(now) {
				t.Fatalf("seed %d at %v: %+v: changed %v, %v, %v; want taken %v, refused %v, %v",
					seed, now, m, changed, err, d.State(), taken, refused, o.state(now))
			}
			if n := len(o.taken); n > 0 {
				if say, _ := d.Say("apiserver"); say != o.taken[n-1].Groups[0].Say || d.Heard() != o.at {
					t.Fatalf("seed %d at %v: says %+v, heard %v, want %+v, %v", seed, now, say, d.Heard(), o.taken[n-1], o.at)
				}
			}
		}
	}
}
