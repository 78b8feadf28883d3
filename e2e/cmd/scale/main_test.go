package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

func TestMain(m *testing.M) {
	if lab.Serves() {
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestPercentile: never better than measured.
func TestPercentile(t *testing.T) {
	fifty := make([]float64, 50)
	for i := range fifty {
		fifty[i] = float64(50 - i)
	}
	for _, c := range []struct {
		v    []float64
		p    float64
		want float64
	}{
		{[]float64{7}, 50, 7}, {[]float64{7}, 99, 7}, {[]float64{1, 2}, 50, 1}, {[]float64{3, 1, 2}, 50, 2},
		{fifty, 50, 25}, {fifty, 99, 50}, {fifty, 100, 50}, {fifty, 0, 1},
	} {
		if got := percentile(c.v, c.p); got != c.want {
			t.Errorf("p%.0f of %v: %v, want %v", c.p, c.v, got, c.want)
		}
	}
	if fifty[0] != 50 {
		t.Error("the samples were sorted in place")
	}
}

// TestBusiest counts in windows that begin anywhere.
func TestBusiest(t *testing.T) {
	at := func(ms ...int) (out []time.Time) {
		for _, m := range ms {
			out = append(out, time.Unix(100, 0).Add(time.Duration(m)*time.Millisecond))
		}
		return out
	}
	for _, c := range []struct {
		at   []time.Time
		want int
	}{
		{nil, 0}, {at(5), 1}, {at(0, 999), 2}, {at(0, 1000), 1}, {at(0, 600, 900, 1200, 1599, 1600), 4},
		{at(1599, 0, 1200, 900, 600), 4},
	} {
		if got := busiest(c.at, time.Second); got != c.want {
			t.Errorf("%v: %d, want %d", c.at, got, c.want)
		}
	}
}

// TestMarkdown: one line for each figure, with its runs together.
func TestMarkdown(t *testing.T) {
	text := markdown([]figure{
		{What: "cold start", Target: "≤ 10 s", Format: "%.1f s", Samples: []float64{3, 1, 2}},
		{What: "reloads", Format: "%.0f", Samples: []float64{0, 0}},
	})
	for _, want := range []string{"| cold start | ≤ 10 s | 2.0 s (1.0 s–3.0 s) | 3 |\n", "| reloads | – | 0 | 2 |\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestCountWrites: what changes something is counted, Leases apart.
func TestCountWrites(t *testing.T) {
	leases, others := countWrites(`# HELP apiserver_request_total x
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT",version="v1"} 7
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="GET",version="v1"} 100
apiserver_request_total{code="201",group="coordination.k8s.io",resource="leases",subresource="",verb="POST",version="v1"} 2
apiserver_request_total{code="200",group="",resource="services",subresource="status",verb="PATCH",version="v1"} 1e+01
apiserver_request_total{code="200",group="",resource="services",subresource="",verb="WATCH",version="v1"} 5
apiserver_request_total{code="0",group="",resource="",subresource="",verb="POST",version="v1"} nonsense
other_total{resource="leases",verb="PUT"} 1000
`)
	if leases != 9 || others != 10 {
		t.Errorf("%v writes of Leases and %v others, want 9 and 10", leases, others)
	}
	before, now := writes{at: time.Unix(0, 0), leases: 10}, writes{at: time.Unix(30, 0), leases: 15, others: 1}
	if rate := now.since(before); rate.leases != 10 || rate.others != 2 {
		t.Errorf("a minute: %+v", rate)
	}
}

// TestOptions: typing errors are found before a cluster is built.
func TestOptions(t *testing.T) {
	good := options{runs: 1, services: 1000, large: 5000, out: t.TempDir()}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*options){
		"no runs": func(o *options) { o.runs = 0 }, "too few": func(o *options) { o.services = rolling - 1 },
		"large is less": func(o *options) { o.large = 999 }, "no room": func(o *options) { o.large = mostServices + 1 },
		"no such row": func(o *options) { o.only = []string{"start", "strat"} },
	} {
		o := good
		if edit(&o); o.check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if good.only = []string{"rest"}; !good.wants("rest") || good.wants("start") {
		t.Error("the wrong rows are wanted")
	}
}

// TestObjects: what the API server is given is what controllers would write.
func TestObjects(t *testing.T) {
	p := population{n: 3, local: true}
	s := service(p.name(2), p.local)
	if s.Name != "local-00002" || s.Spec.ExternalTrafficPolicy != "Local" || *s.Spec.AllocateLoadBalancerNodePorts {
		t.Errorf("%+v", s)
	}
	e := slice(s.Name, nil)
	if e.Labels["kubernetes.io/service-name"] != s.Name || *e.Ports[0].Name != s.Spec.Ports[0].Name {
		t.Errorf("%+v", e)
	}
	if (population{}).name(7) == p.name(7) {
		t.Error("two populations share a name")
	}
}
