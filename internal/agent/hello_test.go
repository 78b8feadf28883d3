package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Three hellos, one every 50 ms, are missed (election/hello, Detector).
const (
	lateAfter = 90 * time.Millisecond
	downAfter = 150 * time.Millisecond
)

// hellos are one node's; the others hear them if the site is meshed.
type hellos struct {
	*node
	mu    sync.Mutex
	said  []map[string]election.Say
	beats []lb.Instant
}

// Say is heard by the others half a millisecond later.
func (h *hellos) Say(groups map[string]election.Say) {
	h.mu.Lock()
	h.said = append(h.said, maps.Clone(groups))
	h.mu.Unlock()
	h.tell(election.PeerUp, 500*time.Microsecond)
}

// Beat notes the loop's signs of life.
func (h *hellos) Beat(now lb.Instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats = append(h.beats, now)
}

// all that was said so far, of the one group.
func (h *hellos) words() []election.Say {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []election.Say
	for _, groups := range h.said {
		out = append(out, groups["apiserver"])
	}
	return out
}

// tell shows this node in a state to all others, after a while.
func (h *hellos) tell(state election.PeerState, after time.Duration) {
	h.site.mu.Lock()
	meshed := h.meshed
	h.site.mu.Unlock()
	words := h.words()
	if !meshed || len(words) == 0 {
		return
	}
	for _, n := range h.all() {
		ev := election.Peer{Node: h.name, State: state, Say: words[len(words)-1], Heard: n.now()}
		if state == election.PeerUp {
			ev.Heard += after
		}
		if n != h.node {
			time.AfterFunc(after, func() { n.agent.Deliver(ev) })
		}
	}
}

// silent begins just after a hello.
func (h *hellos) silent() {
	h.tell(election.PeerLate, lateAfter)
	h.tell(election.PeerDown, downAfter)
}

// mesh makes the nodes hear each other from now on.
func (s *site) mesh() {
	s.mu.Lock()
	s.meshed = true
	s.mu.Unlock()
	for _, n := range s.all() {
		n.hello.tell(election.PeerUp, 0)
	}
	synctest.Wait()
}

// heard is what the hellos of a peer show; the test alone speaks for it.
func (n *node) heard(peer string, state election.PeerState, say election.Say) {
	n.agent.Deliver(election.Peer{Node: peer, State: state, Say: say, Heard: n.now()})
	synctest.Wait()
}

// TestSay: the hellos get each change of what this node says, once, and nothing
// between: a change is sent at once to everybody.
func TestSay(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		if words := n.hello.words(); len(words) == 0 || words[0].Phase != election.Standby || !words[0].Healthy {
			t.Fatalf("first it says %+v, want Standby", words)
		}
		pass(20 * time.Second)
		words := n.hello.words()
		for i := 1; i < len(words); i++ {
			if words[i] == words[i-1] {
				t.Errorf("%+v was said twice", words[i])
			}
		}
		var phases []election.Phase
		for _, w := range words {
			phases = append(phases, w.Phase)
		}
		want := []election.Phase{election.Standby, election.Claiming, election.Holding}
		if got := slices.Compact(phases); !slices.Equal(got, want) {
			t.Errorf("it said %v, want %v", got, want)
		}
		want2 := election.Say{Phase: election.Holding, Transitions: 1, Healthy: true, API: true}
		if got := words[len(words)-1]; got != want2 {
			t.Errorf("at rest it says %+v, want %+v", got, want2)
		}
		before := len(words)
		n.agent.Deliver(election.Health{OK: false})
		synctest.Wait()
		if words = n.hello.words(); len(words) != before+1 || words[before].Healthy {
			t.Errorf("after it fell sick: %+v", words[before:])
		}
		for _, groups := range n.hello.said {
			if len(groups) != 1 {
				t.Errorf("it spoke of %d groups", len(groups))
			}
		}
	})
}

// TestBeat: an idle loop shows that it runs four times a second, a stuck one
// does not: a live thread must never cover a dead agent.
func TestBeat(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.api.set("b", 3)
		n := s.add(standby).run()
		n.agent.Deliver(election.Carrier{Up: false}) // nothing is due often
		pass(20 * time.Second)
		beats := slices.Clone(n.hello.beats)
		for i := 1; i < len(beats); i++ {
			if gap := beats[i] - beats[i-1]; gap > 250*time.Millisecond {
				t.Errorf("%v without a beat", gap)
			}
		}
		if len(beats) < 80 || beats[len(beats)-1] < n.now()-250*time.Millisecond {
			t.Errorf("%d beats in 20 s, the last at %v of %v", len(beats), beats[len(beats)-1], n.now())
		}
		stuck := make(chan struct{})
		n.agent.input(func(*Agent) bool {
			<-stuck
			return false
		})
		synctest.Wait()
		before := len(n.hello.beats)
		pass(3 * time.Second)
		if got := len(n.hello.beats) - before; got > 0 {
			t.Errorf("%d beats of a loop that is stuck", got)
		}
		close(stuck)
		synctest.Wait()
		if len(n.hello.beats) == before {
			t.Error("no beat of a loop that runs again")
		}
	})
}

// TestHealthFollowsTheProxy: where HAProxy is to serve, its state is what this
// node says of its health; where it is not, somebody else says it.
func TestHealthFollowsTheProxy(t *testing.T) {
	up := []string{"s-10-0-0-11-6443"}
	for _, st := range []struct {
		name    string
		balance bool
		state   lb.ProxyState
		healthy bool
	}{
		{"it serves", true, lb.ProxyState{Serving: true, Up: up}, true},
		{"it does not", true, lb.ProxyState{Up: up, Why: "it ended"}, false},
		{"it serves nobody", true, lb.ProxyState{Serving: true}, false},
		{"balancing is off", false, lb.ProxyState{Why: "nothing to balance"}, true},
	} {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				n := s.add(standby, balanced("10.0.0.11:6443"), func(o *Options) { o.Plane.Balance = st.balance })
				// First the other way round: a state must be taken back too.
				n.plane.set(func(p *plane) { p.state = lb.ProxyState{Serving: !st.state.Serving, Up: up} })
				n.run()
				pass(time.Second)
				n.plane.set(func(p *plane) { p.state = st.state })
				n.agent.SetProxy(st.state)
				pass(time.Second)
				words := n.hello.words()
				if got := words[len(words)-1].Healthy; got != st.healthy {
					t.Errorf("it says healthy: %t, want %t", got, st.healthy)
				}
			})
		})
	}
}

// TestPing: a node is alive if the wire knows one of its own addresses; the
// gateway's answer proves nothing about it, and what cannot be asked is not dead.
func TestPing(t *testing.T) {
	const asked = "probe 192.0.2.2 2001:db8::2"
	for _, st := range []struct {
		name   string
		change func(s *site, a, b *node)
		ping   string
		asks   string
		alive  bool
	}{
		{"alive", func(*site, *node, *node) {}, "b", asked, true},
		{"its agent ended, its kernel answers", func(_ *site, _, b *node) { b.stop() }, "b", asked, true},
		{"dead", func(_ *site, _, b *node) { b.powerOff() }, "b", asked, false},
		{"dead, the gateway too", func(s *site, _, b *node) { b.powerOff(); s.setGateway(false) }, "b", asked, false},
		{"no link to ask on", func(_ *site, a, b *node) {
			b.powerOff()
			a.links.probeFault(context.DeadlineExceeded)
		}, "b", asked, true},
		{"of no address", func(_ *site, _, b *node) { b.powerOff() }, "c", "", true},
	} {
		t.Run(st.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, s *site) {
				a := s.add(standby) // its loop does not run: its queue shows what it would hear
				b := s.add(standby).run()
				a.agent.known.Store(&[]election.Member{b.member(), {Node: "c", Addrs: []string{"garbage"}, Live: true}})
				st.change(s, a, b)
				for len(a.agent.events) > 0 {
					<-a.agent.events
				}
				a.agent.askNode(t.Context(), st.ping)
				var calls string
				if all := a.took("probe", "quick"); len(all) > 0 {
					calls = all[0]
				}
				if calls != st.asks {
					t.Errorf("asked %q, want %q", calls, st.asks)
				}
				if got, want := <-a.agent.events, (election.Pinged{Node: st.ping, Alive: st.alive}); got != want {
					t.Errorf("the machine hears %+v, want %+v", got, want)
				}
			})
		})
	}
}

// TestPingIsCarriedOut: by the machine's action, over the loop and back.
func TestPingIsCarriedOut(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := s.add(standby).run()
		s.add(standby).run()
		a.took()
		a.agent.carryOutFromTest(election.Ping{Node: "b"})
		synctest.Wait()
		if got := a.took("probe"); !slices.Equal(got, []string{"probe 192.0.2.2 2001:db8::2"}) {
			t.Errorf("asked %q", got)
		}
	})
}

// TestQuickProbe: one question for the VIPs and the witnesses, and the machine is
// told which kind was answered.
func TestQuickProbe(t *testing.T) {
	for _, quick := range []bool{false, true} {
		inSite(t, func(t *testing.T, s *site) {
			n := s.add(standby)
			begun := n.now()
			n.agent.askWire(t.Context(), n.agent.witnesses(), quick)
			word := map[bool]string{false: "probe", true: "quick"}[quick]
			if got := n.took(); !slices.Equal(got, []string{word + " 192.0.2.10 192.0.2.254"}) {
				t.Errorf("asked %q", got)
			}
			ev, ok := (<-n.agent.events).(election.Probed)
			if !ok || ev.Quick != quick || !ev.Witness || len(ev.Answers) > 0 || ev.Begun != begun || ev.Err != "" {
				t.Errorf("quick %t: the machine hears %+v", quick, ev)
			}
		})
	}
}

// TestProbesDoNotReplaceEachOther: a claim's question and a suspicion's are both
// answered, whatever the order; of one kind the newest does.
func TestProbesDoNotReplaceEachOther(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		n := s.add(standby).run()
		n.links.probing.close()
		n.agent.carryOutFromTest(election.Probe{Quick: true}, election.Probe{})
		synctest.Wait() // both are under way; now both boxes fill
		n.took()
		n.agent.carryOutFromTest(election.Probe{}, election.Probe{Quick: true}, election.Probe{}, election.Probe{Quick: true})
		synctest.Wait()
		n.links.probing.open()
		pass(500 * time.Millisecond)
		probes, quick := 0, 0
		for _, call := range n.took("probe", "quick") {
			if call[0] == 'p' {
				probes++
			} else {
				quick++
			}
		}
		if probes != 1 || quick != 1 {
			t.Errorf("%d full and %d quick probes, want one of each", probes, quick)
		}
	})
}

// TestPeersAreShown: in the status, by name, and as metrics.
func TestPeersAreShown(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.api.set("b", 3)
		n := s.add(standby).run()
		say := election.Say{Phase: election.Holding, Transitions: 3, Healthy: true}
		n.agent.Deliver(election.Peer{Node: "c", State: election.PeerUnknown})
		for _, st := range []struct {
			state election.PeerState
			up    float64
		}{{election.PeerUp, 1}, {election.PeerLate, 1}, {election.PeerDown, 0}, {election.PeerUnknown, 0}, {election.PeerUp, 1}} {
			n.heard("b", st.state, say)
			pass(20 * time.Millisecond)
			n.agent.Deliver(election.Tick{}) // publishes
			synctest.Wait()
			want := []PeerStatus{
				{Node: "b", State: st.state.String(), Says: "Holding", Term: 3, Healthy: true, Heard: .02},
				{Node: "c", State: "unknown"},
			}
			if got := n.agent.Status().Peers; !slices.Equal(got, want) {
				t.Errorf("peers %+v, want %+v", got, want)
			}
			if got := metric(t, n.agent, "mooring_peer_up", "group", "apiserver", "node", "b"); got != st.up {
				t.Errorf("%s: mooring_peer_up is %v, want %v", st.state, got, st.up)
			}
			if got := metric(t, n.agent, "mooring_peer_up", "node", "c"); got != 0 {
				t.Errorf("mooring_peer_up of one never heard is %v", got)
			}
		}
	})
}
