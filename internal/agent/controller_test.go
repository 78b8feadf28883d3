package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/lb"
)

// cluster is what a controller's verdicts are written to: statuses, which come back
// to the controller as a watch would show them.
type cluster struct {
	c *Controller

	mu       sync.Mutex
	services map[lb.ServiceKey]lb.Service
	said     []string // verdicts in order
	stats    []ipam.Stats
	foreign  []ipam.Foreign
	fault    error
	block    chan struct{} // writes wait for it, if not nil
}

func newCluster(t *testing.T) *cluster {
	k := &cluster{services: map[lb.ServiceKey]lb.Service{}}
	k.c = NewController(ControllerOptions{Verdicts: k, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return k
}

// Service writes a status, which the watch shows.
func (k *cluster) Service(ctx context.Context, v Verdict) error {
	k.mu.Lock()
	block, fault := k.block, k.fault
	k.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fault != nil {
		return fault
	}
	k.mu.Lock()
	text := fmt.Sprintf("%s %v", v.Key, v.Addresses)
	if v.Refused != nil {
		text += " " + string(v.Refused.Reason)
	}
	for i, f := range v.Foreign {
		text += map[bool]string{true: " foreign=", false: ","}[i == 0] + f.Addr.String()
	}
	if v.Unread {
		k.said = append(k.said, text+" unread")
		k.mu.Unlock()
		return nil
	}
	if v.Left {
		text += " left " + v.UID
	}
	k.said = append(k.said, text)
	s, ok := k.services[v.Key]
	if ok && !v.Left {
		s.Has, s.Foreign = v.Addresses, false
		k.services[v.Key] = s
	}
	k.mu.Unlock()
	if ok && !v.Left {
		k.c.SetService(v.Key, &s)
	}
	return nil
}

// Pools takes the numbers.
func (k *cluster) Pools(_ context.Context, stats []ipam.Stats, foreign []ipam.Foreign) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats, k.foreign = stats, foreign
	return k.fault
}

// put makes or changes a Service; nil edits take it away.
func (k *cluster) put(name string, edit func(*lb.Service)) {
	key := lb.ServiceKey("shop/" + name)
	k.mu.Lock()
	s, ok := k.services[key]
	if !ok {
		s = lb.Service{Key: key, UID: name, Families: []lb.Family{lb.IPv4}, DataPath: lb.DataPathProxy,
			Ports: []lb.ServicePort{{Protocol: lb.TCP, Port: 80}}}
	}
	if edit == nil {
		delete(k.services, key)
		k.mu.Unlock()
		k.c.SetService(key, nil)
		return
	}
	edit(&s)
	k.services[key] = s
	k.mu.Unlock()
	k.c.SetService(key, &s)
}

// as it is.
func as(*lb.Service) {}

// pools tells a pool of so many addresses from 192.0.2.1 on.
func (k *cluster) pools(n int) {
	from := netip.MustParseAddr("192.0.2.1")
	to := from
	for range n - 1 {
		to = to.Next()
	}
	k.c.SetPools([]lb.Pool{{Name: "lan", AutoAssign: true, Ranges: []lb.Range{{From: from, To: to}}}})
}

// took is what was written since the last call, sorted.
func (k *cluster) took() string {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	out := slices.Sorted(slices.Values(k.said))
	k.said = nil
	return strings.Join(out, "; ")
}

// lead makes the controller lead until the returned function is called.
func (k *cluster) lead(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.c.Lead(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// inCluster runs a story in made-up time.
func inCluster(t *testing.T, f func(t *testing.T, k *cluster)) {
	synctest.Test(t, func(t *testing.T) { f(t, newCluster(t)) })
}

// expect compares what was written.
func (k *cluster) expect(t *testing.T, want string) {
	t.Helper()
	if got := k.took(); got != want {
		t.Errorf("written %q, want %q", got, want)
	}
}

// TestControllerWaitsForAll: before everything was told nothing is given, or a
// newcomer would get the address of a Service that was not told yet.
func TestControllerWaitsForAll(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		defer k.lead(t)()
		k.put("new", as)
		k.pools(2)
		time.Sleep(time.Second)
		k.expect(t, "")
		k.put("old", func(s *lb.Service) { s.Has = []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
		k.c.Synced()
		k.expect(t, "shop/new [192.0.2.2]; shop/old [192.0.2.1]")
		time.Sleep(time.Minute)
		k.expect(t, "") // what it wrote itself comes back and says nothing new
	})
}

// TestControllerTurns: who waits gets what another gives up, the oldest first.
func TestControllerTurns(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(1)
		k.c.Synced()
		defer k.lead(t)()
		k.put("a", func(s *lb.Service) { s.Born = 1 })
		k.expect(t, "shop/a [192.0.2.1]")
		k.put("c", func(s *lb.Service) { s.Born = 3 })
		k.put("b", func(s *lb.Service) { s.Born = 2 })
		k.expect(t, "shop/b [] PoolExhausted; shop/c [] PoolExhausted")
		k.put("a", nil)
		k.expect(t, "shop/b [192.0.2.1]")
		k.pools(2)
		k.expect(t, "shop/c [192.0.2.2]")
	})
}

// TestControllerMovesOver: the next leader changes no address, and corrects what
// somebody edited.
func TestControllerMovesOver(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(10)
		k.c.Synced()
		stop := k.lead(t)
		for i := range 5 {
			k.put(fmt.Sprint("s", i), as)
		}
		first := k.took()
		stop()
		k.put("s2", func(s *lb.Service) { s.Has, s.Foreign = nil, true })
		k.put("late", as)
		stop = k.lead(t)
		second := k.took()
		for _, line := range strings.Split(first, "; ") {
			if !strings.Contains(second, line) && !strings.HasPrefix(line, "shop/s2 ") {
				t.Errorf("%q became %q", line, second)
			}
		}
		if !strings.Contains(second, "shop/late [192.0.2.") || !strings.Contains(second, "shop/s2 [192.0.2.") {
			t.Errorf("the second leader wrote %q", second)
		}
		stop()
	})
}

// TestControllerTriesAgain: what could not be written is written later, the newest
// verdict only.
func TestControllerTriesAgain(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(10)
		k.c.Synced()
		k.fault = errors.New("no API server")
		defer k.lead(t)()
		k.put("a", as)
		time.Sleep(5 * time.Second)
		k.put("a", func(s *lb.Service) { s.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.7")} })
		time.Sleep(5 * time.Second)
		k.expect(t, "")
		k.mu.Lock()
		k.fault = nil
		k.mu.Unlock()
		time.Sleep(20 * time.Second)
		k.expect(t, "shop/a [192.0.2.7]")
	})
}

// TestControllerNeverWritesTheOlderLast: while a slow write is under way the newer
// one waits for it.
func TestControllerNeverWritesTheOlderLast(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(10)
		k.c.Synced()
		k.block = make(chan struct{})
		defer k.lead(t)()
		k.put("a", as)
		k.put("b", as)
		synctest.Wait()
		k.put("a", func(s *lb.Service) { s.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.7")} })
		synctest.Wait()
		close(k.block)
		synctest.Wait()
		k.mu.Lock()
		last := k.services["shop/a"].Has
		k.mu.Unlock()
		if len(last) != 1 || last[0].String() != "192.0.2.7" {
			t.Errorf("the status says %v at the end", last)
		}
	})
}

// TestControllerEvicts: a pool that shrinks moves who lost, and says so; without any
// pool the status is cleared.
func TestControllerEvicts(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(4)
		k.c.Synced()
		defer k.lead(t)()
		k.put("a", as)
		k.expect(t, "shop/a [192.0.2.1]")
		k.c.SetPools([]lb.Pool{{Name: "dmz", AutoAssign: true, Ranges: []lb.Range{
			{From: netip.MustParseAddr("198.51.100.1"), To: netip.MustParseAddr("198.51.100.9")}}}})
		k.expect(t, "shop/a [198.51.100.1]")
		k.c.SetPools(nil)
		k.expect(t, "shop/a [] NoPools")
		time.Sleep(2 * time.Second)
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.stats) != 0 {
			t.Errorf("numbers of pools that are gone: %+v", k.stats)
		}
	})
}
