package haproxy

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// serverIDs gives each backend the `id` of its server. HAProxy's consistent
// hash places servers by their id (lb_chash.c), so that all nodes must agree on
// it, whatever they saw in which order: it is a hash of address and port.
//
// Two servers of one backend with one hash are rare (2 in 10^8 for ten servers).
// Then the greater address takes the next free number, which depends on the set
// alone. moved says so: a number that runs cannot be changed over the socket, so
// it has to count as structure.
func serverIDs(list []lb.Backend) (ids []uint32, moved bool) {
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return list[a].Addr.Compare(list[b].Addr) })
	ids = make([]uint32, len(list))
	used := make(map[uint32]bool, len(list))
	for _, i := range order {
		id := serverHash(list[i].Addr)
		for used[id] {
			id, moved = nextID(id), true
		}
		ids[i], used[id] = id, true
	}
	return ids, moved
}

// maxID is the greatest id that HAProxy takes.
const maxID = 1<<31 - 1

// serverHash is FNV-1a over the 16 bytes of the address and the port, in 1 to
// maxID.
func serverHash(a netip.AddrPort) uint32 {
	ip := a.Addr().As16()
	h := fnv.New32a()
	_, _ = h.Write(binary.BigEndian.AppendUint16(ip[:], a.Port()))
	return max(1, h.Sum32()&maxID)
}

func nextID(id uint32) uint32 {
	if id == maxID {
		return 1
	}
	return id + 1
}
