package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// among gives an agent a of two VIPs, one of each family, with these members.
func among(s *site, members ...election.Member) *Agent {
	six := lb.Address{IP: netip.MustParseAddr("2001:db8::10"), Link: "eth1"}
	n := s.add(standby, func(o *Options) { o.VIPs = append(o.VIPs, six) })
	n.agent.ctx = s.t.Context()
	n.agent.step(election.Started{})
	n.agent.step(election.Members{All: members})
	return n.agent
}

func text(all any) string { return fmt.Sprint(all) }

// TestForwards: one for each VIP whose family the old holder has an address of,
// to its first such address, for the time to drain.
func TestForwards(t *testing.T) {
	const four, six = "{192.0.2.10 dev eth0 192.0.2.2 02:00:00:00:00:62 5m1s}",
		"{2001:db8::10 dev eth1 2001:db8::2 02:00:00:00:00:62 5m1s}"
	for _, s := range []struct {
		name  string
		addrs []string
		want  string
	}{
		{"both families", []string{"192.0.2.2", "2001:db8::2"},
			"[" + four + " " + six + "]"},
		{"the other way round", []string{"2001:db8::2", "192.0.2.2"},
			"[" + four + " " + six + "]"},
		{"several of one family", []string{"192.0.2.2", "192.0.2.3"}, "[" + four + "]"},
		{"garbage beside it", []string{"", "host", "192.0.2.2/24", "192.0.2.2"}, "[" + four + "]"},
		{"none", nil, "[]"},
		{"what no rule can lead to", []string{"0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "255.255.255.255",
			"fe80::1", "2001:db8::1%eth0", "ff02::1", "::"}, "[]"},
		{"IPv4 in IPv6 form", []string{"::ffff:192.0.2.2"}, "[" + four + "]"},
	} {
		t.Run(s.name, func(t *testing.T) {
			inSite(t, func(t *testing.T, site *site) {
				a := among(site, election.Member{Node: "a", Addrs: []string{"192.0.2.1"}},
					election.Member{Node: "b", Addrs: s.addrs, MACs: []string{"02:00:00:00:00:62"}}, election.Member{Node: "c", Addrs: []string{"192.0.2.9"}})
				if got := text(a.forwards("b")); got != s.want {
					t.Errorf("got %s, want %s", got, s.want)
				}
				if got := a.forwards(""); got != nil {
					t.Errorf("to nobody: %v", got)
				}
				if got := a.forwards("d"); got != nil {
					t.Errorf("to one that is no member: %v", got)
				}
			})
		})
	}
}

// TestWitnesses: the gateway and every candidate but this node and the suspected
// holder; what is no address is left out.
func TestWitnesses(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a := among(s, election.Member{Node: "a", Addrs: []string{"192.0.2.1"}},
			election.Member{Node: "b", Addrs: []string{"192.0.2.2", "2001:db8::2"}},
			election.Member{Node: "c", Addrs: []string{"192.0.2.3", "garbage"}})
		const gateway = "192.0.2.254 dev eth0"
		want := "[" + gateway + " 192.0.2.2 dev eth0 2001:db8::2 dev eth0 192.0.2.3 dev eth0]"
		if got := text(a.witnesses()); got != want {
			t.Errorf("nobody holds: %s, want %s", got, want)
		}
		b := election.Record{Holder: "b", Transitions: 1}
		view := election.View{Exists: true, Sound: true, Candidate: true, Record: b}
		a.step(election.Saw{View: view, Via: election.ByRead, Begun: a.opt.Now()})
		if got, want := text(a.witnesses()), "["+gateway+" 192.0.2.3 dev eth0]"; got != want {
			t.Errorf("b holds: %s, want %s", got, want)
		}
		if got := text(a.opt.Witnesses); got != "["+gateway+"]" {
			t.Errorf("the configuration's own list is %s now", got)
		}
	})
}
