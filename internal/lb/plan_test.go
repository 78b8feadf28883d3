package lb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// backends names some servers after their addresses.
func backends(addrs ...string) []Backend {
	var out []Backend
	for _, a := range addrs {
		out = append(out, BackendAt(netip.MustParseAddrPort(a)))
	}
	return out
}

// ips parses addresses.
func ips(addrs ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// site is a snapshot with all there is; the stories change it.
func site(changes ...func(*Snapshot)) Snapshot {
	s := Snapshot{
		VIPs: ips("192.0.2.10"), Balance: true, Port: 6443, ProxyPort: 7443,
		Backends: backends("10.0.0.11:6443", "10.0.0.12:6443"), Seeds: backends("10.0.0.99:6443"),
		Check: Check{Path: "/readyz", ServerName: "kubernetes", CAFile: "/run/mooring/ca.pem"},
		Proxy: ProxyState{Serving: true},
	}
	for _, change := range changes {
		change(&s)
	}
	return s
}

// draw prints a plan in a line per thing, for comparison.
func draw(d Desired) string {
	var b strings.Builder
	for _, f := range d.Frontends {
		fmt.Fprintf(&b, "frontend %s binds %v check %s as %q", f.Name, f.Binds, f.Check.Path, f.Check.ServerName)
		for _, s := range f.Backends {
			fmt.Fprintf(&b, " %s=%s", s.Name, s.Addr)
		}
		b.WriteString("\n")
	}
	for _, r := range d.Redirects {
		fmt.Fprintf(&b, "redirect %s %d to %d\n", r.VIP, r.From, r.To)
	}
	if d.Reason != "" {
		fmt.Fprintf(&b, "because %s\n", d.Reason)
	}
	return b.String()
}

const (
	front = `frontend apiserver binds [192.0.2.10:7443] check /readyz as "kubernetes"`
	two   = " s-10-0-0-11-6443=10.0.0.11:6443 s-10-0-0-12-6443=10.0.0.12:6443\n"
	there = "redirect 192.0.2.10 6443 to 7443\n"
)

// TestPlan: what follows from what is known.
func TestPlan(t *testing.T) {
	stories := []struct {
		name   string
		change func(*Snapshot)
		want   string
	}{
		{"all there", func(*Snapshot) {}, front + two + there},
		{"balance off, whatever else is known", func(s *Snapshot) { s.Balance = false }, "because BalanceOff\n"},
		{"the cluster has not spoken: the seeds count", func(s *Snapshot) { s.Backends = nil },
			front + " s-10-0-0-99-6443=10.0.0.99:6443\n" + there},
		{"the cluster has spoken: the seeds do not", func(s *Snapshot) { s.Backends = s.Backends[:1] },
			front + " s-10-0-0-11-6443=10.0.0.11:6443\n" + there},
		{"nobody knows a server", func(s *Snapshot) { s.Backends, s.Seeds = nil, nil }, "because NoAPIServersKnown\n"},
		{"HAProxy does not serve: no redirect, the frontend stays wanted",
			func(s *Snapshot) { s.Proxy = ProxyState{Why: "it starts"} }, front + two + "because ProxyNotServing\n"},
		{"no backend passes its check: all are used, so the redirect stays",
			func(s *Snapshot) { s.Proxy.Up = nil }, front + two + there},
		{"another port", func(s *Snapshot) { s.Port, s.ProxyPort = 443, 9443 },
			strings.ReplaceAll(front, "7443", "9443") + two + "redirect 192.0.2.10 443 to 9443\n"},
		{"dual stack, in the order of the configuration",
			func(s *Snapshot) { s.VIPs = ips("2001:db8::10", "192.0.2.10") },
			strings.Replace(front, "[192", "[[2001:db8::10]:7443 192", 1) + two +
				"redirect 2001:db8::10 6443 to 7443\n" + there},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			if got := draw(Plan(site(s.change))); got != s.want {
				t.Errorf("got\n%swant\n%s", got, s.want)
			}
		})
	}
}

// TestPlanIsSteady: servers in any order are the same plan, so that a cluster
// that lists them anew does not reload HAProxy, and the input stays as it was.
func TestPlanIsSteady(t *testing.T) {
	all := backends("10.0.0.11:6443", "10.0.0.9:6443", "[2001:db8::1]:6443", "10.0.0.12:6443", "10.0.0.11:7000")
	want := draw(Plan(site(func(s *Snapshot) { s.Backends = all })))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		mixed := slices.Clone(all)
		rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		before := slices.Clone(mixed)
		if got := draw(Plan(site(func(s *Snapshot) { s.Backends = mixed }))); got != want {
			t.Fatalf("for the order %v got\n%swant\n%s", before, got, want)
		}
		if !slices.Equal(mixed, before) {
			t.Fatalf("Plan sorted its caller's slice: %v was %v", mixed, before)
		}
	}
}

// TestPlanNeverRedirectsToNothing: over every combination of inputs a redirect
// exists only with a frontend that listens where it leads and a serving proxy.
func TestPlanNeverRedirectsToNothing(t *testing.T) {
	for bits := range 1 << 4 {
		has := func(bit int) bool { return bits>>bit&1 == 1 }
		d := Plan(site(func(s *Snapshot) {
			s.Balance, s.Proxy.Serving = has(0), has(1)
			if !has(2) {
				s.Backends = nil
			}
			if !has(3) {
				s.Seeds = nil
			}
		}))
		want := has(0) && has(1) && (has(2) || has(3))
		if got := len(d.Redirects) == 1; got != want {
			t.Errorf("balance %t, serving %t, backends %t, seeds %t: redirected is %t", has(0), has(1), has(2), has(3), got)
		}
		if (d.Reason == "") != want {
			t.Errorf("reason %q beside redirects %v", d.Reason, d.Redirects)
		}
		for _, r := range d.Redirects {
			if !slices.Contains(d.Frontends[0].Binds, netip.AddrPortFrom(r.VIP, r.To)) {
				t.Errorf("redirect to %s:%d, where nobody listens: %v", r.VIP, r.To, d.Frontends[0].Binds)
			}
		}
	}
}
