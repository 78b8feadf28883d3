package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// TestServiceProxied: a TCP Service gets an address and is balanced over its pods;
// a pod that is taken out, and one that dies, cost nothing that is new; the holder's
// death costs little; the address is gone with the Service.
func TestServiceProxied(t *testing.T) {
	s := open(t, "nftables")
	s.publish("shop", "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
	addr := s.address("shop")
	if got := s.ingress("shop"); len(got) != 1 || got[0].IPMode != "Proxy" || !strings.HasPrefix(got[0].IP, "10.99.0.21") {
		t.Errorf("status: %+v", got)
	}
	s.serves(addr + ":80")
	requests := s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	time.Sleep(2 * time.Second)
	r := requests.Stop()
	noneLost(t, "requests", r)
	if len(r.ByServer) != 3 {
		t.Errorf("not balanced: %v", r.ByServer)
	}

	requests = s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	s.endpoints("shop", s.pods[:2]...)
	time.Sleep(time.Second)
	s.endpoints("shop", s.pods...)
	time.Sleep(time.Second)
	noneLost(t, "requests while a pod was taken out and came back", requests.Stop())

	holder := s.onOne(addr)
	requests = s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	holder.CutLink(lab.CarrierLoss)
	s.Eventually(5*time.Second, "another node holds", func() bool {
		return slices.ContainsFunc(s.Holders(addr), func(n *lab.Node) bool { return n.Name() != holder.Name() })
	})
	time.Sleep(time.Second)
	r = requests.Stop()
	t.Logf("holder's death: %s", r)
	if r.Longest > time.Second {
		t.Errorf("the holder's death cost %s: %s", r.Longest, r)
	}
	holder.HealLink()
	s.Eventually(10*time.Second, "one node holds after the heal", func() bool { return len(s.Holders(addr)) == 1 })

	s.Kubectl("delete", "svc", "shop")
	s.Eventually(5*time.Second, "the address is gone", func() bool { return len(s.Holders(addr)) == 0 })
}

// TestServiceDirect: with externalTrafficPolicy Local the address is on a node with
// an endpoint, kube-proxy serves it and pods see the client's address, over TCP and
// UDP; when the endpoint goes elsewhere the address follows.
func TestServiceDirect(t *testing.T) {
	s := open(t, "iptables")
	s.publish("dns", "externalTrafficPolicy: Local",
		"{name: web, port: 80, targetPort: 8080}, {name: udp, port: 53, targetPort: 8080, protocol: UDP}", s.pods[1])
	addr := s.address("dns")
	if got := s.ingress("dns"); got[0].IPMode != "VIP" {
		t.Errorf("status: %+v", got)
	}
	s.serves(addr + ":80")
	if n := s.onOne(addr); n.Name() != "n2" {
		t.Errorf("held by %s, the endpoint is on n2", n.Name())
	}
	server, client, err := s.get(addr + ":80")
	if err != nil || server != "web-n2" || client != s.Client().IP() {
		t.Errorf("answered by %s, who saw %s (the client is %s): %v", server, client, s.Client().IP(), err)
	}
	s.Eventually(10*time.Second, "datagrams are answered", func() bool {
		_, _, err := s.datagram(addr + ":53")
		return err == nil
	})
	server, client, err = s.datagram(addr + ":53")
	if err != nil || server != "web-n2" || client != s.Client().IP() {
		t.Errorf("UDP: answered by %s, who saw %s: %v", server, client, err)
	}
	s.endpoints("dns", s.pods[2])
	s.Eventually(10*time.Second, "the address follows its endpoint", func() bool {
		h := s.Holders(addr)
		return len(h) == 1 && h[0].Name() == "n3"
	})
	s.Eventually(10*time.Second, "the other pod answers", func() bool {
		server, _, err := s.get(addr + ":80")
		return err == nil && server == "web-n3"
	})

	// Its Lease outlives the Service and names a node that may not hold the next one.
	s.Kubectl("delete", "svc", "dns")
	s.Eventually(10*time.Second, "the address is gone", func() bool { return len(s.Holders(addr)) == 0 })
	s.publish("next", "externalTrafficPolicy: Local, loadBalancerIP: "+addr, "{name: web, port: 80, targetPort: 8080}", s.pods[0])
	s.Eventually(20*time.Second, "another Service has the address, on another node", func() bool {
		server, _, err := s.get(addr + ":80")
		return err == nil && server == "web-n1"
	})
}

// TestServicesOutliveAgents: agents that are replaced one after the other lose
// nothing and change no address, whoever gave it; while no API server answers a
// restarted agent goes on with what it served.
func TestServicesOutliveAgents(t *testing.T) {
	s := open(t, "nftables")
	for i := range 6 {
		s.publish(fmt.Sprint("s", i), "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
	}
	all := map[string]string{}
	for i := range 6 {
		name := fmt.Sprint("s", i)
		all[name] = s.address(name)
		s.serves(all[name] + ":80")
	}
	var probes []*lab.Probe
	for _, addr := range all {
		probes = append(probes, s.Client().Requests("http://"+addr+"/", 50*time.Millisecond))
	}
	for _, n := range s.All() {
		s.agent(n).Term()
		s.Eventually(10*time.Second, "the agent has ended", func() bool { return !s.agent(n).Alive() })
		s.startAgent(n, withServices)
		s.settle()
		for _, addr := range all {
			s.onOne(addr)
		}
	}
	for _, p := range probes {
		noneLost(t, "requests through a rolling restart", p.Stop())
	}
	for name, addr := range all {
		if got := s.address(name); got != addr {
			t.Errorf("%s had %s and has %s", name, addr, got)
		}
	}

	addr := all["s0"]
	holder := s.onOne(addr)
	s.agent(holder).Kill()
	time.Sleep(time.Second)
	s.startAgent(holder, withServices)
	time.Sleep(6 * time.Second)
	if h := s.Holders(addr); len(h) != 1 || h[0].Name() != holder.Name() {
		t.Errorf("the address moved although its agent was back within the fence")
	}

	s.StopAPI(lab.Killed)
	probe := s.Client().Requests("http://"+addr+"/", 50*time.Millisecond)
	s.agent(holder).Kill()
	time.Sleep(time.Second)
	s.startAgent(holder, withServices)
	time.Sleep(8 * time.Second) // past the fence
	noneLost(t, "requests while the agent restarts without any API server", probe.Stop())
	if h := s.Holders(addr); len(h) != 1 || h[0].Name() != holder.Name() {
		t.Errorf("the address moved")
	}
	s.StartAPI()
}

// TestServicesAlone: agents without a VIP of the API server serve Services as the
// others do; a planned end loses nothing, a dead node little.
func TestServicesAlone(t *testing.T) {
	s := openWith(t, "nftables", alone)
	s.publish("shop", "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
	addr := s.address("shop")
	s.serves(addr + ":80")
	holder := s.onOne(addr)
	time.Sleep(2 * time.Second) // until the agents have heard each other for a while
	requests := s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	s.agent(holder).Term()
	s.Eventually(5*time.Second, "another node holds", func() bool {
		h := s.Holders(addr)
		return len(h) == 1 && h[0].Name() != holder.Name()
	})
	time.Sleep(time.Second)
	noneLost(t, "requests through a planned end", requests.Stop())
	s.startAgent(holder, alone)
	time.Sleep(3 * time.Second)
	holder = s.onOne(addr)
	probe := s.Client().Probe(addr+":80", 5*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	holder.CutLink(lab.CarrierLoss)
	s.Eventually(5*time.Second, "another node holds", func() bool {
		return slices.ContainsFunc(s.Holders(addr), func(n *lab.Node) bool { return n.Name() != holder.Name() })
	})
	time.Sleep(time.Second)
	r := probe.Stop()
	t.Logf("holder's death: %s", r)
	if r.Longest > time.Second {
		t.Errorf("the holder's death cost %s: %s", r.Longest, r)
	}
}

// TestServiceWithoutAddress: who gets none is told what to do.
func TestServiceWithoutAddress(t *testing.T) {
	t.Parallel()
	s := open(t, "nftables")
	s.publish("elsewhere", `ipFamilies: [IPv4], loadBalancerIP: 10.1.2.3`, "{port: 80, targetPort: 8080}")
	s.Eventually(10*time.Second, "an Event says why", func() bool {
		return strings.Contains(s.Kubectl("get", "events", "-o", "jsonpath={.items[*].note}{.items[*].message}"), "10.1.2.3")
	})
	if got := s.ingress("elsewhere"); len(got) != 0 {
		t.Errorf("status: %+v", got)
	}
	s.Kubectl("annotate", "svc", "elsewhere", "mooring.dev/balance=fast; stats socket /tmp/x",
		"mooring.dev/addresses=10.99.0.215")
	s.Kubectl("patch", "svc", "elsewhere", "--type=merge", "-p", `{"spec":{"loadBalancerIP":null}}`)
	if got := s.address("elsewhere"); got != "10.99.0.215" {
		t.Errorf("address %s, asked for 10.99.0.215", got)
	}
	n := s.Node(1)
	out := n.Exec(lab.Mooring(t), "explain", "service", "default/elsewhere", "--config", n.Dir()+"/agent.yaml")
	for _, want := range []string{"10.99.0.215 from pool lan", "mooring.dev/balance"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
	t.Log(out)
}

// TestServiceAffinity: a client keeps its server, also when the address moves to
// another node, and other Services do not disturb it; a Service made later answers
// soon all the same.
func TestServiceAffinity(t *testing.T) {
	s := open(t, "nftables")
	s.publish("sticky", "ipFamilies: [IPv4], sessionAffinity: ClientIP", "{port: 80, targetPort: 8080}", s.pods...)
	addr := s.address("sticky")
	s.serves(addr + ":80")
	server, _, err := s.get(addr + ":80")
	if err != nil {
		t.Fatal(err)
	}
	same := func(when string) {
		t.Helper()
		for range 20 {
			if got, _, err := s.get(addr + ":80"); err != nil || got != server {
				t.Errorf("%s: %s answered after %s: %v", when, got, server, err)
				return
			}
		}
	}
	same("at first")
	for i := range 3 {
		name := fmt.Sprint("other", i)
		s.publish(name, "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
		t.Logf("%s answers %s after it has its address", name, s.serves(s.address(name)+":80").Round(time.Millisecond))
	}
	same("after other Services came")
	holder := s.onOne(addr)
	s.agent(holder).Term()
	s.Eventually(10*time.Second, "another node holds", func() bool {
		h := s.Holders(addr)
		return len(h) == 1 && h[0].Name() != holder.Name()
	})
	same("on another node")
}

// TestServiceTLS: with a Secret that its owner lets the agents read, connections are
// terminated; a new certificate is served without a lost request; without that right
// nobody is served in the clear.
func TestServiceTLS(t *testing.T) {
	t.Parallel()
	s := open(t, "nftables")
	s.publish("shop", "ipFamilies: [IPv4]", "{port: 443, targetPort: 8080}", s.pods...)
	s.Kubectl("annotate", "svc", "shop", "mooring.dev/tls-secret=shop-tls")
	addr := s.address("shop") + ":443"
	s.secret("shop-tls", "first.example")
	time.Sleep(2 * time.Second)
	if name, err := s.servedName(addr); err == nil {
		t.Errorf("%s is served although the agents may not read the Secret", name)
	}
	s.Apply([]byte(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: shop-tls}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [shop-tls], verbs: [get, list, watch]}]`),
		[]byte(`apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: shop-tls}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: shop-tls}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "mooring:agents"}]`))
	is := func(want string) func() bool {
		return func() bool {
			name, err := s.servedName(addr)
			return err == nil && name == want
		}
	}
	s.Eventually(40*time.Second, "the first certificate is served", is("first.example"))
	s.secret("shop-tls", "second.example")
	s.Eventually(10*time.Second, "the second one is", is("second.example"))
}
