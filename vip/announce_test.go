package vip

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

const (
	ms    = second / 1000
	never = 1 << 60 * lb.Instant(1) // an address that does not run out
)

// play takes all that is due from one instant to another, going from one
// wait to the next as the real loop does, and lists "instant IP".
func play(s *schedule, from, to lb.Instant) []string {
	var sent []string
	for now := from; now <= to; {
		for {
			a, some := s.take(now)
			if !some {
				break
			}
			sent = append(sent, fmt.Sprintf("%v %s", now, a.IP))
		}
		next, some := s.wait()
		if !some {
			break
		}
		now = max(next, now+1)
	}
	return sent
}

func TestScheduleOfOneAddress(t *testing.T) {
	a := lb.Address{IP: netip.MustParseAddr("10.0.0.9"), Link: "eth0"}
	tests := []struct {
		story string
		begin func(*schedule)
		want  string
	}{
		{"new: burst, then steady", func(s *schedule) { s.put(a, 0, never, true) },
			"0s 50ms 150ms 500ms 1s 2s 32s 1m2s"},
		{"adopted: steady only", func(s *schedule) { s.put(a, 0, never, false) }, "30s 1m0s"},
		{"refreshed: the burst goes on", func(s *schedule) {
			s.put(a, 0, never, true)
			s.put(a, 0, never, false)
		}, "0s 50ms 150ms 500ms 1s 2s 32s 1m2s"},
		{"created anew while steady: another burst", func(s *schedule) {
			s.put(a, 0, never, false)
			s.put(a, 0, never, true)
		}, "0s 50ms 150ms 500ms 1s 2s 32s 1m2s"},
		{"not refreshed: silent from its end on", func(s *schedule) { s.put(a, 0, 500*ms, true) }, "0s 50ms 150ms"},
		{"let go: nothing", func(s *schedule) {
			s.put(a, 0, never, true)
			s.drop(a)
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			s := newSchedule(100, 30*second)
			tt.begin(s)
			got := strings.ReplaceAll(strings.Join(play(s, 0, 63*second), " "), " 10.0.0.9", "")
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// many makes n addresses on the link.
func many(n int, link string) []lb.Address {
	all := make([]lb.Address, n)
	for i := range all {
		all[i] = lb.Address{IP: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Link: link}
	}
	return all
}

func TestScheduleNewAddressesBeforeRepetitions(t *testing.T) {
	s := newSchedule(10, 30*second)
	for _, a := range many(15, "eth0") {
		s.put(a, 0, never, true)
	}
	first := play(s, 0, 900*ms)
	if len(first) != 10 {
		t.Fatalf("%d frames in the first second at a rate of 10: %v", len(first), first)
	}
	late := lb.Address{IP: netip.MustParseAddr("10.2.0.1"), Link: "eth0"}
	s.put(late, 950*ms, never, true)
	second := play(s, second, 1900*ms)
	want := []string{"1s 10.1.0.10", "1s 10.1.0.11", "1s 10.1.0.12", "1s 10.1.0.13", "1s 10.1.0.14", "1s 10.2.0.1"}
	if d := cmp.Diff(want, second[:6]); d != "" {
		t.Error(d)
	}
	if len(second) != 10 {
		t.Errorf("%d frames in the next second: %v", len(second), second)
	}
}

func TestScheduleSteadyPeriodGrows(t *testing.T) {
	s := newSchedule(10, 30*second)
	for _, a := range many(600, "eth0") {
		s.put(a, 0, never, false)
	}
	at := map[string][]lb.Instant{}
	for now := 30 * second; now < 300*second; now += 10 * ms {
		for {
			a, some := s.take(now)
			if !some {
				break
			}
			at[a.IP.String()] = append(at[a.IP.String()], now)
		}
	}
	if len(at) != 600 {
		t.Fatalf("%d of 600 addresses announced", len(at))
	}
	for ip, all := range at {
		for i := 1; i < len(all); i++ {
			if gap := all[i] - all[i-1]; gap < 59*second || gap > 61*second {
				t.Fatalf("%s after %v: 600 addresses at 10/s need 60s", ip, gap)
			}
		}
	}
}

// TestScheduleKeepsTheRate changes everything at random: in no window of a
// second one link may carry more than the rate, another link is not held up,
// and nothing is sent for an address that was dropped or has run out.
func TestScheduleKeepsTheRate(t *testing.T) {
	const rate = 7
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := newSchedule(rate, 5*second)
		all := append(many(20, "eth0"), many(5, "eth1")...)
		until := map[lb.Address]lb.Instant{}
		sent := map[string][]lb.Instant{}
		for now := lb.Instant(1); now < 20*second; now += lb.Instant(rnd.Int64N(int64(30 * ms))) {
			a := all[rnd.IntN(len(all))]
			switch rnd.IntN(6) {
			case 0, 1:
				until[a] = now + lb.Instant(rnd.Int64N(int64(4*second)))
				s.put(a, now, until[a], rnd.IntN(2) == 0)
			case 2:
				delete(until, a)
				s.drop(a)
			case 3:
				if s.defend(a, now) {
					checkSent(t, a, now, until, sent, rate)
				}
			default:
				for a, some := s.take(now); some; a, some = s.take(now) {
					checkSent(t, a, now, until, sent, rate)
				}
			}
		}
		if len(sent["eth0"]) == 0 || len(sent["eth1"]) == 0 {
			t.Fatalf("seed %d: nothing sent: %d, %d", seed, len(sent["eth0"]), len(sent["eth1"]))
		}
	}
}

func checkSent(t *testing.T, a lb.Address, now lb.Instant, until map[lb.Address]lb.Instant,
	sent map[string][]lb.Instant, rate int) {
	t.Helper()
	if until[a] <= now {
		t.Fatalf("%s sent at %v, kept until %v", a, now, until[a])
	}
	sent[a.Link] = append(sent[a.Link], now)
	if n := len(sent[a.Link]); n > rate && now-sent[a.Link][n-1-rate] < second {
		t.Fatalf("%s: %d frames within %v", a.Link, rate+1, now-sent[a.Link][n-1-rate])
	}
}

func TestScheduleDefence(t *testing.T) {
	s := newSchedule(100, 30*second)
	a, other := addr(t, "10.0.0.9 eth0"), addr(t, "10.0.0.8 eth0")
	s.put(a, 0, 10*second, false)
	for _, tt := range []struct {
		story string
		a     lb.Address
		at    lb.Instant
		want  bool
	}{
		{"the first", a, second, true},
		{"again within a second", a, 1900 * ms, false},
		{"after a second", a, 2 * second, true},
		{"an address not held", other, 3 * second, false},
		{"one that has run out", a, 10 * second, false},
	} {
		if got := s.defend(tt.a, tt.at); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.story, got, tt.want)
		}
	}
}

func TestScheduleDefenceKeepsTheRate(t *testing.T) {
	s := newSchedule(2, 30*second)
	for _, a := range many(3, "eth0") {
		s.put(a, 0, never, false)
	}
	for i, want := range []bool{true, true, false} {
		if got := s.defend(many(3, "eth0")[i], second); got != want {
			t.Errorf("defence %d: %v, want %v", i, got, want)
		}
	}
}
