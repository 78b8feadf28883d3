package ipam

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// TestOverlaps: who owns what two pools have, and what is said of it.
func TestOverlaps(t *testing.T) {
	for _, s := range []struct{ name, story string }{
		{"by priority, then by name", `
pools b=10.0.0.0-10.0.0.3 a=10.0.0.2-10.0.0.5 c=10.0.0.3-10.0.0.9;prio=9
overlaps -> a>b 10.0.0.2-10.0.0.2, c>a 10.0.0.3-10.0.0.5, c>b 10.0.0.3-10.0.0.3
svc 1 ask=10.0.0.3 -> 10.0.0.3 of c
svc 2 ask=10.0.0.2 -> 10.0.0.2 of a
svc 3 pool=b -> 10.0.0.0 of b
stats -> a 1=1+0!0, b 2=1+1!0, c 7=1+6!0`},
		{"a pool inside another, which is cut in two", `
pools a=10.0.0.4-10.0.0.5;prio=1 b=10.0.0.0/29
overlaps -> a>b 10.0.0.4-10.0.0.5
stats -> a 2=0+2!0, b 6=0+6!0`},
		{"a pool that has nothing of its own", `
pools a=10.0.0.0/29 b=10.0.0.2-10.0.0.3,10.0.0.7
overlaps -> a>b 10.0.0.2-10.0.0.3, a>b 10.0.0.7-10.0.0.7
svc 1 pool=b -> NoFamilyInPool
stats -> a 8=0+8!0, b 0=0+0!0`},
		{"over several pools, to the last address of all", `
pools a=255.255.255.250-255.255.255.251;prio=1 b=255.255.255.254-255.255.255.255;prio=2 c=255.255.255.248/29 d=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff e=ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127
overlaps -> a>c 255.255.255.250-255.255.255.251, b>c 255.255.255.254-255.255.255.255, d>e ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
stats -> a 2=0+2!0, b 2=0+2!0, c 4=0+4!0, d 1=0+1!0, e 1=0+1!0
svc 1 pool=b -> 255.255.255.254 of b
svc 2 pool=b -> 255.255.255.255 of b
svc 3 pool=b -> PoolExhausted`},
		{"what the owner avoids the other does not give either", `
pools a=10.0.0.0-10.0.0.1;prio=1;avoid b=10.0.0.0-10.0.0.2
svc 1 pool=b -> 10.0.0.2 of b
svc 2 ask=10.0.0.0 -> AddressAvoided`},
		{"an overlap that comes while its addresses are in use: they stay, if the owner takes the Service", `
pools b=10.0.0.0/30
svc 1 -> 10.0.0.0 of b
svc 2 -> 10.0.0.1 of b
pools a=10.0.0.0;prio=1 b=10.0.0.0/30 c=10.0.0.1;prio=1;ns=other -> 2
has 1 -> 10.0.0.0 of a
retry -> 2 10.0.0.2 of b?`},
	} {
		t.Run(s.name, func(t *testing.T) { newWorld(t).tell(s.story) })
	}
}

// TestBadRanges: what is no range is left out, and breaks nothing else.
func TestBadRanges(t *testing.T) {
	addr := netip.MustParseAddr
	a := New()
	a.SetPools([]lb.Pool{
		{Name: "a", AutoAssign: true, Ranges: []lb.Range{
			{}, {From: addr("10.0.0.9"), To: addr("10.0.0.1")}, {From: addr("10.0.0.1"), To: addr("2001:db8::1")},
			{From: addr("10.0.0.1")}, {From: addr("::ffff:10.0.0.1"), To: addr("::ffff:10.0.0.2")},
			{From: addr("fe80::1%eth0"), To: addr("fe80::2%eth0")},
		}},
		{Name: "a", Ranges: []lb.Range{{From: addr("10.9.0.1"), To: addr("10.9.0.1")}}},
		{Name: "none", AutoAssign: true, Ranges: []lb.Range{{From: addr("10.0.0.2"), To: addr("10.0.0.1")}}},
	})
	want := []Stats{{Pool: "a", Size: 4, Free: 4}, {Pool: "none"}}
	if got := a.Stats(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := a.Overlaps(); len(got) > 0 {
		t.Errorf("a reversed range overlaps %v", got)
	}
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		s := lb.Service{Key: lb.ServiceKey("d/" + families([]lb.Family{family})), Families: []lb.Family{family}}
		g, err := a.Assign(s)
		if err != nil || g.Addresses[0].Is4In6() || g.Addresses[0].Zone() != "" {
			t.Errorf("got %v, %v", g, err)
		}
	}
}

// TestCount: the size of ranges, against counting.
func TestCount(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(4)), byte(rng.IntN(256))})
		to, n, odd := from, uint64(1), uint64(0)
		avoided := func(a netip.Addr) uint64 {
			if last := a.As4()[3]; last == 0 || last == 255 {
				return 1
			}
			return 0
		}
		odd += avoided(from)
		for range rng.IntN(700) {
			to = to.Next()
			n, odd = n+1, odd+avoided(to)
		}
		r := lb.Range{From: from, To: to}
		if count(r) != n || buggy(r) != odd {
			t.Fatalf("%s-%s: %d of which %d avoided, want %d of which %d", from, to, count(r), buggy(r), n, odd)
		}
	}
	for text, want := range map[string]uint64{
		"0.0.0.0/0": 1 << 32, "2001:db8::1": 1, "2001:db8::/67": 1 << 61, "2001:db8::/66": math.MaxInt64,
		"::/0": math.MaxInt64,
		"2001:db8::ffff:ffff:ffff:ffff-2001:db8:0:1::": 2,
		"2001:db8::8000:0:0:0-2001:db8:0:1::":          math.MaxInt64,
		"2001:db8::1-2001:db8::4000:0:0:0":             math.MaxInt64, // 2^62 exactly
		"2001:db8::2-2001:db8::4000:0:0:0":             1<<62 - 1,
	} {
		if got := count(parseRange(t, text)); got != want {
			t.Errorf("%s has %d, want %d", text, got, want)
		}
	}
}

// TestPoolsInAnyOrder: the order in which a list delivers pools decides nothing.
func TestPoolsInAnyOrder(t *testing.T) {
	var pools []lb.Pool
	for _, word := range strings.Fields("a=10.0.0.0/28 b=10.0.0.8-10.0.0.20;prio=3 c=10.0.0.4/30;ns=d d=10.0.0.0/27;prio=3 e=10.0.0.30-10.0.0.40") {
		pools = append(pools, parsePool(t, word))
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var want []netip.Addr
	for round := range 20 {
		rng.Shuffle(len(pools), func(i, j int) { pools[i], pools[j] = pools[j], pools[i] })
		a := New()
		a.SetPools(pools)
		var got []netip.Addr
		for i := range 41 {
			key := lb.ServiceKey("d/" + string(rune('0'+i)))
			g, err := a.Assign(lb.Service{Key: key, Families: []lb.Family{lb.IPv4}})
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, g.Addresses...)
		}
		if round == 0 {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	}
}

// TestRefusalsSayWhatToDo: each text names what is concerned, and stays on one
// line whatever a user wrote.
func TestRefusalsSayWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.tell(`
pools a=10.0.0.1-10.0.0.3;avoid b=10.0.1.255;avoid c=10.0.2.1;ns=other d=10.0.3.1;nslabel=a:b
svc x key=k tcp/80 ask=10.0.0.1
quarantine 10.0.0.3 02:00:00:00:00:03`)
	for _, s := range []struct {
		options string
		want    []string
	}{
		{"key=k tcp/80 ask=10.0.0.1", []string{"TCP/80", "10.0.0.1", "d/x", "choose another"}},
		{"ask=10.0.0.1", []string{"10.0.0.1", "d/x", "mooring.dev/shared-key"}},
		{"key=k local=a ask=10.0.0.1", []string{"10.0.0.1", "d/x", "externalTrafficPolicy"}},
		{"ask=10.0.0.3", []string{"10.0.0.3", "02:00:00:00:00:03"}},
		{"ask=10.0.1.255", []string{"10.0.1.255", "pool b", "avoidBuggyIPs"}},
		{"ask=10.9.9.9", []string{"10.9.9.9", "AddressPool"}},
		{"ask=10.0.2.1", []string{"pool c", "selectors"}},
		{"ask=10.0.0.2 pool=b", []string{"10.0.0.2", "pool a", `"b"`}},
		{"nsunknown pool=d", []string{"namespace d", "pool d"}},
		{"v6 ask=10.0.0.2", []string{"10.0.0.2", "IPv6"}},
		{"v6 pool=a", []string{"a has no IPv6", "add a range"}},
		{"v4v6 require nslabel=a:b", []string{"IPv4 and IPv6", "one pool"}},
		{"pool=b", []string{"no free IPv4", "in b"}},
		{"fatal", []string{"spec.loadBalancerIP", "is given twice"}},
		{"none", []string{"cluster IP"}},
		{"require", []string{"RequireDualStack", "PreferDualStack"}},
	} {
		_, err := w.Assign(parseService(t, "d/y", strings.Fields(s.options)))
		if err == nil {
			t.Errorf("%s is not refused", s.options)
			continue
		}
		for _, part := range s.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", s.options, err, part)
			}
		}
	}
	_, err := w.Assign(lb.Service{Key: "d/y", Families: []lb.Family{lb.IPv4}, Pool: "a\nb\x00" + strings.Repeat("x",
		1<<20)})
	if err == nil || len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\x00") {
		t.Errorf("a pool's name of a megabyte gives %.400q", err)
	}
}

// TestGrantIsACopy: what a caller does with it changes nobody's addresses.
func TestGrantIsACopy(t *testing.T) {
	w := newWorld(t)
	w.tell(`
pools a=10.0.0.1-10.0.0.2
svc x -> 10.0.0.1 of a`)
	g, _ := w.Lookup("d/x")
	g.Addresses[0] = netip.MustParseAddr("10.9.9.9")
	w.tell(`has x -> 10.0.0.1 of a`)
}
