package kube

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/internal/lb"
)

var update = flag.Bool("update", false, "write the table of annotations into docs/annotations.md")

// TestAnnotationValues: of every annotation what is taken and what is not, with
// all that it depends on set.
func TestAnnotationValues(t *testing.T) {
	// Values are separated by |.
	tried := 0
	for _, s := range []struct{ name, good, bad string }{
		{"addresses", "192.0.2.1",
			"192.0.2.300|192.0.2.1,|fe80::1%eth0|::ffff:192.0.2.1|127.0.0.1|224.0.0.1|0.0.0.0|192.0.2.0/24|192.0.2.1 192.0.2.2"},
		{"pool", "public|a.b-c|1", "Public|a/b|-a|a..b|a b|a\n"},
		{"shared-key", "k|A.b_c/d:e@f+g=h-1", "a b|a;b|a\"b|a\x00|ä|a\\b"},
		{"data-path", "proxy", "Proxy|ipvs|proxy "},
		{"balance", "leastconn|roundrobin|source|random", "static-rr|first|hdr(x)|leastconn\n  stick on src"},
		{"check", "tcp|http|https", "TCP|ssl|http GET /"},
		{"check-path", "/|/healthz|/a/b.c_d~e?f=g&h-i", "healthz|/a b|/a#b|/a;b|/a'b|/a%20b|/$HOME|/a\\nb"},
		{"check-host", "web.example|localhost", "web.example:80|10.0.0.1|::1|a b|a\r\nX: y|Web.example"},
		{"check-status", "200|200-399|204-204", "2|600|99|399-200|200-|200,204|20x|200 204"},
		{"check-port", "1|8080|65535", "0|65536|-1|08|http|+80"},
		{"check-interval", "100ms|2s|1h|1m30s", "99ms|2h|2|-1s|2 s|fast"},
		{"check-rise", "1|100", "0|101|1.5|+1|01|1e2"},
		{"check-fall", "1|100", "0|101|three"},
		{"send-proxy", "v1|v2", "1|v3|V1|on"},
		{"accept-proxy", "192.0.2.0/24|192.0.2.1|10.0.0.0/8, 2001:db8::/32",
			"192.0.2.0/33|all|10.0.0.0/8;x|::ffff:10.0.0.0/104|fe80::1%e/64"},
		{"tls-secret", "web-tls|web.tls", "other/web-tls|Web|../x|a b"},
		{"max-connections", "1|1000000", "0|1000001|-1|many|1_000"},
		{"server-max-connections", "1|1000000", "0|1000001"},
		{"rate-limit", "1|1000000", "0|1000001|100/s"},
		{"client-rate-limit", "1|1000000", "0|1000001"},
		{"connect-timeout", "10ms|1m", "9ms|61s|5"},
		{"client-timeout", "1s|168h", "999ms|169h|0|-1s"},
		{"server-timeout", "1s|168h", "999ms|169h"},
		{"slow-start", "1s|1h", "1ms|61m"},
	} {
		tried++
		for text := range strings.SplitSeq(s.good, "|") {
			got := annotatedWith(s.name, text)
			if len(got.Issues) != 0 {
				t.Errorf("%s: %q is refused: %v", s.name, text, got.Issues)
			}
		}
		for text := range strings.SplitSeq(s.bad, "|") {
			got := annotatedWith(s.name, text)
			if len(got.Issues) != 1 || got.Issues[0].Field != prefix+s.name {
				t.Errorf("%s: %q gives %v", s.name, text, got.Issues)
				continue
			}
			if fatal := s.name == "addresses" || s.name == "pool"; got.Issues[0].Fatal != fatal {
				t.Errorf("%s: %q is fatal: %t", s.name, text, !fatal)
			}
		}
	}
	if tried != len(annotations) {
		t.Errorf("tried %d of %d annotations", tried, len(annotations))
	}
}

// annotatedWith translates a Service with one annotation and those it needs.
func annotatedWith(name, text string) lb.Service {
	svc := service(says("mooring.dev/check", "http", prefix+name, text))
	return TranslateService(svc, nil, nil)
}

// TestAnnotationsLand: each value lands in its own field, and its field only.
func TestAnnotationsLand(t *testing.T) {
	for _, s := range []struct{ all, want string }{
		{"balance=source", "Balance:source"},
		{"check=tcp", "Kind:tcp"},
		{"check=tcp check-port=81 check-interval=5s check-rise=4 check-fall=5", "Kind:tcp Port:81 Interval:5s Fall:5 Rise:4"},
		{"check=http", "Kind:http Path:/ StatusFrom:200 StatusTo:399"},
		{"check=https check-path=/ok check-host=web.example check-status=204",
			"Kind:https Path:/ok Host:web.example StatusFrom:204 StatusTo:204"},
		{"check=http check-status=200-299", "Kind:http Path:/ StatusFrom:200 StatusTo:299"},
		{"send-proxy=v1", "SendProxy:1"},
		{"send-proxy=v2", "SendProxy:2"},
		{"accept-proxy=192.0.2.9,10.0.0.0/8", "AcceptProxy:[10.0.0.0/8 192.0.2.9/32]"},
		{"max-connections=1 server-max-connections=2 rate-limit=3 client-rate-limit=4",
			"MaxConn:1 ServerMaxConn:2 Rate:3 RatePerClient:4"},
		{"connect-timeout=1s client-timeout=2s server-timeout=3s slow-start=4s",
			"ConnectTimeout:1s ClientTimeout:2s ServerTimeout:3s SlowStart:4s"},
		{"slow-start=1s1ns", "SlowStart:1s"},
		{"tls-secret=web-tls", ""},
	} {
		svc := service()
		for pair := range strings.FieldsSeq(s.all) {
			name, text, _ := strings.Cut(pair, "=")
			says(prefix+name, text)(svc)
		}
		got := TranslateService(svc, nil, nil)
		if diff := cmp.Diff(s.want, frontText(got.Front)); diff != "" || len(got.Issues) > 0 {
			t.Errorf("%s: %s%v", s.all, diff, got.Issues)
		}
	}
	if got := annotatedWith("tls-secret", "web-tls"); got.TLSSecret != "web-tls" || got.Front.TLS != "" {
		t.Errorf("tls-secret: %q, %q", got.TLSSecret, got.Front.TLS)
	}
}

// TestAnnotationNeeds: what has no effect is said.
func TestAnnotationNeeds(t *testing.T) {
	for _, s := range []struct {
		name string
		all  []string
		want string
	}{
		{"options without a check", list("mooring.dev/check-path", "/x", "mooring.dev/check-fall", "3"),
			"issue mooring.dev/check-path: has no effect without a health check; remove it, or set mooring.dev/check\n" +
				"issue mooring.dev/check-fall: has no effect without a health check; remove it, or set mooring.dev/check\n"},
		{"a page of a TCP check", list("mooring.dev/check", "tcp", "mooring.dev/check-host", "x"),
			"front Kind:tcp\nissue mooring.dev/check-host: has no effect on a check of TCP; remove it, or set mooring.dev/check: http or https\n"},
		{"a bad check leaves the rest", list("mooring.dev/check", "icmp", "mooring.dev/balance", "random"),
			"front Balance:random\nissue mooring.dev/check: \"icmp\" is unknown; use tcp, http or https\n"},
		{"a slip", list("mooring.dev/chek-path", "/x"),
			"issue mooring.dev/chek-path: is not known; the nearest name that is is mooring.dev/check-path\n"},
		{"another slip", list("mooring.dev/address", "192.0.2.1"),
			"issue mooring.dev/address: is not known; the nearest name that is is mooring.dev/addresses\n"},
		{"others' are not ours to judge", list("example.com/pool", "x", "mooring.devices/pool", "y"), ""},
		{"a list that is partly bad", list("mooring.dev/accept-proxy", "10.0.0.0/8,x,y"),
			"front AcceptProxy:[10.0.0.0/8]\nissue mooring.dev/accept-proxy: \"x\" is not a prefix such as 192.0.2.0/24 or 2001:db8::/32 " +
				"and lets nobody in; nor are 1 more of the list\n"},
	} {
		t.Run(s.name, func(t *testing.T) {
			if diff := cmp.Diff(s.want, drawService(TranslateService(service(says(s.all...)), nil, nil))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestIssuesAreBounded: whoever writes ten thousand annotations gets no ten
// thousand Events, and still hears what is fatal.
func TestIssuesAreBounded(t *testing.T) {
	svc := service(says("mooring.dev/pool", "not a pool"))
	for i := range 10_000 {
		says(fmt.Sprintf("mooring.dev/x%d", i), "y")(svc)
	}
	svc.Spec.LoadBalancerIP = "nonsense"
	got := TranslateService(svc, nil, nil).Issues
	if len(got) != maxIssues+2 {
		t.Errorf("%d issues", len(got))
	}
	last := got[len(got)-1]
	if last.Problem != "9969 more values cannot be used" || !got[0].Fatal || !got[len(got)-2].Fatal {
		t.Errorf("%v ... %v", got[0], last)
	}
}

func TestEdits(t *testing.T) {
	for _, s := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"check", "chek", 1}, {"pool", "loop",
		2}} {
		if got := lb.EditDistance(s.a, s.b); got != s.want {
			t.Errorf("%s to %s takes %d", s.a, s.b, got)
		}
	}
}

// FuzzTranslateService: whatever a Service says, nothing of it reaches others
// but what fits a strict grammar, and what is said about it is one short line.
func FuzzTranslateService(f *testing.F) {
	for _, a := range annotations {
		f.Add(prefix+a.name, "a\n  stick on src", "x", "http", "192.0.2.1", "10.0.0.1")
	}
	f.Add("mooring.dev/addresses", "192.0.2.1;x", "a b", "a;b", "h.example", "::1")
	f.Add("metallb.io/allow-shared-ip", strings.Repeat("x", 1<<20), "\x00", "\"", "fe80::1%e", "")
	f.Add("mooring.dev/"+strings.Repeat("ä", 1000), "'", "\u2028", "é", "\n", "10.0.0.0/8")
	strict := regexp.MustCompile(`^[A-Za-z0-9/._~?=&:@+-]{0,255}$`)
	name := regexp.MustCompile(`^[a-z0-9.-]{0,253}$`)
	line := regexp.MustCompile(`^[ -~]{1,300}$`)
	f.Fuzz(func(t *testing.T, key, text, label, port, status, endpoint string) {
		base := []string{"mooring.dev/check", "http", "mooring.dev/tls-secret", "x", key, text}
		svc := service(says(base...), func(s *corev1.Service) {
			s.Labels = map[string]string{poolLabel: label, LabelEnable: text}
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: port, Port: int32(len(text)),
				Protocol: corev1.Protocol(status)})
			s.Spec.LoadBalancerIP, s.Spec.LoadBalancerSourceRanges = status, []string{endpoint, label}
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, label)
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: status, Hostname: port}, {IP: endpoint}}
		})
		s := TranslateService(svc, []*discovery.EndpointSlice{endpointSlice(port, int32(len(status)), endpoint, label)}, nil)
		fr := s.Front
		for _, v := range []string{string(fr.Balance), string(fr.Check.Kind), fr.Check.Path, fr.Check.Host, fr.TLS,
			s.SharedKey, string(s.DataPath)} {
			if !strict.MatchString(v) {
				t.Errorf("%q leaves", v)
			}
		}
		for _, v := range []string{s.TLSSecret, s.Pool} {
			if !name.MatchString(v) {
				t.Errorf("%q leaves as a name", v)
			}
		}
		for k, v := range s.NodeSelector {
			if !reLabelValue.MatchString(v) || k != poolLabel && k != LabelEnable {
				t.Errorf("nodes %q=%q", k, v)
			}
		}
		for _, i := range s.Issues {
			if !line.MatchString(i.Problem) || !line.MatchString(i.Field) {
				t.Errorf("issue %q: %q", i.Field, i.Problem)
			}
		}
		for _, p := range s.Ports {
			if p.Name != "" && !reLabel.MatchString(p.Name) || p.Port == 0 {
				t.Errorf("port %+v", p)
			}
			for _, e := range p.Endpoints {
				if !e.Addr.Addr().IsGlobalUnicast() || e.Addr.Addr().Zone() != "" || e.Addr.Port() == 0 {
					t.Errorf("endpoint %+v", e)
				}
			}
		}
		if len(fr.Sources) == 0 {
			t.Error("everybody may connect though only some were listed")
		}
		for _, a := range slices.Concat(s.Addresses, s.Has) {
			if a.Zone() != "" || a.Is4In6() {
				t.Errorf("address %s", a)
			}
		}
		for _, p := range slices.Concat(fr.Sources, fr.AcceptProxy) {
			if p != p.Masked() || !p.IsValid() || p.Addr() == (netip.Addr{}) {
				t.Errorf("prefix %s", p)
			}
		}
	})
}

const (
	tableBegin = "<!-- The table is written by: go test ./internal/kube -run TestAnnotationTable -update -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

// TestAnnotationTable: docs/annotations.md says what the code does.
func TestAnnotationTable(t *testing.T) {
	const file = "../../docs/annotations.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), tableBegin)
	have, after, also := strings.Cut(rest, tableEnd)
	if !ok || !also {
		t.Fatalf("%s lacks the marks around the table: %s%s", file, tableBegin, tableEnd)
	}
	if *update {
		text := before + tableBegin + annotationTable() + tableEnd + after
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(annotationTable(), have); diff != "" {
		t.Errorf("%s is not what the code says; run with -update: %s", file, diff)
	}
}

// annotationTable is the table in Markdown.
func annotationTable() string {
	var b strings.Builder
	b.WriteString("\n| Annotation | Value | Range | Default | Needs | What it does |\n|---|---|---|---|---|---|\n")
	needs := map[need]string{
		needsProxy: "data path `proxy`", needsCheck: "`check`", needsHTTP: "`check: http` or `https`",
	}
	for _, a := range annotations {
		fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s | %s | %s |\n", prefix, a.name, a.kind, a.allowed, a.otherwise,
			needs[a.needs], a.does)
	}
	b.WriteString("\nOf other load balancers these are read, so that a migration edits no Service; ours win:\n\n")
	b.WriteString("| Annotation | Counts as |\n|---|---|\n")
	for _, a := range annotations {
		for _, key := range a.foreign {
			fmt.Fprintf(&b, "| `%s` | `%s%s` |\n", key, prefix, a.name)
		}
	}
	b.WriteString("| `spec.loadBalancerIP` (a field) | `" + prefix + "addresses`; where both are set they must agree |\n\n")
	return b.String()
}
