package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

func nftables(f *Facts) []Finding {
	if f.Rules.Fault != "" {
		return []Finding{problem("apt-get install nftables   # or the package of your distribution; the agent's image "+
			"has it", "%s", f.Rules.Fault)}
	}
	return []Finding{ok("the kernel takes redirects, mute tables and forwards")}
}

func firewall(f *Facts) []Finding {
	if len(f.Rules.Drops) == 0 {
		return []Finding{ok("no input chain of nftables drops by default")}
	}
	var closed []string
	want := map[uint16]string{}
	// The agent, if it runs, knows better whether hellos pass.
	if !heard(f.Agent.Peers) {
		want[f.Site.Hello] = "udp"
	}
	// Redirects come before the input chain, which so sees the port behind.
	if f.Site.Balance && len(f.Site.VIPs) > 0 {
		want[f.Site.Proxy] = "tcp"
	}
	if f.Site.Services {
		want[f.Site.Peers] = "tcp"
	}
	for _, port := range slices.Sorted(maps.Keys(want)) {
		if port != 0 && !f.Rules.Opened[port] {
			closed = append(closed, fmt.Sprintf("%s dport %d", want[port], port))
		}
	}
	if len(closed) == 0 {
		return []Finding{ok("%s drops by default and names the agents' ports", list(f.Rules.Drops))}
	}
	insert := "nft insert rule " + f.Rules.Drops[0] + " "
	return []Finding{warning(insert+strings.Join(closed,
		" accept && "+insert)+" accept   # or as your firewall's tool does",
		"%s drops by default, and no rule names %s", list(f.Rules.Drops), strings.Join(closed, " or "))}
}

// heard says whether the hellos of all peers come.
func heard(peers []Peer) bool {
	silent := func(p Peer) bool { return p.State != "up" && p.State != "late" }
	return len(peers) > 0 && !slices.ContainsFunc(peers, silent)
}

func ports(f *Facts) []Finding {
	var out []Finding
	for _, p := range f.Ports {
		if p.Use == UseAPIServer {
			out = append(out, f.apiPort(p)...)
			continue
		}
		out = append(out, p.judge(f.Site))
	}
	return append(out, f.nodePorts()...)
}

// judge wants the port to be free, or an agent's.
func (p Port) judge(s Site) Finding {
	name := fmt.Sprintf("%s port %d (%s)", p.Protocol, p.Number, p.Use)
	for _, l := range p.By {
		if !l.Ours {
			return problem(fmt.Sprintf("ss -lnp | grep ':%d '   # stop it, or set %s in %s", p.Number, p.Use, s.File),
				"%s: %s listens on %s", name, l.who(), l.At)
		}
	}
	if len(p.By) > 0 {
		return ok("%s: the agent's", name)
	}
	return ok("%s: free", name)
}

// who names a process.
func (l Listener) who() string {
	if l.PID == 0 {
		return "a process that is not visible from here"
	}
	return fmt.Sprintf("process %d (%s)", l.PID, l.Command)
}

// balances says whether the program is a load balancer.
func (l Listener) balances() bool {
	return slices.Contains([]string{"haproxy", "nginx", "envoy", "traefik"}, l.Command)
}

// apiPort wants an API server on every address, or nobody.
func (f *Facts) apiPort(p Port) []Finding {
	name := fmt.Sprintf("TCP port %d (%s)", p.Number, p.Use)
	if len(p.By) == 0 {
		return []Finding{ok("%s: nobody listens yet", name)}
	}
	var out []Finding
	var at []netip.Addr
	for _, l := range p.By {
		switch {
		case l.balances():
			out = append(out, problem(fmt.Sprintf("ss -lntp | grep ':%d '   # stop it: the agent brings its own load "+
				"balancer", p.Number),
				"%s: %s listens on %s, where the API server belongs", name, l.who(), l.At))
		case slices.Contains(f.Site.VIPs, l.At.Addr()):
			out = append(out, problem(fmt.Sprintf("ss -lntp | grep ':%d '", p.Number),
				"%s: %s listens on the VIP itself (%s)", name, l.who(), l.At))
		default:
			at = append(at, l.At.Addr())
		}
	}
	everywhere := slices.ContainsFunc(at, netip.Addr.IsUnspecified)
	switch {
	case len(at) > 0 && !everywhere && !f.Site.Balance:
		out = append(out, problem("--bind-address=0.0.0.0   # of kube-apiserver; or apiServer.balance: haproxy",
			"%s: the API server listens on %s only, so that nobody answers on the VIP", name, list(at)))
	case len(at) > 0 && !everywhere:
		out = append(out, warning("--bind-address=0.0.0.0   # of kube-apiserver",
			"%s: the API server listens on %s only: while HAProxy is away nobody answers on the VIP", name, list(at)))
	case everywhere:
		out = append(out, ok("%s: %s listens on all addresses", name, p.By[0].who()))
	}
	return out
}

// nodePorts finds ports of ours in the range of NodePorts (Kubernetes' default).
func (f *Facts) nodePorts() []Finding {
	var out []Finding
	for _, p := range f.Ports {
		if p.Number >= 30000 && p.Number <= 32767 {
			out = append(out, warning(fmt.Sprintf("set %s in %s", p.Use, f.Site.File),
				"%s port %d (%s) is among the NodePorts, 30000 to 32767", p.Protocol, p.Number, p.Use))
		}
	}
	return out
}

func program(f *Facts) []Finding {
	h := f.HAProxy
	if !f.Site.needsHAProxy() {
		return nil
	}
	const install = "apt-get install haproxy   # 2.6 or later; the agent's image has it"
	switch {
	case h.Missing != "":
		return []Finding{problem(install, "%s", h.Missing)}
	case h.Major < 2 || h.Major == 2 && h.Minor < 6:
		return []Finding{problem(install,
			"HAProxy %s is older than 2.6, the oldest that the agent's configuration is made for", h.Version)}
	case len(h.Lacks) > 0:
		return []Finding{problem(install, "HAProxy %s is built without %s", h.Version, list(h.Lacks))}
	}
	var out []Finding
	if h.Minor%2 == 1 || strings.Contains(h.Status, "End of life") || strings.Contains(h.Status, "development") {
		out = append(out, warning(install, "HAProxy %s is of a branch without long support (%s)", h.Version, h.status()))
	} else {
		out = append(out, ok("HAProxy %s (%s)", h.Version, h.status()))
	}
	if h.Major == 2 && h.Minor == 6 {
		out = append(out, ok("2.6 has no bandwidth limits (bwlim, 2.7), and takes an added server for up before its "+
			"first check (init-state, 3.1)"))
	}
	return out
}

// status is the branch's support in its own words.
func (h HAProxy) status() string {
	if h.Status == "" {
		return fmt.Sprintf("branch %d.%d", h.Major, h.Minor)
	}
	return strings.TrimSuffix(h.Status, ".")
}

// fewConnections is what a cluster of some hundred nodes needs.
const fewConnections = 1000

func openFiles(f *Facts) []Finding {
	var out []Finding
	const raise = "ulimit -Hn   # LimitNOFILE= under systemd, the container runtime's default ulimit for pods"
	for _, b := range f.HAProxy.Budgets {
		switch {
		case b.Fault != "":
			out = append(out, problem(raise, "HAProxy of %s: %s", b.For, b.Fault))
		case b.Wanted > b.Most:
			out = append(out, warning(raise, "HAProxy of %s: %d connections fit, %s wants %d", b.For, b.Most, b.Setting,
				b.Wanted))
		case b.Most < fewConnections && b.Wanted == 0:
			out = append(out, warning(raise, "HAProxy of %s: only %d connections fit", b.For, b.Most))
		default:
			out = append(out, ok("HAProxy of %s: %d connections fit", b.For, b.Most))
		}
	}
	return out
}
