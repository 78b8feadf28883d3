package election

import (
	"slices"
	"strconv"
	"sync"

	coordination "k8s.io/api/coordination/v1"

	"mooring.dev/mooring/internal/lb"
)

// leases is what this node knows of the namespace's Leases, fed by a reflector
// (it is its store), by reads and by own writes, in the order of their
// resourceVersions (KEP-5504: they compare as numbers).
type leases struct {
	now     func() lb.Instant
	group   string
	deliver func(Event)
	// resolve looks up the member Lease of a holder that is not known yet.
	resolve func(node string)

	// telling keeps the members' deliveries in order.
	telling sync.Mutex
	// order keeps deliveries in the order of the versions.
	order sync.Mutex

	mu      sync.Mutex
	latest  *coordination.Lease // the group's; nil is none
	version uint64              // newest resourceVersion seen of it
	at      lb.Instant          // when it was seen
	synced  bool
	members map[string]member
	// gone are members whose Lease was deleted, and when: their agents write it
	// again, and nobody is a stranger meanwhile.
	gone map[string]lb.Instant
	told []Member
}

type member struct {
	lease *coordination.Lease
	// renewed is when a renewal was last seen.
	renewed lb.Instant
}

// newLeases makes an empty store; it is not synced before it has seen a list, a
// read or a write.
func newLeases(now func() lb.Instant, group string, deliver func(Event)) *leases {
	return &leases{now: now, group: group, deliver: deliver, members: map[string]member{}, gone: map[string]lb.Instant{}}
}

// Add is part of cache.ReflectorStore.
func (s *leases) Add(obj any) error { return s.Update(obj) }

// Update is part of cache.ReflectorStore.
func (s *leases) Update(obj any) error {
	if l, ok := obj.(*coordination.Lease); ok {
		s.watched(l)
	}
	return nil
}

// Delete is part of cache.ReflectorStore.
func (s *leases) Delete(obj any) error {
	l, ok := obj.(*coordination.Lease)
	switch {
	case !ok:
	case l.Name == s.group:
		s.seen(nil, number(l.ResourceVersion), ByWatch, s.now())
	default:
		s.mu.Lock()
		s.forget(l.Name)
		s.mu.Unlock()
		s.tellMembers()
	}
	return nil
}

// Replace is part of cache.ReflectorStore: the list at a (re)start of the watch.
func (s *leases) Replace(objs []any, version string) error {
	found, names := false, map[string]bool{}
	for _, obj := range objs {
		if l, ok := obj.(*coordination.Lease); ok {
			names[l.Name] = true
			found = found || l.Name == s.group
			s.watched(l)
		}
	}
	s.mu.Lock()
	for name := range s.members {
		if !names[name] {
			s.forget(name)
		}
	}
	s.mu.Unlock()
	s.tellMembers()
	if !found {
		s.seen(nil, number(version), ByWatch, s.now())
	}
	return nil
}

// forget takes a member out, which stays known for a while. The caller holds mu.
func (s *leases) forget(name string) {
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
func (s *leases) Resync() error { return nil }

// watched sorts a Lease of the namespace: the group's, a member's, or not ours.
func (s *leases) watched(l *coordination.Lease) {
	if l.Name == s.group {
		s.seen(l, number(l.ResourceVersion), ByWatch, s.now())
		return
	}
	s.putMember(l)
}

// putMember keeps a member's Lease and tells the machine when that changes who
// may hold.
func (s *leases) putMember(l *coordination.Lease) {
	if _, ok := toMember(l); !ok {
		return
	}
	s.mu.Lock()
	old := s.members[l.Name]
	if old.lease == nil || number(old.lease.ResourceVersion) < number(l.ResourceVersion) {
		s.members[l.Name] = member{lease: l, renewed: s.now()}
	}
	s.mu.Unlock()
	s.tellMembers()
}

// tellMembers delivers the members when they differ from what was told.
func (s *leases) tellMembers() {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	now := s.now()
	var all []Member
	for _, m := range s.members {
		if c, ok := toMember(m.lease); ok {
			c.Live = c.Live && now-m.renewed < memberDead
			all = append(all, c)
		}
	}
	all = Ranked(s.group, all)
	changed := !equalMembers(all, s.told)
	if changed {
		s.told = all
	}
	s.mu.Unlock()
	if changed {
		s.deliver(Members{All: all})
	}
}

// known says whether a node has a member Lease.
func (s *leases) known(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.members[memberName+node]
	at, was := s.gone[memberName+node]
	return ok || was && s.now()-at < memberDead
}

// seen takes a look at the group's Lease (nil: there is none) and delivers it.
// One older than what is known is dropped if it came by watch; a read begun
// after that sees a restored API server and is believed.
func (s *leases) seen(l *coordination.Lease, version uint64, via Via, begun lb.Instant) {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	stale := s.synced && version < s.version
	if stale && via != ByWatch && begun > s.at {
		stale = false
	}
	switch {
	case stale && via != ByRead:
		s.mu.Unlock()
		return
	case stale:
		l = s.latest // newer than the answer, so known after the read began
	default:
		if l == nil {
			// A Lease that is still missing has no version of its own.
			version = max(version, s.version)
		}
		s.latest, s.version, s.at, s.synced = l, version, s.now(), true
	}
	s.mu.Unlock()
	v := toView(l, s.known)
	if v.Sound && !v.Candidate && s.resolve != nil {
		// Never call a node damage before asking whether it is a member.
		s.resolve(v.Record.Holder)
		v.Candidate = s.known(v.Record.Holder)
	}
	s.deliver(Saw{View: v, Via: via, Begun: begun})
}

// last returns the Lease last seen, nil if there is none, and whether
// anything was seen at all.
func (s *leases) last() (*coordination.Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, s.synced
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
			slices.Equal(x.MACs, y.MACs) && slices.Equal(x.Addrs, y.Addrs)
	})
}
