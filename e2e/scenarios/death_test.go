package scenarios

import (
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// room is what timings of a shared machine get beyond the promised ones: the
// promises themselves are measured by the bench.
const room = 3

// TestTakeover: the holder's node is cut off by a pulled cable, then by the
// switch, the second time with etcd's leader on it; then it loses its power.
// Clients wait a fraction of a second, nothing moves when the node is back.
func TestTakeover(t *testing.T) {
	w := boot(t)
	for _, c := range []struct {
		name   string
		cut    lab.Cut
		leader bool
		wait   time.Duration
	}{
		{"cable", lab.CarrierLoss, false, 180 * time.Millisecond},
		{"switch, etcd's leader on it", lab.SilentCut, true, 210 * time.Millisecond},
	} {
		t.Logf("cut: %s", c.name)
		old := w.holdBeside(c.leader)
		seen := w.look()
		old.CutLink(c.cut)
		t.Logf("another node holds after %s", w.elsewhere(old, 14*time.Second))
		time.Sleep(2 * time.Second)
		old.HealLink()
		w.healed(old)
		seen.end(room*c.wait, time.Second)
		w.settle()
	}

	t.Log("power")
	old := w.holdBeside(false)
	seen := w.look()
	old.Kill()
	w.elsewhere(old, 14*time.Second)
	holder := w.Holder(vip)
	time.Sleep(time.Second)
	old.Boot()
	w.AwaitReady(old)
	w.stays(holder, 5*time.Second, "while the old holder returns")
	seen.end(room*180*time.Millisecond, 0)
}

// holdBeside puts the VIP on the node with etcd's leader, or on another.
func (w *world) holdBeside(leader bool) *lab.Node {
	w.t.Helper()
	var at *lab.Node
	w.Eventually(10*time.Second, "an etcd leads", func() bool { at = w.Leader(); return at != nil })
	if !leader && w.Holder(vip).Name() == at.Name() {
		w.move(w.other(at))
	} else if leader {
		w.move(at)
	}
	time.Sleep(time.Second) // announcements, the first renewal
	return w.Holder(vip)
}

// healed: one holder within a second, not the one that was away, and it stays.
func (w *world) healed(old *lab.Node) {
	w.t.Helper()
	took := w.Eventually(time.Second, "one holder after the heal", func() bool { return len(w.Holders(vip)) == 1 })
	w.t.Logf("one holder %s after the heal", took)
	holder := w.Holder(vip)
	if holder == nil || holder.Name() == old.Name() {
		w.t.Fatal("the VIP moved back with the heal")
	}
	w.stays(holder, 3*time.Second, "after the heal")
}

// TestPartitions: etcd and API servers have a network of their own. The holder is
// cut off from the clients, from the API, from both, each for ten seconds.
func TestPartitions(t *testing.T) {
	w := &world{Lab: lab.New(t), t: t, agents: map[string]*lab.Process{}}
	w.TwoLinks()
	w.Nodes(3)
	w.Start()
	w.Install()
	for _, n := range w.All() {
		w.startAgent(n)
	}
	w.settle()

	for _, c := range []struct {
		name  string
		links []lab.Link
	}{
		{"the clients' network", []lab.Link{lab.VIPLink}},
		{"both networks", []lab.Link{lab.VIPLink, lab.APILink}},
	} {
		t.Logf("cut off: %s", c.name)
		old := w.Holder(vip)
		seen := w.look()
		old.CutLink(lab.SilentCut, c.links...)
		t.Logf("another node holds after %s", w.elsewhere(old, 14*time.Second))
		time.Sleep(10 * time.Second)
		old.HealLink(c.links...)
		w.healed(old)
		seen.end(room*180*time.Millisecond, time.Second)
		w.settle()
	}

	// The VIP may move, for the holder's balancer reaches no API server; as after
	// any planned move nobody notices.
	t.Log("cut off: the API's network")
	old := w.Holder(vip)
	seen := w.look()
	old.CutLink(lab.SilentCut, lab.APILink)
	time.Sleep(10 * time.Second)
	old.HealLink(lab.APILink)
	holder := w.settle()
	t.Logf("%s held, %s holds", old.Name(), holder.Name())
	w.stays(holder, 3*time.Second, "after the heal")
	seen.end(0, 600*time.Millisecond)
}

// TestAgentDies: the holder's agent is killed and restarted, killed for good,
// frozen; its node and its kernel live on.
func TestAgentDies(t *testing.T) {
	w := boot(t)
	w.killedAndRestarted()
	w.killedForGood()
	w.frozen()
}

// killedAndRestarted: a restart within 2.5 s is noticed by nobody.
func (w *world) killedAndRestarted() {
	w.t.Log("SIGKILL and restart")
	holder := w.Holder(vip)
	term := w.status(holder).Term
	seen := w.look()
	requests := w.Client().Requests(readyz, 20*time.Millisecond)
	for range 2 {
		w.agent(holder).Kill()
		time.Sleep(2500 * time.Millisecond)
		w.startAgent(holder)
		w.stays(holder, 4*time.Second, "after SIGKILL and restart")
	}
	noneLost(w.t, "requests", requests.Stop())
	seen.end(0, 0)
	if now := w.status(holder).Term; now != term {
		w.t.Errorf("the record changed hands: term %d, then %d", term, now)
	}
}

// killedForGood: the kernel takes the VIP from a dead agent, and another node
// serves at once; never do two answer.
func (w *world) killedForGood() {
	w.t.Log("SIGKILL without restart")
	old := w.Holder(vip)
	seen := w.look()
	died := time.Now()
	w.agent(old).Kill()
	gone := w.Eventually(4500*time.Millisecond, "the kernel has removed the VIP", func() bool { return !old.Has(vip) })
	if gone < 2900*time.Millisecond {
		w.t.Errorf("the VIP left after %s: a restart has less than 2.9 s", gone)
	}
	w.elsewhere(old, 12*time.Second)
	w.t.Logf("gone after %s, taken over after %s", gone, time.Since(died))
	w.stays(w.Holder(vip), 3*time.Second, "after the takeover")
	seen.end(room*300*time.Millisecond, 0)
	w.startAgent(old)
	w.settle()
}

// frozen: an agent that sleeps past its fence lets go and says nothing when it wakes.
func (w *world) frozen() {
	w.t.Log("SIGSTOP for 6 s")
	old := w.Holder(vip)
	seen := w.look()
	w.agent(old).Freeze()
	time.Sleep(6 * time.Second)
	thawed := time.Now()
	w.agent(old).Thaw()
	w.Eventually(5*time.Second, "somebody holds", func() bool { return len(w.Holders(vip)) == 1 })
	time.Sleep(2 * time.Second)
	if !w.said(old, "WokeUp") {
		w.t.Errorf("the agent does not say that it was frozen:\n%s", w.agent(old).Log())
	}
	seen.end(room*300*time.Millisecond, 0)
	if w.Holder(vip).Name() == old.Name() {
		w.t.Error("nobody took over from a frozen agent")
	}
	for _, f := range seen.answers.Stop().Announcements(old.MAC()) {
		if f.At.After(thawed) {
			w.t.Errorf("the fenced node announced after it woke: %s", f)
		}
	}
}

// TestHelloBlocked: a firewall on the holder that swallows hellos is a condition
// that people see, no death: nothing moves, longer than any lease.
func TestHelloBlocked(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	seen := w.look()
	holder.Exec("nft", "add table inet firewall; "+
		"add chain inet firewall in { type filter hook input priority -10; }; "+
		"add chain inet firewall out { type filter hook output priority -10; }; "+
		"add rule inet firewall in udp dport 7444 drop; add rule inet firewall out udp dport 7444 drop")
	w.stays(holder, 20*time.Second, "hellos blocked")
	const complaint = "hellos of "
	for _, n := range w.All() {
		if n.Name() != holder.Name() && !w.complains(n, complaint+holder.Name()) {
			t.Errorf("%s's status does not say that hellos of %s do not come", n.Name(), holder.Name())
		}
	}
	holder.Exec("nft", "delete table inet firewall")
	w.Eventually(5*time.Second, "hellos come again", func() bool { return w.status(holder).hears(2) })
	w.Eventually(5*time.Second, "nobody complains any more", func() bool {
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool { return w.complains(n, complaint) })
	})
	w.stays(holder, 3*time.Second, "hellos again")
	seen.end(0, 0)
}
