package vip

import (
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// TestSharesLeaveEachOtherAlone: what one owner wants, lets go of or loses to its
// fence takes nothing from another; an address that both want is the later one's.
func TestSharesLeaveEachOtherAlone(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	api, web := l.For(""), l.For("pool-lan-0")
	all := lab.vips()
	one, two := all[:1], all[1:]
	hold := func(s Share, addrs ...lb.Address) {
		t.Helper()
		_, err := s.Set(t.Context(), wish(4*time.Second, addrs...))
		must(t, err)
	}
	hold(api, one...)
	hold(web, two...)
	if !lab.has(all...) {
		t.Fatal("not all are there")
	}
	hold(api)
	if lab.has(one...) || !lab.has(two...) {
		t.Errorf("after the first let go: its own there %v, the other's %v", lab.has(one...), lab.has(two...))
	}
	late := wish(4*time.Second, one...)
	late.NotAfter = boottime() - 1
	held, err := api.Set(t.Context(), late)
	must(t, err)
	if !held.Late || !lab.has(two...) {
		t.Errorf("after the first's fence: late %v, the other's there %v", held.Late, lab.has(two...))
	}
	hold(api, two...)
	hold(web)
	if !lab.has(two...) {
		t.Error("the former owner took the address from the later one")
	}
	hold(api)
	if lab.has(two...) {
		t.Error("the address outlived both owners")
	}
}

// TestShareMutesItsOwn: a hand-over of one owner silences nothing of another's.
func TestShareMutesItsOwn(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	all := lab.vips()
	for i, s := range []Share{l.For("a"), l.For("b")} {
		_, err := s.Set(t.Context(), wish(4*time.Second, all[i]))
		must(t, err)
	}
	mute := wish(4*time.Second, all[0])
	mute.Mute = true
	_, err := l.For("a").Set(t.Context(), mute)
	must(t, err)
	_, err = l.For("b").Set(t.Context(), wish(4*time.Second, all[1]))
	must(t, err)
	if !l.muted[all[0]] || l.muted[all[1]] {
		t.Errorf("muted: %v", l.muted)
	}
}

// TestForwardsOfOwners: one owner's forwards neither end nor change another's.
func TestForwardsOfOwners(t *testing.T) {
	first := fwd("10.7.0.9", "eth0", "10.7.0.1", 7200)
	other := fwd("10.7.0.8", "eth0", "10.7.0.1", 7200)
	other.Owner = "pool-lan-0"
	b := book{Forwards: []forwarded{other}}
	got := b.beside("", []forwarded{first})
	if !slices.Equal(got, []forwarded{other, first}) {
		t.Errorf("beside another's: %+v", got)
	}
	if c := compareForwards(b, got); len(c.arm) != 1 || len(c.aim)+len(c.disarm) > 0 {
		t.Errorf("change: %+v", c)
	}
	b.Forwards = got
	if got := b.beside("", nil); !slices.Equal(got, []forwarded{other}) {
		t.Errorf("after the end of one: %+v", got)
	}
	same := other
	same.Owner = ""
	if got := b.beside("", []forwarded{same}); !slices.Equal(got, []forwarded{same}) {
		t.Errorf("a VIP that both want: %+v", got)
	}
}
