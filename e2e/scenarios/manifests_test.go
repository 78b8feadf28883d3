package scenarios

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mooring.dev/mooring/e2e/lab"
)

// printer runs `mooring manifest` of the binary under test.
type printer struct {
	*lab.Lab
	t *testing.T
}

func (p printer) print(args ...string) string {
	p.t.Helper()
	out, err := exec.Command(lab.Mooring(p.t), append([]string{"manifest"}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("mooring manifest %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// accepted sends a text to the API server, which checks it as if it were applied.
func (p printer) accepted(what, text string) {
	p.t.Helper()
	out, err := p.TryKubectl([]byte(text), "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
	if err != nil {
		p.t.Errorf("%s: %v\n%s", what, err, out)
	}
}

// TestManifests: a real API server takes every manifest, as it is and for a site of
// its own, and the kustomize base.
func TestManifests(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	l.Nodes(1)
	l.Start()
	p := printer{l, t}
	// A dry run changes nothing, so what others need must be there; a controller
	// makes this account in a real cluster.
	l.Apply([]byte("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: kube-system}"))
	for _, site := range [][]string{
		nil,
		{"--namespace", "vips", "--image", "registry.example:5000/mooring:v1", "--pull-policy", "Never",
			"--metrics-bind", "[::]:9555"},
	} {
		space := "mooring-system"
		if site != nil {
			space = site[1]
		}
		l.Apply([]byte(p.print(append([]string{"namespace"}, site...)...)),
			[]byte("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: "+space+"}"))
		for line := range strings.Lines(p.print("list")) {
			name := strings.Fields(line)[0]
			// The operator's CRDs are not there: a unit test parses these.
			theirs := strings.Contains(line, "PodMonitor") || strings.Contains(line, "PrometheusRule")
			if theirs || !strings.HasSuffix(name, ".yaml") {
				continue
			}
			p.accepted(name, p.print(append([]string{name}, site...)...))
		}
		p.accepted("all", p.print(append([]string{"all"}, site...)...))
		base := filepath.Join(t.TempDir(), "base")
		p.print(append([]string{"kustomize", "--out", base}, site...)...)
		if out, err := l.TryKubectl(nil, "apply", "--server-side", "--dry-run=server", "-k", base); err != nil {
			t.Errorf("kustomize: %v\n%s", err, out)
		}
		files, err := os.ReadDir(base)
		if err != nil || !slices.ContainsFunc(files, func(f os.DirEntry) bool { return f.Name() == "kustomization.yaml" }) {
			t.Errorf("no kustomization: %v", err)
		}
	}
	if out, err := p.TryKubectl([]byte(strings.Replace(p.print("static-pod"), "hostNetwork:", "hostNetwrok:", 1)),
		"apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"); err == nil {
		t.Errorf("an API server that takes anything: %s", out)
	}
}
