package scenarios

import (
	"path/filepath"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestPlannedMoves: `mooring move` there and back, a drain and SIGTERM lose
// nothing, and connections made before them live on.
func TestPlannedMoves(t *testing.T) {
	w := boot(t)
	open := w.connect(25 * time.Second)
	seen := w.look()
	requests := w.Client().Requests(readyz, 20*time.Millisecond)

	first := w.Holder(vip)
	second := w.other(first)
	for _, to := range []*lab.Node{second, first} {
		w.move(to)
		w.stays(to, 2*time.Second, "after the move")
	}

	t.Log("drain")
	w.mooring(first, "drain", first.Name())
	w.elsewhere(first, 2*time.Second)
	w.Eventually(time.Second, "one node holds", func() bool { return len(w.Holders(vip)) == 1 })
	w.stays(w.Holder(vip), 2*time.Second, "after the drain")
	w.mooring(first, "drain", "--undo", first.Name())
	w.stays(w.Holder(vip), 2*time.Second, "after the drain was undone")

	t.Log("SIGTERM of the holder's agent")
	third := w.Holder(vip)
	w.agent(third).Term()
	w.within(5*time.Second, w.agent(third))
	w.elsewhere(third, time.Second)
	w.stays(w.Holder(vip), 3*time.Second, "after SIGTERM")

	noneLost(t, "requests", requests.Stop())
	open.end(30 * time.Second)
	seen.end(0, 4*600*time.Millisecond) // four moves, each at most 0.5 s and one question
}

// TestRollingRestart: every agent is restarted in turn, as an upgrade does, and
// no client notices, old or new.
func TestRollingRestart(t *testing.T) {
	w := boot(t)
	open := w.connect(20 * time.Second)
	seen := w.look()
	for _, n := range w.All() {
		w.agent(n).Restart()
		w.settle()
	}
	open.end(30 * time.Second)
	seen.end(0, 3*600*time.Millisecond)
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
