package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// stand is everything around an agent that holds: links on which all goes well,
// a data plane of nothing, and a record that does as the story says.
type stand struct {
	agent *agent.Agent
	begun time.Time
	// last was said by hello.
	last atomic.Pointer[map[string]election.Say]
	// swap answers a hand-over; nil never does.
	swap func(election.Swap)
}

func (s *stand) now() lb.Instant { return time.Since(s.begun) + time.Second }

func (s *stand) Set(_ context.Context, h lb.Holding) (lb.Held, error) {
	return lb.Held{Begun: s.now(), Have: h.Addresses}, nil
}
func (s *stand) Probe(context.Context, []lb.Address, bool) ([]lb.Answer, error) { return nil, nil }
func (s *stand) Say(says map[string]election.Say)                               { s.last.Store(&says) }
func (s *stand) Beat(lb.Instant)                                                {}
func (s *stand) Announce(context.Context, []lb.Address) error                   { return nil }
func (s *stand) Forward(context.Context, []lb.Forward) error                    { return nil }
func (s *stand) Redirects(context.Context, []lb.Redirect) error                 { return nil }
func (s *stand) Save(election.Record) error                                     { return nil }
func (s *stand) Frontends(context.Context, []lb.Frontend) (lb.ProxyState, error) {
	return lb.ProxyState{}, nil
}

// Do answers reads with the agent's own record and swaps as the story says.
func (s *stand) Do(act election.Action) {
	switch act := act.(type) {
	case election.Read:
		s.saw(election.Record{Holder: "n1", Transitions: 3}, election.ByRead)
	case election.Swap:
		if s.swap != nil {
			go s.swap(act)
		}
	}
}

// said is what its hellos say of the group.
func (s *stand) said() election.Say {
	if all := s.last.Load(); all != nil {
		return (*all)[group]
	}
	return election.Say{}
}

// saw delivers a look at the record a moment later.
func (s *stand) saw(r election.Record, via election.Via) {
	begun := s.now()
	time.AfterFunc(time.Millisecond, func() {
		s.agent.Deliver(election.Saw{
			View: election.View{Exists: true, Sound: true, Candidate: true, Record: r}, Via: via, Begun: begun,
		})
	})
}

// won is a swap that is written and whose target shows itself after a while.
func (s *stand) won(sign time.Duration) func(election.Swap) {
	return func(act election.Swap) {
		s.agent.Deliver(election.Swapped{To: act.Record.Holder, Result: election.SwapWon})
		r := act.Record
		r.From = ""
		time.Sleep(sign)
		s.saw(r, election.ByWatch)
	}
}

// inStand runs a story with an agent n1 that holds, or not, beside n2 and n3.
func inStand(t *testing.T, holds bool, story func(t *testing.T, s *stand)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stand{begun: time.Now()}
		start := election.Started{}
		if holds {
			start = election.Started{Alive: true, Begun: s.now(), Known: true, SameBoot: true,
				Last: election.Record{Holder: "n1", Transitions: 3}}
		}
		s.agent = agent.New(agent.Options{
			Machine: election.Config{Group: group, Self: "n1", Lease: 7 * time.Second, Renew: time.Second,
				ValidLft: 4 * time.Second},
			VIPs:  []lb.Address{{IP: netip.MustParseAddr("192.0.2.10"), Link: "eth0"}},
			Start: start, Addresses: s, Record: s, DataPlane: s, Memory: s, Hellos: s,
			Complain: func(string, string) {}, Noted: func(election.Note) {},
			Now: s.now, Clock: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _, _ = s.agent.Run(ctx) }()
		defer func() { stop(); <-ended }()
		s.agent.Deliver(election.Members{All: []election.Member{
			{Node: "n1", Live: true}, {Node: "n2", Live: true}, {Node: "n3"},
		}})
		time.Sleep(time.Second)
		synctest.Wait()
		story(t, s)
	})
}

// TestMoveOutcomes: every way in which a planned move ends is told to whoever
// asked for it, with the way on.
func TestMoveOutcomes(t *testing.T) {
	stories := []struct {
		name  string
		holds bool
		to    string
		swap  func(s *stand) func(election.Swap)
		said  string
		err   string
		most  time.Duration
	}{
		{"moved", true, "n2", func(s *stand) func(election.Swap) { return s.won(50 * time.Millisecond) },
			"moved to n2 in 5", "", time.Second},
		{"to the best one", true, "", func(s *stand) func(election.Swap) { return s.won(0) },
			"moved to n2 in", "", time.Second},
		{"not the holder", false, "n2", nil, "", "n1 does not hold the VIPs: run this on n1", 0},
		{"to itself", true, "n1", nil, "", "this node holds the group already", time.Second},
		{"to one that is not live", true, "n3", nil, "", "node n3 is no live candidate", time.Second},
		{"to one that does not exist", true, "n9", nil, "", "node n9 is no live candidate", time.Second},
		{"no API server answers", true, "n2", nil, "", "no API server answered the swap within 1 s", 2 * time.Second},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			inStand(t, st.holds, func(t *testing.T, s *stand) {
				if st.swap != nil {
					s.swap = st.swap(s)
				}
				begun := time.Now()
				said, err := moveTo(t.Context(), s.agent, st.to)
				if st.err == "" && (err != nil || !strings.HasPrefix(said, st.said)) {
					t.Errorf("said %q, %v, want %q", said, err, st.said)
				}
				if st.err != "" && (err == nil || !strings.Contains(err.Error(), st.err)) {
					t.Errorf("error %v, want %q", err, st.err)
				}
				if took := time.Since(begun); took > st.most {
					t.Errorf("took %v, want at most %v", took, st.most)
				}
			})
		})
	}
}

// TestMoveHearsOnlyItsOwnEnd: an earlier move in the agent's memory is not
// taken for this one's.
func TestMoveHearsOnlyItsOwnEnd(t *testing.T) {
	inStand(t, true, func(t *testing.T, s *stand) {
		if _, err := moveTo(t.Context(), s.agent, "n9"); err == nil {
			t.Fatal("moved to a node that does not exist")
		}
		time.Sleep(time.Second)
		s.swap = s.won(200 * time.Millisecond)
		if said, err := moveTo(t.Context(), s.agent, "n2"); err != nil || !strings.HasPrefix(said, "moved to n2") {
			t.Errorf("said %q, %v", said, err)
		}
	})
}

// TestMoveAskedTwice: who asks again at once is answered again.
func TestMoveAskedTwice(t *testing.T) {
	inStand(t, true, func(t *testing.T, s *stand) {
		for range 3 {
			begun := time.Now()
			_, err := moveTo(t.Context(), s.agent, "n9")
			if err == nil || !strings.Contains(err.Error(), "n9 is no live candidate") || time.Since(begun) > time.Second {
				t.Errorf("after %v: %v", time.Since(begun), err)
			}
		}
	})
}

// TestMoveWithoutAnEnd: who asked is not kept for ever, and may go away.
func TestMoveWithoutAnEnd(t *testing.T) {
	inStand(t, true, func(t *testing.T, s *stand) {
		// Written, but the target never shows itself and the way back hangs too.
		s.swap = func(act election.Swap) {
			if act.Record.Holder == "n2" {
				s.agent.Deliver(election.Swapped{To: "n2", Result: election.SwapWon})
			}
		}
		begun := time.Now()
		_, err := moveTo(t.Context(), s.agent, "n2")
		if err == nil || time.Since(begun) > 9*time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := moveTo(ctx, s.agent, "n2"); !errors.Is(err, context.DeadlineExceeded) && err == nil {
			t.Errorf("given up: %v", err)
		}
	})
}

// TestVerdict: the probes' answers for a kubelet and for people.
func TestVerdict(t *testing.T) {
	for want, err := range map[int]error{200: nil, 503: errors.New("the Lease has not been read yet")} {
		w := httptest.NewRecorder()
		verdict(func() error { return err })(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		text := "ok\n"
		if err != nil {
			text = err.Error() + "\n"
		}
		if w.Code != want || w.Body.String() != text {
			t.Errorf("%v: %d %q", err, w.Code, w.Body)
		}
	}
}
