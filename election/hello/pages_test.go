package hello

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mooring.dev/mooring/election"
)

// saysOf are the groups as Say takes them.
func saysOf(groups []Group) map[string]election.Say {
	says := map[string]election.Say{}
	for _, g := range groups {
		says[g.Name] = g.Say
	}
	return says
}

// TestFit: what cannot be said is left out and named, the rest fits exactly into
// as many datagrams as it takes.
func TestFit(t *testing.T) {
	k := keyOf(t, secretA)
	for _, c := range []struct {
		name        string
		groups      []Group
		kept, pages int
		says        string
	}{
		{"nothing", nil, 0, 1, ""},
		{"a few", many(3, "g"), 3, 1, ""},
		{"all that one takes", many(MaxGroups, "g"), MaxGroups, 1, ""},
		{"one more", many(MaxGroups+1, "g"), MaxGroups + 1, 2, ""},
		{"long names", many(9, strings.Repeat("g", 120)), 9, 2, ""},
		{"the longest names", many(3, strings.Repeat("g", 249)), 3, 1, ""},
		{"all that a node may say", many(MaxTotal, "g"), MaxTotal, MaxTotal / MaxGroups, ""},
		{"one too many", many(MaxTotal+1, "g"), MaxTotal, MaxTotal / MaxGroups, "no room for 1 groups"},
		{"a bad name", []Group{{Name: "a"}, {Name: "b c"}}, 1, 1, `group "b c": a name is`},
		{"a bad node", []Group{{"a", election.Say{To: "-"}}, {Name: "b"}}, 1, 1, "group a, node name"},
		{"all names at their longest", []Group{{strings.Repeat("g", 253), election.Say{From: strings.Repeat("n", 253),
			To: strings.Repeat("o", 253), Forwards: strings.Repeat("p", 253)}}, {Name: "h"}}, 1, 1, "use shorter names"},
	} {
		kept, err := fit("cp-1", saysOf(c.groups))
		if len(kept) != c.kept || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: kept %d, %v", c.name, len(kept), err)
		}
		pages := paginate("cp-1", kept)
		if len(pages) != c.pages {
			t.Errorf("%s: %d pages, want %d", c.name, len(pages), c.pages)
		}
		for _, p := range pages {
			if b := encoded(t, p.message(), k); len(b) > MaxSize {
				t.Errorf("%s: %d bytes", c.name, len(b))
			}
		}
	}
}

// message is the page in a hello.
func (p page) message() Message {
	m := sample()
	m.Node, m.Groups, m.After, m.More = "cp-1", p.groups, p.after, p.more
	return m
}

// TestPagesMerge: whatever a node says, changes and takes back, in whatever order
// its pages come and however often, a peer knows it in the end; and what a page does
// not speak of stays.
func TestPagesMerge(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		says := map[string]election.Say{}
		var known []Group
		for round := range 6 {
			for range rng.IntN(120) {
				name := fmt.Sprint("g", rng.IntN(200), strings.Repeat("x", rng.IntN(60)))
				if rng.IntN(3) == 0 {
					delete(says, name)
				} else {
					says[name] = election.Say{Transitions: rng.Int64N(5), To: "cp-3"}
				}
			}
			if rng.IntN(10) == 0 {
				clear(says)
			}
			groups, err := fit("cp-1", says)
			if err != nil {
				t.Fatal(err)
			}
			pages := paginate("cp-1", groups)
			for _, i := range append(rng.Perm(len(pages)), rng.Perm(len(pages))...) {
				m, err := Decode(encoded(t, pages[i].message(), keyOf(t, secretA)), []Key{keyOf(t, secretA)})
				if err != nil {
					t.Fatal(err)
				}
				known, _ = merge(known, m)
			}
			if !maps.Equal(saysOf(known), says) || !slices.IsSortedFunc(known, func(a, b Group) int { return strings.Compare(a.Name, b.Name) }) {
				t.Fatalf("seed %d, round %d: knows %v, said %v", seed, round, known, says)
			}
			if _, again := merge(known, pages[0].message()); again {
				t.Fatalf("seed %d: the same again is news", seed)
			}
		}
	}
}

// TestMergeIsBounded: a peer of a wrong release does not fill the memory.
func TestMergeIsBounded(t *testing.T) {
	known := many(MaxTotal, "g")
	m := Message{After: "h", Groups: many(3, "i")}
	if got, changed := merge(known, m); changed || len(got) != MaxTotal {
		t.Errorf("%d groups", len(got))
	}
}

// TestNews: what changed is news, and what moved to another page.
func TestNews(t *testing.T) {
	old := paginate("cp-1", many(3*MaxGroups, "g"))
	changed := many(3*MaxGroups, "g")
	changed[MaxGroups].Say.Transitions = 7
	for _, c := range []struct {
		name   string
		groups []Group
		want   []int
	}{
		{"nothing", many(3*MaxGroups, "g"), nil},
		{"one group", changed, []int{1}},
		{"a new one at the end", many(3*MaxGroups+1, "g"), []int{2, 3}},
		{"the first one gone", many(3*MaxGroups, "g")[1:], []int{0, 1, 2}},
		{"all but a page gone", many(MaxGroups, "g"), []int{0}},
	} {
		if got := news(old, paginate("cp-1", c.groups)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
