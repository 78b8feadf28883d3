package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestServicePaths: what both data paths do with connections: families, clients'
// addresses and who may connect, checks, balance, limits, shared and taken ports.
func TestServicePaths(t *testing.T) {
	t.Parallel()
	s := open(t, "iptables")
	for _, part := range []struct {
		what string
		do   func()
	}{
		{"dual stack", s.bothFamilies}, {"source ranges", s.sourceRanges}, {"PROXY protocol", s.proxyProtocol},
		{"health check", s.healthCheck}, {"balance", s.balances}, {"limits", s.limits}, {"shared address", s.shares},
		{"taken port", s.takenPort},
	} {
		begun := time.Now()
		part.do()
		t.Logf("%s: %s", part.what, time.Since(begun).Round(time.Millisecond))
	}
}

// dual is a Service of both families and its addresses with port 80.
func (s *shop) dual(name, spec string) (four, six string) {
	s.t.Helper()
	s.publish(name, "ipFamilyPolicy: RequireDualStack"+spec, "{name: web, port: 80, targetPort: 8080}", s.pods...)
	s.slice(name, "IPv6", s.pods, nil)
	s.Eventually(10*time.Second, "two addresses", func() bool { return len(s.ingress(name)) == 2 })
	in := s.ingress(name)
	return in[0].IP + ":80", "[" + in[1].IP + "]:80"
}

// bothFamilies: one address of each, answered on either data path.
func (s *shop) bothFamilies() {
	four, six := s.dual("both", "")
	for _, path := range []string{"proxy", "direct"} {
		s.annotate("both", "data-path", path)
		mode := map[string]string{"proxy": "Proxy", "direct": "VIP"}[path]
		s.Eventually(5*time.Second, "ipMode "+mode+" for both", func() bool {
			in := s.ingress("both")
			return len(in) == 2 && in[0].IPMode == mode && in[1].IPMode == mode
		})
		s.serves(four)
		s.serves(six)
	}
	s.Kubectl("delete", "svc", "both")
}

// sourceRanges: who is not in them is not served, on either data path and family.
func (s *shop) sourceRanges() {
	four, six := s.dual("ranges", "")
	client, other := s.Client(), s.Host("other")
	s.serves(four)
	s.serves(six)
	s.patch("ranges", fmt.Sprintf(`{"spec":{"loadBalancerSourceRanges":["%s/32","%s/128"]}}`, client.IP(), client.IP6()))
	only := func(yes, no *lab.Host) {
		s.t.Helper()
		s.Eventually(10*time.Second, yes.Name()+" is served, and not "+no.Name(), func() bool {
			return s.reaches(yes, four) && s.reaches(yes, six) && !s.reaches(no, four) && !s.reaches(no, six)
		})
	}
	only(client, other)
	s.annotate("ranges", "data-path", "direct")
	s.Eventually(5*time.Second, "ipMode VIP", func() bool { return s.ingress("ranges")[0].IPMode == "VIP" })
	only(client, other)
	s.patch("ranges", fmt.Sprintf(`{"spec":{"loadBalancerSourceRanges":["%s/32","%s/128"]}}`, other.IP(), other.IP6()))
	only(other, client)
	s.annotate("ranges", "data-path", "")
	only(other, client)
	s.Kubectl("delete", "svc", "ranges")
}

// reaches says whether a web server answers the host within half a second.
func (s *shop) reaches(h *lab.Host, addr string) bool {
	resp, err := h.HTTP(500 * time.Millisecond).Get("http://" + addr + "/")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

// proxyProtocol: pods learn the client's address from HAProxy, and HAProxy from a
// proxy before it that it was told to believe; nobody else is believed.
func (s *shop) proxyProtocol() {
	four, six := s.dual("proxied", ", allocateLoadBalancerNodePorts: false")
	if port := s.service("proxied").Spec.Ports[0].NodePort; port != 0 {
		s.t.Errorf("it has a node port: %d", port)
	}
	client, other := s.Client(), s.Host("other")
	saw := func(h *lab.Host, addr, want string) {
		s.t.Helper()
		s.Eventually(5*time.Second, "pods see "+want, func() bool {
			_, got, err := s.getFrom(h, addr)
			return err == nil && got == want
		})
	}
	s.serves(four)
	if _, got, err := s.get(four); err != nil || got == client.IP() {
		s.t.Errorf("without the PROXY protocol a pod saw %s: %v", got, err)
	}
	for _, version := range []string{"v2", "v1"} {
		s.annotate("proxied", "send-proxy", version)
		saw(client, four, client.IP())
		saw(client, six, client.IP6())
	}
	s.annotate("proxied", "accept-proxy", client.IP())
	const claimed = "203.0.113.7"
	ask := func(h *lab.Host) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return h.Claiming(ctx, claimed, four)
	}
	s.Eventually(5*time.Second, "the client that an upstream proxy names is seen", func() bool {
		out, err := ask(client)
		return err == nil && strings.HasSuffix(out, " "+claimed)
	})
	if out, err := ask(other); err == nil && strings.HasSuffix(out, " "+claimed) {
		s.t.Errorf("a host that is no proxy was believed: %s", out)
	}
	saw(other, four, other.IP())
	s.Kubectl("delete", "svc", "proxied")
}

// servers asks so many times, one after the other, and returns who answered.
func (s *shop) servers(addr string, times int) map[string]int {
	s.t.Helper()
	out := map[string]int{}
	for range times {
		server, _, err := s.get(addr)
		if err != nil {
			s.t.Errorf("%s: %v", addr, err)
		}
		out[server]++
	}
	return out
}

// visit asks a pod itself.
func (s *shop) visit(pod *lab.Host, path string) {
	s.t.Helper()
	resp, err := s.Client().HTTP(2 * time.Second).Get("http://" + pod.IP() + ":8080" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
}

// healthCheck: a pod whose check fails gets nothing while it does, and when all fail
// all are used.
func (s *shop) healthCheck() {
	s.publish("checked", v4, web80, s.pods...)
	addr := s.address("checked") + ":80"
	for key, value := range map[string]string{"check": "http", "check-path": "/healthz", "check-status": "200",
		"check-interval": "200ms", "check-fall": "1", "check-rise": "1", "balance": "roundrobin"} {
		s.annotate("checked", key, value)
	}
	s.serves(addr)
	answering := func(names ...string) {
		s.t.Helper()
		s.Eventually(10*time.Second, fmt.Sprintf("%v answer", names), func() bool {
			got := s.servers(addr, 9)
			return len(got) == len(names) && !slices.ContainsFunc(names, func(n string) bool { return got[n] == 0 })
		})
	}
	answering("web-n1", "web-n2", "web-n3")
	s.visit(s.pods[0], "/sick")
	answering("web-n2", "web-n3")
	if got := s.servers(addr, 50); got["web-n1"] > 0 {
		s.t.Errorf("a pod that says 500 got %d of 50", got["web-n1"])
	}
	s.visit(s.pods[1], "/sick")
	answering("web-n3")
	s.visit(s.pods[2], "/sick")
	answering("web-n1", "web-n2", "web-n3")
	for _, p := range s.pods {
		s.visit(p, "/well")
	}
	s.Kubectl("delete", "svc", "checked")
}

// balances: leastconn sends connections where the fewest are, source a client always
// to the same pod.
func (s *shop) balances() {
	s.publish("balanced", v4, web80, s.pods...)
	addr := s.address("balanced") + ":80"
	s.annotate("balanced", "balance", "leastconn")
	s.serves(addr)
	var streams []*lab.Stream
	for range 5 {
		streams = append(streams, s.Client().Ticks(addr))
	}
	// Two pods have two streams and one has one, once the request before has ended.
	got, most := map[string]int{}, 0
	for range 20 {
		for server := range s.servers(addr, 1) {
			got[server]++
			most = max(most, got[server])
		}
		time.Sleep(50 * time.Millisecond)
	}
	if most < 15 {
		s.t.Errorf("leastconn with streams on 2, 2 and 1: %v", got)
	}
	for _, stream := range streams {
		if r := stream.Stop(); len(r.Breaks) > 0 {
			s.t.Errorf("a stream broke: %s", r)
		}
	}
	s.annotate("balanced", "balance", "source")
	s.Eventually(5*time.Second, "one pod answers a client", func() bool { return len(s.servers(addr, 12)) == 1 })
	s.annotate("balanced", "balance", "roundrobin")
	s.Eventually(5*time.Second, "all pods answer", func() bool { return len(s.servers(addr, 12)) == 3 })
	s.Kubectl("delete", "svc", "balanced")
}

// limits: one client's rate is bounded, another's is not touched by it; so many
// connections at once and no more are served.
func (s *shop) limits() {
	s.publish("limited", v4, web80, s.pods...)
	addr := s.address("limited") + ":80"
	s.annotate("limited", "client-rate-limit", "5")
	s.serves(addr)
	s.Eventually(10*time.Second, "the sixth connection of a second is refused", func() bool {
		refused := 0
		for range 12 {
			if _, _, err := s.get(addr); err != nil {
				refused++
			}
		}
		return refused >= 4
	})
	if _, _, err := s.getFrom(s.Host("other"), addr); err != nil {
		s.t.Errorf("another client is refused too: %v", err)
	}
	s.annotate("limited", "client-rate-limit", "")
	s.annotate("limited", "max-connections", "1")
	s.Eventually(10*time.Second, "the rate is free again", func() bool {
		r := s.Client().Requests("http://"+addr+"/", 20*time.Millisecond)
		time.Sleep(300 * time.Millisecond)
		return r.Stop().Failed == 0
	})
	time.Sleep(1200 * time.Millisecond) // the reload that brings the other limit
	stream := s.Client().Ticks(addr)
	if _, _, err := s.get(addr); err == nil {
		s.t.Error("a second connection is served where one is allowed")
	}
	stream.Stop()
	s.serves(addr)
	s.annotate("limited", "max-connections", "")
	s.queueAndTimeout(addr)
	s.Kubectl("delete", "svc", "limited")
}

// queueAndTimeout: a pod gets so many connections at once and the next waits for the
// end of one; a client that says nothing is sent away in its time.
func (s *shop) queueAndTimeout(addr string) {
	s.endpoints("limited", s.pods[0])
	s.annotate("limited", "server-max-connections", "1")
	s.annotate("limited", "client-timeout", "1s")
	dial := s.Client().HTTP(time.Second).Transport.(*http.Transport).DialContext
	s.Eventually(10*time.Second, "a silent client is sent away after a second", func() bool {
		conn, err := dial(s.t.Context(), "tcp", addr)
		if err != nil {
			return false
		}
		defer conn.Close()
		begun := time.Now()
		_ = conn.SetReadDeadline(begun.Add(3 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		return errors.Is(err, io.EOF) && time.Since(begun) > 500*time.Millisecond
	})
	stream := s.Client().Ticks(addr)
	answered := make(chan error, 1)
	go func() {
		_, _, err := s.get(addr)
		answered <- err
	}()
	select {
	case err := <-answered:
		s.t.Errorf("a second connection to the pod did not wait: %v", err)
		return
	case <-time.After(500 * time.Millisecond):
	}
	stream.Stop()
	if err := <-answered; err != nil {
		s.t.Errorf("a connection that waited was not served: %v", err)
	}
}

// shares: two Services with one key and different ports have one address.
func (s *shop) shares() {
	for i, name := range []string{"one", "two"} {
		s.publish(name, v4, fmt.Sprintf("{port: %d, targetPort: 8080}", 80+i), s.pods[i])
	}
	s.annotate("one", "shared-key", "counter")
	addr := s.address("one")
	s.annotate("two", "shared-key", "counter")
	s.annotate("two", "addresses", addr)
	s.Eventually(10*time.Second, "both have one address", func() bool {
		in := s.ingress("two")
		return len(in) == 1 && in[0].IP == addr
	})
	for i, name := range []string{"web-n1", "web-n2"} {
		at := fmt.Sprintf("%s:%d", addr, 80+i)
		s.Eventually(10*time.Second, name+" answers at "+at, func() bool {
			server, _, err := s.get(at)
			return err == nil && server == name
		})
	}
	s.patch("two", `{"spec":{"ports":[{"port":80,"targetPort":8080}]}}`)
	s.Eventually(5*time.Second, "it says who has the port", func() bool {
		msg, ok := s.says("two", "AddressAssigned")
		return !ok && strings.Contains(msg, "default/one")
	})
	if server, _, err := s.get(addr + ":80"); err != nil || server != "web-n1" {
		s.t.Errorf("who had the port first: %s, %v", server, err)
	}
	s.Kubectl("delete", "svc", "one", "two")
}

// takenPort: a port that some process of a node has is said, and left to it; the
// Service's others are served, and that one too when the process is gone.
func (s *shop) takenPort() {
	var takers []*lab.Process
	for _, n := range s.All() {
		takers = append(takers, n.Web(7777))
	}
	s.publish("taken", v4, "{name: web, port: 80, targetPort: 8080}, {name: alt, port: 7777, targetPort: 8080}", s.pods...)
	addr := s.address("taken")
	s.serves(addr + ":80")
	s.Eventually(5*time.Second, "an Event says who has the port", func() bool {
		return s.told("taken", "NotServed", "7777")
	})
	for i, p := range takers {
		if !p.Alive() {
			s.t.Errorf("the process on %s was fought", s.All()[i].Name())
		}
		p.Kill()
	}
	s.publish("next", v4, web80, s.pods...) // any change has it look again, a minute does too
	s.Eventually(10*time.Second, "pods answer at the port", func() bool {
		server, _, err := s.get(addr + ":7777")
		return err == nil && strings.HasPrefix(server, "web-")
	})
	s.Kubectl("delete", "svc", "taken", "next")
}
