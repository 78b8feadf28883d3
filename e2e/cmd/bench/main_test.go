package main

import (
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const ms = time.Millisecond

// TestFigures: what is printed is what was measured.
func TestFigures(t *testing.T) {
	for _, c := range []struct {
		values []float64
		median float64
		spread string
	}{
		{[]float64{7}, 7, "7 (7-7)"},
		{[]float64{9, 1, 5}, 5, "5 (1-9)"},
		{[]float64{4, 1, 3, 2}, 3, "3 (1-4)"},
	} {
		if got := median(c.values); got != c.median {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.median)
		}
		if got := spread(c.values, "%.0f"); got != c.spread {
			t.Errorf("spread of %v is %q, want %q", c.values, got, c.spread)
		}
	}
	unsorted := []float64{3, 1, 2}
	median(unsorted)
	if unsorted[0] != 3 {
		t.Error("the runs were reordered")
	}
}

// TestRatio: nothing lost by a peer is never printed as a number.
func TestRatio(t *testing.T) {
	for _, c := range []struct {
		a, b float64
		want string
	}{
		{150, 300, "0.50"},
		{0, 300, "0.00"},
		{0, 0, "1 (nothing lost by either)"},
		{10, 0, "infinite (the peer lost nothing)"},
	} {
		if got := ratio(c.a, c.b); got != c.want {
			t.Errorf("ratio(%v, %v) is %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

// TestDistribution: equal runs are one number, nothing measured is none.
func TestDistribution(t *testing.T) {
	for _, c := range []struct {
		values []time.Duration
		want   string
	}{
		{[]time.Duration{0, 0}, "0"},
		{[]time.Duration{-1, -1}, "–"},
		{[]time.Duration{150 * ms, 140 * ms, 171 * ms}, "150 (140–171)"},
	} {
		if got := distribution(c.values); got != c.want {
			t.Errorf("%v: %q, want %q", c.values, got, c.want)
		}
	}
}

// TestCount: requests of resources and health checks are told apart, also where
// a label's name ends in another's.
func TestCount(t *testing.T) {
	const metrics = `# HELP apiserver_request_total Counter of apiserver requests
apiserver_request_total{code="200",component="apiserver",group="",resource="",subresource="/readyz",verb="GET"} 40
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT"} 60
apiserver_request_total{code="200",group="",resource="nodes",subresource="status",verb="PATCH"} 2
apiserver_request_terminations_total{code="0",resource="leases"} 7
apiserver_request_total{code="200",resource="pods"} nonsense
`
	got := count(metrics)
	if got.resources != 62 || got.checks != 40 {
		t.Errorf("counted %+v, want 62 of resources and 40 checks", got)
	}
}

// sampled is a small measurement with everything in it.
func sampled() []result {
	cut := result{Name: "link-cut", Title: "link cut <&>", Target: "≤ 180 ms", Samples: map[string][]sample{}}
	for i, outage := range []time.Duration{150 * ms, 400 * ms, 160 * ms} {
		cut.add("mooring", sample{Outage: outage, TCP: outage + 5*ms, Failed: 30 + i, Healed: 12 * ms, Slowest: 51 * ms, Lane: lane{
			From: -time.Second, To: 5 * time.Second,
			Answers: []bar{{"n1", -time.Second, 0}, {"n2", outage, 5 * time.Second}},
			Outages: []bar{{"", 0, outage}},
		}})
		cut.add(tuned, sample{Outage: 2 * outage, TCP: 2 * outage, Failed: 60, Two: 100 * ms, Moved: i == 1, Lane: lane{
			From: -time.Second, To: 5 * time.Second,
			Answers:   []bar{{"n1", -time.Second, 0}, {"stranger", 2 * outage, 5 * time.Second}},
			Outages:   []bar{{"", 0, 2 * outage}},
			Contested: []bar{{"", 3 * time.Second, 3100 * ms}},
		}})
	}
	cold := result{Name: "cold-start", Title: "cold start", Target: "≤ 3 s", Samples: map[string][]sample{},
		Streams: []string{"watch: 0 broken"}}
	cold.add("mooring", sample{Outage: 900 * ms, TCP: -1})
	return []result{cut, cold}
}

// TestGolden: the table and the picture, as they were looked at.
func TestGolden(t *testing.T) {
	for file, got := range map[string]string{
		"results.md":   markdown([]string{"agent at rest: RSS 40 MiB"}, sampled()),
		"timeline.svg": timeline(groups(sampled())),
	} {
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || got != string(want) {
			t.Errorf("%s differs (%v); go test -update and look at it:\n%s", file, err, got)
		}
	}
}

// TestPictureIsOneRun: contenders in the picture are of the same run, mooring's median.
func TestPictureIsOneRun(t *testing.T) {
	all := groups(sampled())
	if len(all) != 1 || len(all[0].Lanes) != 2 {
		t.Fatalf("one row has a timeline, of two contenders; got %v", all)
	}
	if a, b := all[0].Lanes[0].Outages[0].To, all[0].Lanes[1].Outages[0].To; a != 160*ms || b != 320*ms {
		t.Errorf("outages of %s and %s are not of the median run", a, b)
	}
}

// TestPictureOfNonsense: bars outside the axis, no lanes, no time: no picture breaks.
func TestPictureOfNonsense(t *testing.T) {
	for _, g := range []group{{}, {Title: "empty"}, {Lanes: []lane{{}}},
		{Lanes: []lane{{From: 0, To: time.Second, Answers: []bar{{"n1", -time.Hour, time.Hour}, {"n2", 5, 4}}}}}} {
		svg := timeline([]group{g})
		if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
			t.Errorf("not well-formed: %v", err)
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || strings.Contains(svg, `width="-`) {
			t.Errorf("%v: %s", g, svg)
		}
	}
}

// TestRows: names are unique, each row says what is promised and how it is done.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows() {
		if seen[r.name] || r.title == "" || r.target == "" || (r.fault == nil) == (r.own == nil) {
			t.Errorf("row %q: named twice, or without title, target or one way to measure it", r.name)
		}
		seen[r.name] = true
	}
	if !slices.Contains(names(), "rest") || len(names()) != len(rows())+2 {
		t.Errorf("rows to choose from: %v", names())
	}
}

// TestOptions: a typing error is found before a cluster is built, and named.
func TestOptions(t *testing.T) {
	good := options{runs: 1, outage: time.Second, size: 1, out: filepath.Join(t.TempDir(), "new")}
	if err := good.check(); err != nil {
		t.Errorf("good options: %v", err)
	}
	if _, err := os.Stat(good.out); err != nil {
		t.Errorf("the directory of the results is not made: %v", err)
	}
	bad := good
	bad.only = []string{"link-cut", "linkcut"}
	if err := bad.check(); err == nil || !strings.Contains(err.Error(), `"linkcut"`) {
		t.Errorf("a row that is not there: %v", err)
	}
	bad = good
	bad.runs = 0
	if bad.check() == nil {
		t.Error("no runs are no measurement")
	}
	if !good.wants("anything") {
		t.Error("without -only all rows are wanted")
	}
	good.only = []string{"move"}
	if good.wants("drain") || !good.wants("move") {
		t.Error("with -only only those")
	}
}

// TestParentOf: a program's name may have brackets and spaces in it.
func TestParentOf(t *testing.T) {
	if got := parentOf(os.Getpid()); got != os.Getppid() {
		t.Errorf("my parent is %d, not %d", os.Getppid(), got)
	}
	if got := parentOf(1 << 30); got != 0 {
		t.Errorf("nobody's parent is %d", got)
	}
}
