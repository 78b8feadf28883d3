package manifests

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestSite: each field reaches all its places and no other.
func TestSite(t *testing.T) {
	s := Site{
		Image: "localhost/mooring:v1", PullPolicy: "Never", Namespace: "vips", Metrics: netip.MustParseAddrPort("[::]:9555"),
		Kubeconfig: "/etc/k.conf", RunDir: "/run/other", StateDir: "/srv/state", KeyFile: "/etc/mooring/key",
	}
	for _, name := range Names() {
		text, err := s.Render(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".json") {
			continue
		}
		for _, old := range []string{
			"image: mooring:dev", "imagePullPolicy: IfNotPresent", "namespace: mooring-system", "- mooring-system", ": 9441",
			" /run/mooring", " /var/lib/mooring", " /etc/kubernetes/mooring.conf,",
		} {
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(strings.TrimSpace(line), "#") && strings.Contains(line, old) {
					t.Errorf("%s still says %q: %s", name, old, line)
				}
			}
		}
		for doc := range strings.SplitSeq(text, "\n---\n") {
			if err := yaml.UnmarshalStrict([]byte(doc), new(map[string]any)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	pod, _ := s.Render("static-pod")
	for _, line := range []string{
		"image: localhost/mooring:v1", "imagePullPolicy: Never", "namespace: kube-system", "hostPort: 9555",
		"httpGet: {host: 127.0.0.1, path: /readyz, port: 9555}", "hostPath: {path: /run/other, type: DirectoryOrCreate}",
	} {
		if !strings.Contains(pod, line+"\n") {
			t.Errorf("the pod lacks %s", line)
		}
	}
	for _, name := range Names() {
		plain, _ := Get(name, "")
		if same, err := (Site{}).Render(name); err != nil || same != plain {
			t.Errorf("%s: an empty site changes it: %v", name, err)
		}
	}
}

func TestSiteRefuses(t *testing.T) {
	for _, s := range []Site{
		{Image: "a b"}, {Image: "x\nimage: y"}, {PullPolicy: "sometimes"}, {PullPolicy: "Always"}, {Namespace: "UP"},
		{RunDir: "/a b"}, {StateDir: "relative"}, {KeyFile: "/root/key"}, {PullPolicy: "Always", Image: "localhost/a:1"},
	} {
		if text, err := s.Render("rbac"); err == nil || text != "" {
			t.Errorf("%+v was accepted", s)
		}
	}
	for _, image := range []string{
		"mooring:dev", "registry.example:5000/a/b:v1.2", "localhost/mooring:v1_2-3",
		"r.example/m@sha256:" + strings.Repeat("0a", 32),
	} {
		if err := (Site{Image: image}).Check(); err != nil {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// TestSets: the order in which a cluster takes them, and what is in none.
func TestSets(t *testing.T) {
	all := Expand(All)
	if first := strings.Join(all[:2], " "); first != "namespace.yaml addresspools.yaml" {
		t.Errorf("first comes %s", first)
	}
	for _, n := range all {
		if slices.Contains(Kinds(n), "Pod") || strings.Contains(n, "monitor") || strings.HasSuffix(n, ".service") {
			t.Errorf("%s is applied to every cluster", n)
		}
	}
	if diff := cmp.Diff([]string{"podmonitor.yaml", "prometheusrule.yaml"}, Expand(Monitoring)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"rbac"}, Expand("rbac")); diff != "" {
		t.Error(diff)
	}
	var k struct{ Resources []string }
	if err := yaml.Unmarshal([]byte(Kustomization()), &k); err != nil || !slices.Equal(k.Resources, all) {
		t.Errorf("kustomization of %v: %v", k.Resources, err)
	}
}

// TestRules: what the operator's schema wants, and what a person on call does.
func TestRules(t *testing.T) {
	text, _ := Get("prometheusrule", "")
	var rule struct {
		Spec struct {
			Groups []struct {
				Name  string
				Rules []struct {
					Alert, Expr, For    string
					Labels, Annotations map[string]string
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(text), &rule); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range rule.Spec.Groups[0].Rules {
		if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Mooring") || r.Expr == "" {
			t.Errorf("alert %q, expr %q", r.Alert, r.Expr)
		}
		seen[r.Alert] = true
		if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s says not what it means or what to do", r.Alert)
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d alerts", len(seen))
	}
}

// TestPodMonitor: it finds the pods of this version.
func TestPodMonitor(t *testing.T) {
	m := *objects(t, "podmonitor.yaml")[0].(*map[string]any)
	spec := m["spec"].(map[string]any)
	pod, _ := Get("static-pod", "")
	for k, v := range spec["selector"].(map[string]any)["matchLabels"].(map[string]any) {
		if !strings.Contains(pod, k+": "+v.(string)+"\n") {
			t.Errorf("the static pod has no label %s=%s", k, v)
		}
	}
	port := spec["podMetricsEndpoints"].([]any)[0].(map[string]any)["port"].(string)
	if !strings.Contains(pod, "- name: "+port+"\n") {
		t.Errorf("the static pod has no port %s", port)
	}
}

// TestDashboard: panels do not overlap, and each asks something.
func TestDashboard(t *testing.T) {
	text, _ := Get("dashboard", "")
	var d struct {
		Title, UID string
		Panels     []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if len(p.Targets) == 0 || p.Targets[0].Expr == "" {
			t.Errorf("%s asks nothing", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies upon %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}
