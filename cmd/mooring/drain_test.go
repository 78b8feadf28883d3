package main

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
)

// drainStory is one run of the command beside an agent on node at.
type drainStory struct {
	name string
	at   string
	undo bool
	// marks is the answer to the mark.
	marks error
	// look is what the agent says, since is the time since the mark.
	look func(since time.Duration) (report, error)
	said string // after the line about the mark
	err  string
	took time.Duration
}

// seenOn is what an agent says when holder holds.
func seenOn(at, holder string) report {
	r := report{Status: agent.Status{
		Node: at, VIPs: []string{"192.0.2.10"}, Holder: holder,
		Members: []election.Member{{Node: "n1", Drain: true}, {Node: "n2", Live: true}, {Node: "n3"}},
	}}
	if at == holder {
		r.HeldFor = 60
	}
	return r
}

// handsOver is an agent on a node that sees n1 hand over to n2 after a while.
func handsOver(at string, after time.Duration) func(time.Duration) (report, error) {
	return func(since time.Duration) (report, error) {
		if since < after {
			return seenOn(at, "n1"), nil
		}
		return seenOn(at, "n2"), nil
	}
}

var errNoAgent = errors.New("no agent answers")

// drainStories are those that end well.
func drainStories() []drainStory {
	const lives = "connections made before go on through n1 for up to 5m0s: shut it down after that\n"
	return []drainStory{
		{name: "of this node", at: "n1", look: func(since time.Duration) (report, error) {
			r, _ := handsOver("n1", 120*time.Millisecond)(since)
			r.Moves = []agent.Move{
				{At: time.Now(), Reason: election.Sure, Took: time.Second},
				{At: time.Now(), Reason: election.GaveUp, Took: 123456 * time.Microsecond},
				{At: time.Now().Add(-time.Hour), Reason: election.GaveUp, Took: time.Second},
			}
			return r, nil
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 123ms\n" + lives, took: 150 * time.Millisecond},
		{name: "of this node, which says nothing of it", at: "n1", look: func(since time.Duration) (report, error) {
			r, _ := handsOver("n1", 120*time.Millisecond)(since)
			r.Moves = []agent.Move{{At: time.Now().Add(-time.Hour), Reason: election.GaveUp, Took: time.Second}}
			return r, nil
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 150ms\n" + lives, took: 150 * time.Millisecond},
		{name: "seen from elsewhere", at: "n3", look: func(since time.Duration) (report, error) {
			r, _ := handsOver("n3", 120*time.Millisecond)(since)
			r.Moves = []agent.Move{{At: time.Now(), Reason: election.GaveUp, Took: time.Second}} // another one
			return r, nil
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 150ms\n" + lives, took: 150 * time.Millisecond},
		{name: "of one that holds nothing", at: "n3", look: handsOver("n3", -time.Second),
			said: "n1 does not hold 192.0.2.10, n2 does\n"},
		{name: "the node has not let go yet", at: "n1", look: func(since time.Duration) (report, error) {
			r, _ := handsOver("n1", 0)(since)
			if since < 400*time.Millisecond {
				r.HeldFor = 60 // as Draining
			}
			return r, nil
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 400ms\n" + lives, took: 400 * time.Millisecond},
		{name: "nobody holds for a moment", at: "n3", look: func(since time.Duration) (report, error) {
			if since >= 0 && since < time.Second {
				return seenOn("n3", ""), nil
			}
			return handsOver("n3", time.Second)(since)
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 1s\n" + lives, took: time.Second},
		{name: "the agent is away for a moment", at: "n1", look: func(since time.Duration) (report, error) {
			if since >= 0 && since < 2*time.Second {
				return report{}, errNoAgent
			}
			return handsOver("n1", 2*time.Second)(since)
		}, said: "n1 holds 192.0.2.10 ...\nhanded to n2 in 2s\n" + lives, took: 2 * time.Second},
		{name: "undone", at: "n1", undo: true, said: "n1 may hold VIPs again\n"},
	}
}

// stuckStories are those in which something is in the way.
func stuckStories() []drainStory {
	const stays = "; it stays marked and hands over when it can; undo it with mooring drain n1 --undo"
	away := &url.Error{Op: "Get", URL: "https://127.0.0.1:6443", Err: errors.New("refused")}
	never := func(change func(*report)) func(time.Duration) (report, error) {
		return func(time.Duration) (report, error) {
			r := seenOn("n1", "n1")
			change(&r)
			return r, nil
		}
	}
	return []drainStory{
		{name: "unknown node", marks: errors.New(`no agent runs on a node "n1": known are n2, n3`), look: handsOver("n2", 0),
			err: `no agent runs on a node "n1": known are n2, n3`},
		{name: "no API server", marks: away, look: handsOver("n1", time.Hour),
			err: `no API server answers, so n1 cannot be marked and nothing was changed (Get "https://127.0.0.1:6443": refused): ` +
				`run this again when one does; if n1 must go now, stop its agent, and another node takes over ` +
				`once the kernel has let go of the VIPs, after 4s`},
		{name: "no API server to undo it", undo: true, marks: away, err: `no API server answers, so the mark of n1 stays ` +
			`(Get "https://127.0.0.1:6443": refused): run this again when one does`},
		{name: "no other candidate", look: never(func(r *report) { r.Members = r.Members[:1] }), took: time.Minute,
			said: "n1 holds 192.0.2.10 ...\n", err: "n1 still holds 192.0.2.10 after 1m0s: " +
				"there is no other candidate; start an agent on another node" + stays},
		{name: "none of them live", look: never(func(r *report) {
			r.Members[0].Live, r.Members[1].Live = true, false
		}), took: time.Minute,
			said: "n1 holds 192.0.2.10 ...\n", err: "n1 still holds 192.0.2.10 after 1m0s: " +
				"no other candidate is live; look after the agent on n2, n3" + stays},
		{name: "the target does not take over", look: func(since time.Duration) (report, error) {
			r := seenOn("n1", "n1")
			r.Moves = []agent.Move{{At: time.Now(), Reason: election.MoveUndone, Detail: "no sign of n2"}}
			return r, nil
		}, took: time.Minute, said: "n1 holds 192.0.2.10 ...\n",
			err: "n1 still holds 192.0.2.10 after 1m0s: " + string(election.MoveUndone) + " no sign of n2" + stays},
		{name: "what came to nothing was another move", look: func(time.Duration) (report, error) {
			r := seenOn("n1", "n1")
			r.Moves = []agent.Move{{At: time.Now().Add(-time.Hour), Reason: election.MoveDropped, Detail: "yesterday"}}
			return r, nil
		}, took: time.Minute, said: "n1 holds 192.0.2.10 ...\n",
			err: "n1 still holds 192.0.2.10 after 1m0s: mooring status on n1 says more" + stays},
		{name: "no reason known here", look: func(time.Duration) (report, error) {
			r := seenOn("n3", "n1")
			r.Moves = []agent.Move{{At: time.Now(), Reason: election.MoveUndone, Detail: "n3's own"}}
			return r, nil
		}, took: time.Minute,
			said: "n1 holds 192.0.2.10 ...\n", err: "n1 still holds 192.0.2.10 after 1m0s: mooring status on n1 says more" + stays},
		{name: "no record known", look: func(time.Duration) (report, error) { return seenOn("n3", ""), nil }, took: time.Minute,
			err: "n1 may still hold: this agent does not know who does after 1m0s: mooring status on n1 says more" + stays},
		{name: "no agent here", look: func(time.Duration) (report, error) { return report{}, errNoAgent },
			took: agentWait + lookEvery, err: "n1 stays marked, but nobody here can tell whether it is empty: " +
				"no agent answers; ask mooring status on another node"},
	}
}

// TestDrain: what the command says, how it ends, and when.
func TestDrain(t *testing.T) {
	for _, s := range append(drainStories(), stuckStories()...) {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { s.play(t) })
		})
	}
}

func (s drainStory) play(t *testing.T) {
	var out bytes.Buffer
	var marked time.Time
	d := drain{
		node: "n1", timeout: time.Minute, linger: 5 * time.Minute, fence: 4 * time.Second, out: &out,
		mark: func(_ context.Context, on bool) error {
			if on == s.undo {
				t.Errorf("marked %v", on)
			}
			marked = time.Now()
			return s.marks
		},
		look: func(context.Context) (report, error) {
			if marked.IsZero() {
				return s.look(-time.Second)
			}
			return s.look(time.Since(marked))
		},
	}
	run, said := d.run, "n1 is marked: it takes no VIPs until mooring drain n1 --undo\n"+s.said
	if s.undo {
		run, said = d.undo, s.said
	}
	if s.marks != nil {
		said = ""
	}
	err := run(t.Context())
	if text := complaintOf(err); text != s.err {
		t.Errorf("error\n%s\nwant\n%s", text, s.err)
	}
	if out.String() != said {
		t.Errorf("said\n%s\nwant\n%s", out.String(), said)
	}
	if took := time.Since(marked); took != s.took {
		t.Errorf("took %s, want %s", took, s.took)
	}
}

// TestDrainWaitsAsLongAsTold: not at all, or until somebody interrupts.
func TestDrainWaitsAsLongAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		d := drain{
			node: "n1", out: &out, mark: func(context.Context, bool) error { return nil },
			look: func(context.Context) (report, error) { return seenOn("n1", "n1"), nil },
		}
		begun := time.Now()
		if err := d.run(t.Context()); err != nil || time.Since(begun) != 0 {
			t.Errorf("no timeout: %v after %s", err, time.Since(begun))
		}
		d.timeout = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := d.run(ctx)
		if err == nil || !strings.HasPrefix(err.Error(), "interrupted: n1 stays marked") || time.Since(begun) != 2*time.Second {
			t.Errorf("interrupted: %v after %s", err, time.Since(begun))
		}
	})
}

// TestDrainWithoutLinger: nothing is promised to connections that end at a move.
func TestDrainWithoutLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := handsOver("n3", 100*time.Millisecond)
		begun := time.Now()
		d := drain{
			node: "n1", timeout: time.Minute, out: &out, mark: func(context.Context, bool) error { return nil },
			look: func(context.Context) (report, error) { return s(time.Since(begun)) },
		}
		must(t, d.run(t.Context()))
		if !strings.HasSuffix(out.String(), "handed to n2 in 100ms\n") {
			t.Error(out.String())
		}
	})
}
