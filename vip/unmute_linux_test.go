package vip

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// answers counts the answers to a peer that asks for our virtual IPs.
func (l *lab) answers() (n int) {
	l.t.Helper()
	l.peers[0].in(func() error {
		probe := New(Options{Now: boottime})
		probe.Watch(l.onEth0())
		got, err := probe.Probe(l.t.Context(), l.onEth0())
		n = len(got)
		return err
	})
	return n
}

// TestMuteIsSaidUntilItEnds: a VIP that is back on its link while nft is too slow
// to unmute it is not reported as held without an error, by its agent nor by the
// next one that knows nothing of it; and it is heard once nft is back.
func TestMuteIsSaidUntilItEnds(t *testing.T) {
	for story, restarted := range map[string]bool{"the same agent": false, "the next agent": true} {
		t.Run(story, func(t *testing.T) {
			lab := newLab(t)
			begin := func() *Links {
				l := New(Options{Now: boottime})
				l.drains.muting, l.drains.ruling = 20*time.Second, 200*time.Millisecond
				return l
			}
			l := begin()
			set(t, l, wish(30*second, lab.vips()...))
			set(t, l, lb.Holding{Copies: lab.vips(), CopyFor: drainTime})
			if restarted {
				l = begin()
			}
			path := os.Getenv("PATH")
			fakeNFT(t, "exec sleep 20")
			for range 3 {
				_, err := l.Set(t.Context(), wish(30*second, lab.vips()...))
				wantError(t, err, "may still be mute")
			}
			if lab.answers() > 0 {
				t.Error("it is not mute, so this shows nothing")
			}
			if n := len(l.drains.quiet); n > len(lab.vips()) {
				t.Errorf("%d copies are noted as quiet: each failure adds some", n)
			}
			must(t, os.Setenv("PATH", path))
			l.drains.ruling = 20 * time.Second
			set(t, l, wish(30*second, lab.vips()...))
			if lab.answers() != 2 {
				t.Error("still mute")
			}
			calls := fakeNFT(t, "exit 1")
			set(t, l, wish(30*second, lab.vips()...))
			if calls() != 0 {
				t.Error("nft runs for a wish that changes nothing")
			}
		})
	}
}

// TestSilenceEndsWithTheCopy: with the agent gone for good the node is not mute
// for longer than the copy stands, over either family.
func TestSilenceEndsWithTheCopy(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	l.drains.patient()
	t.Cleanup(func() {
		_ = exec.Command("nft", dropTable("arp", muteTable)+dropTable("ip6", muteTable)).Run()
	})
	set(t, l, wish(30*second, lab.vips()...))
	set(t, l, lb.Holding{Copies: lab.vips(), CopyFor: 2 * second})
	k, err := openKernel()
	must(t, err)
	defer k.close()
	for _, a := range lab.vips() {
		must(t, k.create(a, 60*second))
	}
	if lab.answers() > 0 {
		t.Error("it is not mute, so this shows nothing")
	}
	eventually(t, 10*time.Second, "the node answers again", func() bool { return lab.answers() == 2 })
	if arp, ip6 := muteTablesStand(); !arp || !ip6 {
		t.Error("the tables are gone, so this shows nothing")
	}
}
