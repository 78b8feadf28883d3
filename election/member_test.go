package election

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func names(ms []Member) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Node)
	}
	return out
}

func someMembers(n int) []Member {
	var all []Member
	for i := range n {
		all = append(all, Member{Node: fmt.Sprintf("n%d", i+1), MACs: []string{fmt.Sprintf("mac-n%d", i+1)}, Live: true})
	}
	return all
}

// TestRankedIsOneOrder: every node computes the same order, whatever the order
// in which it learned of the others, and does not touch what it was given.
func TestRankedIsOneOrder(t *testing.T) {
	all := someMembers(9)
	want := names(Ranked("apiserver", all))
	for range 20 {
		mixed := slices.Clone(all)
		rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		before := names(mixed)
		if got := names(Ranked("apiserver", mixed)); !slices.Equal(got, want) {
			t.Fatalf("order %v, want %v", got, want)
		}
		if !slices.Equal(names(mixed), before) {
			t.Fatal("the argument was sorted")
		}
	}
	// The order is on the wire, so to speak: two versions must agree on it.
	if got := names(Ranked("apiserver", someMembers(3))); !slices.Equal(got, []string{"n3", "n1", "n2"}) {
		t.Errorf("order %v: agents of another version compute another one", got)
	}
}

// TestRankedMovesNobodyElse: a node that goes changes no other's place.
func TestRankedMovesNobodyElse(t *testing.T) {
	all := someMembers(9)
	whole := names(Ranked("g", all))
	for i, gone := range all {
		rest := slices.Delete(slices.Clone(all), i, i+1)
		want := slices.DeleteFunc(slices.Clone(whole), func(n string) bool { return n == gone.Node })
		if got := names(Ranked("g", rest)); !slices.Equal(got, want) {
			t.Errorf("without %s: %v, want %v", gone.Node, got, want)
		}
	}
}

// TestRankedSpreads: many groups do not all fall to one node.
func TestRankedSpreads(t *testing.T) {
	best := map[string]int{}
	for g := range 300 {
		best[Ranked(fmt.Sprintf("pool-a-%d", g), someMembers(3))[0].Node]++
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		if best[n] < 60 || best[n] > 140 {
			t.Errorf("%s is best for %d of 300 groups: %v", n, best[n], best)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	all := []Member{
		{Node: "n1", MACs: []string{"a", "b"}}, {Node: "n2", MACs: []string{"c"}}, {Node: "n3"},
		{Node: "n4", MACs: []string{"b"}, Live: true}, {Node: "n5", MACs: []string{"c"}}, // names of now, of old
	}
	for mac, want := range map[string]string{"a": "n1", "b": "n4", "c": "n2", "d": "", "": ""} {
		if got := ownerOf(all, mac); got != want {
			t.Errorf("owner of %q is %q, want %q", mac, got, want)
		}
	}
}
