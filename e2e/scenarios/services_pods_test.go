package scenarios

import (
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// endPods: pods that end and pods that die cost nobody anything but the connections
// that they had.
func (s *shop) endPods(addr string) {
	s.podEnds(addr)
	s.annotate("shop", "check", "tcp")
	s.annotate("shop", "check-interval", "200ms")
	time.Sleep(1500 * time.Millisecond) // the reload that brings the check
	s.podDies(addr)
	s.podFallsSilent(addr)
}

// podEnds: a pod that ends keeps its connections, also when its endpoint is gone, and
// gets new ones only when no other is left.
func (s *shop) podEnds(addr string) {
	ends, says := s.pods[0], map[*lab.Host]string{s.pods[0]: ending}
	s.endpoints("shop", ends)
	s.Eventually(5*time.Second, "one pod alone answers", func() bool {
		got := s.servers(addr, 6)
		return got[ends.Name()] == 6
	})
	stream := s.Client().Ticks(addr)
	s.endpoints("shop", s.pods...)
	requests := s.requests(addr)
	time.Sleep(500 * time.Millisecond)
	s.slice("shop", "IPv4", s.pods, says)
	time.Sleep(500 * time.Millisecond)
	noneLost(s.t, "requests while a pod begins to end", requests.Stop())

	s.without(addr, ends, "while it ends")
	s.endpoints("shop", s.pods[1:]...)
	s.without(addr, ends, "when its endpoint is gone")
	r := stream.Stop()
	s.t.Log(r)
	if len(r.Breaks)+r.Failed > 0 || r.Silence > time.Second {
		s.t.Errorf("a connection to a pod that ends did not live on: %s", r)
	}

	requests = s.requests(addr)
	s.slice("shop", "IPv4", s.pods[:1], says)
	s.Eventually(5*time.Second, "it answers when it is the last one", func() bool {
		return s.servers(addr, 1)[ends.Name()] == 1
	})
	s.endpoints("shop", s.pods...)
	time.Sleep(300 * time.Millisecond)
	noneLost(s.t, "requests while all pods were replaced", requests.Stop())
}

// without asks for a second and fails the test if the pod answers or anything is lost.
func (s *shop) without(addr string, pod *lab.Host, when string) {
	s.t.Helper()
	requests := s.requests(addr)
	time.Sleep(time.Second)
	r := requests.Stop()
	noneLost(s.t, "requests "+when, r)
	if n := r.ByServer[pod.Name()]; n > 0 {
		s.t.Errorf("%s: %s got %d new connections", when, pod.Name(), n)
	}
}

// podDies: a process that is killed costs the requests that it was at, no new ones,
// although its endpoint stays.
func (s *shop) podDies(addr string) {
	dies := s.webs[1]
	requests := s.requests(addr)
	time.Sleep(500 * time.Millisecond)
	dies.Kill()
	at := time.Now()
	time.Sleep(time.Second)
	r := requests.Stop()
	s.t.Logf("requests while a pod is killed: %s", r)
	for _, gap := range r.Outages {
		if gap.From.After(at) {
			s.t.Errorf("requests that began %s after the pod's death failed: %s", gap.From.Sub(at), r)
		}
	}
	s.without(addr, s.pods[1], "to a Service with a dead pod")
	dies.Start()
	s.Eventually(10*time.Second, "it answers again", func() bool { return s.servers(addr, 6)[s.pods[1].Name()] > 0 })
}

// podFallsSilent: a pod that nobody reaches any more, without a refusal, delays some
// and loses none.
func (s *shop) podFallsSilent(addr string) {
	node, pod := s.Node(3), s.pods[2]
	requests := s.requests(addr)
	time.Sleep(500 * time.Millisecond)
	link := "pod" + pod.IP()[strings.LastIndex(pod.IP(), ".")+1:]
	node.Exec("ip", "link", "set", link, "down")
	time.Sleep(2 * time.Second)
	r := requests.Stop()
	s.t.Logf("requests while a pod falls silent: %s", r)
	if r.Failed > 1 { // one that it was at
		s.t.Errorf("%d of %d failed: %s", r.Failed, r.Sent, r)
	}
	s.without(addr, pod, "to a Service with a silent pod")
	node.Exec("ip", "link", "set", link, "up")
}
