package scenarios

import (
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestColdStart: all nodes get power at the same moment and no API server ever
// answers: one of them holds within seconds, for the control plane may need the
// VIP to start.
func TestColdStart(t *testing.T) {
	t.Parallel()
	w := boot(t)
	for _, n := range w.All() {
		n.APIServer().Kill()
		n.Etcd().Kill()
	}
	for i := range 3 {
		for _, n := range w.All() {
			n.Kill()
		}
		answers := w.Wire().Answers(vip)
		for _, n := range w.All() {
			n.Boot()
		}
		took := w.Eventually(room*3*time.Second, "somebody holds", func() bool { return w.Holder(vip) != nil })
		t.Logf("start %d: %s holds after %s", i+1, w.Holder(vip).Name(), took)
		w.stays(w.Holder(vip), 5*time.Second, "after a cold start")
		one(t, answers.Stop(), 0)
	}

	t.Log("the control plane comes up behind the VIP")
	holder := w.Holder(vip)
	for _, n := range w.All() {
		n.Etcd().Start()
		n.APIServer().Start()
	}
	w.AwaitReady()
	w.settleWithin(time.Minute) // client-go asks again 30 s after a refusal
	w.Eventually(10*time.Second, "an API server confirms", func() bool { return w.status(w.Holder(vip)).Confirmed })
	w.stays(holder, 3*time.Second, "the API servers are up")
}

// TestBeforeTheFirstAPIServer: a cluster is made behind its VIP: agents that know
// no API server, no credentials that work and no other node share it out, and
// go on when the control plane comes up and RBAC follows.
func TestBeforeTheFirstAPIServer(t *testing.T) {
	t.Parallel()
	w := &world{Lab: lab.New(t), t: t, agents: map[string]*lab.Process{}}
	w.Nodes(3)
	answers := w.Wire().Answers(vip)
	for _, n := range w.All() {
		w.startAgent(n)
	}
	took := w.Eventually(room*3*time.Second, "somebody holds", func() bool { return w.Holder(vip) != nil })
	t.Logf("%s holds after %s", w.Holder(vip).Name(), took)
	w.stays(w.Holder(vip), 3*time.Second, "before the first API server")
	w.Start()
	w.Install()
	w.settleWithin(time.Minute) // client-go asks again 30 s after a refusal
	w.Eventually(20*time.Second, "an API server confirms", func() bool { return w.status(w.Holder(vip)).Confirmed })
	w.stays(w.Holder(vip), 2*time.Second, "confirmed")
	one(t, answers.Stop(), 600*time.Millisecond) // a planned move at most
}
