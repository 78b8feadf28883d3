package haproxy

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"
)

// up waits until exactly these servers are reported up.
func (b *bench) up(limit time.Duration, names ...string) time.Duration {
	b.t.Helper()
	return eventually(b.t, limit, "up are just "+join(names), func() bool {
		return slices.Equal(b.seen.last().Up, names)
	})
}

func join(names []string) string {
	out := ""
	for _, n := range names {
		out += n + " "
	}
	return out
}

func TestKilledServerIsOutWithinASecond(t *testing.T) {
	b, servers := newBench(t, 3)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	b.up(2*time.Second, "cp1", "cp2", "cp3")
	// What HAProxy itself thinks, apart from when it is asked for the next time.
	out := func() bool {
		w, err := status(context.Background(), b.cfg)
		return err == nil && len(w.servers["be_apiserver"]) == 3 && !w.servers["be_apiserver"][1].up()
	}
	servers[1].kill()
	begin := time.Now()
	eventually(t, time.Second, "HAProxy took the server out", out)
	t.Logf("out after %v", time.Since(begin))
	b.up(2*time.Second, "cp1", "cp3")
	again := startAPI(t, b.pki, "cp2", servers[1].addr.String())
	took := b.up(3*time.Second, "cp1", "cp2", "cp3")
	t.Logf("%s back after %v", again.name, took)
}

func TestKilledServerIsNotNoticedByClients(t *testing.T) {
	b, servers := newBench(t, 3)
	p := b.proxy()
	b.set(p, b.cfg)
	servers[1].kill()
	begin := time.Now()
	// From the first moment on no client notices: redispatch.
	for time.Since(begin) < 600*time.Millisecond {
		if _, err := b.pki.get(vip, "/name"); err != nil {
			t.Fatalf("a client failed %v after the kill: %v", time.Since(begin), err)
		}
	}
}

func TestServerNotReadyKeepsItsSessions(t *testing.T) {
	b, servers := newBench(t, 2)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	b.up(2*time.Second, "cp1", "cp2")
	one, two := b.pki.dial(t, vip), b.pki.dial(t, vip)
	servers[0].ready.Store(http.StatusInternalServerError)
	took := b.up(2*time.Second, "cp2")
	t.Logf("out after %v", took)
	if got := b.spread(6); got["cp2"] != 6 {
		t.Errorf("spread: %v", got)
	}
	if _, err := askOver(one); err != nil {
		t.Error("first connection:", err)
	}
	if _, err := askOver(two); err != nil {
		t.Error("second connection:", err)
	}
}

func TestAllBadServersAreUsedAll(t *testing.T) {
	b, servers := newBench(t, 2)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	for _, s := range servers {
		s.ready.Store(http.StatusInternalServerError)
	}
	b.up(3 * time.Second)
	if st := b.seen.last(); !st.Serving {
		t.Errorf("state: %+v", st)
	}
	if got := b.spread(8); len(got) != 2 {
		t.Errorf("spread: %v", got)
	}
	// One dead among them is skipped.
	servers[0].kill()
	if got := b.spread(4); got["cp2"] != 4 {
		t.Errorf("spread: %v", got)
	}
	servers[1].ready.Store(http.StatusOK)
	b.up(3*time.Second, "cp2")
}

func TestHungServerLosesItsSessions(t *testing.T) {
	b, servers := newBench(t, 2)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	b.up(2*time.Second, "cp1", "cp2")
	one, two := b.pki.dial(t, vip), b.pki.dial(t, vip)
	servers[0].hung.Store(true)
	took := b.up(3*time.Second, "cp2")
	t.Logf("out after %v", took)
	// leastconn gave each server one of the two connections; exactly the one at
	// the hung server ends, without its client doing anything.
	ended := make(chan int, 2)
	for i, c := range []interface {
		Read([]byte) (int, error)
		SetReadDeadline(time.Time) error
	}{one, two} {
		c.SetReadDeadline(time.Now().Add(9 * time.Second))
		go func() {
			begin := time.Now()
			_, _ = c.Read(make([]byte, 1))
			if time.Since(begin) < 8*time.Second {
				ended <- i
			}
		}()
	}
	select {
	case <-ended:
	case <-time.After(8 * time.Second):
		t.Fatal("no session was ended")
	}
	select {
	case <-ended:
		t.Error("the session of the good server was ended too")
	case <-time.After(time.Second):
	}
	if got := b.spread(4); got["cp2"] != 4 {
		t.Errorf("spread: %v", got)
	}
}
