package main

import (
	"fmt"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// asks is the observer's interval: exact enough to be seen in the picture.
const asks = 50 * time.Millisecond

// row is one fault of the table.
type row struct {
	name, title, target string
	peers               bool // keepalived has the case
	streams             time.Duration
	prepare             func(*bench)       // once, before the first run
	fault               func(*bench, *run) // breaks, waits and mends, under the eyes of clients
	after               func(*bench)       // once, after the last run
	runs                func(runs int) int // how many runs, nil for as many as asked for
	// own measures a run by itself, without probes: a start has no before.
	own func(*bench) sample
}

// run is one time that the fault happens, to the node that holds all VIPs.
type run struct {
	node   *lab.Node
	at     time.Time     // when it broke
	healed time.Duration // how long after the heal until there was one holder; 0: nothing to heal
	moved  bool          // where nothing may move: something did
}

// look is what the clients and the wire see of one contender during a run.
type look struct {
	name, vip string
	udp, tcp  *lab.Probe
	answers   *lab.Answers
}

// look starts a datagram and a connection every 5 ms.
func (b *bench) look(name, vip string) *look {
	return &look{name: name, vip: vip, udp: b.Client().UDPProbe(vip, 5*time.Millisecond),
		tcp: b.Client().Probe(vip+":6443", 5*time.Millisecond), answers: b.wire.AnswersEvery(vip, asks)}
}

// sample ends the look.
func (l *look) sample(r *run) sample {
	udp, tcp, wire := l.udp.Stop(), l.tcp.Stop(), l.answers.Stop()
	s := sample{Outage: udp.Longest, TCP: tcp.Longest, Failed: udp.Failed + tcp.Failed, Slowest: udp.Slowest, Two: wire.TwoHolders(0),
		Healed: r.healed, Moved: r.moved}
	s.Lane = lane{From: udp.Begin.Sub(r.at), To: udp.End.Sub(r.at)}
	for _, span := range udp.Spans {
		s.Lane.Answers = append(s.Lane.Answers, bar{span.Server, span.From.Sub(r.at), span.To.Sub(r.at)})
	}
	for _, g := range udp.Outages {
		s.Lane.Outages = append(s.Lane.Outages, bar{"", g.From.Sub(r.at), g.To.Sub(r.at)})
	}
	for _, g := range wire.Contested(0) {
		s.Lane.Contested = append(s.Lane.Contested, bar{"", g.From.Sub(r.at), g.To.Sub(r.at)})
	}
	return s
}

// measure runs one row.
func (b *bench) measure(r row) {
	b.Title(r.title)
	runs := b.runs
	if r.runs != nil {
		runs = r.runs(runs)
	}
	if r.prepare != nil {
		r.prepare(b)
	}
	res := result{Name: r.name, Title: r.title, Target: r.target, Samples: map[string][]sample{}}
	var streams []*lab.Stream
	if r.streams > 0 {
		b.gather(r)
		streams = b.connect(time.Duration(runs) * r.streams)
	}
	for i := range runs {
		if r.own != nil {
			res.add("mooring", r.own(b))
		} else {
			b.once(r, &res)
		}
		b.Logf("%s, run %d of %d: %s", r.name, i+1, runs, res.last())
	}
	res.Streams = b.disconnect(streams)
	b.results = append(b.results, res)
	if r.after != nil {
		r.after(b)
	}
}

// once is one run of a fault.
func (b *bench) once(r row, res *result) {
	this := &run{node: b.gather(r)}
	looks := []*look{b.look("mooring", vip)}
	if r.peers {
		for _, k := range b.peers {
			looks = append(looks, b.look(k.name, k.vip))
		}
	}
	time.Sleep(time.Second)
	this.at = time.Now()
	r.fault(b, this)
	for _, l := range looks {
		res.add(l.name, l.sample(this))
		this = &run{at: this.at} // the rest was about the first
	}
}

// gather puts all VIPs on n1, where keepalived's are by priority.
func (b *bench) gather(r row) *lab.Node {
	n := b.Node(1)
	b.Settle()
	b.moveTo(n)
	if r.peers {
		for _, k := range b.peers {
			b.Eventually(20*time.Second, k.name+" is back on "+n.Name(), func() bool {
				h := b.Holders(k.vip)
				return len(h) == 1 && h[0].Name() == n.Name()
			})
		}
	}
	time.Sleep(2 * time.Second) // announcements, renewals
	return n
}

// moveTo asks the holder to hand over.
func (b *bench) moveTo(n *lab.Node) {
	if h := b.Holder(vip); h != nil && h.Name() != n.Name() {
		h.Exec(b.Bin, "move", "--to", n.Name(), "--config", b.Config(h))
	}
	b.alone(n)
}

func (b *bench) alone(n *lab.Node) {
	b.Eventually(10*time.Second, n.Name()+" alone holds", func() bool {
		h := b.Holders(vip)
		return len(h) == 1 && h[0].Name() == n.Name()
	})
}

// connect opens the connections that planned moves must not break.
func (b *bench) connect(over time.Duration) []*lab.Stream {
	c, address := b.Client(), vip+":6443"
	return []*lab.Stream{c.Watch(address), c.Upgraded(address), c.Download(address, b.size, over)}
}

// disconnect waits for the download and says what became of each.
func (b *bench) disconnect(streams []*lab.Stream) (out []string) {
	if len(streams) == 0 {
		return nil
	}
	select {
	case <-streams[2].Done():
	case <-time.After(3 * time.Minute):
		b.Logf("the download has not ended")
	}
	for i, s := range streams {
		r := s.Stop()
		text := fmt.Sprintf("%s: %d broken, longest silence %d ms", r.What, len(r.Breaks)+r.Failed, r.Silence.Milliseconds())
		if i == 2 && !r.Complete {
			text += fmt.Sprintf(", NOT complete (%d of %d MiB)", r.Bytes>>20, b.size>>20)
		} else if i == 2 {
			text += fmt.Sprintf(", complete (%d MiB)", r.Bytes>>20)
		}
		b.Logf("%s", r)
		out = append(out, text)
	}
	return out
}

// last says what the newest run of each contender was, for the progress.
func (r result) last() string {
	var out []string
	for _, name := range r.contenders() {
		s := r.Samples[name]
		out = append(out, name+" "+s[len(s)-1].String())
	}
	return strings.Join(out, "; ")
}
