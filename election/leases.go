package election

import (
	"maps"
	"slices"
	"strconv"
	"sync"

	coordination "k8s.io/api/coordination/v1"

	"mooring.dev/mooring/internal/lb"
)

// site is what this node knows of the namespace's Leases, fed by a reflector (it is
// its store), by reads and by own writes: the members, and a view of each group.
type site struct {
	now func() lb.Instant
	// resolve looks up the member Lease of a holder that is not known yet.
	resolve func(node string)

	// telling keeps the members' deliveries in order.
	telling sync.Mutex

	mu     sync.Mutex
	groups map[string]*leases
	// others are Leases of groups that nobody here follows yet; listed says that
	// the watch has begun, by a list of this version.
	others  map[string]*coordination.Lease
	listed  bool
	version uint64
	// partial: no list has come yet, or one is being taken in. Who is told of a part of
	// the members would take the others for gone, whom it remembers from an earlier run.
	partial bool
	members map[string]member
	// gone are members whose Lease was deleted, and when: their agents write it
	// again, and nobody is a stranger meanwhile.
	gone map[string]lb.Instant
}

type member struct {
	lease *coordination.Lease
	// renewed is when a renewal was last seen.
	renewed lb.Instant
}

// leases is one group's view of the site: its Lease in the order of its
// resourceVersions (KEP-5504: they compare as numbers), and who may hold.
type leases struct {
	*site
	group   string
	deliver func(Event)
	// beats: the record is written only when it changes, and as old as its holder's
	// member Lease.
	beats bool
	// order keeps deliveries in the order of the versions.
	order sync.Mutex

	// Under site.mu: the group's Lease (nil is none), the newest resourceVersion
	// seen of it and when, who may hold (nil: all members) and who was told to.
	latest  *coordination.Lease
	version uint64
	at      lb.Instant
	synced  bool
	may     func(Member) (Member, bool)
	told    []Member
}

// newSite makes an empty store.
func newSite(now func() lb.Instant) *site {
	return &site{now: now, groups: map[string]*leases{}, others: map[string]*coordination.Lease{},
		members: map[string]member{}, gone: map[string]lb.Instant{}, partial: true}
}

// newLeases makes a store with one group; it is not synced before it has seen a
// list, a read or a write.
func newLeases(now func() lb.Instant, group string, deliver func(Event)) *leases {
	return newSite(now).follow(group, deliver)
}

// prepare makes the view of a group that is not followed yet.
func (s *site) prepare(group string, deliver func(Event)) *leases {
	return &leases{site: s, group: group, deliver: deliver}
}

// follow begins the view of a group.
func (s *site) follow(group string, deliver func(Event)) *leases {
	g := s.prepare(group, deliver)
	s.enrol(g)
	return g
}

// enrol begins a view; what is known of the group already is delivered.
func (s *site) enrol(g *leases) {
	s.mu.Lock()
	s.groups[g.group] = g
	l, listed, version := s.others[g.group], s.listed, s.version
	delete(s.others, g.group)
	s.mu.Unlock()
	if l != nil {
		version = number(l.ResourceVersion)
	}
	if l != nil || listed {
		s.tellMembers() // first, so that the holder is no stranger
		g.seen(l, version, ByWatch, s.now())
	}
}

// unfollow ends the view of a group.
func (s *site) unfollow(g *leases) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[g.group] == g {
		delete(s.groups, g.group)
		if g.latest != nil {
			s.others[g.group] = g.latest
		}
	}
}

// followed is the view of a group, nil for none.
func (s *site) followed(name string) *leases {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[name]
}

// all lists the views in the order of their names.
func (s *site) all() []*leases {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*leases, 0, len(s.groups))
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		out = append(out, s.groups[name])
	}
	return out
}

// Add is part of cache.ReflectorStore.
func (s *site) Add(obj any) error { return s.Update(obj) }

// Update is part of cache.ReflectorStore.
func (s *site) Update(obj any) error {
	if l, ok := obj.(*coordination.Lease); ok {
		s.watched(l)
	}
	return nil
}

// Delete is part of cache.ReflectorStore.
func (s *site) Delete(obj any) error {
	l, ok := obj.(*coordination.Lease)
	if !ok {
		return nil
	}
	if g := s.followed(l.Name); g != nil {
		g.seen(nil, number(l.ResourceVersion), ByWatch, s.now())
		return nil
	}
	s.mu.Lock()
	s.forget(l.Name)
	delete(s.others, l.Name)
	s.mu.Unlock()
	s.tellMembers()
	return nil
}

// Replace is part of cache.ReflectorStore: the list at a (re)start of the watch.
func (s *site) Replace(objs []any, version string) error {
	names := map[string]bool{}
	s.mu.Lock()
	s.others = map[string]*coordination.Lease{}
	s.listed, s.version, s.partial = true, number(version), true
	s.mu.Unlock()
	for _, obj := range objs {
		if l, ok := obj.(*coordination.Lease); ok {
			names[l.Name] = true
			s.watched(l)
		}
	}
	s.mu.Lock()
	for name := range s.members {
		if !names[name] {
			s.forget(name)
		}
	}
	s.partial = false
	s.mu.Unlock()
	s.tellMembers()
	for _, g := range s.all() {
		if !names[g.group] {
			g.seen(nil, number(version), ByWatch, s.now())
		}
	}
	return nil
}

// forget takes a member out, which stays known for a while. The caller holds mu.
func (s *site) forget(name string) {
	if _, ok := s.members[name]; !ok {
		return
	}
	delete(s.members, name)
	for n, at := range s.gone {
		if s.now()-at > memberDead {
			delete(s.gone, n)
		}
	}
	s.gone[name] = s.now()
}

// Resync is part of cache.ReflectorStore and means nothing here.
func (s *site) Resync() error { return nil }

// watched sorts a Lease of the namespace: a group's, a member's, or not ours.
func (s *site) watched(l *coordination.Lease) {
	if g := s.followed(l.Name); g != nil {
		g.seen(l, number(l.ResourceVersion), ByWatch, s.now())
		return
	}
	if l.Labels[labelKind] == kindGroup {
		s.mu.Lock()
		s.others[l.Name] = l
		s.mu.Unlock()
		return
	}
	s.putMember(l)
}

// putMember keeps a member's Lease and tells the machines when that changes who
// may hold, or how old what it holds is.
func (s *site) putMember(l *coordination.Lease) {
	m, ok := toMember(l)
	if !ok {
		return
	}
	s.mu.Lock()
	old := s.members[l.Name]
	newer := old.lease == nil || number(old.lease.ResourceVersion) < number(l.ResourceVersion)
	if newer {
		s.members[l.Name] = member{lease: l, renewed: s.now()}
	}
	s.mu.Unlock()
	s.tellMembers()
	if !newer {
		return
	}
	for _, g := range s.all() {
		if g.beats && g.heldBy(m.Node) {
			g.again()
		}
	}
}

// tellMembers delivers to each group its members when they differ from what it
// was told.
func (s *site) tellMembers() {
	s.telling.Lock()
	defer s.telling.Unlock()
	for _, g := range s.all() {
		g.tell()
	}
}

// candidates are the members that may hold, best first, and whether they are
// others than those told.
func (g *leases) candidates() ([]Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.partial {
		return nil, false
	}
	now := g.now()
	var all []Member
	for _, m := range g.members {
		c, ok := toMember(m.lease)
		if ok && g.may != nil {
			c, ok = g.may(c)
		}
		if ok {
			c.Live = c.Live && now-m.renewed < memberDead
			all = append(all, c)
		}
	}
	all = Ranked(g.group, all)
	changed := !equalMembers(all, g.told)
	if changed {
		g.told = all
	}
	return all, changed
}

// allow changes who may hold; nil is every member.
func (g *leases) allow(may func(Member) (Member, bool)) {
	g.mu.Lock()
	g.may = may
	g.mu.Unlock()
	g.telling.Lock()
	defer g.telling.Unlock()
	g.tell()
}

// tell delivers the members if they are others than before. The caller holds telling.
func (g *leases) tell() {
	if g.followed(g.group) != g {
		return // it hears them when it begins
	}
	if all, changed := g.candidates(); changed {
		g.deliver(Members{All: all})
	}
}

// known says whether a node has a member Lease.
func (s *site) known(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.members[memberName+node]
	at, was := s.gone[memberName+node]
	return ok || was && s.now()-at < memberDead
}

// beat names the last renewal of a node's member Lease.
func (s *site) beat(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.members[memberName+node]; ok {
		return m.lease.ResourceVersion
	}
	return ""
}

// holder is whom a group's Lease names, followed or not, "" for nobody.
func (s *site) holder(group string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.others[group]
	if g := s.groups[group]; g != nil {
		l = g.latest
	}
	if l == nil || l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// heldBy says whether the record, as last seen, names the node.
func (g *leases) heldBy(node string) bool {
	l, _ := g.last()
	return l != nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == node
}

// again delivers the record as last seen, whose holder has been renewed.
func (g *leases) again() {
	g.order.Lock()
	defer g.order.Unlock()
	if l, synced := g.last(); synced {
		g.deliver(Saw{View: g.view(l), Via: ByWatch, Begun: g.now()})
	}
}

// renewed tells the groups that this node holds of a write of its member Lease.
func (s *site) renewed(node string, begun lb.Instant) {
	for _, g := range s.all() {
		if g.beats && g.heldBy(node) {
			g.deliver(Renewed{Begun: begun})
		}
	}
}

// view reads a Lease of the group.
func (g *leases) view(l *coordination.Lease) View {
	v := toView(l, g.known)
	if g.beats && v.Sound {
		v.Record.Beat = g.beat(v.Record.Holder)
	}
	return v
}

// seen takes a look at the group's Lease (nil: there is none) and delivers it.
// One older than what is known is dropped if it came by watch; a read begun
// after that sees a restored API server and is believed.
func (g *leases) seen(l *coordination.Lease, version uint64, via Via, begun lb.Instant) {
	// Never call a node damage before asking whether it is a member. Before the order is
	// kept: what is learnt of a member is delivered in it too.
	if v := g.view(l); v.Sound && !v.Candidate && g.resolve != nil {
		g.resolve(v.Record.Holder)
	}
	g.order.Lock()
	defer g.order.Unlock()
	g.mu.Lock()
	stale := g.synced && version < g.version
	if stale && via != ByWatch && begun > g.at {
		stale = false
	}
	switch {
	case stale && via != ByRead:
		g.mu.Unlock()
		return
	case stale:
		l = g.latest // newer than the answer, so known after the read began
	default:
		if l == nil {
			// A Lease that is still missing has no version of its own.
			version = max(version, g.version)
		}
		g.latest, g.version, g.at, g.synced = l, version, g.now(), true
	}
	g.mu.Unlock()
	g.deliver(Saw{View: g.view(l), Via: via, Begun: begun})
}

// last returns the Lease last seen, nil if there is none, and whether
// anything was seen at all.
func (g *leases) last() (*coordination.Lease, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.latest, g.synced
}

// number reads a resourceVersion; nonsense is 0.
func number(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// equalMembers compares everything that a machine is told of members.
func equalMembers(a, b []Member) bool {
	return slices.EqualFunc(a, b, func(x, y Member) bool {
		return x.Node == y.Node && x.Live == y.Live && x.Priority == y.Priority && x.Drain == y.Drain &&
			slices.Equal(x.MACs, y.MACs) && slices.Equal(x.Addrs, y.Addrs) && slices.Equal(x.Pools, y.Pools)
	})
}
