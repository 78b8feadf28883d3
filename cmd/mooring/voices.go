package main

import (
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// onPeer takes a peer's word of each group.
func (s *services) onPeer(c hello.Change) {
	s.mu.Lock()
	old, known := s.peers[c.Node]
	s.peers[c.Node] = c
	s.mu.Unlock()
	for _, sh := range *s.open.Load() {
		// There may be hundreds of groups, and news of one.
		if !known || isNews(old, c, sh.name) {
			sh.agent.Deliver(peerOf(c, sh.name))
		}
	}
}

// isNews says whether a peer's change concerns a group.
func isNews(old, c hello.Change, name string) bool {
	is, was := peerOf(c, name), peerOf(old, name)
	return is.State != was.State || is.Say != was.Say
}

// peerOf is what a peer says of a group. One that has not spoken of it yet is not
// known to be idle.
func peerOf(c hello.Change, name string) election.Peer {
	say, ok := c.Groups[name]
	if !ok {
		c.State = election.PeerUnknown
	}
	return election.Peer{Node: c.Node, State: c.State, Say: say, Heard: c.Heard}
}

// catchUp tells a new group's agent what the others heard before it began.
func (s *services) catchUp(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.agent.Deliver(carrierOf(sh.agent.VIPs(), s.down))
	sh.agent.Deliver(s.taints)
	sh.agent.Deliver(sh.hears(s.health))
	for _, node := range slices.Sorted(maps.Keys(s.peers)) {
		sh.agent.Deliver(peerOf(s.peers[node], sh.name))
	}
}

// onLinksDown tells each group of its own links.
func (s *services) onLinksDown(down map[string]bool) {
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	for _, sh := range *s.open.Load() {
		sh.agent.Deliver(carrierOf(sh.agent.VIPs(), down))
	}
}

// deliver passes what concerns all groups on.
func (s *services) deliver(ev election.Event) {
	s.mu.Lock()
	switch ev := ev.(type) {
	case election.Taints:
		s.taints = ev
	case election.Health:
		s.health = ev
	}
	s.mu.Unlock()
	for _, sh := range *s.open.Load() {
		sh.agent.Deliver(sh.hears(ev))
	}
}

// hears is an event as it concerns the group: HAProxy's health is that of a node only
// where HAProxy serves.
func (sh *share) hears(ev election.Event) election.Event {
	if _, ok := ev.(election.Health); ok && !sh.proxied.Load() {
		return election.Health{OK: true}
	}
	return ev
}

// setProxied notes whether HAProxy serves some of the group's addresses.
func (s *services) setProxied(sh *share, proxied bool) {
	if sh.proxied.Swap(proxied) == proxied {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock() // no later word on HAProxy's health may pass this one
	sh.agent.Deliver(sh.hears(s.health))
}

// claimed passes what concerns one address on, if it is one of the Services'.
func (s *services) claimed(ip netip.Addr, ev election.Event) bool {
	for _, sh := range *s.open.Load() {
		if slices.ContainsFunc(sh.agent.VIPs(), func(a lb.Address) bool { return a.IP == ip }) {
			sh.agent.Deliver(ev)
			return true
		}
	}
	return false
}

// voices gathers what the groups' agents say into one hello.
type voices struct {
	out agent.Hellos

	mu   sync.Mutex
	says map[string]election.Say
	// beats are the groups' last ones, the oldest first, and where each is.
	beats *list.List // of lb.Instant
	at    map[string]*list.Element
}

func newVoices(out agent.Hellos) *voices {
	return &voices{out: out, says: map[string]election.Say{}, beats: list.New(), at: map[string]*list.Element{}}
}

// voice is one group's.
type voice struct {
	*voices
	group string
}

func (v *voices) of(group string) voice { return voice{v, group} }

// end takes a group out whose agent has ended.
func (v *voices) end(group string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.says, group)
	if last := v.at[group]; last != nil {
		v.beats.Remove(last)
		delete(v.at, group)
	}
	v.out.Say(maps.Clone(v.says))
}

// Say adds to what the other groups say.
func (v voice) Say(groups map[string]election.Say) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(v.says, groups)
	v.out.Say(maps.Clone(v.says))
}

// Beat passes the oldest beat on: a loop that runs must not cover one that does not.
// A thousand groups beat some times a second each, so the oldest is not searched for.
func (v voice) Beat(now lb.Instant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if last := v.at[v.group]; last != nil {
		v.beats.Remove(last)
	}
	v.at[v.group] = v.beats.PushBack(now)
	if oldest, ok := v.beats.Front().Value.(lb.Instant); ok {
		v.out.Beat(oldest)
	}
}
