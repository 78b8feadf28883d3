package election

import "slices"

// Spread gives each group a preferred node, evenly: no node is preferred by more
// than its share of the groups, rounded up. Each group goes to the best-ranked node
// that has room, in the order of the groups' names, so that every node computes the
// same, and little changes when a group or a node comes or goes (rendezvous hashing
// with bounded loads, Mirrokni et al. 2018). Groups without nodes have none.
func Spread(groups []string, nodes []string) map[string]string {
	out := map[string]string{}
	if len(nodes) == 0 {
		return out
	}
	groups = slices.Sorted(slices.Values(groups))
	most := (len(groups) + len(nodes) - 1) / len(nodes)
	load := map[string]int{}
	for _, g := range groups {
		best := ""
		for _, n := range nodes {
			if load[n] < most && (best == "" || outranks(g, n, best)) {
				best = n
			}
		}
		out[g] = best
		load[best]++
	}
	return out
}

// outranks orders two nodes for a group by their hashes, then by name.
func outranks(group, a, b string) bool {
	x, y := rankOf(group, a), rankOf(group, b)
	return x > y || x == y && a < b
}
