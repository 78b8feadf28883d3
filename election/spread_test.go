package election

import (
	"fmt"
	"slices"
	"testing"
)

// TestSpread: evenly, the same whatever the order, and little changes when a node
// goes.
func TestSpread(t *testing.T) {
	var groups, nodes []string
	for i := range 24 {
		groups = append(groups, fmt.Sprint("pool-lan-", i))
	}
	for i := range 5 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	load := func(m map[string]string) map[string]int {
		out := map[string]int{}
		for _, n := range m {
			out[n]++
		}
		return out
	}
	five := Spread(groups, nodes)
	for n, count := range load(five) {
		if n == "" || count > 5 {
			t.Errorf("%q has %d of 24", n, count)
		}
	}
	if len(load(five)) != 5 {
		t.Errorf("spread over %v", load(five))
	}
	mixed := slices.Clone(nodes)
	slices.Reverse(mixed)
	again := Spread(groups, mixed)
	for g, n := range five {
		if again[g] != n {
			t.Errorf("%s is at %s or %s by the order of the nodes", g, n, again[g])
		}
	}
	four, moved := Spread(groups, nodes[:4]), 0
	for g, n := range five {
		if n != "n4" && four[g] != n {
			moved++
		}
	}
	if moved > 8 {
		t.Errorf("%d groups moved that were not at the node that went", moved)
	}
	if got := Spread(groups, nil); len(got) != 0 {
		t.Errorf("without nodes: %v", got)
	}
}
