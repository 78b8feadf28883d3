package ipam

import (
	"cmp"
	"math"
	"net/netip"

	"mooring.dev/mooring/internal/lb"
)

// pool is an lb.Pool with what is free in it.
type pool struct {
	lb.Pool
	namespaces map[string]bool
	// four and six give out its addresses of each family.
	four, six freeList
	// size saturates at MaxInt64; used counts addresses.
	size, used uint64
}

// newPool is a pool that owns nothing yet.
func newPool(spec lb.Pool) *pool {
	p := &pool{Pool: spec, namespaces: make(map[string]bool, len(spec.Namespaces))}
	for _, ns := range spec.Namespaces {
		p.namespaces[ns] = true
	}
	return p
}

// list is what is free of a family.
func (p *pool) list(f lb.Family) *freeList {
	if f == lb.IPv6 {
		return &p.six
	}
	return &p.four
}

// avoids says whether the pool leaves an address of its ranges out: some
// firmwares drop packets to what looks like a network or broadcast address.
func (p *pool) avoids(addr netip.Addr) bool {
	if !p.AvoidBuggy || !addr.Is4() {
		return false
	}
	last := addr.As4()[3]
	return last == 0 || last == 255
}

// own makes a range, which no other pool has, the pool's.
func (p *pool) own(r lb.Range) {
	l := p.list(lb.FamilyOf(r.From))
	l.ranges = append(l.ranges, r)
	n := count(r)
	if p.AvoidBuggy && r.From.Is4() {
		n -= buggy(r)
	}
	p.size = min(p.size+n, math.MaxInt64)
}

// verdict is whether a pool is for a Service.
type verdict uint8

const (
	no verdict = iota
	yes
	// unknown: the labels of the Service's namespace are not there yet.
	unknown
)

// fits says whether the pool is for a Service: of each kind of selector that it
// has any one must match.
func (p *pool) fits(c *claim) verdict {
	if len(p.ServiceSelectors) > 0 && !anyMatches(p.ServiceSelectors, c.labels) {
		return no
	}
	switch {
	case len(p.namespaces)+len(p.NamespaceSelectors) == 0, p.namespaces[c.namespace()]:
		return yes
	case len(p.NamespaceSelectors) == 0:
		return no
	case c.namespaceLabels == nil:
		// NotIn and DoesNotExist would choose what is not known.
		return unknown
	case anyMatches(p.NamespaceSelectors, c.namespaceLabels):
		return yes
	}
	return no
}

// anyMatches says whether one of the selectors chooses the labels.
func anyMatches(selectors []lb.Selector, labels map[string]string) bool {
	for _, s := range selectors {
		if s.Matches(labels) {
			return true
		}
	}
	return false
}

// pinned pools are tried before all others: they say for whom they are, or in
// which order.
func (p *pool) pinned() bool {
	return len(p.namespaces)+len(p.NamespaceSelectors)+len(p.ServiceSelectors) > 0 || p.Priority != 0
}

// byPriority orders pools, the least priority first, 0 last, then by name.
func byPriority(p, q *pool) int {
	rank := func(p *pool) int {
		if p.Priority == 0 {
			return math.MaxInt
		}
		return p.Priority
	}
	return cmp.Or(cmp.Compare(rank(p), rank(q)), cmp.Compare(p.Name, q.Name))
}

// byTurn orders pools as they are tried for a Service that names none.
func byTurn(p, q *pool) int {
	switch {
	case p.pinned() && !q.pinned():
		return -1
	case q.pinned() && !p.pinned():
		return 1
	}
	return byPriority(p, q)
}
