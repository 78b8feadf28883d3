package vip

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// TestSetWhateverHappened puts a real link into random states, by other
// programs' writes and by lost memory, and after each Set compares the whole
// link with the wish: all of ours and nothing else of ours is there, and
// nothing of others is gone.
func TestSetWhateverHappened(t *testing.T) {
	lab := newLab(t)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("VIP_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("VIP_TEST_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	var all []lb.Address
	for i := range 4 {
		for _, net := range []string{"10.7.0.2%d", "fd07::2%d"} {
			all = append(all, lb.Address{IP: netip.MustParseAddr(fmt.Sprintf(net, i)), Link: lab.link})
		}
	}
	l := New(Options{Now: boottime})
	for range 60 {
		a := all[rnd.IntN(len(all))]
		one := netip.PrefixFrom(a.IP, a.IP.BitLen()).String()
		story := ""
		switch rnd.IntN(5) {
		case 0:
			story = "deleted by hand: " + one
			netlink.AddrDel(link, nodad(t, one)) //nolint:errcheck // it may not be there
		case 1:
			story = "made eternal by hand: " + one
			must(t, netlink.AddrReplace(link, nodad(t, one)))
			// Foreign until it is wanted: make sure it is, or take it back.
			defer netlink.AddrDel(link, nodad(t, one)) //nolint:errcheck // it may not be there
		case 2:
			story = "restarted"
			l = New(Options{Now: boottime})
			_, err := l.Sweep(t.Context(), all)
			must(t, err)
		default:
			story = "nothing happened"
		}
		want := slices.DeleteFunc(slices.Clone(all), func(lb.Address) bool { return rnd.IntN(2) == 0 })
		held := set(t, l, wish(30*time.Second, want...))
		_, err := l.Sweep(t.Context(), want)
		must(t, err)
		slices.SortFunc(want, compareAddresses)
		if names(held.Have) != names(want) {
			t.Fatalf("%s: have %v, want %v", story, held.Have, want)
		}
		compareLink(t, story, lab, want)
	}
}

// compareLink compares what carries our mark on the link with the wish, and
// looks for the link's own addresses.
func compareLink(t *testing.T, story string, lab *lab, want []lb.Address) {
	t.Helper()
	there, err := present()
	must(t, err)
	for a, ours := range there {
		if ours && !slices.Contains(want, a) {
			t.Fatalf("%s: %s is left", story, a)
		}
	}
	for _, a := range want {
		got := lab.on(a.IP)
		if !there[a] || len(got) != 1 || got[0].valid > 30 || got[0].preferred != 0 {
			t.Fatalf("%s: %s is %+v", story, a, got)
		}
	}
	for _, own := range []string{"10.7.0.1", "fd07::1"} {
		if len(lab.on(netip.MustParseAddr(own))) != 1 {
			t.Fatalf("%s: %s is gone", story, own)
		}
	}
}

// TestManyAddresses: the rate holds on the wire, Set does not wait for it, and
// each address has been announced after as many seconds as the rate needs.
func TestManyAddresses(t *testing.T) {
	lab := newLab(t)
	tap := lab.peers[0].capture(unix.ETH_P_ARP)
	l := New(Options{Now: boottime, Rate: 150})
	run(t, l)
	begun := time.Now()
	set(t, l, wish(30*time.Second, many(300, lab.link)...))
	created := time.Since(begun)
	first := len(tap.all())
	again := time.Now()
	set(t, l, wish(30*time.Second, many(300, lab.link)...))
	t.Logf("300 addresses: created %v, refreshed %v, %d frames at once", created, time.Since(again), first)
	if created > 900*time.Millisecond {
		t.Errorf("created in %v: Set waited for the rate", created)
	}
	for time.Since(begun) < 900*time.Millisecond {
		time.Sleep(10 * time.Millisecond)
	}
	if n := len(tap.all()); n != 150 {
		t.Errorf("%d frames in the first second at a rate of 150", n)
	}
	eventually(t, 2*time.Second, "all announced", func() bool {
		distinct := map[string]bool{}
		for _, f := range tap.all() {
			distinct[f] = true
		}
		return len(distinct) == 300
	})
	set(t, l, lb.Holding{})
	if left, err := l.Sweep(t.Context(), nil); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestAllAtOnce calls everything from everywhere, for the race detector.
func TestAllAtOnce(t *testing.T) {
	lab := newLab(t)
	d := &diary{}
	var l *Links
	l = New(Options{Now: boottime, Claimed: d.claimed, LinkChanged: d.linkChanged, Changed: func() {
		go l.Set(t.Context(), wish(9*time.Second, lab.vips()...)) //nolint:errcheck // the test may be over
	}})
	run(t, l)
	var all sync.WaitGroup
	for _, f := range []func() error{
		func() error {
			_, err := l.Set(t.Context(), wish(9*time.Second, lab.vips()...))
			return err
		},
		func() error {
			_, err := l.Set(t.Context(), wish(9*time.Second, lab.vips()[0]))
			return err
		},
		func() error { return l.Announce(t.Context(), lab.vips()) },
		func() error {
			_, err := l.Probe(t.Context(), lab.vips())
			return err
		},
		func() error {
			_, err := l.Alive(t.Context(), lab.vips())
			return err
		},
		func() error {
			_, err := l.Sweep(t.Context(), nil)
			return err
		},
		func() error {
			l.Watch(lab.vips())
			return Check(lab.vips(), false)
		},
	} {
		all.Go(func() {
			for range 5 {
				if err := f(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	held := set(t, l, wish(9*time.Second, lab.vips()...))
	if names(held.Have) != names(lab.vips()) || !lab.has(lab.vips()...) {
		t.Errorf("in the end: %+v", held)
	}
}
