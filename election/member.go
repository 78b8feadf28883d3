package election

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// Member is one node that may hold the group, as its member Lease says.
type Member struct {
	Node string `json:"node"`
	// MACs are the hardware addresses of its announcing links.
	MACs []string `json:"macs"`
	// Addrs are its own addresses on these links.
	Addrs []string `json:"addrs"`
	// Live says that its member Lease is renewed and that it is not leaving.
	Live bool `json:"live"`
	// Priority ranks before the hash: the higher, the better.
	Priority int `json:"priority,omitempty"`
	// Pools of addresses that it can announce; the API server's VIPs are in none.
	Pools []string `json:"pools,omitempty"`
	// Drain says that its operator wants it empty; it is not Live then.
	Drain bool `json:"drain,omitempty"`
}

// rankOf orders nodes for a group by rendezvous hashing (Thaler and Ravishankar
// 1998): every node computes the same order and a node that comes or goes
// moves nobody else.
func rankOf(group, node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(group + "\x00" + node))
	x := h.Sum64()
	// FNV's last bytes mix badly; finish as in SplitMix64.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// byRank compares members for a group, the better one first: priority, then
// hash, then name.
func byRank(group string) func(a, b Member) int {
	return func(a, b Member) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority),
			cmp.Compare(rankOf(group, b.Node), rankOf(group, a.Node)), cmp.Compare(a.Node, b.Node))
	}
}

// Ranked sorts members best first for the group.
func Ranked(group string, members []Member) []Member {
	out := slices.Clone(members)
	slices.SortFunc(out, byRank(group))
	return out
}

// ownerOf names the member that has the MAC, or "": of two the one that lives, as
// a node may have been installed anew under another name.
func ownerOf(members []Member, mac string) string {
	owner := ""
	for _, m := range members {
		if has := slices.Contains(m.MACs, mac); has && (m.Live || owner == "") {
			owner = m.Node
			if m.Live {
				break
			}
		}
	}
	return owner
}
