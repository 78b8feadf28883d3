package main

import (
	"reflect"
	"testing"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// heard is what the hellos were told.
type heard struct {
	says map[string]election.Say
	beat lb.Instant
}

func (h *heard) Say(says map[string]election.Say) { h.says = says }
func (h *heard) Beat(at lb.Instant)               { h.beat = at }

// TestVoices: the groups speak in one hello, and a loop that runs does not cover one
// that does not.
func TestVoices(t *testing.T) {
	h := &heard{}
	v := newVoices(h)
	a, b := v.of("a"), v.of("b")
	a.Say(map[string]election.Say{"a": {Phase: election.Holding}})
	b.Say(map[string]election.Say{"b": {Phase: election.Claiming}})
	if len(h.says) != 2 || h.says["a"].Phase != election.Holding {
		t.Errorf("said %v", h.says)
	}
	a.Beat(10)
	b.Beat(11)
	a.Beat(20)
	if h.beat != 11 {
		t.Errorf("beats at %d, want the oldest loop's 11", h.beat)
	}
	v.end("b")
	a.Beat(30)
	if _, stays := h.says["b"]; stays || h.beat != 30 {
		t.Errorf("after b's end: %v, beats at %d", h.says, h.beat)
	}
}

// TestPeerOf: who says nothing of a group is not taken for idle, which would be
// evidence against a holder.
func TestPeerOf(t *testing.T) {
	c := hello.Change{Node: "n2", State: election.PeerUp, Groups: map[string]election.Say{"a": {Phase: election.Holding}}}
	if p := peerOf(c, "a"); p.State != election.PeerUp || p.Say.Phase != election.Holding {
		t.Errorf("of a: %+v", p)
	}
	if p := peerOf(c, "b"); p.State != election.PeerUnknown {
		t.Errorf("of b, of which it says nothing: %+v", p)
	}
}

// TestNewGroupsCatchUp: what was said before a group began is told to it first.
func TestNewGroupsCatchUp(t *testing.T) {
	s, _ := shopServices(t)
	s.deliver(election.Carrier{Up: false})
	s.deliver(election.Taints{Out: []string{"n3"}})
	s.deliver(election.Health{OK: false})
	s.deliver(election.AddressGone{}) // of the moment only
	want := [3]election.Event{election.Carrier{Up: false}, election.Taints{Out: []string{"n3"}}, election.Health{OK: false}}
	if !reflect.DeepEqual(s.told, want) {
		t.Errorf("told first: %+v", s.told)
	}
}

// TestGroupCandidates: who may hold a group of Services, and who rather; the others
// stay known, for one of them may hold it still.
func TestGroupCandidates(t *testing.T) {
	pool := lb.Group{Name: "pool-lan-0", Pool: "lan", Rule: "lan"}
	local := lb.Group{Name: "local-1", Pool: "lan", Rule: "lan", Local: true, Nodes: []string{"n2"}}
	member := func(node string, pools ...string) election.Member {
		return election.Member{Node: node, Pools: pools, Priority: 100, Live: true}
	}
	for _, c := range []struct {
		g        lb.Group
		m        election.Member
		may      bool
		priority int
	}{
		{pool, member("n1", "lan"), true, 0},
		{pool, member("n3", "dmz", "lan"), true, 1},
		{pool, member("n1", "dmz"), false, 0},
		{local, member("n2", "lan"), true, 0},
		{local, member("n3", "lan"), false, 0},
	} {
		m, known := candidates(c.g, "n3")(c.m)
		if !known || m.Live != c.may || m.Drain == c.may || c.may && m.Priority != c.priority {
			t.Errorf("%s in %s: known %t, %+v", c.m.Node, c.g.Name, known, m)
		}
	}
}

// TestRules: a node says what it may hold by its links and labels.
func TestRules(t *testing.T) {
	s := &services{labels: map[string]string{"zone": "a"}}
	in := func(zone string) lb.Group {
		sel := map[string]string{"zone": zone}
		return lb.Group{Pool: "lan", NodeSelector: sel, Rule: lb.RuleOf("lan", sel)}
	}
	got := s.rules([]lb.Group{in("a"), in("b"), in("a"), {Pool: "lan", Rule: "lan"}}, []string{"lan"})
	if len(got) != 2 || got[0] != "lan" || got[1] != in("a").Rule {
		t.Errorf("it says %q", got)
	}
	if got := s.rules([]lb.Group{in("a")}, []string{"dmz"}); len(got) != 1 {
		t.Errorf("of a pool that is not announced here: %q", got)
	}
	s.labels[labelExclude] = ""
	if got := s.announceable([]lb.Pool{{Name: "lan"}}, vip.Inventory{}); len(got) != 0 {
		t.Errorf("excluded, and yet %q", got)
	}
}
