package scenarios

import (
	"strings"
	"testing"
	"time"
)

// TestBalanced: requests through the VIP reach every API server; one that dies
// costs a client at most one request and is out within a second.
func TestBalanced(t *testing.T) {
	w := boot(t)
	spread := w.Client().Requests(readyz, 10*time.Millisecond)
	time.Sleep(3 * time.Second)
	r := spread.Stop()
	noneLost(t, "requests", r)
	for _, n := range w.All() {
		if r.ByServer[n.Name()]*10 < r.Sent {
			t.Errorf("%s answered %d of %d requests: not balanced: %v", n.Name(), r.ByServer[n.Name()], r.Sent, r.ByServer)
		}
	}

	victim := w.other(w.Holder(vip))
	requests := w.Client().Requests(readyz, 10*time.Millisecond)
	time.Sleep(time.Second)
	victim.APIServer().Kill()
	w.Eventually(time.Second, "the dead API server is out", func() bool {
		return len(w.status(w.Holder(vip)).Proxy.Up) == 2
	})
	time.Sleep(2 * time.Second)
	r = requests.Stop()
	t.Log(r)
	// Requests every 10 ms overlap: what was under way on the victim may fail,
	// nothing that came later.
	if r.Longest > 50*time.Millisecond || r.Failed > 3 {
		t.Errorf("%d requests failed: %s", r.Failed, r)
	}
}

// TestLocalClients: the VIP serves on its holder's own node and on the others.
func TestLocalClients(t *testing.T) {
	t.Parallel()
	w := boot(t)
	for _, n := range w.All() {
		probe := n.Requests(readyz, 20*time.Millisecond)
		time.Sleep(time.Second)
		r := probe.Stop()
		noneLost(t, "requests from "+n.Name(), r)
		if len(r.ByServer) != 3 {
			t.Errorf("from %s not balanced: %v", n.Name(), r.ByServer)
		}
	}
}

// TestProxyDies: without HAProxy the VIP falls back to the local API server,
// and HAProxy comes back sooner than that would move the VIP.
func TestProxyDies(t *testing.T) {
	w := boot(t)
	holder := w.Holder(vip)
	requests := w.Client().Requests(readyz, 20*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	holder.Exec("sh", "-c", "ip netns pids "+holder.Namespace()+" | while read p; do "+
		`[ "$(cat /proc/$p/comm)" = haproxy ] && kill -9 $p; done; true`)
	w.Eventually(10*time.Second, "HAProxy serves again", func() bool { return w.status(holder).Proxy.Serving })
	time.Sleep(time.Second)
	r := requests.Stop()
	t.Log(r)
	if r.Longest > time.Second {
		t.Errorf("clients waited %s: %s", r.Longest, r)
	}
	w.stays(holder, 3*time.Second, "after HAProxy's death")
}

// TestBalanceOff: the holder's own API server answers, without HAProxy.
func TestBalanceOff(t *testing.T) {
	t.Parallel()
	w := bare(t)
	for _, n := range w.All() {
		w.startAgent(n, func(s string) string {
			return strings.Replace(s, "vips:", "balance: off, vips:", 1)
		})
	}
	w.Eventually(20*time.Second, "one node holds the VIP", func() bool { return len(w.Holders(vip)) == 1 })
	holder := w.Holder(vip)
	requests := w.Client().Requests(readyz, 20*time.Millisecond)
	time.Sleep(time.Second)
	r := requests.Stop()
	noneLost(t, "requests", r)
	if r.ByServer[holder.Name()] != r.Sent {
		t.Errorf("%s holds, but answers came from %v", holder.Name(), r.ByServer)
	}
	if pids := holder.Exec("sh", "-c", "ip netns pids "+holder.Namespace()+
		" | while read p; do cat /proc/$p/comm; done"); strings.Contains(pids, "haproxy") {
		t.Error("HAProxy runs although balance is off")
	}
}
