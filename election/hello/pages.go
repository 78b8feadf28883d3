package hello

import (
	"fmt"
	"slices"
	"strings"

	"mooring.dev/mooring/election"
)

// page is what one datagram says of a node's groups: all of those after a name,
// up to its last one, or to the end if there are no more.
type page struct {
	after  string
	groups []Group
	more   bool
}

// same says whether two pages say the same of the same groups.
func (p page) same(o page) bool {
	return p.after == o.after && p.more == o.more && slices.Equal(p.groups, o.groups)
}

// room is how many bytes a datagram has for groups.
func room(node, after string) int {
	free := MaxSize - headerSize - 1 - len(node) - macSize
	if after != "" {
		free -= 1 + len(after)
	}
	return free
}

// paginate splits groups in order into pages that fit, at least one. None is longer
// than fit allows.
func paginate(node string, groups []Group) []page {
	pages := []page{{}}
	free := room(node, "")
	for i := range groups {
		p := &pages[len(pages)-1]
		if len(p.groups) == MaxGroups || groups[i].size() > free {
			p.more = true
			after := groups[i-1].Name
			pages = append(pages, page{after: after})
			p, free = &pages[len(pages)-1], room(node, after)
		}
		p.groups = append(p.groups, groups[i])
		free -= groups[i].size()
	}
	return pages
}

// news lists the pages that say what the old ones did not.
func news(old, pages []page) []int {
	var out []int
	for i, p := range pages {
		if i >= len(old) || !p.same(old[i]) {
			out = append(out, i)
		}
	}
	return out
}

// fit turns what a node wants to say into groups in order. What cannot be said
// is left out and named in the error: the rest is a sign of life all the same.
func fit(node string, says map[string]election.Say) ([]Group, error) {
	groups := make([]Group, 0, len(says))
	var out []string
	for name, say := range says {
		g := Group{name, say}
		switch err := g.check(); {
		case err != nil:
			out = append(out, err.Error())
		case g.size() > room(node, strings.Repeat("x", maxName)):
			out = append(out, fmt.Sprintf("no room for group %s: use shorter names", g.Name))
		default:
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	if n := len(groups) - MaxTotal; n > 0 {
		out = append(out, fmt.Sprintf("no room for %d groups, as there are more than %d: use fewer Services with "+
			"externalTrafficPolicy Local, which have a group each", n, MaxTotal))
		groups = groups[:MaxTotal]
	}
	if len(out) == 0 {
		return groups, nil
	}
	slices.Sort(out)
	return groups, fmt.Errorf("hello does not say everything: %s", strings.Join(out, "; "))
}

// merge takes a page of what a peer says, and says whether anything changed.
func merge(known []Group, m Message) ([]Group, bool) {
	at := func(name string) int {
		i, found := slices.BinarySearchFunc(known, name, func(g Group, n string) int { return strings.Compare(g.Name, n) })
		if found {
			i++
		}
		return i
	}
	from, to := at(m.After), len(known)
	switch {
	case m.More && len(m.Groups) == 0:
		to = from
	case m.More:
		to = at(m.Groups[len(m.Groups)-1].Name)
	}
	if slices.Equal(known[from:to], m.Groups) || len(known)-(to-from)+len(m.Groups) > MaxTotal {
		return known, false
	}
	return slices.Replace(known, from, to, m.Groups...), true
}
