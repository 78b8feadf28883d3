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
	s.peers[c.Node] = c
	s.mu.Unlock()
	for _, sh := range *s.open.Load() {
		sh.agent.Deliver(peerOf(c, sh.name))
	}
}

// peerOf is what a peer says of a group. One that says nothing of it, for there are
// more groups than a hello has room for, is not known to be idle.
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
	for _, ev := range s.told {
		sh.agent.Deliver(ev)
	}
	for _, node := range slices.Sorted(maps.Keys(s.peers)) {
		sh.agent.Deliver(peerOf(s.peers[node], sh.name))
	}
}

// deliver passes what concerns all groups on.
func (s *services) deliver(ev election.Event) {
	s.mu.Lock()
	switch ev.(type) {
	case election.Carrier:
		s.told[0] = ev
	case election.Taints:
		s.told[1] = ev
	case election.Health:
		s.told[2] = ev
	}
	s.mu.Unlock()
	for _, sh := range *s.open.Load() {
		sh.agent.Deliver(ev)
	}
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
