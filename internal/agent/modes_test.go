package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/lb"
)

// old is a cluster whose API server drops ipMode until it is upgraded. Like the
// writer of statuses it writes a mode again only to who insists, or once it is kept.
type old struct {
	*cluster
	keeps, known bool
	writes       []string
}

func (o *old) Service(_ context.Context, v Verdict) error {
	o.mu.Lock()
	s, ok := o.services[v.Key]
	if !ok {
		o.mu.Unlock()
		return nil
	}
	first := len(s.Has) == 0
	if !first && s.Modeless && o.known && !v.Insist {
		o.mu.Unlock()
		return nil
	}
	o.writes = append(o.writes, fmt.Sprintf("%s again=%t insist=%t", v.Key, v.Again, v.Insist))
	was := s
	s.Has, s.Modeless = v.Addresses, v.Proxy && !o.keeps
	o.known = !o.keeps
	o.services[v.Key] = s
	o.mu.Unlock()
	if first || was.Modeless != s.Modeless {
		o.c.SetService(v.Key, &s)
	}
	return nil
}

func (o *old) Pools(context.Context, []ipam.Stats, []ipam.Foreign) error { return nil }

func (o *old) written() string {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	out := strings.Join(o.writes, "; ")
	o.writes = nil
	return out
}

// TestModeIsAskedForAgain: once a minute, with one Service; when it is kept, with
// all. Who has it edited away gets it back.
func TestModeIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &old{cluster: newCluster(t)}
		o.c.opt.Verdicts = o
		o.pools(9)
		o.put("a", as)
		o.put("b", as)
		o.put("d", func(s *lb.Service) { s.DataPath = lb.DataPathDirect })
		o.c.Synced()
		lead := func() (end func()) {
			ctx, cancel := context.WithCancel(t.Context())
			go o.c.Lead(ctx)
			return func() { cancel(); synctest.Wait() }
		}
		end := lead()
		if got := o.written(); strings.Count(got, "again=false") != 3 || strings.Contains(got, "true") {
			t.Errorf("at first: %s", got)
		}
		const question = "shop/a again=true insist=true"
		for range 3 {
			time.Sleep(askAgain)
			if got := o.written(); got != question {
				t.Errorf("after a minute: %s", got)
			}
		}
		// Another node leads and finds all as it is.
		end()
		o.known = false
		defer lead()()
		o.written()
		time.Sleep(askAgain)
		if got := o.written(); got != question {
			t.Errorf("a minute after another node led: %s", got)
		}
		o.mu.Lock()
		o.keeps = true
		o.mu.Unlock()
		time.Sleep(askAgain)
		if got, want := o.written(), question+"; shop/b again=true insist=false"; got != want {
			t.Errorf("after the upgrade: %s, want %s", got, want)
		}
		time.Sleep(3 * askAgain)
		if got := o.written(); got != "" {
			t.Errorf("and still: %s", got)
		}
		o.put("b", func(s *lb.Service) { s.Modeless = true })
		if got, want := o.written(), "shop/b again=true insist=false"; got != want {
			t.Errorf("edited: %s, want %s", got, want)
		}
	})
}
