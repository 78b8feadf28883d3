package election

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"

	"mooring.dev/mooring/internal/lb"
)

// shelf is a leases with a clock and a list of what it delivered.
type shelf struct {
	*leases
	clock     lb.Instant
	delivered []string
}

func newShelf() *shelf {
	s := &shelf{clock: time.Second}
	s.leases = newLeases(func() lb.Instant { return s.clock }, "apiserver", func(ev Event) {
		switch ev := ev.(type) {
		case Saw:
			what := ev.View.Record.String()
			if !ev.View.Exists {
				what = "missing"
			}
			s.delivered = append(s.delivered, fmt.Sprintf("%s %s", ev.Via, what))
		case Members:
			var all []string
			for _, m := range ev.All {
				all = append(all, m.Node+map[bool]string{false: ":dead"}[m.Live])
			}
			slices.Sort(all)
			s.delivered = append(s.delivered, "members "+strings.Join(all, " "))
		}
	})
	s.partial = false // as after a list
	return s
}

func (s *shelf) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(s.delivered, want) {
		t.Errorf("delivered %q, want %q", s.delivered, want)
	}
	s.delivered = nil
}

func groupLease(holder string, n int64, version uint64) *coordination.Lease {
	l := encode(nil, "apiserver", Record{Holder: holder, Transitions: n}, 7*time.Second, noon)
	l.ResourceVersion = fmt.Sprint(version)
	return l
}

func memberLease(node string, version uint64, live bool) *coordination.Lease {
	l := encodeMember(nil, Member{Node: node, MACs: []string{"mac-" + node}, Live: live}, "a", noon)
	l.ResourceVersion = fmt.Sprint(version)
	return l
}

// TestLeasesOrder: a watch that lags behind an own write or a read tells
// nothing new.
func TestLeasesOrder(t *testing.T) {
	s := newShelf()
	s.seen(groupLease("n1", 1, 10), 10, ByWatch, s.clock)
	s.seen(groupLease("n2", 2, 12), 12, ByWrite, s.clock)
	s.expect(t, "watch n1/1", "write n2/2")
	_ = s.Update(groupLease("n1", 1, 11))
	s.expect(t)
	_ = s.Update(groupLease("n2", 2, 12))
	s.expect(t, "watch n2/2")
	// A read overtaken by a write: what is newer is told again.
	s.seen(groupLease("n1", 1, 11), 11, ByRead, s.clock-1)
	s.expect(t, "read n2/2")
	// The same by watch, for a deletion.
	_ = s.Delete(groupLease("n2", 2, 11))
	s.expect(t)
	_ = s.Delete(groupLease("n2", 2, 13))
	s.expect(t, "watch missing")
	if l, synced := s.last(); l != nil || !synced {
		t.Errorf("last %v %v", l, synced)
	}
}

// TestLeasesRestored: an API server restored from a backup counts from an
// older version. A read begun since proves that; a watch does not.
func TestLeasesRestored(t *testing.T) {
	s := newShelf()
	s.seen(groupLease("n2", 9, 900), 900, ByWatch, s.clock)
	s.clock += time.Second
	_ = s.Update(groupLease("n1", 1, 10))
	s.expect(t, "watch n2/9")
	s.seen(groupLease("n1", 1, 10), 10, ByRead, s.clock)
	s.expect(t, "read n1/1")
	_ = s.Update(groupLease("n1", 1, 11))
	s.expect(t, "watch n1/1")
}

// TestLeasesMissing: a read that finds none, before and after there was one,
// does not let an older watch bring it back.
func TestLeasesMissing(t *testing.T) {
	s := newShelf()
	s.seen(nil, 0, ByRead, s.clock)
	s.expect(t, "read missing")
	s.clock += time.Second
	s.seen(groupLease("n1", 1, 10), 10, ByWatch, s.clock)
	s.clock += time.Second
	s.seen(nil, 11, ByRead, s.clock)
	s.clock += time.Second
	s.seen(nil, 0, ByRead, s.clock)
	s.expect(t, "watch n1/1", "read missing", "read missing")
	_ = s.Update(groupLease("n1", 1, 10))
	s.expect(t)
	_ = s.Update(groupLease("n1", 1, 12))
	s.expect(t, "watch n1/1")
}

// TestLeasesReplace: the list at a new watch tells of what is gone.
func TestLeasesReplace(t *testing.T) {
	s := newShelf()
	_ = s.Replace([]any{memberLease("n1", 3, true), memberLease("n2", 4, true), groupLease("n1", 1, 5)}, "5")
	_ = s.Add(memberLease("n3", 6, true))
	s.delivered = nil
	_ = s.Replace([]any{memberLease("n1", 8, true), memberLease("n3", 6, false)}, "9")
	if got := s.delivered[len(s.delivered)-1]; got != "watch missing" {
		t.Errorf("last delivered %q", got)
	}
	if !slices.Contains(s.delivered, "members n1 n3") {
		t.Errorf("delivered %q", s.delivered)
	}
	// Deleted a moment ago, perhaps by mistake: its agent writes it again.
	if !s.known("n2") || !s.known("n1") {
		t.Error("n2 is forgotten at once")
	}
	s.clock += time.Minute + time.Second
	if s.known("n2") || !s.known("n1") {
		t.Error("n2 is still known")
	}
}

// TestLeasesMembers: told when they change, not when they renew, and dead when
// they have not renewed for a minute.
func TestLeasesMembers(t *testing.T) {
	s := newShelf()
	_ = s.Add(memberLease("n1", 1, true))
	_ = s.Add(memberLease("n2", 2, true))
	s.expect(t, "members n1", "members n1 n2")
	s.clock += 30 * time.Second
	_ = s.Update(memberLease("n2", 3, true))
	s.expect(t)
	s.clock += 31 * time.Second
	s.tellMembers()
	s.expect(t, "members n1:dead n2")
	_ = s.Update(memberLease("n1", 4, true))
	s.expect(t, "members n1 n2")
	_ = s.Update(memberLease("n2", 5, false))
	s.expect(t, "members n1 n2:dead")
	_ = s.Update(memberLease("n2", 3, true))
	s.expect(t)
	_ = s.Delete(memberLease("n2", 6, false))
	s.expect(t, "members n1")
	_ = s.Delete("no Lease")
	_ = s.Add(encode(nil, "another-group", Record{Holder: "n9", Transitions: 1}, time.Second, noon))
	s.expect(t)
}

// TestLeasesResolve: a holder that no watch has shown yet is asked for before
// its record is called damage.
func TestLeasesResolve(t *testing.T) {
	s := newShelf()
	asked := ""
	s.resolve = func(node string) {
		asked += node
		if node == "n2" {
			s.putMember(memberLease(node, 3, true))
		}
	}
	candidate := false
	deliver := s.deliver
	s.deliver = func(ev Event) {
		if saw, ok := ev.(Saw); ok {
			candidate = saw.View.Candidate
		}
		deliver(ev)
	}
	s.seen(groupLease("n2", 2, 4), 4, ByWatch, s.clock)
	if !candidate || asked != "n2" {
		t.Errorf("candidate %v, asked for %q", candidate, asked)
	}
	s.seen(groupLease("n9", 3, 5), 5, ByWatch, s.clock)
	if candidate || asked != "n2n9" {
		t.Errorf("candidate %v, asked for %q", candidate, asked)
	}
	s.seen(groupLease("n2", 4, 6), 6, ByWatch, s.clock)
	if !candidate || asked != "n2n9" {
		t.Errorf("candidate %v, asked for %q", candidate, asked)
	}
}

// TestLeasesResolveDates: a member that is looked up for the sake of a record is the
// one by whose Lease that record is dated; the one must not wait for the other.
func TestLeasesResolveDates(t *testing.T) {
	s := newShelf()
	s.beats = true
	s.resolve = func(node string) { s.putMember(memberLease(node, 5, true)) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.seen(groupLease("n1", 1, 10), 10, ByRead, s.clock)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for itself")
	}
	s.expect(t, "members n1", "read n1/1")
}

// TestLeasesPartial: before the first list, and while one is taken in, nobody is told
// of a part of the members: the others are remembered, and would be taken for gone.
func TestLeasesPartial(t *testing.T) {
	s := newShelf()
	s.partial = true
	s.putMember(memberLease("n1", 3, true)) // its own, just written
	s.expect(t)
	list := []any{memberLease("n1", 3, true), memberLease("n2", 4, true), memberLease("n3", 5, true)}
	if err := s.Replace(list, "9"); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "members n1 n2 n3", "watch missing")
	if err := s.Replace(append(list[1:], memberLease("n4", 8, true)), "12"); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "members n2 n3 n4", "watch missing")
	s.putMember(memberLease("n5", 13, true))
	s.expect(t, "members n2 n3 n4 n5")
}
