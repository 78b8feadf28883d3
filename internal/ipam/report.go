package ipam

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// Stats counts the addresses of a pool, both families together. A pool with a range
// of 2^62 addresses or more has MaxInt64, and as many free.
type Stats struct {
	Pool string
	// Size is what the pool can give: without what it avoids and what an earlier pool
	// owns.
	Size uint64
	// Used counts addresses, not Services; Quarantined also those that are in use.
	Used, Free, Quarantined uint64
}

// Stats of all pools, sorted by name.
func (a *Allocator) Stats() []Stats {
	quarantined, blocked := make(map[*pool]uint64), make(map[*pool]uint64)
	for addr := range a.foreign {
		p := a.owner(addr)
		if p == nil || p.avoids(addr) {
			continue
		}
		quarantined[p]++
		if a.uses[addr] == nil {
			blocked[p]++
		}
	}
	out := make([]Stats, 0, len(a.pools))
	for _, name := range a.names() {
		p := a.pools[name]
		free := p.size - p.used - blocked[p]
		if p.size == math.MaxInt64 {
			free = math.MaxInt64
		}
		out = append(out, Stats{Pool: name, Size: p.size, Used: p.used, Free: free, Quarantined: quarantined[p]})
	}
	return out
}

// Foreign is an address for which a host that is none of ours answers.
type Foreign struct {
	Addr netip.Addr
	MAC  string
	// Pool is the pool whose address it is, "" for none.
	Pool string
}

// Quarantine notes that the host with a MAC, which is none of ours, answers for an
// address: nobody gets it any more. The Services that have it keep it and are
// returned, sorted. One that was not served yet gets another by Release and Assign.
func (a *Allocator) Quarantine(addr netip.Addr, mac string) []lb.ServiceKey {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return nil
	}
	a.foreign[addr] = mac
	a.reclaim(addr)
	var keys []lb.ServiceKey
	if u := a.uses[addr]; u != nil {
		for _, rec := range u.users {
			keys = append(keys, rec.key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Absolve ends a quarantine: the other host is gone. The address comes after all
// that were free before.
func (a *Allocator) Absolve(addr netip.Addr) {
	addr = addr.Unmap().WithZone("")
	if _, ok := a.foreign[addr]; !ok {
		return
	}
	delete(a.foreign, addr)
	a.freed++
	a.giveBack(addr)
}

// Quarantined are the addresses in quarantine, sorted.
func (a *Allocator) Quarantined() []Foreign {
	out := make([]Foreign, 0, len(a.foreign))
	for _, addr := range slices.SortedFunc(maps.Keys(a.foreign), netip.Addr.Compare) {
		f := Foreign{Addr: addr, MAC: a.foreign[addr]}
		if p := a.owner(addr); p != nil {
			f.Pool = p.Name
		}
		out = append(out, f)
	}
	return out
}

// Fits names the pools that a Service may use and that have addresses of a family it
// needs, in the order in which they are tried; for people who ask why.
func (a *Allocator) Fits(s lb.Service) []string {
	c := claimOf(s)
	var out []string
	for _, p := range a.turns {
		named := c.pool == p.Name || c.pool == "" && p.AutoAssign
		if named && p.fits(&c) == yes && slices.ContainsFunc(c.choices(), p.has) {
			out = append(out, p.Name)
		}
	}
	return out
}

// grant is what a Service has, with what a person should know about it.
func (a *Allocator) grant(rec *record) Grant {
	p := a.poolOf(rec.addrs)
	if p == nil {
		return Grant{}
	}
	g := Grant{Addresses: slices.Clone(rec.addrs), Pool: p.Name}
	for _, f := range rec.wanted {
		if rec.policy == lb.PreferDualStack && !ofFamily(rec.addrs, f).IsValid() {
			g.Warnings = append(g.Warnings, lb.Issue{Field: "spec.ipFamilyPolicy", Problem: fmt.Sprintf(
				"pool %s, of which the Service has its address, has no free IPv%d address; add a range of them", p.Name, f)})
		}
	}
	for _, addr := range rec.addrs {
		if mac, ok := a.foreign[addr]; ok {
			g.Warnings = append(g.Warnings, lb.Issue{Field: inStatus, Problem: fmt.Sprintf(
				"the host with MAC %s, which is no node of ours, answers for %s too; give it another address", mac, addr)})
		}
	}
	return g
}
