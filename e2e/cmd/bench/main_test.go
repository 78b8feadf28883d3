package main

import "testing"

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
