package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/manifests"
)

// described lists the names of a collector's metrics.
func described(c prometheus.Collector) []string {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	var out []string
	for d := range ch {
		out = append(out, name.FindStringSubmatch(d.String())[1])
	}
	return out
}

// registered are the metrics of an agent: those of its group, of this package's
// source, and of the process.
func registered(t *testing.T) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	n := composedAs(t, "token: none", "")
	process := collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	for _, c := range []prometheus.Collector{n.agent.Registry(), process} {
		for _, name := range described(c) {
			out[name] = true
		}
	}
	sources, err := filepath.Glob("*.go")
	must(t, err)
	own := regexp.MustCompile(`Name: "(mooring_[a-z_]+)"`)
	for _, s := range sources {
		if strings.HasSuffix(s, "_test.go") {
			continue
		}
		text, err := os.ReadFile(s)
		must(t, err)
		for _, m := range own.FindAllStringSubmatch(string(text), -1) {
			out[m[1]] = true
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %v", out)
	}
	return out
}

// TestMonitoring: every metric that the alerts, the dashboard and the page about
// them name is one that agents have, and every reason is one that they say.
func TestMonitoring(t *testing.T) {
	known := registered(t)
	texts := make(map[string]string)
	for _, name := range []string{"prometheusrule.yaml", "dashboard.json"} {
		text, err := manifests.Get(name, "")
		must(t, err)
		texts[name] = text
	}
	page, err := os.ReadFile("../../docs/monitoring.md")
	must(t, err)
	texts["docs/monitoring.md"] = string(page)
	word := regexp.MustCompile(`\b(mooring|process)_[a-z_]+`)
	used := make(map[string]bool)
	for name, text := range texts {
		for _, w := range word.FindAllString(text, -1) {
			base := strings.TrimSuffix(w, "_bucket")
			if !known[w] && !known[base] {
				t.Errorf("%s names %s, which no agent has", name, w)
			}
			used[base] = true
		}
	}
	for name := range known {
		if strings.HasPrefix(name, "mooring_") && !strings.Contains(texts["docs/monitoring.md"], name) {
			t.Errorf("docs/monitoring.md lacks %s", name)
		}
	}
	said := map[string]bool{}
	for _, r := range []election.Reason{
		election.Foreign, election.AddressFailed, election.Stranger, election.NoWitness, election.Frozen,
	} {
		said[string(r)] = true
	}
	for _, m := range regexp.MustCompile(`reason=~?"([^"]+)"`).FindAllStringSubmatch(texts["prometheusrule.yaml"], -1) {
		for r := range strings.SplitSeq(m[1], "|") {
			if !said[r] {
				t.Errorf("an alert waits for the reason %s, which nobody says", r)
			}
		}
	}
}
