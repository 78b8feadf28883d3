package vip

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// set calls Set and fails on an error.
func set(t testing.TB, l *Links, want lb.Holding) lb.Held {
	t.Helper()
	held, err := l.Set(t.Context(), want)
	must(t, err)
	return held
}

// names prints addresses for comparison.
func names(all []lb.Address) string { return fmt.Sprint(all) }

func TestSetPutsMarkedAddressesThatAreNeverASource(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	before := boottime()
	held := set(t, l, wish(4*time.Second, lab.vips()...))
	if names(held.Have) != names(lab.vips()) || names(held.Added) != names(lab.vips()) || held.Late {
		t.Errorf("reached %+v", held)
	}
	if held.Begun < before || held.Begun > boottime() {
		t.Errorf("begun %v, called at %v", held.Begun, before)
	}
	for _, a := range lab.vips() {
		all := lab.on(a.IP)
		if len(all) != 1 {
			t.Fatalf("%s: %+v", a, all)
		}
		got := all[0]
		if got.bits != a.IP.BitLen() || got.proto != ourProto || got.preferred != 0 || got.valid > 4 || got.valid < 3 {
			t.Errorf("%s: %+v", a, got)
		}
		link, err := netlink.LinkByName(a.Link)
		must(t, err)
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
			&netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		must(t, err)
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.Equal(a.IP.AsSlice()) {
				t.Errorf("prefix route %v", r)
			}
		}
	}
	again := set(t, l, wish(4*time.Second, lab.vips()...))
	if names(again.Have) != names(lab.vips()) || len(again.Added) != 0 {
		t.Errorf("the same again reached %+v", again)
	}
}

func TestKernelRemovesWhatIsNotRefreshed(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(time.Second, lab.vips()...))
	begun := time.Now()
	eventually(t, 2500*time.Millisecond, "the kernel removed the addresses", func() bool {
		return !lab.has(lab.vips()[0]) && !lab.has(lab.vips()[1])
	})
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("gone after %v, promised for 1s", took)
	}
}

func TestSetRefreshes(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(2*time.Second, lab.vips()...))
	set(t, l, wish(30*time.Second, lab.vips()...))
	for _, a := range lab.vips() {
		got := lab.on(a.IP)
		if len(got) != 1 || got[0].valid < 28 || got[0].preferred != 0 || got[0].proto != ourProto {
			t.Errorf("%s: %+v", a, got)
		}
	}
}

// TestRefreshNeverCreates also shows why NLM_F_REPLACE does not do.
func TestRefreshNeverCreates(t *testing.T) {
	lab := newLab(t)
	k, err := openKernel()
	must(t, err)
	defer k.close()
	for _, a := range lab.vips() {
		if err := k.refresh(a, 9*second); err != errAbsent || lab.has(a) {
			t.Errorf("refresh of %s, which is not there: %v, now there: %v", a, err, lab.has(a))
		}
		must(t, k.write(a, 9*second, unix.NLM_F_REPLACE, 0))
		if !lab.has(a) {
			t.Logf("%s: this kernel heeds the missing NLM_F_CREATE; refresh could be simpler", a)
		}
		must(t, k.refresh(a, 20*second))
		if got := lab.on(a.IP); got[0].valid < 18 {
			t.Errorf("%s: not refreshed: %+v", a, got)
		}
		if err := k.create(a, 9*second); err != errExists {
			t.Errorf("create of %s, which is there: %v", a, err)
		}
		must(t, k.remove(a), k.remove(a))
		if lab.has(a) {
			t.Errorf("%s still there", a)
		}
	}
	must(t, k.remove(lb.Address{IP: lab.vips()[0].IP, Link: "nosuch0"}))
}

func TestSetLetsGo(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	run(t, l)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	set(t, l, wish(9*time.Second, lab.vips()...))
	held := set(t, l, wish(9*time.Second, lab.vips()[0]))
	if names(held.Have) != names(lab.vips()[:1]) || lab.has(lab.vips()[1]) || !lab.has(lab.vips()[0]) {
		t.Errorf("reached %+v, IPv6 there: %v", held, lab.has(lab.vips()[1]))
	}
	if held := set(t, l, lb.Holding{}); len(held.Have) != 0 || lab.has(lab.vips()[0]) {
		t.Errorf("reached %+v", held)
	}
	// Frames already sent may still be on their way through the switch.
	time.Sleep(10 * time.Millisecond)
	sent := len(tap.all())
	time.Sleep(300 * time.Millisecond)
	if now := len(tap.all()); sent == 0 || now != sent {
		t.Errorf("%d frames while held, %d after letting go", sent, now-sent)
	}
}

func TestSetAfterADeletionByHand(t *testing.T) {
	lab := newLab(t)
	changed := make(chan time.Time, 10)
	l := New(Options{Now: boottime, Changed: func() { changed <- time.Now() }})
	run(t, l)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	set(t, l, wish(30*time.Second, lab.vips()...))
	// The subscription begins with a look; both must be over.
	time.Sleep(50 * time.Millisecond)
	for _, a := range lab.vips() {
		best := time.Hour
		for range 3 {
			before := len(tap.all())
			begun := time.Now()
			lab.byHand(a)
			select {
			case <-changed:
			case <-time.After(time.Second):
				t.Fatalf("%s: Changed was not called", a)
			}
			held := set(t, l, wish(30*time.Second, lab.vips()...))
			if names(held.Added) != names([]lb.Address{a}) || len(held.Have) != 2 {
				t.Errorf("reached %+v, want %s added", held, a)
			}
			eventually(t, time.Second, "announced", func() bool { return len(tap.all()) > before })
			best = min(best, time.Since(begun))
		}
		// The best of three: a machine that is busy otherwise says nothing.
		if t.Logf("%s back and announced after %v", a, best); best > 100*time.Millisecond {
			t.Errorf("%s back and announced after %v at best", a, best)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if n := len(changed); n != 0 {
		t.Errorf("%d more calls of Changed: our own writes count as somebody's", n)
	}
}

// TestSetFindsADeletionItself: without any event, the refresh is what notices.
func TestSetFindsADeletionItself(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(30*time.Second, lab.vips()...))
	for _, a := range lab.vips() {
		lab.byHand(a)
	}
	held := set(t, l, wish(30*time.Second, lab.vips()...))
	if names(held.Added) != names(lab.vips()) || !lab.has(lab.vips()...) {
		t.Errorf("reached %+v", held)
	}
}

func TestSetLateBeforeTheWrites(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	set(t, l, wish(30*time.Second, lab.vips()[0]))
	sent := eventuallyCount(t, tap, 1)
	late := wish(30*time.Second, lab.vips()...)
	late.NotAfter = boottime()
	held := set(t, l, late)
	if !held.Late || len(held.Have) != 0 || lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) {
		t.Errorf("reached %+v", held)
	}
	time.Sleep(30 * time.Millisecond)
	if now := len(tap.all()); now != sent {
		t.Errorf("%d announcements by a late call", now-sent)
	}
}

// eventuallyCount waits for so many frames and gives their number.
func eventuallyCount(t testing.TB, p *tap, n int) int {
	t.Helper()
	eventually(t, time.Second, fmt.Sprint(n, " frames"), func() bool { return len(p.all()) >= n })
	return len(p.all())
}

// TestSetLateAfterTheWrites: the process is frozen between the first check
// and the last write, so the clock jumps.
func TestSetLateAfterTheWrites(t *testing.T) {
	lab := newLab(t)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	reads := 0
	l := New(Options{Now: func() lb.Instant {
		reads++
		if reads > 2 { // the check and Begun
			return 10 * second
		}
		return second
	}})
	late := wish(4*time.Second, lab.vips()...)
	late.NotAfter = 5 * second
	held := set(t, l, late)
	if !held.Late || len(held.Have) != 0 || lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) {
		t.Errorf("reached %+v", held)
	}
	time.Sleep(30 * time.Millisecond)
	if sent := tap.all(); len(sent) != 0 {
		t.Errorf("%d announcements by a late call", len(sent))
	}
}

// TestSetLateCreatesNothing: a deletion is noticed by a process that was
// frozen meanwhile; the address is not to come back even for a moment.
func TestSetLateCreatesNothing(t *testing.T) {
	lab := newLab(t)
	now := second
	reads := 0
	l := New(Options{Now: func() lb.Instant {
		if reads++; reads > 2 {
			return now
		}
		return second
	}})
	set(t, l, wish(30*time.Second, lab.vips()...))
	for _, a := range lab.vips() {
		lab.byHand(a)
	}
	updates, done := make(chan netlink.AddrUpdate, 100), make(chan struct{})
	must(t, netlink.AddrSubscribe(updates, done))
	defer close(done)
	now, reads = 10*second, 0
	late := wish(30*time.Second, lab.vips()...)
	late.NotAfter = 5 * second
	if held := set(t, l, late); !held.Late {
		t.Errorf("reached %+v", held)
	}
	time.Sleep(30 * time.Millisecond)
	for range len(updates) {
		if u := <-updates; u.NewAddr {
			t.Errorf("%v was created", u.LinkAddress)
		}
	}
}

func TestSetAdoptsQuietly(t *testing.T) {
	lab := newLab(t)
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()...))
	time.Sleep(20 * time.Millisecond)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)

	l := New(Options{Now: boottime, Refresh: 400 * time.Millisecond})
	run(t, l)
	notOurs := lb.Address{IP: netip.MustParseAddr("10.7.0.1"), Link: lab.link}
	elsewhere := lb.Address{IP: lab.vips()[0].IP, Link: "lo"}
	alive, err := l.Alive(t.Context(), append(lab.vips(), notOurs, elsewhere))
	must(t, err)
	if names(alive) != names(lab.vips()) {
		t.Errorf("alive: %v", alive)
	}
	// One more has run out since Alive looked.
	late := lb.Address{IP: netip.MustParseAddr("10.7.0.8"), Link: lab.link}
	quiet := wish(30*time.Second, append(alive, late)...)
	quiet.Quiet = true
	held := set(t, l, quiet)
	if len(held.Have) != 3 || names(held.Added) != names([]lb.Address{late}) {
		t.Errorf("reached %+v", held)
	}
	for _, a := range lab.vips() {
		if got := lab.on(a.IP); len(got) != 1 || got[0].valid < 28 {
			t.Errorf("%s not refreshed: %+v", a, got)
		}
	}
	time.Sleep(250 * time.Millisecond)
	if sent := tap.all(); len(sent) != 0 {
		t.Errorf("%d announcements of adopted addresses", len(sent))
	}
	eventuallyCount(t, tap, 2) // the steady ones
}

// TestSetFallsSilent: an old holder in a hand-over keeps the address and sends
// nothing more, also not the rest of a burst: it would call clients back.
func TestSetFallsSilent(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime, Refresh: 300 * time.Millisecond})
	run(t, l)
	set(t, l, wish(9*time.Second, lab.vips()...))
	time.Sleep(80 * time.Millisecond)
	mute := wish(9*time.Second, lab.vips()...)
	mute.Mute = true
	set(t, l, mute)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	time.Sleep(600 * time.Millisecond)
	must(t, l.Announce(t.Context(), lab.vips()))
	if sent := tap.all(); len(sent) != 0 {
		t.Errorf("%d announcements of addresses that shall be silent", len(sent))
	}
	// Undone: it calls the clients back at once.
	set(t, l, wish(9*time.Second, lab.vips()...))
	eventuallyCount(t, tap, 4)
}

// TestSetTakesOverOtherForms: somebody put the virtual IPs there, for ever, or
// with another prefix length.
func TestSetTakesOverOtherForms(t *testing.T) {
	lab := newLab(t)
	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	other := []lb.Address{
		{IP: netip.MustParseAddr("10.7.0.8"), Link: lab.link}, {IP: netip.MustParseAddr("fd07::8"), Link: lab.link}}
	for _, cidr := range []string{"10.7.0.9/32", "fd07::9/128", "10.7.0.8/24", "fd07::8/64"} {
		must(t, netlink.AddrAdd(link, nodad(t, cidr)))
	}
	l := New(Options{Now: boottime})
	held := set(t, l, wish(9*time.Second, append(lab.vips(), other...)...))
	if len(held.Have) != 4 || names(held.Added) != names([]lb.Address{other[0], other[1]}) {
		t.Errorf("reached %+v", held)
	}
	for _, a := range held.Have {
		at := slices.IndexFunc(lab.on(a.IP), func(x ifAddr) bool { return x.bits == a.IP.BitLen() })
		if at < 0 {
			t.Errorf("%s: %+v", a, lab.on(a.IP))
			continue
		}
		if got := lab.on(a.IP)[at]; got.proto != ourProto || got.valid > 9 || got.preferred != 0 {
			t.Errorf("%s: %+v", a, got)
		}
	}
	if held = set(t, l, wish(9*time.Second, append(lab.vips(), other...)...)); len(held.Added) != 0 {
		t.Errorf("the same again added %v: it loops", held.Added)
	}
	set(t, l, lb.Holding{})
	if lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) || len(lab.on(other[0].IP)) != 1 {
		t.Errorf("left: %+v", lab.on(other[0].IP))
	}
}

func TestSetTellsTheWayOutAndGoesOn(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	lost := lb.Address{IP: netip.MustParseAddr("10.7.0.9"), Link: "nosuch0"}
	held, err := l.Set(t.Context(), wish(9*time.Second, append(lab.vips(), lost)...))
	wantError(t, err, `create 10.7.0.9 dev nosuch0: link "nosuch0" does not exist`)
	wantError(t, err, lab.link)
	if names(held.Have) != names(lab.vips()) {
		t.Errorf("reached %+v", held)
	}
	must(t, writeSysctl("net/ipv6/conf/"+lab.link+"/disable_ipv6", "1"))
	held, err = l.Set(t.Context(), wish(9*time.Second, lab.vips()...))
	wantError(t, err, "set net.ipv6.conf."+lab.link+".disable_ipv6=0")
	if names(held.Have) != names(lab.vips()[:1]) {
		t.Errorf("reached %+v", held)
	}
}

func TestSetOnALinkMadeAnew(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(9*time.Second, lab.vips()...))
	link, err := netlink.LinkByName(lab.link)
	must(t, err, netlink.LinkDel(link))
	held, err := l.Set(t.Context(), wish(9*time.Second, lab.vips()...))
	wantError(t, err, "does not exist")
	if len(held.Have) != 0 {
		t.Errorf("reached %+v without the link", held)
	}
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	lab.plug(lab.link, nil)
	link, err = netlink.LinkByName(lab.link)
	must(t, err, netlink.LinkSetHardwareAddr(link, testMAC()), netlink.LinkSetUp(link))
	lab.ready()
	held = set(t, l, wish(9*time.Second, lab.vips()...))
	if names(held.Added) != names(lab.vips()) {
		t.Errorf("reached %+v", held)
	}
	eventuallyCount(t, tap, 2)
	must(t, netlink.LinkDel(link))
	if held = set(t, l, lb.Holding{}); len(held.Have) != 0 {
		t.Errorf("reached %+v", held)
	}
}

func TestSetStopsAddingWhenItsContextEnds(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(9*time.Second, lab.vips()[0]))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	held, err := l.Set(ctx, wish(9*time.Second, lab.vips()[1]))
	wantError(t, err, "create fd07::9 dev "+lab.link+" left undone: context canceled")
	if len(held.Have) != 0 || lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) {
		t.Errorf("reached %+v; what is not wanted must go all the same", held)
	}
}

func TestSweep(t *testing.T) {
	lab := newLab(t)
	dead := New(Options{Now: boottime})
	third := lb.Address{IP: netip.MustParseAddr("10.7.0.7"), Link: lab.link}
	set(t, dead, wish(30*time.Second, append(lab.vips(), third)...))
	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	foreign := nodad(t, "10.7.0.6/32") // our form, not our mark
	foreign.ValidLft = 30
	must(t, netlink.AddrAdd(link, foreign))
	// Copies on lo serve connections that are still drained, if the state says so.
	k, err := openKernel()
	must(t, err)
	defer k.close()
	copies := addrs(t, "10.7.0.5 lo, 10.7.0.4 lo, fd07::4 lo")
	for _, c := range copies {
		must(t, k.create(c, 30*second))
		defer k.remove(c) //nolint:errcheck // gone with the namespace anyway
	}
	state := filepath.Join(t.TempDir(), "state.json")
	must(t, saveBook(state, book{Copies: []copied{
		{IP: copies[0].IP, Link: lab.link, Until: boottime() + 30*second},
		{IP: copies[1].IP, Link: lab.link, Until: boottime() - second},
	}}))

	l := New(Options{Now: boottime, State: state})
	removed, err := l.Sweep(t.Context(), []lb.Address{third})
	must(t, err)
	if d := cmp.Diff(names(append(copies[1:], lab.vips()...)), names(removed)); d != "" {
		t.Error(d)
	}
	left := lb.Address{IP: netip.MustParseAddr("10.7.0.6"), Link: lab.link}
	own := lb.Address{IP: netip.MustParseAddr("fd07::1"), Link: lab.link}
	if lab.has(lab.vips()[0]) || lab.has(lab.vips()[1]) || !lab.has(third, left, own) {
		t.Error("wrong addresses are gone")
	}
	if found, err := k.find(copies[0]); err != nil || found == nil {
		t.Errorf("the copy on lo: %v, %v", found, err)
	}
	if removed, err = l.Sweep(t.Context(), []lb.Address{third}); err != nil || len(removed) != 0 {
		t.Errorf("again: %v, %v", removed, err)
	}
}
