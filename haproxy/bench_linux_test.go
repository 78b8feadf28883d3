package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// runningMany is a real HAProxy with n Services of ten servers each.
func runningMany(b *testing.B, n int) (*svc, *Proxy) {
	b.Helper()
	s := newSvc(b)
	dir := s.cfg.Dir
	s.cfg = thousand(n)
	s.cfg.Dir = dir
	p := s.proxy()
	begin := time.Now()
	s.set(p)
	b.Logf("cold start to serving: %v, worker %s", time.Since(begin), s.memory())
	return s, p
}

// memory is the worker's resident set.
func (s *svc) memory() string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.worker()))
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}

// BenchmarkEndpointChange is Set with one of 10,000 servers added or removed, until
// HAProxy has it.
func BenchmarkEndpointChange(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("%dx10", n), func(b *testing.B) { endpointChange(b, n) })
	}
}

func endpointChange(b *testing.B, n int) {
	s, p := runningMany(b, n)
	worker := s.worker()
	var took []time.Duration
	f := &s.cfg.Frontends[500]
	all := slices.Clone(f.Backends)
	i := 0
	for b.Loop() {
		f.Backends = slices.Delete(slices.Clone(all), i%10, i%10+1)
		if i%2 == 0 {
			f.Backends = append(f.Backends, lb.BackendAt(all[i%10].Addr))
		}
		i++
		begin := time.Now()
		s.set(p)
		took = append(took, time.Since(begin))
	}
	if s.worker() != worker {
		b.Error("a reload happened")
	}
	percentiles(b, took)
}

// BenchmarkServiceCreated is the time from Set with one more of 1,000 Services to
// its first answer, created one after the other, the tenth with affinity, with the
// gap between reloads that keeps it below 2 s.
func BenchmarkServiceCreated(b *testing.B) {
	s := newSvc(b)
	dir := s.cfg.Dir
	s.cfg, s.gap = thousand(1000), time.Second
	s.cfg.Dir = dir
	s.cfg.Peers, s.cfg.Local = []Peer{{"a", netip.MustParseAddrPort("127.0.0.1:10240")}}, "a"
	pods := startPods(b, 1, 1)
	p := s.proxy()
	s.watch(p)
	s.set(p)
	for ready := false; !ready; time.Sleep(tablesLook) {
		text, err := ask(context.Background(), s.cfg.file(fileStats), "show peers")
		ready = err == nil && tablesReady(text)
	}
	var took []time.Duration
	for b.Loop() {
		to := fmt.Sprintf("127.9.0.1:%d", 1000+len(took))
		s.cfg.Frontends = append(s.cfg.Frontends, front(fmt.Sprint("more-", len(took)), to, pods, func(f *lb.Front) {
			if len(took) == 10 {
				f.Affinity = time.Hour
			}
		}))
		begin := time.Now()
		s.set(p)
		for who("", to) == "" {
			time.Sleep(5 * time.Millisecond)
		}
		took = append(took, time.Since(begin))
	}
	percentiles(b, took)
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// BenchmarkPoll is what Run does twice a second at rest; the minute's look at
// everything is BenchmarkFullLook.
func BenchmarkPoll(b *testing.B) {
	_, p := runningMany(b, 1000)
	w := &watch{p: p, silence: silence{}}
	for b.Loop() {
		w.poll(context.Background())
	}
}

// BenchmarkFullLook compares all 10,000 servers.
func BenchmarkFullLook(b *testing.B) {
	_, p := runningMany(b, 1000)
	w := &watch{p: p, silence: silence{}}
	for b.Loop() {
		w.again(context.Background(), true)
	}
}

// BenchmarkRollingReplacement is Set with all ten servers of 100 Services replaced.
func BenchmarkRollingReplacement(b *testing.B) {
	s, p := runningMany(b, 1000)
	worker := s.worker()
	i := 0
	for b.Loop() {
		i++
		for j := range 100 {
			for k := range s.cfg.Frontends[j].Backends {
				ip := netip.AddrFrom4([4]byte{127, byte(100 + i%100), byte(j), byte(k + 1)})
				s.cfg.Frontends[j].Backends[k] = lb.BackendAt(netip.AddrPortFrom(ip, 8080))
			}
		}
		s.set(p)
	}
	if s.worker() != worker {
		b.Error("a reload happened")
	}
}
