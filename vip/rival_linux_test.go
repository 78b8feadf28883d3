package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// rivals notes the hosts that ask for a watched address in order to take it.
type rivals struct {
	mu  sync.Mutex
	all []string
}

func (r *rivals) heard(c lb.Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, fmt.Sprint(c.IP, " ", c.Link, " ", c.MAC))
}

func (r *rivals) read() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// TestRivals: another host's probe is told, also while we hold the address, and
// not twice in a moment; ours and a client's question are none.
func TestRivals(t *testing.T) {
	lab := newLab(t)
	d, r := &diary{}, &rivals{}
	l := New(Options{Now: boottime, Claimed: d.claimed, Rival: r.heard})
	l.Watch(lab.vips())
	run(t, l)
	d.awaitListening(t, lab, lab.vips())
	other := lab.peers[0]
	v4, v6 := lab.vips()[0].IP, lab.vips()[1].IP
	arpFrame, err := arpProbe(other.mac(), v4)
	must(t, err)
	nsFrame, err := nsProbe(other.mac(), v6)
	must(t, err)
	ask, err := arpRequest(other.mac(), netip.MustParseAddr("10.7.0.2"), v4)
	must(t, err)
	foreign, err := arpProbe(other.mac(), netip.MustParseAddr("10.7.0.77"))
	must(t, err)
	other.send(ask, foreign)
	_, err = l.Probe(t.Context(), lab.vips())
	must(t, err)
	if got := r.read(); len(got) != 0 {
		t.Fatalf("nobody's probe is told: %q", got)
	}
	for range 2 {
		other.send(slices.Repeat([][]byte{arpFrame, nsFrame}, 20)...)
	}
	want := []string{fmt.Sprint(v4, " ", lab.link, " ", other.mac()), fmt.Sprint(v6, " ", lab.link, " ", other.mac())}
	eventually(t, time.Second, "both rivals", func() bool { return len(r.read()) >= 2 })
	got := r.read()
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := len(r.read()); n > 6 {
		t.Errorf("%d reports of 80 probes", n)
	}
	if claims, _ := d.read(); len(claims) != 0 {
		t.Errorf("probes are told as claims: %q", claims)
	}
}

// TestHeldIPv6AnswersDuplicateAddressDetection: a host that begins to use our VIP
// hears of us and gives it up; the kernel says it.
func TestHeldIPv6AnswersDuplicateAddressDetection(t *testing.T) {
	lab := newLab(t)
	set(t, New(Options{Now: boottime}), wish(30*second, lab.vips()[1]))
	lab.peers[0].in(func() error { return writeSysctl("net/ipv6/conf/eth0/accept_dad", "1") })
	lab.peers[0].sh("ip -6 addr add fd07::9/64 dev eth0")
	eventually(t, 5*time.Second, "the other host sees the duplicate", func() bool {
		return len(lab.peers[0].sh("ip -6 addr show dev eth0 dadfailed")) > 0
	})
}

// TestProbeOnce: one round, back at once when it may be.
func TestProbeOnce(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime, ProbeGap: 300 * time.Millisecond})
	l.Watch(lab.vips())
	run(t, l)
	first, second := addr(t, "10.7.0.2 "+lab.link), addr(t, "10.7.0.3 "+lab.link)
	nobody := addr(t, "10.7.0.77 "+lab.link)
	round := func(all ...lb.Address) ([]lb.Answer, time.Duration) {
		t.Helper()
		begun := time.Now()
		got, err := l.ProbeOnce(t.Context(), all)
		must(t, err)
		return got, time.Since(begun)
	}
	const soon = 250 * time.Millisecond
	for _, c := range []struct {
		story   string
		all     []lb.Address
		answers int
		soon    bool
	}{
		{"silence of the VIPs", append(lab.vips(), first), 1, false},
		{"no witness answers", []lb.Address{nobody}, 0, false},
		{"one witness of two", []lb.Address{first, nobody}, 1, true},
		{"nobody is asked", nil, 0, true},
	} {
		if got, took := round(c.all...); len(got) != c.answers || took < soon != c.soon {
			t.Errorf("%s: %v after %v", c.story, got, took)
		}
	}
	lab.peers[0].add("10.7.0.9/32")
	lab.peers[0].add("fd07::9/128")
	lab.peers[0].sh("until ip -6 route get fd07::9 | grep -q ^local; do sleep 0.01; done")
	if got, took := round(append(lab.vips(), nobody, second)...); len(got) != 3 || took > soon {
		t.Errorf("all that matters answers: %v after %v", got, took)
	}
	if got, took := round(lab.vips()...); len(got) != 2 || took > soon {
		t.Errorf("without witnesses: %v after %v", got, took)
	}
}

// TestProbeOnceKeepsItsSockets: for the next call, and not for ever; an answer
// that came in between says nothing of the next round.
func TestProbeOnceKeepsItsSockets(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	v := lab.vips()[0]
	open := func() *asker {
		l.askers.mu.Lock()
		defer l.askers.mu.Unlock()
		return l.askers.idle[key([]lb.Address{v})]
	}
	_, err := l.ProbeOnce(t.Context(), []lb.Address{v})
	must(t, err)
	before := open()
	if before == nil {
		t.Fatal("nothing is kept")
	}
	lab.peers[0].send(claimFrame(t, lab.peers[0].mac().String(), v.IP))
	time.Sleep(30 * time.Millisecond)
	got, err := l.ProbeOnce(t.Context(), []lb.Address{v})
	must(t, err)
	if len(got) != 0 {
		t.Errorf("a late answer counts: %v", got)
	}
	if open() != before {
		t.Error("the sockets were opened anew")
	}
	eventually(t, 5*time.Second, "idle sockets are closed", func() bool { return open() == nil })
	if _, err := l.ProbeOnce(t.Context(), []lb.Address{v}); err != nil {
		t.Error(err)
	}
	l.askers.close()
	if open() != nil {
		t.Error("kept after the end")
	}
}

// BenchmarkProbeOnce: a round that everybody answers.
func BenchmarkProbeOnce(b *testing.B) {
	lab := newLab(b)
	l := New(Options{Now: boottime})
	all := addrs(b, "10.7.0.2 "+lab.link+", 10.7.0.3 "+lab.link+", fd07::2 "+lab.link)
	l.Watch(all)
	for b.Loop() {
		if got, err := l.ProbeOnce(b.Context(), all); err != nil || len(got) != 3 {
			b.Fatal(got, err)
		}
	}
}
