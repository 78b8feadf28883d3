package main

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/kube"
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
	a.Beat(1 * time.Second)
	b.Beat(2 * time.Second)
	a.Beat(3 * time.Second)
	if h.beat != 2*time.Second {
		t.Errorf("beats at %d, want the oldest loop's, 2 s", h.beat)
	}
	v.end("b")
	a.Beat(4 * time.Second)
	if _, stays := h.says["b"]; stays || h.beat != 4*time.Second {
		t.Errorf("after b's end: %v, beats at %d", h.says, h.beat)
	}
}

// TestManyBeat: of many groups that beat in turns it is always the oldest that counts,
// also when some have ended.
func TestManyBeat(t *testing.T) {
	h := &heard{}
	v := newVoices(h)
	last := map[string]lb.Instant{}
	for i := range 1000 {
		group := fmt.Sprint("g", i*i%37)
		if i%50 == 49 {
			v.end(group)
			delete(last, group)
			continue
		}
		last[group] = lb.Instant(i)
		v.of(group).Beat(lb.Instant(i))
		if want := slices.Min(slices.Collect(maps.Values(last))); h.beat != want {
			t.Fatalf("at %d it beats at %d, want %d", i, h.beat, want)
		}
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
	late, more := c, c
	late.State = election.PeerLate
	more.Groups = map[string]election.Say{"a": {Phase: election.Holding}, "b": {}}
	for _, x := range []struct {
		what string
		next hello.Change
		a, b bool
	}{{"the same again", c, false, false}, {"falls silent", late, true, false}, {"speaks of b too", more, false, true}} {
		if a, b := isNews(c, x.next, "a"), isNews(c, x.next, "b"); a != x.a || b != x.b {
			t.Errorf("%s: news for a %v, for b %v", x.what, a, b)
		}
	}
}

// TestCarrierOf: a group is cut off by its own links only, one of several is enough.
func TestCarrierOf(t *testing.T) {
	vips := []lb.Address{{Link: "eth0"}, {Link: "eth1"}}
	for _, c := range []struct {
		down map[string]bool
		up   bool
	}{{nil, true}, {map[string]bool{"eth2": true}, true}, {map[string]bool{"eth1": true}, false},
		{map[string]bool{"eth0": true, "eth1": true}, false}} {
		if got := carrierOf(vips, c.down); got.Up != c.up {
			t.Errorf("with %v down: %+v", c.down, got)
		}
	}
}

// TestNewGroupsCatchUp: what was said before a group began is told to it first.
func TestNewGroupsCatchUp(t *testing.T) {
	s, _ := shopServices(t)
	s.deliver(election.Taints{Out: []string{"n3"}})
	s.deliver(election.Health{OK: false})
	s.deliver(election.AddressGone{}) // of the moment only
	if !slices.Equal(s.taints.Out, []string{"n3"}) || s.health.OK {
		t.Errorf("told first: %+v, %+v", s.taints, s.health)
	}
}

// TestHealthConcernsProxiedGroups: a sick HAProxy is no reason to move what kube-proxy
// serves.
func TestHealthConcernsProxiedGroups(t *testing.T) {
	sh := &share{}
	sick, down := election.Health{OK: false}, election.Carrier{Up: false}
	if got := sh.hears(sick); got != (election.Health{OK: true}) {
		t.Errorf("a direct group hears %+v", got)
	}
	if got := sh.hears(down); got != down {
		t.Errorf("and of a link %+v", got)
	}
	sh.proxied.Store(true)
	if got := sh.hears(sick); got != sick {
		t.Errorf("a proxied group hears %+v", got)
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
	s := &services{labels: map[string]string{"zone": "a"}, listed: true}
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
	s.listed = false
	if got := s.rules([]lb.Group{in("b")}, []string{"lan"}); len(got) != 2 {
		t.Errorf("selectors count although no node is listed: %q", got)
	}
	for _, c := range []struct {
		label, value string
		listed, may  bool
	}{
		{"other", "x", false, true}, {"other", "x", true, false}, {labelExclude, "", false, false},
		{kube.LabelEnable, "true", true, true}, {kube.LabelEnable, "false", true, false},
	} {
		if may := mayServe(map[string]string{c.label: c.value}, c.listed); may != c.may {
			t.Errorf("with %s=%q, nodes listed %t: may serve %t", c.label, c.value, c.listed, may)
		}
	}
	s.listed = false
	s.labels[labelExclude] = ""
	if got := s.announceable([]lb.Pool{{Name: "lan"}}, vip.Inventory{}); len(got) != 0 {
		t.Errorf("excluded, and yet %q", got)
	}
}
