package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// replayed prints what Replay makes of Services given as lines "KEY options".
func replayed(t *testing.T, pools string, services []string) string {
	a := New()
	var ps []lb.Pool
	for _, word := range strings.Fields(pools) {
		ps = append(ps, parsePool(t, word))
	}
	a.SetPools(ps)
	var all []lb.Service
	for _, line := range services {
		words := strings.Fields(line)
		all = append(all, parseService(t, lb.ServiceKey("d/"+words[0]), words[1:]))
	}
	return told(a.Replay(all))
}

// told prints what Replay returned.
func told(outcomes []Outcome) string {
	var out []string
	for _, o := range outcomes {
		out = append(out, short(o.Key)+" "+drawn(o.Grant, o.Refusal))
	}
	return strings.Join(out, ", ")
}

// TestReplay: rule 19, and the same for the Services in any order.
func TestReplay(t *testing.T) {
	for _, s := range []struct {
		name, pools string
		services    []string
		want        string
	}{
		{"those with addresses first, the oldest first", "a=10.0.0.1-10.0.0.5",
			[]string{"new born=1", "newer born=2", "z born=8 has=10.0.0.1", "y born=9 has=10.0.0.2"},
			"z 10.0.0.1 of a, y 10.0.0.2 of a, new 10.0.0.3 of a, newer 10.0.0.4 of a"},
		{"born in one second: by name", "a=10.0.0.1-10.0.0.5", []string{"b", "a", "c"},
			"a 10.0.0.1 of a, b 10.0.0.2 of a, c 10.0.0.3 of a"},
		{"an older one's wish for another's address steals nothing", "a=10.0.0.1-10.0.0.5",
			[]string{"old born=1 has=10.0.0.1 ask=10.0.0.2", "young born=2 has=10.0.0.2"},
			"old AddressInUse, keeps 10.0.0.1 of a, young 10.0.0.2 of a"},
		{"nor does one that lost its address", "a=10.0.0.1-10.0.0.2",
			[]string{"old born=1 has=10.9.9.9", "young born=2 has=10.0.0.1"},
			"old 10.0.0.2 of a?, young 10.0.0.1 of a"},
		{"two with one address: the older one has it", "a=10.0.0.1-10.0.0.5",
			[]string{"young born=2 has=10.0.0.3", "old born=1 has=10.0.0.3"},
			"old 10.0.0.3 of a, young 10.0.0.1 of a?"},
		{"who shares stays together", "a=10.0.0.1-10.0.0.5",
			[]string{"x key=k tcp/80 has=10.0.0.4", "y key=k tcp/81 has=10.0.0.4", "z key=k tcp/80 has=10.0.0.3"},
			"x 10.0.0.4 of a, y 10.0.0.4 of a, z 10.0.0.3 of a"},
		{"what klipper-lb left is a newcomer's", "a=10.0.0.1-10.0.0.5",
			[]string{"old born=1 foreign has=10.0.0.2", "young born=2 has=10.0.0.1"},
			"young 10.0.0.1 of a, old 10.0.0.2 of a"},
	} {
		t.Run(s.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			for range 10 {
				if got := replayed(t, s.pools, s.services); got != s.want {
					t.Fatalf("for %v\n got: %s\nwant: %s", s.services, got, s.want)
				}
				rng.Shuffle(len(s.services), func(i, j int) {
					s.services[i], s.services[j] = s.services[j], s.services[i]
				})
			}
		})
	}
}

// TestReplayBeforePools: nothing is noted, so that the status counts later.
func TestReplayBeforePools(t *testing.T) {
	a := New()
	s := plainService(1, lb.IPv4)
	s.Has = parseAddrs("10.0.0.9")
	for _, o := range a.Replay([]lb.Service{s}) {
		if o.Refusal == nil || o.Refusal.Reason != PoolsNotLoaded {
			t.Errorf("got %v", o)
		}
	}
	a.SetPools([]lb.Pool{parsePool(t, "a=10.0.0.0/24")})
	if out := a.Replay([]lb.Service{s}); out[0].Refusal != nil || out[0].Grant.Addresses[0] != s.Has[0] {
		t.Errorf("got %v", out)
	}
}

// crowd is a cluster: pools and Services of all sorts out of a seed, most with
// wishes that meet.
func crowd(t testing.TB, rng *rand.Rand) ([]lb.Pool, []lb.Service) {
	var pools []lb.Pool
	for _, word := range []string{
		"a=10.0.0.0-10.0.0.9,2001:db8::/125", "b=10.0.0.8-10.0.0.20;prio=3;avoid",
		"c=10.0.1.0/29,2001:db8:1::/124;label=tier:web",
		"d=10.0.2.0/29;manual", "e=2001:db8:2::/64;nslabel=team:a", "f=10.0.0.2-10.0.0.4;prio=7",
	} {
		if rng.IntN(5) > 0 {
			pools = append(pools, parsePool(t, word))
		}
	}
	var services []lb.Service
	for i := range 40 {
		services = append(services, stray(t, rng, i))
	}
	return pools, services
}

// stray is one random Service.
func stray(t testing.TB, rng *rand.Rand, i int) lb.Service {
	pick := func(options ...string) string { return options[rng.IntN(len(options))] }
	line := strings.Join([]string{
		pick("v4", "v4", "v6", "v4v6", "v6v4"), pick("", "prefer", "require"), pick("", "", "key=k", "key=m"),
		pick("tcp/80", "tcp/80 tcp/81", "udp/80", "tcp/82"), pick("", "", "", "local=app:x", "local=app:y"),
		pick("", "", "", "label=tier:web"), pick("", "", "nslabel=team:a", "nsunknown"),
		pick("", "", "", "", "pool=a", "pool=c", "pool=d", "pool=nosuch"),
		pick("", "", "", "", fmt.Sprintf("ask=10.0.0.%d", rng.IntN(22)), fmt.Sprintf("ask=2001:db8::%d", rng.IntN(9)),
			fmt.Sprintf("ask=10.0.0.%d,2001:db8::%d", rng.IntN(22), rng.IntN(9))),
		pick("", "", "", "", "", "", "", "fatal", "none"), fmt.Sprintf("born=%d", rng.IntN(4)),
	}, " ")
	return parseService(t, lb.ServiceKey(fmt.Sprintf("d/%02d", i)), strings.Fields(line))
}

// TestReplayInAnyOrder: a cluster of all sorts, its Services and pools in any
// order, is served the same, from nothing and again with what it got.
func TestReplayInAnyOrder(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		pools, services := crowd(t, rng)
		var want string
		for round := range 6 {
			a := New()
			a.SetPools(pools)
			got := told(a.Replay(services))
			if round%3 == 0 { // from nothing, then with addresses
				want = got
			}
			if got != want {
				t.Fatalf("seed %d, round %d\n got: %s\nwant: %s", seed, round, got, want)
			}
			if round == 2 {
				settle(t, a, services)
				before := fmt.Sprint(grants(a, services))
				for i, s := range services {
					g, _ := a.Lookup(s.Key)
					services[i].Has = g.Addresses
				}
				b := New()
				b.SetPools(pools)
				b.Replay(services)
				if after := fmt.Sprint(grants(b, services)); after != before {
					t.Fatalf("seed %d: a restart made\n%s\nof\n%s", seed, after, before)
				}
			}
			rng.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
			rng.Shuffle(len(pools), func(i, j int) { pools[i], pools[j] = pools[j], pools[i] })
		}
	}
}

// settle retries who waits until nothing more comes of it, and fails if that never
// ends.
func settle(t testing.TB, a *Allocator, services []lb.Service) {
	byKey := make(map[lb.ServiceKey]lb.Service)
	for _, s := range services {
		byKey[s.Key] = s
	}
	for range 1000 {
		before, had := a.Freed(), grants(a, services)
		for _, key := range a.Waiting() {
			_, _ = a.Assign(byKey[key])
		}
		if a.Freed() == before && fmt.Sprint(grants(a, services)) == fmt.Sprint(had) {
			return
		}
	}
	t.Fatal("who waits is never served nor refused for good")
}

// grants are the addresses that the Services have.
func grants(a *Allocator, services []lb.Service) map[lb.ServiceKey][]netip.Addr {
	out := make(map[lb.ServiceKey][]netip.Addr)
	for _, s := range services {
		if g, ok := a.Lookup(s.Key); ok {
			out[s.Key] = g.Addresses
		}
	}
	return out
}

// TestFreed: it grows with all that may help who waits, and with nothing else, or
// who retries on it would never end.
func TestFreed(t *testing.T) {
	w := newWorld(t)
	w.tell(`
pools a=10.0.0.1-10.0.0.9
svc x key=k tcp/80 tcp/81
svc y`)
	for _, s := range []struct {
		command string
		grows   bool
	}{
		{"again x", false},
		{"svc z -> 10.0.0.3 of a", false},
		{"svc u ask=10.0.0.1 -> AddressInUse", false},
		{"again u", false},
		{"drop u -> false", false},
		{"svc x key=k tcp/81", true},
		{"svc x key=m tcp/81", true},
		{"svc y ask=10.0.0.5 -> 10.0.0.5 of a", true},
		{"drop z -> true", true},
		{"drop z -> false", false},
		{"quarantine 10.0.0.9 02:00:00:00:00:01", false},
		{"absolve 10.0.0.8", false},
		{"absolve 10.0.0.9", true},
		{"pools a=10.0.0.1-10.0.0.8", true},
	} {
		before := w.Freed()
		if w.tell(s.command); (w.Freed() > before) != s.grows {
			t.Errorf("%s: Freed was %d and is %d", s.command, before, w.Freed())
		}
	}
}
