package lb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lan is a pool of two families.
func lan(shards int) Pool {
	return Pool{Name: "lan", Shards: shards, Ranges: []Range{
		{netip.MustParseAddr("192.0.2.0"), netip.MustParseAddr("192.0.2.255")},
		{netip.MustParseAddr("2001:db8::"), netip.MustParseAddr("2001:db8::ff")},
	}}
}

// service has one TCP port and the addresses.
func service(name string, has ...string) Service {
	return Service{Key: ServiceKey("shop/" + name), Has: ips(has...), DataPath: DataPathProxy,
		Ports: []ServicePort{{Protocol: TCP, Port: 80}}}
}

// on gives the Service's port an endpoint on each node.
func (s Service) on(ready bool, nodes ...string) Service {
	s.Ports = slices.Clone(s.Ports)
	for i, n := range nodes {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, Endpoint{
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, n[len(n)-1] - '0', byte(i + 2)}), 8080),
			Node: n, Ready: ready, Serving: true, Terminating: !ready,
		})
	}
	return s
}

func (s Service) local() Service {
	s.Local, s.DataPath = true, DataPathDirect
	return s
}

// drawGroups prints groups in a line each.
func drawGroups(all []Group) string {
	var b strings.Builder
	for _, g := range all {
		fmt.Fprintf(&b, "%s of %s: %v", g.Name, g.Pool, g.VIPs)
		if g.Local {
			fmt.Fprintf(&b, " on %v", g.Nodes)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestGroups: who moves with whom.
func TestGroups(t *testing.T) {
	one := lan(1)
	for _, s := range []struct {
		name     string
		services []Service
		pools    []Pool
		want     string
	}{
		{"without an address, without a pool", []Service{service("a"), service("b", "198.51.100.1")}, []Pool{one}, ""},
		{"one shard, one group", []Service{service("b", "192.0.2.2"), service("a", "192.0.2.1", "2001:db8::1")}, []Pool{one},
			"pool-lan-0 of lan: [192.0.2.1 192.0.2.2 2001:db8::1]\n"},
		{"a shared address is there once", []Service{service("b", "192.0.2.2"), service("a", "192.0.2.2")}, []Pool{one},
			"pool-lan-0 of lan: [192.0.2.2]\n"},
		{"Local has its own, on the nodes of its ready endpoints",
			[]Service{service("a", "192.0.2.1").on(true, "n2", "n1", "n2").local()}, []Pool{one},
			"local-876c403d004eb712 of lan: [192.0.2.1] on [n1 n2]\n"},
		{"Local with endpoints that end only", []Service{service("a", "192.0.2.1").on(false, "n3").local()}, []Pool{one},
			"local-876c403d004eb712 of lan: [192.0.2.1] on [n3]\n"},
		{"Local without endpoints", []Service{service("a", "192.0.2.1").local()}, []Pool{one},
			"local-876c403d004eb712 of lan: [192.0.2.1] on []\n"},
		{"the pool that comes first by priority has an address that two have", []Service{service("a", "192.0.2.1")},
			[]Pool{one, {Name: "zero", Ranges: one.Ranges, Priority: 5}}, "pool-zero-0 of zero: [192.0.2.1]\n"},
	} {
		t.Run(s.name, func(t *testing.T) {
			if got := drawGroups(Groups(s.services, s.pools)); got != s.want {
				t.Errorf("got\n%swant\n%s", got, s.want)
			}
		})
	}
}

// TestProxiedGroups: one Service of HAProxy's is enough to need HAProxy.
func TestProxiedGroups(t *testing.T) {
	direct := service("d", "192.0.2.1").local()
	proxied := service("p", "192.0.2.2")
	with := direct
	with.Local = false
	for _, c := range []struct {
		name     string
		services []Service
		want     bool
	}{
		{"direct", []Service{direct}, false},
		{"proxied", []Service{proxied}, true},
		{"both", []Service{with, proxied}, true},
	} {
		groups := Groups(c.services, []Pool{lan(1)})
		if len(groups) != 1 || groups[0].Proxied != c.want {
			t.Errorf("%s: %+v", c.name, groups)
		}
	}
}

// TestGroupsAreSteady: a Service that comes or goes moves no other, the order of the
// input means nothing, and shards share out the addresses.
func TestGroupsAreSteady(t *testing.T) {
	pools := []Pool{lan(8)}
	var all []Service
	for i := range 200 {
		all = append(all, service(fmt.Sprint("s", i), fmt.Sprint("192.0.2.", i)))
	}
	where := func(services []Service) map[netip.Addr]string {
		out := map[netip.Addr]string{}
		for _, g := range Groups(services, pools) {
			for _, ip := range g.VIPs {
				out[ip] = g.Name
			}
		}
		return out
	}
	want := where(all)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		some := slices.Clone(all)
		rng.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		for ip, g := range where(some[:100]) {
			if want[ip] != g {
				t.Fatalf("%s moved from %s to %s", ip, want[ip], g)
			}
		}
	}
	groups := Groups(all, pools)
	if len(groups) != 8 {
		t.Errorf("%d groups, want 8", len(groups))
	}
	for _, g := range groups {
		if len(g.VIPs) < 5 || len(g.VIPs) > 60 {
			t.Errorf("%s has %d of 200 addresses", g.Name, len(g.VIPs))
		}
	}
}

// TestGroupNames are names of Leases, whatever a pool is called.
func TestGroupNames(t *testing.T) {
	for _, name := range []string{"lan", "lan.example.com", strings.Repeat("x", 250)} {
		p := lan(8)
		p.Name = name
		for _, g := range Groups([]Service{service("a", "192.0.2.1")}, []Pool{p}) {
			if len(g.Name) > 63 || strings.ContainsAny(g.Name, ".") {
				t.Errorf("pool %q: group %q", name, g.Name)
			}
		}
	}
}

// TestFrontends: what HAProxy serves of Services.
func TestFrontends(t *testing.T) {
	two := service("a", "192.0.2.1", "2001:db8::1").on(true, "n1", "n2")
	two.Ports = append(two.Ports, ServicePort{Protocol: UDP, Port: 53})
	half := service("h", "192.0.2.1").on(true, "n1")
	half.Ports[0].Endpoints = append(half.Ports[0].Endpoints, service("x").on(false, "n2").Ports[0].Endpoints...)
	for _, s := range []struct {
		name string
		svc  Service
		want string
	}{
		{"TCP ports only, bound on all addresses", two,
			"[192.0.2.1:80 [2001:db8::1]:80] s-10-244-1-2-8080 s-10-244-2-3-8080\n"},
		{"without an address", service("a").on(true, "n1"), ""},
		{"an address of no pool, as another load balancer leaves it", service("a", "192.0.2.1", "10.0.0.11").on(true, "n1"),
			"[192.0.2.1:80] s-10-244-1-2-8080\n"},
		{"none of a pool", service("a", "10.0.0.11").on(true, "n1"), ""},
		{"direct", service("a", "192.0.2.1").on(true, "n1").local(), ""},
		{"without endpoints: bound all the same", service("a", "192.0.2.1"), "[192.0.2.1:80]\n"},
		{"an endpoint that ends keeps what it has", half, "[192.0.2.1:80] s-10-244-1-2-8080 s-10-244-2-2-8080:drain\n"},
		{"all end: they take all", service("a", "192.0.2.1").on(false, "n1"), "[192.0.2.1:80] s-10-244-1-2-8080\n"},
		{"proxied and Local: the node's own", func() Service {
			s := two
			s.Local = true
			return s
		}(), "[192.0.2.1:80 [2001:db8::1]:80] s-10-244-2-3-8080\n"},
	} {
		t.Run(s.name, func(t *testing.T) {
			var b strings.Builder
			for _, f := range Frontends([]Service{s.svc}, []Pool{lan(8)}, "n2") {
				fmt.Fprint(&b, f.Binds)
				for _, e := range f.Backends {
					fmt.Fprint(&b, " ", e.Name, map[bool]string{true: ":drain"}[e.Drain])
				}
				b.WriteString("\n")
			}
			if b.String() != s.want {
				t.Errorf("got  %swant %s", b.String(), s.want)
			}
		})
	}
}

// TestFrontendName: namespace, name and port can be read out of it, so that no two
// Services share one.
func TestFrontendName(t *testing.T) {
	seen := map[string]ServiceKey{}
	for _, key := range []ServiceKey{"shop/web", "shop-web/a", "shop/web-a", "a/b-80", "a-b/80", "a/b"} {
		for _, port := range []uint16{8, 80, 65535} {
			name := FrontendName(key, port)
			if other, taken := seen[name]; taken {
				t.Errorf("%s is %s and %s", name, other, key)
			}
			seen[name] = key
			parts := strings.Split(name, "_")
			if len(parts) != 3 || ServiceKey(parts[0]+"/"+parts[1]) != key || parts[2] != fmt.Sprint(port) {
				t.Errorf("%s port %d is %q", key, port, name)
			}
		}
	}
}
