package scenarios

import (
	"path/filepath"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestPlannedMoves: `mooring move` there and back and SIGTERM lose nothing.
func TestPlannedMoves(t *testing.T) {
	w := boot(t)
	answers := w.Wire().Answers(vip)
	connects := w.Client().Probe(server, 10*time.Millisecond)
	requests := w.Client().Requests(readyz, 20*time.Millisecond)

	first := w.Holder(vip)
	second := w.other(first)
	for _, leg := range []struct{ from, to *lab.Node }{{first, second}, {second, first}} {
		t.Log(leg.from.Exec(lab.Mooring(t), "move", "--to", leg.to.Name(),
			"--config", filepath.Join(leg.from.Dir(), "agent.yaml")))
		w.Eventually(2*time.Second, "the target alone holds", func() bool {
			h := w.Holders(vip)
			return len(h) == 1 && h[0].Name() == leg.to.Name()
		})
		w.stays(leg.to, 2*time.Second, "after the move")
	}

	t.Log("SIGTERM of the holder's agent")
	w.agent(first).Term()
	w.within(5*time.Second, w.agent(first))
	w.Eventually(time.Second, "another node alone holds", func() bool {
		h := w.Holders(vip)
		return len(h) == 1 && h[0].Name() != first.Name()
	})
	w.stays(w.Holder(vip), 3*time.Second, "after SIGTERM")

	noneLost(t, "connections", connects.Stop())
	noneLost(t, "requests", requests.Stop())
	one(t, answers.Stop(), 1800*time.Millisecond) // three moves, each at most 0.5 s and one question
}

// TestMoveRefused: a move that cannot be made says why and moves nothing.
func TestMoveRefused(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	for _, c := range []struct {
		on   *lab.Node
		to   string
		says string
	}{
		{w.other(holder), "", "does not hold"},
		{holder, "n9", "no live candidate"},
		{holder, holder.Name(), "holds the group already"},
	} {
		_, err := c.on.Try(lab.Mooring(t), "move", "--to", c.to, "--config", filepath.Join(c.on.Dir(), "agent.yaml"))
		wantError(t, err, c.says)
	}
	w.stays(holder, time.Second, "after refused moves")

	t.Log("the target's agent is stopped: the move is undone")
	target := w.other(holder)
	w.agent(target).Freeze()
	probe := w.Client().Probe(server, 10*time.Millisecond)
	_, _ = holder.Try(lab.Mooring(t), "move", "--to", target.Name(), "--config", filepath.Join(holder.Dir(), "agent.yaml"))
	w.Eventually(5*time.Second, "a node with a living agent holds", func() bool {
		h := w.Holders(vip)
		return len(h) == 1 && h[0].Name() != target.Name()
	})
	noneLost(t, "connections", probe.Stop())
	w.agent(target).Thaw()
}
