package election

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
)

// follower is a group that an elector's site follows.
type follower struct {
	e    *Elector
	stop context.CancelFunc

	mu   sync.Mutex
	said []string
}

// follow begins a group beside b's own.
func (b *bench) follow(group string, may func(Member) (Member, bool)) *follower {
	f := &follower{}
	f.e = b.e.Follow(group, may, func(ev Event) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch ev := ev.(type) {
		case Saw:
			what := ev.View.Record.String()
			if !ev.View.Exists {
				what = "missing"
			}
			f.said = append(f.said, fmt.Sprintf("%s %s", ev.Via, what))
		case Members:
			var all []string
			for _, m := range ev.All {
				all = append(all, m.Node)
			}
			f.said = append(f.said, "members "+strings.Join(all, " "))
		case Renewed:
			f.said = append(f.said, "renewed")
		default:
			f.said = append(f.said, fmt.Sprintf("%T", ev))
		}
	})
	ctx, stop := context.WithCancel(b.t.Context())
	f.stop = stop
	go func() { _ = f.e.Run(ctx) }()
	b.wait(100 * time.Millisecond)
	return f
}

// took is what was said since the last call.
func (f *follower) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.said, ", ")
	f.said = nil
	return out
}

// TestFollow: a group is told what is there, its claim is one write, and at rest
// nothing is written for it, however long: the member Lease renews it.
func TestFollow(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		f := b.follow("pool-lan-0", nil)
		if got := f.took(); !strings.HasPrefix(got, "members n") || !strings.HasSuffix(got, "watch missing") {
			t.Errorf("at first: %s", got)
		}
		mine := Record{Holder: "n1", Transitions: 1, Cause: CauseFirst}
		f.e.Do(Lock{Mode: LockClaim, Record: mine, NotAfter: b.now() + time.Second})
		b.wait(100 * time.Millisecond)
		if got := f.took(); !strings.Contains(got, "write n1/1") {
			t.Errorf("after the claim: %s", got)
		}
		from := time.Now()
		for range 100 {
			f.e.Do(Lock{Mode: LockRenew, Record: mine, NotAfter: b.now() + 4*time.Second})
			b.wait(time.Second)
		}
		if n := s.sent(from, "PUT", "pool-lan-0"); n != 1 {
			t.Errorf("%d writes in 100 s of holding, want the sign alone", n)
		}
		if got := strings.Count(f.took(), "renewed"); got < 9 || got > 11 {
			t.Errorf("renewed %d times in 100 s", got)
		}
		if got := b.e.HolderOf("pool-lan-0"); got != "n1" {
			t.Errorf("followed, it is held by %q", got)
		}
		f.stop()
		b.wait(100 * time.Millisecond)
		if got := b.e.HolderOf("pool-lan-0"); got != "n1" || b.e.HolderOf("none") != "" {
			t.Errorf("followed no more, it is held by %q", got)
		}
		again := b.follow("pool-lan-0", nil)
		if got := again.took(); !strings.HasSuffix(got, "watch n1/1") {
			t.Errorf("followed again: %s", got)
		}
	})
}

// TestFollowAge: a record is as old as its holder's member Lease: each renewal of
// that is a new stamp, to those that follow by watch and by read.
func TestFollowAge(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		s.put("pool-lan-0", func(*coordination.Lease) *coordination.Lease {
			return encode(nil, "pool-lan-0", Record{Holder: "n2", Transitions: 4}, MemberLease, noon)
		})
		f := b.follow("pool-lan-0", nil)
		f.took()
		var stamps []string
		g := f.e.leases
		g.deliver = func(ev Event) {
			if saw, ok := ev.(Saw); ok {
				stamps = append(stamps, saw.Via.String()+" "+saw.View.Record.stamp())
			}
		}
		s.put("node-n3", func(l *coordination.Lease) *coordination.Lease { return l })
		b.wait(100 * time.Millisecond)
		if len(stamps) != 0 {
			t.Errorf("another member's renewal: %q", stamps)
		}
		s.put("node-n2", func(l *coordination.Lease) *coordination.Lease { return l })
		b.wait(100 * time.Millisecond)
		f.e.Do(Read{Timeout: time.Second})
		b.wait(100 * time.Millisecond)
		if len(stamps) != 2 || stamps[0] == stamps[1] || strings.TrimPrefix(stamps[0], "watch ") != strings.TrimPrefix(stamps[1], "read ") {
			t.Errorf("the holder's renewal, then a read: %q", stamps)
		}
	})
}

// TestFollowCandidates: who may hold differs by group, and may change.
func TestFollowCandidates(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		only := func(node string) func(Member) (Member, bool) {
			return func(m Member) (Member, bool) { return m, m.Node == node }
		}
		f := b.follow("local-1", only("n3"))
		if got := f.took(); !strings.HasPrefix(got, "members n3, ") {
			t.Errorf("at first: %s", got)
		}
		f.e.Allow(only("n2"))
		b.wait(10 * time.Millisecond)
		if got := f.took(); got != "members n2" {
			t.Errorf("changed: %s", got)
		}
		f.e.Allow(func(m Member) (Member, bool) {
			if m.Node == "n3" {
				m.Priority = 1
			}
			return m, m.Node != "n1"
		})
		b.wait(10 * time.Millisecond)
		if got := f.took(); got != "members n3 n2" {
			t.Errorf("ranked: %s", got)
		}
	})
}

// TestPoolsOfMembers: a member Lease says which pools its node can announce, soon
// after that changes.
func TestPoolsOfMembers(t *testing.T) {
	inBubble(t, func(t *testing.T, s *apiserver) {
		b := run(t, s, "n1", "a")
		b.e.SetPools([]string{"dmz", "lan"})
		b.wait(500 * time.Millisecond)
		m, ok := toMember(s.get("node-n1"))
		if !ok || strings.Join(m.Pools, " ") != "dmz lan" {
			t.Errorf("the member Lease says %v", m.Pools)
		}
		from := time.Now()
		b.e.SetPools([]string{"dmz", "lan"})
		b.wait(time.Second)
		if n := s.sent(from, "PUT", "node-n1"); n != 0 {
			t.Errorf("%d writes of the same", n)
		}
	})
}
