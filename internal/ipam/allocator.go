package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// Allocator knows the pools and who has which address. It is not safe for
// concurrent use. The same calls in the same order always give the same addresses.
type Allocator struct {
	// loaded: SetPools was called; before that nothing is given nor taken.
	loaded bool
	// pools by name, turns in the order in which they are tried.
	pools map[string]*pool
	turns []*pool
	// land is which pool owns what.
	land     []parcel
	overlaps []Overlap

	records map[lb.ServiceKey]*record
	uses    map[netip.Addr]*use
	slots   map[slot]*record
	groups  map[groupKey]*group

	// releases are addresses once used and free now, turn the last one's number.
	releases map[netip.Addr]release
	turn     uint64
	// foreign are the quarantined addresses and the MAC that answers for each.
	foreign map[netip.Addr]string
	freed   uint64
}

// Grant is what a Service has.
type Grant struct {
	// Addresses in the order of the Service's families, all of one pool.
	Addresses []netip.Addr
	// Pool is the pool they are of.
	Pool string
	// Warnings say what a person should know although it serves.
	Warnings []lb.Issue
}

// Outcome is what Replay did for one Service: Refusal is nil when it has all that
// it asks for.
type Outcome struct {
	Key     lb.ServiceKey
	Grant   Grant
	Refusal *Refusal
}

// New returns an Allocator without pools; it refuses all until SetPools.
func New() *Allocator {
	return &Allocator{
		pools: make(map[string]*pool), records: make(map[lb.ServiceKey]*record),
		uses: make(map[netip.Addr]*use), slots: make(map[slot]*record), groups: make(map[groupKey]*group),
		releases: make(map[netip.Addr]release), foreign: make(map[netip.Addr]string),
	}
}

// Assign gives a Service its addresses, or the same ones again. The error is a
// *Refusal; a Grant with addresses beside it is what the Service keeps meanwhile,
// an empty one says that it has nothing (any more). Addresses that it leaves are
// free for others: see Freed. The Service's maps must not be changed afterwards.
func (a *Allocator) Assign(s lb.Service) (Grant, error) {
	g, r := a.assign(s)
	if r != nil {
		return g, r
	}
	return g, nil
}

// assign is Assign without the trap of a nil *Refusal in an error.
func (a *Allocator) assign(s lb.Service) (Grant, *Refusal) {
	if !a.loaded {
		return Grant{}, refuse(PoolsNotLoaded, "the pools are not known yet; the Service keeps what its status says")
	}
	rec, c := a.records[s.Key], claimOf(s)
	if rec == nil {
		rec = &record{}
		a.records[s.Key] = rec
		a.restore(rec, &c)
	}
	held, lost := a.staying(rec, &c, rec.addrs)
	lost, rec.lost = append(rec.lost, lost...), nil
	addrs, r := a.choose(rec, &c, held)
	a.place(rec, &c, addrs)
	// One that only prefers dual stack and has one family is not refused, and yet
	// gets the other as soon as its pool can give it.
	rec.waits = r == nil && len(addrs) < len(c.wanted) || r != nil && r.Reason.Waits()
	g := a.grant(rec)
	g.Warnings = append(g.Warnings, lost...)
	return g, r
}

// restore gives a Service seen for the first time what its status says, as far as
// it may have that: a restart changes nobody's address.
func (a *Allocator) restore(rec *record, c *claim) {
	if len(c.has) == 0 {
		return
	}
	var held []netip.Addr
	held, rec.lost = a.staying(rec, c, c.has)
	a.place(rec, c, held)
}

// Release ends a Service: deleted, or no LoadBalancer of ours any more. It says
// whether the Service had an address.
func (a *Allocator) Release(key lb.ServiceKey) bool {
	rec := a.records[key]
	if rec == nil {
		return false
	}
	had := len(rec.addrs) > 0
	a.place(rec, &rec.claim, nil)
	delete(a.records, key)
	return had
}

// Lookup returns what a Service has; false is nothing.
func (a *Allocator) Lookup(key lb.ServiceKey) (Grant, bool) {
	rec := a.records[key]
	if rec == nil || len(rec.addrs) == 0 {
		return Grant{}, false
	}
	return a.grant(rec), true
}

// Replay assigns many Services, as after a restart, and returns what each got, in
// the order in which they were served: first all of them keep what their status
// says, so that nobody's address is stolen; then those with addresses, the oldest
// first, get what they ask for, then the others. The order of services does not
// matter; their keys differ.
func (a *Allocator) Replay(services []lb.Service) []Outcome {
	order := slices.Clone(services)
	slices.SortFunc(order, func(s, t lb.Service) int {
		return cmp.Or(newcomer(s)-newcomer(t), cmp.Compare(s.Born, t.Born), cmp.Compare(s.Key, t.Key))
	})
	for _, s := range order {
		if !a.loaded || newcomer(s) == 1 {
			break
		}
		if a.records[s.Key] == nil {
			rec := &record{}
			a.records[s.Key] = rec
			c := claimOf(s)
			a.restore(rec, &c)
		}
	}
	out := make([]Outcome, 0, len(order))
	for _, s := range order {
		g, r := a.assign(s)
		out = append(out, Outcome{s.Key, g, r})
	}
	return out
}

// newcomer is 1 for a Service whose status has no address of ours, else 0.
func newcomer(s lb.Service) int {
	if len(s.Has) == 0 || s.Foreign {
		return 1
	}
	return 0
}

// Waiting are the Services that a released address or a changed pool may give what
// they lack, the oldest first. Assign them again, in this order, whenever Freed has
// grown; one that moves may free what another one waits for.
func (a *Allocator) Waiting() []lb.ServiceKey {
	var waiting []*record
	for _, rec := range a.records {
		if rec.waits {
			waiting = append(waiting, rec)
		}
	}
	slices.SortFunc(waiting, func(r, s *record) int { return r.before(&s.claim) })
	out := make([]lb.ServiceKey, 0, len(waiting))
	for _, rec := range waiting {
		out = append(out, rec.key)
	}
	return out
}

// Freed grows whenever something becomes free: an address, a port of a shared one,
// or whatever a change of the pools brings.
func (a *Allocator) Freed() uint64 { return a.freed }

// keys are the names of all Services seen, sorted.
func (a *Allocator) keys() []lb.ServiceKey { return slices.Sorted(maps.Keys(a.records)) }
