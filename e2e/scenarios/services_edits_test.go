package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"mooring.dev/mooring/e2e/lab"
)

// poolExtra is a second pool, which gives addresses only to those who name it.
const poolExtra = `apiVersion: mooring.dev/v1alpha1
kind: AddressPool
metadata: {name: extra}
spec: {autoAssign: false, addresses: [%s]%s}
`

// bystanders are Services that nobody edits: one of each data path.
type bystanders struct {
	s      *shop
	probes []*lab.Probe
}

// standBy makes them and begins to ask.
func (s *shop) standBy() *bystanders {
	s.t.Helper()
	s.publish("still", v4+`, loadBalancerIP: 10.99.0.210`, web80, s.pods...)
	s.publish("still-direct", v4+", externalTrafficPolicy: Local, loadBalancerIP: 10.99.0.211",
		"{name: web, port: 80, targetPort: 8080}", s.pods[0])
	b := &bystanders{s: s}
	for _, name := range []string{"still", "still-direct"} {
		addr := s.address(name) + ":80"
		s.serves(addr)
		s.onOne(s.address(name))
		b.probes = append(b.probes, s.requests(addr))
	}
	return b
}

// unharmed fails the test if one of them lost a request so far.
func (b *bystanders) unharmed(after string) {
	b.s.t.Helper()
	for _, p := range b.probes {
		if r := p.Snapshot(); r.Failed > 0 {
			b.s.t.Errorf("another Service lost requests by the time of: %s: %s", after, r)
		}
	}
}

// end is unharmed for good.
func (b *bystanders) end() {
	b.s.t.Helper()
	for _, p := range b.probes {
		noneLost(b.s.t, "requests to a Service that nobody edits", p.Stop())
	}
}

// TestServiceEdits: every kind of edit of a live Service takes effect, and other
// Services lose no request by it.
func TestServiceEdits(t *testing.T) {
	t.Parallel()
	s := open(t, "nftables")
	others := s.standBy()
	s.publish("shop", v4, web80, s.pods...)
	s.serves(s.address("shop") + ":80")
	for _, edit := range []struct {
		what string
		do   func()
	}{
		{"type", s.editType}, {"ports", s.editPorts}, {"class", s.editClass}, {"address", s.editAddress},
		{"pools", s.editPools}, {"data path", s.editDataPath}, {"externalTrafficPolicy", s.editPolicy},
		{"families", s.editFamilies}, {"status of another load balancer", s.editStatus},
		{"hostile annotations", s.editHostile},
	} {
		begun := time.Now()
		edit.do()
		t.Logf("%s: %s", edit.what, time.Since(begun).Round(time.Millisecond))
		others.unharmed(edit.what)
	}
	others.end()
}

// editType: an address is given back with the type, and another is had with it.
func (s *shop) editType() {
	s.t.Helper()
	addr := s.address("shop")
	s.patch("shop", `{"spec":{"type":"ClusterIP"}}`)
	s.away(addr)
	s.Eventually(5*time.Second, "nothing of ours is in the status of a Service of type ClusterIP", func() bool {
		st := s.service("shop").Status
		return len(st.LoadBalancer.Ingress) == 0 && len(st.Conditions) == 0
	})
	s.patch("shop", `{"spec":{"type":"LoadBalancer"}}`)
	s.serves(s.address("shop") + ":80")
	if msg, ok := s.says("shop", "AddressAssigned"); !ok {
		s.t.Errorf("AddressAssigned: %s", msg)
	}
}

// editPorts: a port that is added is served, one that is removed is not, and those
// that stay lose nothing.
func (s *shop) editPorts() {
	s.t.Helper()
	addr := s.address("shop")
	s.patch("shop", `{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080}]}}`) // many need names
	s.serves(addr + ":80")
	requests, stream := s.requests(addr+":80"), s.Client().Ticks(addr+":80")
	s.patch("shop", `{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080},{"name":"alt","port":81,"targetPort":8080}]}}`)
	s.t.Logf("a port that is added answers after %s", s.serves(addr+":81").Round(time.Millisecond))
	s.patch("shop", `{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080},{"name":"alt","port":82,"targetPort":8080}]}}`)
	s.serves(addr + ":82")
	s.refuses(addr + ":81")
	s.patch("shop", `{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080}]}}`)
	s.refuses(addr + ":82")
	noneLost(s.t, "requests to a port that stays", requests.Stop())
	if r := stream.Stop(); len(r.Breaks) > 0 || r.Silence > time.Second {
		s.t.Errorf("a connection to a port that stays did not live on: %s", r)
	}
	s.patch("shop", `{"spec":{"ports":[{"port":80,"targetPort":8080}]}}`)
	s.serves(addr + ":80")
}

// editClass: a Service of another class is not ours, and ours again with our class.
func (s *shop) editClass() {
	s.t.Helper()
	addr := s.address("shop")
	s.patch("shop", `{"spec":{"type":"ClusterIP"}}`)
	s.patch("shop", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"other.example/lb"}}`)
	s.away(addr)
	s.Consistently(time.Second, "a Service of another class gets nothing of us", func() bool {
		return len(s.ingress("shop")) == 0
	})
	if c := s.service("shop").Status.Conditions; len(c) != 0 {
		s.t.Errorf("conditions of a Service that is not ours: %v", c)
	}
	s.patch("shop", `{"spec":{"type":"ClusterIP"}}`)
	s.patch("shop", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"mooring.dev/lb"}}`)
	s.serves(s.address("shop") + ":80")
	s.patch("shop", `{"spec":{"type":"ClusterIP"}}`)
	s.patch("shop", `{"spec":{"type":"LoadBalancer"}}`)
	s.serves(s.address("shop") + ":80")
}

// becomes waits until the Service has exactly this address and answers there.
func (s *shop) becomes(name, want string) {
	s.t.Helper()
	s.Eventually(10*time.Second, name+" has "+want, func() bool {
		in := s.ingress(name)
		return len(in) == 1 && in[0].IP == want
	})
	s.serves(want + ":80")
}

// editAddress: a Service gets the address that it asks for, and keeps the one it has
// when that cannot be had.
func (s *shop) editAddress() {
	s.t.Helper()
	old := s.address("shop")
	s.annotate("shop", "addresses", "10.99.0.219")
	s.becomes("shop", "10.99.0.219")
	s.away(old)
	requests := s.requests("10.99.0.219:80")
	s.annotate("shop", "addresses", "10.99.0.210") // another Service's
	s.Eventually(5*time.Second, "it says that the address is not to be had", func() bool {
		msg, ok := s.says("shop", "AddressAssigned")
		return !ok && strings.Contains(msg, "10.99.0.210") && strings.Contains(msg, "keeps 10.99.0.219")
	})
	s.annotate("shop", "addresses", "")
	s.Eventually(5*time.Second, "all is well again", func() bool {
		_, ok := s.says("shop", "AddressAssigned")
		return ok
	})
	noneLost(s.t, "requests to the address that it keeps", requests.Stop())
	s.patch("shop", `{"spec":{"loadBalancerIP":"10.99.0.218"}}`)
	s.becomes("shop", "10.99.0.218")
	s.patch("shop", `{"spec":{"loadBalancerIP":null}}`)
}

// editPools: a Service follows its pool: another one by annotation, one that is made
// smaller, chooses others or is deleted.
func (s *shop) editPools() {
	s.t.Helper()
	extra := func(addresses, more string) {
		s.Apply(fmt.Appendf(nil, poolExtra, addresses, more))
	}
	extra(`"10.99.0.230-10.99.0.233"`, "")
	s.annotate("shop", "pool", "extra")
	s.becomes("shop", "10.99.0.230")
	s.Eventually(5*time.Second, "the pool says what is used and free", func() bool {
		return s.Kubectl("get", "addresspool", "extra", "-o", "jsonpath={.status.used} {.status.free}") == "1 3"
	})
	extra(`"10.99.0.231-10.99.0.233"`, "")
	s.becomes("shop", "10.99.0.231")
	s.away("10.99.0.230")
	if !s.told("shop", "AddressLost", "10.99.0.230") {
		s.t.Error("no Event says that the address is lost")
	}
	extra(`"10.99.0.231-10.99.0.233"`, `, serviceSelectors: [{matchLabels: {app: other}}]`)
	s.Eventually(5*time.Second, "a pool for others gives nothing", func() bool { return len(s.ingress("shop")) == 0 })
	s.away("10.99.0.231")
	s.patch("shop", `{"metadata":{"labels":{"app":"other"}}}`)
	s.becomes("shop", "10.99.0.231")
	extra(`"10.99.0.231-10.99.0.233"`, `, namespaces: [elsewhere]`)
	s.Eventually(5*time.Second, "a pool for another namespace gives nothing", func() bool { return len(s.ingress("shop")) == 0 })
	extra(`"10.99.0.231-10.99.0.233"`, `, namespaceSelectors: [{matchLabels: {kubernetes.io/metadata.name: default}}]`)
	s.becomes("shop", "10.99.0.231")
	s.Kubectl("delete", "addresspool", "extra")
	s.Eventually(5*time.Second, "a pool that is deleted gives nothing", func() bool {
		msg, ok := s.says("shop", "AddressAssigned")
		return len(s.ingress("shop")) == 0 && !ok && strings.Contains(msg, "extra")
	})
	s.away("10.99.0.231")
	s.annotate("shop", "pool", "")
	addr := s.address("shop")
	if !strings.HasPrefix(addr, "10.99.0.21") {
		s.t.Errorf("address %s is not of pool lan", addr)
	}
	s.serves(addr + ":80")
}

// editDataPath: from HAProxy to kube-proxy and back, with the address kept.
func (s *shop) editDataPath() {
	s.t.Helper()
	addr := s.address("shop")
	requests := s.requests(addr + ":80")
	for _, to := range []string{"direct", "proxy"} {
		s.annotate("shop", "data-path", to)
		mode := map[string]string{"direct": "VIP", "proxy": "Proxy"}[to]
		s.Eventually(5*time.Second, "ipMode "+mode, func() bool {
			in := s.ingress("shop")
			return len(in) == 1 && in[0].IP == addr && in[0].IPMode == mode
		})
		time.Sleep(1500 * time.Millisecond) // until kube-proxy and HAProxy have followed
		s.serves(addr + ":80")
	}
	s.annotate("shop", "data-path", "")
	r := requests.Stop()
	s.t.Logf("requests through a change of the data path and back: %s", r)
	if r.Longest > 5*time.Second { // 0.5 s to 1.3 s, and twice that on a busy machine
		s.t.Errorf("a change of the data path cost %s: %s", r.Longest, r)
	}
}

// editPolicy: Local and Cluster again; the address stays with the Service.
func (s *shop) editPolicy() {
	s.t.Helper()
	addr := s.address("shop")
	s.endpoints("shop", s.pods[2])
	requests := s.requests(addr + ":80")
	s.patch("shop", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	s.onOneOf(addr, "n3")
	s.Eventually(5*time.Second, "the pod sees the client", func() bool {
		_, client, err := s.get(addr + ":80")
		return err == nil && client == s.Client().IP()
	})
	s.patch("shop", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	s.Eventually(5*time.Second, "HAProxy serves again", func() bool {
		_, client, err := s.get(addr + ":80")
		return err == nil && client != s.Client().IP() && s.ingress("shop")[0].IPMode == "Proxy"
	})
	time.Sleep(time.Second)
	r := requests.Stop()
	s.t.Logf("requests through Local and back: %s", r)
	if r.Longest > 5*time.Second {
		s.t.Errorf("a change of the policy cost %s: %s", r.Longest, r)
	}
	s.endpoints("shop", s.pods...)
}

// editFamilies: a Service that becomes dual stack keeps its address and gets another.
func (s *shop) editFamilies() {
	s.t.Helper()
	addr := s.address("shop")
	requests := s.requests(addr + ":80")
	s.slice("shop", "IPv6", s.pods, nil)
	s.patch("shop", `{"spec":{"ipFamilyPolicy":"PreferDualStack","ipFamilies":["IPv4","IPv6"]}}`)
	s.Eventually(5*time.Second, "an address of each family", func() bool { return len(s.ingress("shop")) == 2 })
	in := s.ingress("shop")
	if in[0].IP != addr || !strings.HasPrefix(in[1].IP, "fd99::21") {
		s.t.Errorf("status: %+v, had %s", in, addr)
	}
	s.serves("[" + in[1].IP + "]:80")
	s.patch("shop", `{"spec":{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv4"],"clusterIPs":["`+
		s.service("shop").Spec.ClusterIP+`"]}}`)
	s.Eventually(5*time.Second, "one address again", func() bool { return len(s.ingress("shop")) == 1 })
	s.away(in[1].IP)
	noneLost(s.t, "requests through a change of families", requests.Stop())
	s.Kubectl("delete", "endpointslice", "shop-ipv6")
}

// editStatus: what klipper-lb left in the status, the addresses of nodes, is replaced,
// and no node serves it meanwhile.
func (s *shop) editStatus() {
	s.t.Helper()
	s.publish("migrated", v4, "{port: 8088, targetPort: 8080}", s.pods...)
	var nodes []string
	for _, n := range s.All() {
		nodes = append(nodes, fmt.Sprintf(`{"ip":%q}`, n.IP()))
	}
	klipper := `{"status":{"loadBalancer":{"ingress":[` + strings.Join(nodes, ",") + `]}}}`
	ours := s.address("migrated")
	s.serves(ours + ":8088")
	for _, status := range []string{klipper, `{"status":{"loadBalancer":{"ingress":[` + nodes[0] + `]}}}`,
		`{"status":{"loadBalancer":{"ingress":[{"hostname":"lb.example"}]}}}`, `{"status":{"loadBalancer":null}}`} {
		s.patch("migrated", status, "status")
		s.Eventually(5*time.Second, "the status is ours again", func() bool {
			in := s.service("migrated").Status.LoadBalancer.Ingress
			return len(in) == 1 && in[0].IP == ours && in[0].Hostname == "" &&
				*in[0].IPMode == corev1.LoadBalancerIPModeProxy
		})
	}
	s.serves(ours + ":8088")
	for _, n := range s.All() {
		if _, _, err := s.get(n.IP() + ":8088"); err == nil {
			s.t.Errorf("%s serves the Service on its own address", n.Name())
		}
	}
	s.Kubectl("delete", "svc", "migrated")
}

// editHostile: values made to break out of a line, a file or a log are refused, said,
// and nothing else suffers.
func (s *shop) editHostile() {
	s.t.Helper()
	addr := s.address("shop")
	requests := s.requests(addr + ":80")
	long := strings.Repeat("x", 200_000) // the API takes 256 KiB of all annotations together
	for _, a := range []struct{ key, value string }{
		{"balance", "leastconn\n  server evil 10.99.0.100:80"}, {"check-path", "/ HTTP/1.1\r\nX: y; show info"},
		{"check", `http"`}, {"send-proxy", "v2\x00"}, {"tls-secret", "../../etc/passwd"},
		{"shared-key", "a b;c"}, {"accept-proxy", "0.0.0.0/0; quit"}, {"max-connections", "1e9"},
		{"client-timeout", "-1s"}, {"data-path", "`reboot`"}, {"check-host", long}, {"unknown-" + strings.Repeat("y", 40), "\x1b[2J"},
	} {
		s.annotate("shop", a.key, a.value)
		s.Eventually(5*time.Second, a.key+" is said not to be used", func() bool {
			msg, ok := s.says("shop", "SettingsAccepted")
			return !ok && strings.Contains(msg, "mooring.dev/"+a.key) && !strings.ContainsAny(msg, "\n\r\x00\x1b") &&
				len(msg) < 5000
		})
		s.Eventually(5*time.Second, a.key+" is an Event", func() bool {
			return s.told("shop", "SettingNotUsed", "mooring.dev/"+a.key)
		})
		s.annotate("shop", a.key, "")
	}
	s.Eventually(5*time.Second, "all settings are in use again", func() bool {
		_, ok := s.says("shop", "SettingsAccepted")
		return ok
	})
	noneLost(s.t, "requests to the Service with hostile annotations", requests.Stop())
	for _, n := range s.All() {
		out := n.Exec("cat", n.RunDir()+"/haproxy-services/haproxy.cfg")
		if i := slices.IndexFunc([]string{"evil", "X: y", "passwd", "xxxx", "quit", "reboot"},
			func(word string) bool { return strings.Contains(out, word) }); i >= 0 {
			s.t.Errorf("%s: a hostile value is in HAProxy's configuration:\n%s", n.Name(), out)
		}
	}
}
