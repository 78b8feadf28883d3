package ipam

import (
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// cluster is n Services without addresses.
func cluster(n int) []lb.Service {
	out := make([]lb.Service, 0, n)
	for i := range n {
		s := plainService(i, lb.IPv4)
		s.Born, s.NamespaceLabels, s.Labels = int64(i/7), map[string]string{"team": "a"}, map[string]string{"app": "web"}
		out = append(out, s)
	}
	return out
}

// wide is a pool of 65,536 addresses.
func wide(b *testing.B) []lb.Pool { return []lb.Pool{parsePool(b, "a=10.0.0.0/16")} }

// perService reports a time and memory for each of n Services.
func perService(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/service")
}

// BenchmarkAssign65536 gives 50,000 Services an address each. Goal: 5 µs each.
func BenchmarkAssign65536(b *testing.B) {
	services, pools := cluster(50_000), wide(b)
	b.ReportAllocs()
	for b.Loop() {
		a := New()
		a.SetPools(pools)
		for _, s := range services {
			if _, err := a.Assign(s); err != nil {
				b.Fatal(err)
			}
		}
	}
	perService(b, len(services))
}

// BenchmarkReplay50000 is a restart with 50,000 Services. Goal: 1 s.
func BenchmarkReplay50000(b *testing.B) {
	services, pools := cluster(50_000), wide(b)
	a := New()
	a.SetPools(pools)
	for i, o := range a.Replay(services) {
		services[len(services)-1-i].Has = o.Grant.Addresses
	}
	b.ReportAllocs()
	for b.Loop() {
		a := New()
		a.SetPools(pools)
		a.Replay(services)
	}
	perService(b, len(services))
}

// BenchmarkChurnFull replaces Services one by one in a pool that is all but full,
// where a search from the beginning would be at its worst.
func BenchmarkChurnFull(b *testing.B) {
	a, n := New(), 65_535
	a.SetPools(wide(b))
	services := cluster(n + 1)
	for _, s := range services[:n] {
		if _, err := a.Assign(s); err != nil {
			b.Fatal(err)
		}
	}
	i := 0
	for b.Loop() {
		a.Release(services[i%(n+1)].Key)
		if _, err := a.Assign(services[(i+n)%(n+1)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkShared5000 lets 5,000 Services with one key and one port find that none
// of them can share.
func BenchmarkShared5000(b *testing.B) {
	services, pools := cluster(5_000), wide(b)
	for i := range services {
		services[i].SharedKey = "k"
	}
	for b.Loop() {
		a := New()
		a.SetPools(pools)
		for _, s := range services {
			if _, err := a.Assign(s); err != nil {
				b.Fatal(err)
			}
		}
	}
	perService(b, len(services))
}

// BenchmarkSetPools is a change of the pools while 50,000 Services have addresses.
func BenchmarkSetPools(b *testing.B) {
	a, pools := New(), wide(b)
	a.SetPools(pools)
	a.Replay(cluster(50_000))
	for b.Loop() {
		if evicted := a.SetPools(pools); evicted != nil {
			b.Fatal(evicted)
		}
	}
}

// BenchmarkSharedInTurn is the worst for a shared key: half of 2,000 Services have
// one port, then the other half has another one and joins them address by address.
func BenchmarkSharedInTurn(b *testing.B) {
	services, pools := cluster(2_000), wide(b)
	for i := range services {
		services[i].SharedKey = "k"
		if i >= len(services)/2 {
			services[i].Ports = []lb.ServicePort{{Protocol: lb.TCP, Port: 443}}
		}
	}
	for b.Loop() {
		a := New()
		a.SetPools(pools)
		for _, s := range services {
			if _, err := a.Assign(s); err != nil {
				b.Fatal(err)
			}
		}
	}
	perService(b, len(services))
}
