package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mooring.dev/mooring/internal/lb"
)

// service is shop/web with one TCP port; the changes tell the story.
func service(changes ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name, s.UID = "shop", "web", "u1"
	s.CreationTimestamp = metav1.Unix(1000, 0)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.ClusterIPs = []string{"10.96.0.1"}
	s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	for _, change := range changes {
		change(s)
	}
	return s
}

// says sets annotations, given as name, value, name, value…
func says(pairs ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		for i := 0; i < len(pairs); i += 2 {
			s.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// pods is a slice of endpoints for a port; each is "ADDRESS" with marks for its
// conditions: ! not ready, ~ terminating, + serving.
func pods(port string, number int32, list ...string) *discovery.EndpointSlice {
	s := endpointSlice(port, number)
	for _, text := range list {
		a := strings.TrimRight(text, "!~+")
		e := discovery.Endpoint{Addresses: []string{a}, NodeName: ptr("n" + a[len(a)-1:])}
		for _, mark := range text[len(a):] {
			switch mark {
			case '!':
				e.Conditions.Ready = ptr(false)
			case '~':
				e.Conditions.Terminating = ptr(true)
			case '+':
				e.Conditions.Serving = ptr(true)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// drawService prints what is not as in a plain Service, in a line per thing.
func drawService(s lb.Service) string {
	var b strings.Builder
	line := func(when bool, format string, args ...any) {
		if when {
			fmt.Fprintf(&b, format+"\n", args...)
		}
	}
	line(!slices.Equal(s.Families, []lb.Family{lb.IPv4}), "families %v", s.Families)
	line(s.Policy != "", "policy %s", s.Policy)
	line(s.Local, "local %q", s.Selector)
	line(s.Addresses != nil, "wants %v", s.Addresses)
	line(s.Pool != "", "pool %s", s.Pool)
	line(s.SharedKey != "", "shared %s", s.SharedKey)
	line(s.Has != nil, "has %v", s.Has)
	line(s.Foreign, "foreign")
	line(s.DataPath != lb.DataPathProxy, "%s", s.DataPath)
	line(s.TLSSecret != "", "secret %s", s.TLSSecret)
	line(s.NodeSelector != nil, "nodes %v", s.NodeSelector)
	line(frontText(s.Front) != "", "front %s", frontText(s.Front))
	for _, p := range s.Ports {
		if fmt.Sprint(p) == "{ TCP 80 []}" {
			continue
		}
		fmt.Fprintf(&b, "port %s%d/%s", strings.TrimPrefix(p.Name+" ", " "), p.Port, p.Protocol)
		for _, e := range p.Endpoints {
			b.WriteString(" " + e.Addr.String())
			for _, m := range []struct {
				when bool
				mark string
			}{{!e.Ready, "!"}, {e.Terminating, "~"}, {!e.Ready && e.Serving, "+"}} {
				if m.when {
					b.WriteString(m.mark)
				}
			}
		}
		b.WriteString("\n")
	}
	for _, i := range s.Issues {
		line(!i.Fatal, "issue %s: %s", i.Field, i.Problem)
		line(i.Fatal, "FATAL %s: %s", i.Field, i.Problem)
	}
	return b.String()
}

// frontText prints the fields of a Front, and of its check, that are set.
func frontText(f any) string {
	var out []string
	v := reflect.ValueOf(f)
	for i := range v.NumField() {
		switch field := v.Field(i); {
		case field.IsZero() || field.Kind() == reflect.Slice && field.Len() == 0:
		case field.Kind() == reflect.Struct:
			out = append(out, frontText(field.Interface()))
		default:
			out = append(out, fmt.Sprintf("%s:%v", v.Type().Field(i).Name, field.Interface()))
		}
	}
	return strings.Join(out, " ")
}

func TestTranslateService(t *testing.T) {
	dual := func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{"2001:db8::1", "10.96.0.1"}
		s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyPreferDualStack)
	}
	ports := func(list ...corev1.ServicePort) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Ports = list }
	}
	udp := corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}
	has := func(list ...corev1.LoadBalancerIngress) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = list }
	}
	local := func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Selector = map[string]string{"b": "2", "a": "1"}
	}
	sources := func(list ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = list }
	}
	lbIP := func(a string) func(*corev1.Service) { return func(s *corev1.Service) { s.Spec.LoadBalancerIP = a } }
	labelled := func(pairs ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Labels = map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				s.Labels[pairs[i]] = pairs[i+1]
			}
		}
	}
	stories := []struct {
		name    string
		changes []func(*corev1.Service)
		want    string
	}{
		{"a plain one", nil, ""},
		{"dual stack, in the order of the cluster IPs", list(dual), "families [6 4]\npolicy PreferDualStack\n"},
		{"a cluster IP of old", list(func(s *corev1.Service) { s.Spec.ClusterIPs, s.Spec.ClusterIP = nil, "10.96.0.1" }), ""},
		{"rule 18: no cluster IP", list(func(s *corev1.Service) { s.Spec.ClusterIPs = nil }),
			"families []\nFATAL spec.clusterIPs: \"\" is no cluster IP, and without one no address can be served; " +
				"a headless Service cannot be of type LoadBalancer\n"},
		{"headless", list(func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"None"} }),
			"families []\nFATAL spec.clusterIPs: \"None\" is no cluster IP, and without one no address can be served; " +
				"a headless Service cannot be of type LoadBalancer\n"},

		{"UDP goes direct", list(ports(udp)), "direct\nport dns 53/UDP\n"},
		{"so do mixed protocols", list(ports(corev1.ServicePort{Name: "dns-tcp", Port: 53}, udp)),
			"direct\nport dns-tcp 53/TCP\nport dns 53/UDP\n"},
		{"and SCTP", list(ports(corev1.ServicePort{Port: 9, Protocol: corev1.ProtocolSCTP})), "direct\nport 9/SCTP\n"},
		{"and Local", list(local), "local \"a=1,b=2\"\ndirect\n"},
		{"Local through HAProxy when asked", list(local, says("mooring.dev/data-path", "proxy")), "local \"a=1,b=2\"\n"},
		{"TCP directly when asked", list(says("mooring.dev/data-path", "direct")), "direct\n"},
		{"UDP through HAProxy cannot be", list(ports(udp), says("mooring.dev/data-path", "proxy")),
			"direct\nport dns 53/UDP\nissue mooring.dev/data-path: proxy carries TCP only and the Service has other ports, " +
				"so it is served directly; split it in two with one mooring.dev/shared-key\n"},
		{"what the data path ignores", list(says("mooring.dev/data-path", "direct", "mooring.dev/check", "http",
			"mooring.dev/check-path", "/x", "mooring.dev/pool", "p")),
			"pool p\ndirect\n" +
				"issue mooring.dev/check: has no effect on the data path direct; remove it, or set mooring.dev/data-path: proxy\n" +
				"issue mooring.dev/check-path: has no effect on the data path direct; remove it, or set mooring.dev/data-path: proxy\n"},
		{"bad ports leave the others", list(ports(corev1.ServicePort{Name: "a\nb", Port: 1}, corev1.ServicePort{Name: "q",
			Port: 70000},
			corev1.ServicePort{Name: "r", Port: 1, Protocol: "QUIC"}, corev1.ServicePort{Name: "good", Port: 443})),
			"port good 443/TCP\n" +
				"issue spec.ports[0].name: \"a\\nb\" is not the name of a port; the port is not served\n" +
				"issue spec.ports[1].port: 70000 is not a port from 1 to 65535\n" +
				"issue spec.ports[2].protocol: \"QUIC\" is unknown; use TCP, UDP or SCTP\n"},

		{"its status", list(dual, has(ingressOf("192.0.2.1"), ingressOf("2001:db8::9"))),
			"families [6 4]\npolicy PreferDualStack\nhas [192.0.2.1 2001:db8::9]\n"},
		{"rule 17: klipper-lb's, node addresses", list(has(ingressOf("10.0.0.1"), ingressOf("10.0.0.2"))),
			"has [10.0.0.1 10.0.0.2]\nforeign\n"},
		{"rule 17: a host name", list(has(corev1.LoadBalancerIngress{Hostname: "lb.example"})), "foreign\n"},
		{"rule 17: an address beside its host name", list(has(corev1.LoadBalancerIngress{IP: "192.0.2.1",
			Hostname: "lb.example"})),
			"has [192.0.2.1]\nforeign\n"},
		{"rule 17: of no family of the Service", list(has(ingressOf("2001:db8::9"))), "has [2001:db8::9]\nforeign\n"},
		{"rule 17: not an address", list(has(ingressOf("192.0.2.1%e"), ingressOf("nonsense"))), "foreign\n"},

		{"addresses", list(dual, says("mooring.dev/addresses", "192.0.2.1, 2001:db8::9")),
			"families [6 4]\npolicy PreferDualStack\nwants [192.0.2.1 2001:db8::9]\n"},
		{"pool and key", list(says("mooring.dev/pool", "public.v4", "mooring.dev/shared-key", "team/1")),
			"pool public.v4\nshared team/1\n"},
		{"of MetalLB", list(says("metallb.io/loadBalancerIPs", "192.0.2.1", "metallb.io/address-pool", "p",
			"metallb.io/allow-shared-ip", "k")),
			"wants [192.0.2.1]\npool p\nshared k\n"},
		{"of MetalLB of old", list(says("metallb.universe.tf/loadBalancerIPs", "192.0.2.1",
			"metallb.universe.tf/address-pool", "p",
			"metallb.universe.tf/allow-shared-ip", "k")), "wants [192.0.2.1]\npool p\nshared k\n"},
		{"of kube-vip, which sets both", list(lbIP("192.0.2.1"), says("kube-vip.io/loadbalancerIPs", "192.0.2.1")),
			"wants [192.0.2.1]\n"},
		{"kube-vip's wish for DHCP", list(says("kube-vip.io/loadbalancerIPs", "0.0.0.0")),
			"FATAL kube-vip.io/loadbalancerIPs: \"0.0.0.0\" cannot be announced; ask for a unicast address of an AddressPool\n"},
		{"ours win", list(says("metallb.io/loadBalancerIPs", "192.0.2.9", "mooring.dev/addresses", "192.0.2.1",
			"metallb.io/address-pool", "q", "mooring.dev/pool", "p")), "wants [192.0.2.1]\npool p\n"},
		{"an empty one is none", list(says("mooring.dev/addresses", "", "metallb.io/loadBalancerIPs", "192.0.2.9",
			"mooring.dev/check", "")),
			"wants [192.0.2.9]\n"},
		{"spec.loadBalancerIP", list(lbIP("192.0.2.1")), "wants [192.0.2.1]\n"},
		{"spec.loadBalancerIP that is none", list(lbIP("web.example")),
			"FATAL spec.loadBalancerIP: \"web.example\" is not an IP address\n"},
		{"rule 18: it and the annotation disagree", list(lbIP("192.0.2.1"), says("mooring.dev/addresses", "192.0.2.2")),
			"wants [192.0.2.2]\nFATAL spec.loadBalancerIP: \"192.0.2.1\" is not among the addresses of mooring.dev/addresses; remove one of the two\n"},
		{"rule 7: too many", list(dual, says("mooring.dev/addresses", "192.0.2.1,192.0.2.2")),
			"families [6 4]\npolicy PreferDualStack\nFATAL mooring.dev/addresses: \"192.0.2.1,192.0.2.2\" names two addresses of one family; " +
				"a Service has at most one of each\n"},
		{"rule 7: one address and two families", list(dual, says("mooring.dev/addresses", "192.0.2.1")),
			"families [6 4]\npolicy PreferDualStack\nwants [192.0.2.1]\nFATAL mooring.dev/addresses: asks for IPv4 and the Service's cluster IPs " +
				"are of IPv6 and IPv4; ask for one address of each family, or change spec.ipFamilyPolicy\n"},
		{"rule 7: another family", list(lbIP("2001:db8::9")),
			"wants [2001:db8::9]\nFATAL spec.loadBalancerIP: asks for IPv6 and the Service's cluster IPs are of IPv4; " +
				"ask for one address of each family, or change spec.ipFamilyPolicy\n"},
		{"a bad pool is another than the one asked for", list(says("mooring.dev/pool", "a b")),
			"FATAL mooring.dev/pool: \"a b\" is not the name of an AddressPool: lower case letters, digits, - and ., without a namespace\n"},

		{"source ranges, trimmed, sorted, host bits off", list(sources(" 192.0.2.1/24 ", "10.0.0.0/8", "2001:db8::/32",
			"10.0.0.0/8")),
			"front Sources:[10.0.0.0/8 192.0.2.0/24 2001:db8::/32]\n"},
		{"a bad source range lets nobody in, the others stay as they are", list(sources("10.0.0.0/8", "10.0.0.0/33",
			"::ffff:10.0.0.0/104", "x")),
			"front Sources:[10.0.0.0/8]\nissue spec.loadBalancerSourceRanges: \"10.0.0.0/33\" is not a prefix such as 192.0.2.0/24 or " +
				"2001:db8::/32 and lets nobody in; nor are 2 more of the list\n"},
		{"only bad source ranges: nobody", list(sources("x")),
			"front Sources:[255.255.255.255/32]\nissue spec.loadBalancerSourceRanges: \"x\" is not a prefix such as 192.0.2.0/24 or " +
				"2001:db8::/32 and lets nobody in\n"},
		{"the annotation that was before the field", list(says(corev1.AnnotationLoadBalancerSourceRangesKey,
			"10.0.0.0/8, 192.0.2.0/24")),
			"front Sources:[10.0.0.0/8 192.0.2.0/24]\n"},
		{"which the field beats", list(sources("10.0.0.0/8"), says(corev1.AnnotationLoadBalancerSourceRangesKey,
			"0.0.0.0/0")),
			"front Sources:[10.0.0.0/8]\n"},
		{"and kube-proxy ignores", list(says(corev1.AnnotationLoadBalancerSourceRangesKey, "10.0.0.0/8",
			"mooring.dev/data-path", "direct")),
			"direct\nfront Sources:[10.0.0.0/8]\nissue service.beta.kubernetes.io/load-balancer-source-ranges: is not heeded by kube-proxy, " +
				"everybody may connect; use spec.loadBalancerSourceRanges\n"},
		{"affinity", list(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }),
			"front Affinity:3h0m0s\n"},
		{"affinity of a minute", list(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		}), "front Affinity:1m0s\n"},
		{"affinity of no time is no affinity off", list(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(0))}}
		}), "front Affinity:1s\n"},

		{"k3s: nodes of a pool", list(labelled(poolLabel, "edge")), "nodes map[svccontroller.k3s.cattle.io/lbpool:edge]\n"},
		{"k3s: enabled nodes", list(labelled(LabelEnable, "true", "app", "x")),
			"nodes map[svccontroller.k3s.cattle.io/enablelb:true]\n"},
		{"k3s: nonsense", list(labelled(poolLabel, "a;b")),
			"issue metadata.labels[svccontroller.k3s.cattle.io/lbpool]: \"a;b\" is not the value of a label and chooses no nodes\n"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			got := drawService(TranslateService(service(s.changes...), nil, nil))
			if diff := cmp.Diff(s.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func list[T any](l ...T) []T { return l }

func ingressOf(ip string) corev1.LoadBalancerIngress { return corev1.LoadBalancerIngress{IP: ip} }

// TestModeless: a Service for HAProxy whose status leaves connections to kube-proxy.
func TestModeless(t *testing.T) {
	in := func(modes ...*corev1.LoadBalancerIPMode) *corev1.Service {
		s := service()
		for i, mode := range modes {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress,
				corev1.LoadBalancerIngress{IP: fmt.Sprint("192.0.2.", i+1), IPMode: mode})
		}
		return s
	}
	direct := in(ptr(ModeVIP))
	says("mooring.dev/data-path", "direct")(direct)
	named := service()
	named.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "web.example"}}
	for _, c := range []struct {
		name string
		svc  *corev1.Service
		want bool
	}{
		{"no address yet", in(), false},
		{"kept", in(ptr(ModeProxy)), false},
		{"dropped", in(nil), true},
		{"made another", in(ptr(ModeVIP)), true},
		{"of one of two", in(ptr(ModeProxy), nil), true},
		{"kube-proxy's own", direct, false},
		{"a name has no mode", named, false},
	} {
		if got := TranslateService(c.svc, nil, nil); got.Modeless != c.want {
			t.Errorf("%s: %t", c.name, got.Modeless)
		}
	}
}

// TestTranslateServiceIdentity: what a Service is known by.
func TestTranslateServiceIdentity(t *testing.T) {
	ns := map[string]string{"team": "web"}
	s := TranslateService(service(func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), nil, ns)
	got := fmt.Sprint(s.Key, s.UID, s.Born, s.Labels, s.NamespaceLabels)
	if want := fmt.Sprint("shop/web", "u1", int64(1000), map[string]string{"a": "b"}, ns); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s := TranslateService(&corev1.Service{}, nil, nil); s.Born != 0 || s.NamespaceLabels != nil {
		t.Errorf("of nothing: born %d, labels %v", s.Born, s.NamespaceLabels)
	}
}

// TestTranslateEndpoints: from slices to endpoints.
func TestTranslateEndpoints(t *testing.T) {
	named := func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9100}}
	}
	publish := func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }
	two := pods("http", 8080, "10.0.0.1")
	two.Ports = append(two.Ports, discovery.EndpointPort{Name: ptr("metrics"), Port: ptr(int32(9))})
	udp := pods("", 8080, "10.0.0.1")
	udp.Ports[0].Protocol = ptr(corev1.ProtocolUDP)
	fqdn := pods("", 8080, "web.example")
	fqdn.AddressType = discovery.AddressTypeFQDN
	noPort := pods("", 0, "10.0.0.1")
	several := pods("", 8080, "10.0.0.1")
	several.Endpoints[0].Addresses = append(several.Endpoints[0].Addresses, "10.0.0.2")
	empty := pods("", 8080, "10.0.0.1")
	empty.Endpoints[0].Addresses = nil
	stories := []struct {
		name   string
		change func(*corev1.Service)
		slices []*discovery.EndpointSlice
		want   string
	}{
		{"both families, sorted, each once", nil, list(pods("", 8080, "2001:db8::1", "10.0.0.10"), pods("", 8080,
			"10.0.0.9", "10.0.0.10")),
			"port 80/TCP 10.0.0.9:8080 10.0.0.10:8080 [2001:db8::1]:8080\n"},
		{"a port by its name, another number in each slice", named, list(two, pods("http", 8081, "10.0.0.2")),
			"port http 80/TCP 10.0.0.1:8080 10.0.0.2:8081\nport metrics 9100/TCP 10.0.0.1:9\n"},
		{"another name, another protocol, no port", nil, list(pods("x", 8080, "10.0.0.1"), udp, noPort), ""},
		{"KEP-1672: nobody says anything", nil, list(pods("", 8080, "10.0.0.1")), "port 80/TCP 10.0.0.1:8080\n"},
		{"KEP-1672: not ready is not serving, unless it says so", nil, list(pods("", 8080, "10.0.0.1!", "10.0.0.2!+",
			"10.0.0.3!~+", "10.0.0.4!~")),
			"port 80/TCP 10.0.0.1:8080! 10.0.0.2:8080!+ 10.0.0.3:8080!~+ 10.0.0.4:8080!~\n"},
		{"publishNotReadyAddresses", publish, list(pods("", 8080, "10.0.0.1!")), "port 80/TCP 10.0.0.1:8080\n"},
		{"of two opinions the better", nil, list(pods("", 8080, "10.0.0.1!", "10.0.0.2"), pods("", 8080, "10.0.0.1!+",
			"10.0.0.2!")),
			"port 80/TCP 10.0.0.1:8080!+ 10.0.0.2:8080\n"},
		{"the first address of an endpoint", nil, list(several, empty), "port 80/TCP 10.0.0.1:8080\n"},
		{"IPv4 in IPv6 form is the same pod", nil, list(pods("", 8080, "10.0.0.1", "::ffff:10.0.0.1")),
			"port 80/TCP 10.0.0.1:8080\n"},
		{"host names are no endpoints", nil, list(fqdn), ""},
		{"addresses of no pod", nil, list(pods("", 8080, "127.0.0.1", "169.254.169.254", "fe80::1", "10.0.0.1")),
			"port 80/TCP 10.0.0.1:8080\nissue spec.ports[0]: has the endpoint \"127.0.0.1\", which is not the address of a pod and gets no connections\n"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			svc := service()
			if s.change != nil {
				s.change(svc)
			}
			for range 2 { // the order of the slices does not matter
				if diff := cmp.Diff(s.want, drawService(TranslateService(svc, s.slices, nil))); diff != "" {
					t.Error(diff)
				}
				for i := range len(s.slices) / 2 {
					j := len(s.slices) - 1 - i
					s.slices[i], s.slices[j] = s.slices[j], s.slices[i]
				}
			}
		})
	}
	got := TranslateService(service(), list(pods("", 1, "10.0.0.7")), nil)
	if e := got.Ports[0].Endpoints[0]; e.Node != "n7" {
		t.Errorf("endpoint %+v", e)
	}
}

func TestOurs(t *testing.T) {
	class := func(c string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &c }
	}
	none := func(*corev1.Service) {}
	for _, s := range []struct {
		name     string
		change   func(*corev1.Service)
		mode     ClassMode
		accepted []string
		want     bool
	}{
		{"no class", none, ClassDefault, nil, true},
		{"our class", class(Class), ClassDefault, nil, true},
		{"another's", class("io.cilium/l2"), ClassDefault, nil, false},
		{"another's that is accepted", class("io.cilium/l2"), ClassDefault, []string{"kube-vip.io/x", "io.cilium/l2"}, true},
		{"no class, only ours", none, ClassOnly, nil, false},
		{"our class, only ours", class(Class), ClassOnly, nil, true},
		{"accepted, only ours", class("io.cilium/l2"), ClassOnly, []string{"io.cilium/l2"}, true},
		{"another type", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, ClassDefault, nil, false},
	} {
		if got := Ours(service(s.change), s.mode, s.accepted); got != s.want {
			t.Errorf("%s: %t", s.name, got)
		}
	}
}

// BenchmarkTranslateService: ten endpoints and a few annotations.
func BenchmarkTranslateService(b *testing.B) {
	svc := service(says("mooring.dev/check", "http", "mooring.dev/check-path", "/healthz", "mooring.dev/client-timeout",
		"5m"))
	s := pods("", 8080)
	for i := range 10 {
		s.Endpoints = append(s.Endpoints, discovery.Endpoint{Addresses: []string{fmt.Sprintf("10.0.0.%d", i+1)}})
	}
	all := list(s)
	b.ReportAllocs()
	for b.Loop() {
		if len(TranslateService(svc, all, nil).Ports) != 1 {
			b.Fatal("no port")
		}
	}
}
