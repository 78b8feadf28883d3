package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// NotKept begins a Grant's warning about an address that the Service had before: it
// comes once.
const NotKept = "not kept: "

// examplePool is an AddressPool as kubectl takes it, on one line.
const examplePool = "{apiVersion: mooring.dev/v1alpha1, kind: AddressPool, metadata: {name: lan}, " +
	"spec: {addresses: [192.0.2.20-192.0.2.60]}}"

// inStatus is the field of warnings about addresses that a Service has or had.
const inStatus = "status.loadBalancer.ingress"

// staying are those of the addresses that a Service may keep, in the order of its
// families, and what there is to say of the others. One of a family is kept, and
// only what is of the first one's pool.
func (a *Allocator) staying(rec *record, c *claim, addrs []netip.Addr) (held []netip.Addr, lost []lb.Issue) {
	var in *pool
	for _, addr := range c.inOrder(addrs) {
		p := a.owner(addr)
		if r := a.leaves(rec, c, p, addr); r != nil {
			lost = append(lost, lb.Issue{Field: inStatus, Problem: NotKept + r.Text})
			continue
		}
		if in == nil {
			in = p
		}
		if p == in {
			held = append(held, addr)
			continue
		}
		// Both are well by themselves; the first family is the one clients ask for.
		lost = append(lost, lb.Issue{Field: inStatus, Problem: fmt.Sprintf(
			NotKept+"%s is in pool %s, and %s in pool %s; make both of one pool", addr, p.Name, held[0], in.Name)})
	}
	return held, lost
}

// leaves says why a Service may not keep an address. What is not known about its
// namespace does not count against it, nor does a quarantine.
func (a *Allocator) leaves(rec *record, c *claim, p *pool, addr netip.Addr) *Refusal {
	if r := inPool(p, addr); r != nil {
		return r
	}
	if p.fits(c) == no {
		return refuse(PoolForbidden, "pool %s, which has %s, is not for this Service; see the pool's selectors", p.Name, addr)
	}
	if k := a.clash(rec, c, addr); k.kind != noClash {
		return k.refusal(addr)
	}
	return nil
}

// inPool refuses an address that its pool p, nil for none, does not give.
func inPool(p *pool, addr netip.Addr) *Refusal {
	switch {
	case p == nil:
		return refuse(AddressNotInPool, "%s is in no AddressPool; add it to one, or choose another address", addr)
	case p.avoids(addr):
		return refuse(AddressAvoided, "%s ends in .0 or .255, which pool %s leaves out; choose another address, or set "+
			"its avoidBuggyIPs to false", addr, p.Name)
	}
	return nil
}

// barred says whether a quarantine keeps an address from a Service. Who has it is
// not cut off: perhaps its clients are served in spite of the other host.
func (a *Allocator) barred(rec *record, addr netip.Addr) bool {
	_, foreign := a.foreign[addr]
	return foreign && !slices.Contains(rec.addrs, addr)
}

// open says whether a Service may take an address of a pool that is for it.
func (a *Allocator) open(rec *record, c *claim, addr netip.Addr) bool {
	return !a.barred(rec, addr) && a.clash(rec, c, addr).kind == noClash
}

// closed is open with the reason why not.
func (a *Allocator) closed(rec *record, c *claim, addr netip.Addr) *Refusal {
	if a.barred(rec, addr) {
		return refuse(AddressQuarantined, "the host with MAC %s answers for %s already; end that, or choose another address",
			a.foreign[addr], addr)
	}
	if k := a.clash(rec, c, addr); k.kind != noClash {
		return k.refusal(addr)
	}
	return nil
}

// choose says which addresses a Service shall have that may keep held. Beside a
// refusal they are what it keeps: an edit that cannot be met takes nothing away.
func (a *Allocator) choose(rec *record, c *claim, held []netip.Addr) ([]netip.Addr, *Refusal) {
	if r := c.unfit(); r != nil {
		return held, r
	}
	// No fall-back to another address: a name in DNS points to this one.
	if len(c.asked) > 0 {
		return a.asked(rec, c, held)
	}
	if in := a.poolOf(held); in != nil && c.likes(in) {
		held = a.complete(rec, c, in, held)
		if c.content(held) {
			return held, nil
		}
	}
	pools, r := a.eligible(c)
	if r != nil {
		return held, r
	}
	if addrs := a.allocate(rec, c, pools); addrs != nil {
		return addrs, nil
	}
	return held, exhausted(c, pools)
}

// asked gives the very addresses that the Service names, all or none.
func (a *Allocator) asked(rec *record, c *claim, held []netip.Addr) ([]netip.Addr, *Refusal) {
	want := c.inOrder(c.asked)
	// As MetalLB: one address on a dual-stack Service is a mistake, not half a wish.
	if len(want) != len(c.asked) || len(want) != len(c.wanted) {
		return held, refuse(FamilyMismatch,
			"%s are asked for and the Service needs one address of each of %s; name exactly these",
			list(texts(c.asked)), families(c.wanted))
	}
	p, r := a.common(want)
	if r != nil {
		return held, r
	}
	if !c.likes(p) {
		return held, refuse(PoolDisagrees, "%s is in pool %s and the Service asks for pool %s; remove one of the two wishes",
			want[0], p.Name, quoted(c.pool))
	}
	if slices.Equal(want, held) {
		return held, nil
	}
	if r := a.closedAny(rec, c, p, want); r != nil {
		return held, r
	}
	return want, nil
}

// closedAny says why a Service may not take all the addresses of a pool.
func (a *Allocator) closedAny(rec *record, c *claim, p *pool, addrs []netip.Addr) *Refusal {
	if r := p.admits(c); r != nil {
		return r
	}
	for _, addr := range addrs {
		if r := a.closed(rec, c, addr); r != nil {
			return r
		}
	}
	return nil
}

// common is the pool of all the addresses.
func (a *Allocator) common(want []netip.Addr) (*pool, *Refusal) {
	first := a.owner(want[0])
	for _, addr := range want {
		p := a.owner(addr)
		if r := inPool(p, addr); r != nil {
			return nil, r
		}
		if p != first {
			return nil, refuse(AddressNotInPool, "%s is in pool %s and %s in pool %s; name addresses of one pool",
				want[0], first.Name, addr, p.Name)
		}
	}
	return first, nil
}

// admits refuses a Service for which the pool is not.
func (p *pool) admits(c *claim) *Refusal {
	switch p.fits(c) {
	case no:
		return refuse(PoolForbidden,
			"pool %s is not for this Service; name another pool, or change the pool's namespaces and "+
				"selectors", p.Name)
	case unknown:
		return refuse(NamespaceUnknown, "the labels of namespace %s, by which pool %s chooses, are not known yet; "+
			"it goes on when they are", c.namespace(), p.Name)
	default:
		return nil
	}
}

// eligible are the pools from which a Service that names no address may get one, in
// the order in which they are tried.
func (a *Allocator) eligible(c *claim) ([]*pool, *Refusal) {
	if len(a.pools) == 0 {
		return nil, refuse(NoPools, "there is no AddressPool; create one with free addresses of the nodes' network, "+
			"such as: echo '%s' | kubectl apply -f -", examplePool)
	}
	if c.pool == "" {
		return a.automatic(c)
	}
	p := a.pools[c.pool]
	if p == nil {
		return nil, refuse(UnknownPool, "there is no AddressPool %s; create it, or name one of: %s",
			quoted(c.pool), list(a.names()))
	}
	if r := p.admits(c); r != nil {
		return nil, r
	}
	return []*pool{p}, nil
}

// automatic are the pools for a Service that names none. It waits rather than take
// an address of a later pool while an earlier one may be meant for its namespace.
func (a *Allocator) automatic(c *claim) ([]*pool, *Refusal) {
	out := make([]*pool, 0, len(a.turns))
	for _, p := range a.turns {
		if !p.AutoAssign {
			continue
		}
		switch p.fits(c) {
		case yes:
			out = append(out, p)
		case unknown:
			return nil, p.admits(c)
		case no:
		}
	}
	if len(out) == 0 {
		return nil, refuse(NoPoolFits,
			"no AddressPool with autoAssign is for this Service; create one, change the selectors of "+
				"one, or name one by mooring.dev/pool: %s", list(a.names()))
	}
	return out, nil
}

// complete adds what is missing to the addresses that a Service has of a pool.
func (a *Allocator) complete(rec *record, c *claim, in *pool, held []netip.Addr) []netip.Addr {
	if len(held) == len(c.wanted) || in.fits(c) != yes {
		return held
	}
	for _, f := range c.wanted {
		if ofFamily(held, f).IsValid() {
			continue
		}
		if addr, _, ok := a.pick(rec, c, in, f); ok {
			held = c.inOrder(append(held, addr))
		}
	}
	return held
}

// allocate picks addresses of the first pool that can give them, nil when none can.
// A Service goes back to an address that it had, or joins others by its shared key,
// in any of the pools before it takes another one in the first.
func (a *Allocator) allocate(rec *record, c *claim, pools []*pool) []netip.Addr {
	// One that seeks an address used before looks at all pools for it.
	seeks := c.share.key != "" || rec.had != nil
	for _, choice := range c.choices() {
		// Two families from one pool are worth more than an earlier pool.
		var own []netip.Addr
		for _, p := range pools {
			addrs, best := a.pickAll(rec, c, p, choice)
			if addrs != nil && (best || !seeks) {
				return addrs
			}
			own = firstOf(own, addrs)
		}
		if own != nil {
			return own
		}
	}
	return nil
}

// firstOf is the first of two lists that is one.
func firstOf(one, two []netip.Addr) []netip.Addr {
	if one != nil {
		return one
	}
	return two
}

// pickAll picks an address of each family from a pool, all or nil; best when one of
// them is.
func (a *Allocator) pickAll(rec *record, c *claim, p *pool, choice []lb.Family) (addrs []netip.Addr, best bool) {
	for _, f := range choice {
		addr, good, ok := a.pick(rec, c, p, f)
		if !ok {
			return nil, false
		}
		addrs, best = append(addrs, addr), best || good
	}
	return addrs, best
}

// pick is the address of a pool and family that a Service would get. Best is the
// one that it had before the pools changed, or one that it may share.
func (a *Allocator) pick(rec *record, c *claim, p *pool, f lb.Family) (addr netip.Addr, best, ok bool) {
	had := ofFamily(rec.had, f)
	if had.IsValid() && a.owner(had) == p && !p.avoids(had) && a.open(rec, c, had) {
		return had, true, true
	}
	if addr, ok = a.join(rec, c, p, f); ok {
		return addr, true, true
	}
	addr, ok = a.peek(p, f)
	return addr, false, ok
}

// exhausted refuses a Service for which pools exist that give it nothing.
func exhausted(c *claim, pools []*pool) *Refusal {
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		names = append(names, p.Name)
	}
	need := families(c.wanted)
	if c.policy == lb.RequireDualStack {
		need += " (both of one pool)"
	}
	for _, p := range pools {
		for _, choice := range c.choices() {
			if p.has(choice) {
				return refuse(PoolExhausted, "no free %s address is left in %s; add addresses to a pool, or delete Services",
					need, list(names))
			}
		}
	}
	return refuse(NoFamilyInPool, "%s has no %s addresses; add a range of them", list(names), need)
}

// has says whether the pool has ranges of all these families.
func (p *pool) has(choice []lb.Family) bool {
	return !slices.ContainsFunc(choice, func(f lb.Family) bool { return len(p.list(f).ranges) == 0 })
}

// texts prints addresses.
func texts(addrs []netip.Addr) []string {
	out := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		out = append(out, addr.String())
	}
	return out
}

// families names address families for a message.
func families(fs []lb.Family) string {
	names := make([]string, 0, len(fs))
	for _, f := range fs {
		names = append(names, fmt.Sprintf("IPv%d", f))
	}
	return strings.Join(names, " and ")
}
