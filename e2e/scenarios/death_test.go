package scenarios

import (
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestLinkCut: the holder's node is cut off; another node serves, and after the
// heal there is one holder.
func TestLinkCut(t *testing.T) {
	for _, how := range []struct {
		name string
		cut  lab.Cut
	}{{"cable", lab.CarrierLoss}, {"switch", lab.SilentCut}} {
		t.Run(how.name, func(t *testing.T) {
			w := boot(t)
			old := w.Holder(vip)
			answers := w.Wire().Answers(vip)
			probe := w.Client().Probe(server, 10*time.Millisecond)
			old.CutLink(how.cut)
			took := w.Eventually(14*time.Second, "another node holds", func() bool {
				for _, n := range w.Holders(vip) {
					if n.Name() != old.Name() {
						return true
					}
				}
				return false
			})
			t.Logf("another node holds after %s", took)
			time.Sleep(2 * time.Second)
			healed := time.Now()
			old.HealLink()
			w.Eventually(time.Second, "one holder after the heal", func() bool { return len(w.Holders(vip)) == 1 })
			t.Logf("one holder %s after the heal", time.Since(healed))
			w.stays(w.Holder(vip), 3*time.Second, "after the heal")
			r := probe.Stop()
			t.Log(r)
			if r.Longest > 9*time.Second {
				t.Errorf("clients waited %s, at most 9 s promised: %s", r.Longest, r)
			}
			one(t, answers.Stop(), time.Second)
		})
	}
}

// TestPowerOff: the holder's node dies for good and comes back as a standby.
func TestPowerOff(t *testing.T) {
	t.Parallel()
	w := boot(t)
	old := w.Holder(vip)
	probe := w.Client().Probe(server, 10*time.Millisecond)
	old.Kill()
	w.Eventually(14*time.Second, "another node holds", func() bool { return w.Holder(vip) != nil })
	holder := w.Holder(vip)
	time.Sleep(time.Second)
	old.Boot()
	w.AwaitReady(old)
	w.startAgent(old)
	w.stays(holder, 5*time.Second, "while the old holder returns")
	r := probe.Stop()
	t.Log(r)
	if r.Longest > 10*time.Second {
		t.Errorf("clients waited %s: %s", r.Longest, r)
	}
}

// TestKilledAndRestarted: SIGKILL of the agent with a restart within 2.5 s is
// noticed by nobody.
func TestKilledAndRestarted(t *testing.T) {
	w := boot(t)
	holder := w.Holder(vip)
	term := w.status(holder).Term
	answers := w.Wire().Answers(vip)
	connects := w.Client().Probe(server, 10*time.Millisecond)
	requests := w.Client().Requests(readyz, 20*time.Millisecond)
	for range 3 {
		w.agent(holder).Kill()
		time.Sleep(2500 * time.Millisecond)
		w.startAgent(holder)
		w.stays(holder, 4*time.Second, "after SIGKILL and restart")
	}
	noneLost(t, "connections", connects.Stop())
	noneLost(t, "requests", requests.Stop())
	one(t, answers.Stop(), 0)
	if now := w.status(holder).Term; now != term {
		t.Errorf("the record changed hands: term %d, then %d", term, now)
	}
}

// TestKilledForGood: the kernel takes the VIP from a dead agent, then another
// node serves; never do two answer.
func TestKilledForGood(t *testing.T) {
	t.Parallel()
	w := boot(t)
	old := w.Holder(vip)
	answers := w.Wire().Answers(vip)
	died := time.Now()
	w.agent(old).Kill()
	gone := w.Eventually(4500*time.Millisecond, "the kernel has removed the VIP", func() bool { return !old.Has(vip) })
	if gone < 2900*time.Millisecond {
		t.Errorf("the VIP left after %s: a restart has less than 2.9 s", gone)
	}
	w.Eventually(12*time.Second, "another node holds", func() bool { return w.Holder(vip) != nil })
	t.Logf("gone after %s, taken over after %s", gone, time.Since(died))
	w.stays(w.Holder(vip), 3*time.Second, "after the takeover")
	one(t, answers.Stop(), 0)
}

// TestFrozen: an agent that sleeps past its fence lets go and says nothing when
// it wakes.
func TestFrozen(t *testing.T) {
	t.Parallel()
	w := boot(t)
	old := w.Holder(vip)
	wire := w.Wire()
	answers := wire.Answers(vip)
	w.agent(old).Freeze()
	time.Sleep(6 * time.Second)
	thawed := time.Now()
	w.agent(old).Thaw()
	w.Eventually(5*time.Second, "somebody holds", func() bool { return len(w.Holders(vip)) == 1 })
	time.Sleep(2 * time.Second)
	if !w.said(old, "WokeUp") {
		t.Errorf("the agent does not say that it was frozen:\n%s", w.agent(old).Log())
	}
	r := answers.Stop()
	one(t, r, 0)
	if w.Holder(vip).Name() != old.Name() {
		for _, f := range r.Announcements(old.MAC()) {
			if f.At.After(thawed) {
				t.Errorf("the fenced node announced after it woke: %s", f)
			}
		}
	}
}
