package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

func agentSays(f *Facts) []Finding {
	a := f.Agent
	out := []Finding{ok("version %s, %s, the holder is %s", a.Version, orUnknown(a.State), orUnknown(a.Holder))}
	if a.Version != a.Ours {
		out = append(out, warning("systemctl restart mooring   # or delete its pod",
			"the agent is version %s, this command %s", a.Version, a.Ours))
	}
	for _, c := range a.Complaints {
		out = append(out, warning("mooring status", "it complains: %s", c))
	}
	return out
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func hello(f *Facts) []Finding {
	a := f.Agent
	var out []Finding
	for _, p := range a.Peers {
		switch p.State {
		case "up", "late":
			out = append(out, ok("hellos of %s come", p.Node))
		case "unknown":
			out = append(out, warning(fmt.Sprintf("nft list ruleset | grep %d   # on both nodes: let UDP port %d pass, and "+
				"see that both have one key",
				f.Site.Hello, f.Site.Hello), "hellos of %s never came: a firewall, another key, or no agent there", p.Node))
		default:
			out = append(out, warning("mooring status   # on "+p.Node, "hellos of %s have ended: it is down, or cut off",
				p.Node))
		}
	}
	for _, r := range a.Refused {
		out = append(out, f.refused(r))
	}
	if len(out) == 0 {
		out = append(out, ok("the agent knows no other candidate"))
	}
	return out
}

// refused judges datagrams that were not believed. The agent counts them from its
// start: of a peer that is heard now, and of strangers that have become peers since,
// they are history.
func (f *Facts) refused(r string) Finding {
	from, _, _ := strings.Cut(r, ":")
	silent := func(p Peer) bool { return p.Node == from && p.State != "up" && p.State != "late" }
	if !slices.ContainsFunc(f.Agent.Peers, silent) {
		return ok("not believed since the agent's start: %s", r)
	}
	return warning("kubectl -n "+f.Site.Namespace+" get secret mooring-hello   # one key on all nodes",
		"hellos were not believed: %s", r)
}

func neighbours(f *Facts) []Finding {
	var out []Finding
	for _, n := range f.Neighbours {
		fix := fmt.Sprintf("nc -vz %s %d   # let TCP port %[2]d pass between the nodes", n.Addr.Addr(), n.Addr.Port())
		switch {
		case n.Fault == "":
			out = append(out, ok("%s%s can be reached", n.Addr, n.on()))
		case n.Refused:
			out = append(out, ok("%s%s answers that nobody listens there now", n.Addr, n.on()))
		default:
			out = append(out, warning(fix, "%s%s cannot be reached: %s", n.Addr, n.on(), n.Fault))
		}
	}
	if len(out) == 0 {
		out = append(out, ok("no other node is known"))
	}
	return out
}

// on names the node, if it is known.
func (n Neighbour) on() string {
	if n.Node == "" {
		return ""
	}
	return " on " + n.Node
}

// soon is when an expiry is worth a warning.
const soon = 30 * 24 * time.Hour

func credentials(f *Facts) []Finding {
	c := f.Credentials
	days := int(c.Left.Hours() / 24)
	anew := "mooring credentials --out " + c.File + " (on the host, with the cluster's CA; --profile k0s or k3s there)"
	switch {
	case c.Missing && f.Site.Fresh:
		return []Finding{warning(anew, "%s: there are no credentials yet", c.File)}
	case c.Missing:
		return []Finding{problem(anew, "%s", c.Fault)}
	case c.Fault != "":
		return []Finding{problem("kubectl config view --kubeconfig "+c.File, "%s", c.Fault)}
	case c.Left < 0:
		return []Finding{problem(anew, "%s: the client certificate has expired %d days ago", c.File, -days)}
	case c.Left > 0 && c.Left < soon:
		return []Finding{warning(anew, "%s: the client certificate expires in %s", c.File, plural(days, "day"))}
	case c.Left > 0:
		return []Finding{ok("%s: valid for %s", c.File, plural(days, "day"))}
	}
	return []Finding{ok("%s: no client certificate, a token", c.File)}
}

func api(f *Facts) []Finding {
	var out []Finding
	ready := slices.ContainsFunc(f.Servers, func(s Server) bool { return s.Code == 200 })
	for _, s := range f.Servers {
		name, fix := s.Addr, "curl -k https://"+s.Addr+"/readyz"
		if s.Local {
			name += " (this node's)"
		}
		switch {
		case s.Code == 200:
			out = append(out, ok("%s is ready", name))
		case s.Code == 401 || s.Code == 403:
			out = append(out, problem("kubectl auth whoami --kubeconfig "+f.Site.Kubeconfig,
				"%s refuses the credentials (%d)", name, s.Code))
		case s.Code != 0:
			out = append(out, warning(fix, "%s is not ready (%d)", name, s.Code))
		case ready || f.Site.Fresh:
			out = append(out, warning(fix, "%s does not answer: %s", name, s.Fault))
		default:
			out = append(out, problem(fix, "%s does not answer: %s", name, s.Fault))
		}
	}
	return out
}

const (
	// offALittle is a difference of clocks that synchronised ones do not have,
	// offMuch one at which certificates and tokens begin to be refused.
	offALittle = 2 * time.Second
	offMuch    = 5 * time.Minute
)

func clock(f *Facts) []Finding {
	var out []Finding
	for _, s := range f.Servers {
		if !s.Dated {
			continue
		}
		off := s.Ahead.Abs() - s.Within
		word := "ahead of"
		if s.Ahead < 0 {
			word = "behind"
		}
		text := fmt.Sprintf("the clock of %s is %s %s this node's", s.Addr, s.Ahead.Abs().Round(time.Second), word)
		const fix = "timedatectl status   # on both nodes: chrony, systemd-timesyncd or ntpd"
		switch {
		case off >= offMuch:
			out = append(out, problem(fix, "%s", text))
		case off >= offALittle:
			out = append(out, warning(fix, "%s", text))
		default:
			out = append(out, ok("the clock of %s agrees, as far as a second shows", s.Addr))
		}
	}
	if len(out) == 0 {
		return []Finding{unseen(Gap{Why: "no API server told the time", Fix: "timedatectl status"})}
	}
	return out
}

func certificate(f *Facts) []Finding {
	c := f.Certificate
	if len(f.Site.VIPs) == 0 {
		return nil
	}
	if len(c.Missing) == 0 {
		return []Finding{ok("%s names %s", c.Server, list(f.Site.VIPs))}
	}
	return []Finding{problem("kubeadm init phase certs apiserver --apiserver-cert-extra-sans "+list(c.Missing)+
		"   # after moving pki/apiserver.* away; k3s: --tls-san; k0s: api.sans", "%s does not name %s", c.Server, list(c.Missing))}
}

func rights(f *Facts) []Finding {
	r := f.Rights
	var out []Finding
	for _, file := range slices.Sorted(maps.Keys(r.Denied)) {
		missing := r.Denied[file]
		out = append(out, problem("mooring manifest "+file+" | kubectl apply -f -", "%s may not: %s", r.User, some(missing,
			4)))
	}
	if len(out) > 0 && !slices.Contains(r.Groups, agentsGroup) {
		out = append(out, problem("openssl x509 -noout -subject   # of the client certificate; it wants O=mooring:agents",
			"%s is not in the group %s, to which the rights are bound (its groups: %s)", r.User, agentsGroup, list(r.Groups)))
	}
	if len(out) == 0 {
		out = append(out, ok("%s has all %d rights", r.User, r.Asked))
	}
	return out
}

// agentsGroup is what the manifests bind the rights to.
const agentsGroup = "mooring:agents"

// some lists the first few.
func some(all []string, most int) string {
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

func namespace(f *Facts) []Finding {
	if f.NamespaceMissing {
		return []Finding{problem("mooring manifest namespace | kubectl apply -f -", "there is no namespace %s",
			f.Site.Namespace)}
	}
	return []Finding{ok("%s takes Leases", f.Site.Namespace)}
}

func nodeName(f *Facts) []Finding {
	if f.NodeMissing {
		return []Finding{problem("kubectl get nodes   # set node in "+f.Site.File, "the cluster has no Node %s", f.Site.Node)}
	}
	return []Finding{ok("%s is a Node of the cluster", f.Site.Node)}
}

func key(f *Facts) []Finding {
	k := f.Key
	switch {
	case k.Missing && f.Site.KeyFile == "":
		return []Finding{ok("%s is not there yet: the first agent makes it", k.Where)}
	case k.Missing:
		return []Finding{problem("head -c 32 /dev/urandom | base64 > "+f.Site.KeyFile+"   # the same file on all nodes",
			"%s is not there", k.Where)}
	case k.Fault != "":
		return []Finding{problem("head -c 32 /dev/urandom | base64   # a fresh key, for all nodes", "%s: %s", k.Where,
			k.Fault)}
	}
	return []Finding{ok("%s: %s", k.Where, plural(k.Keys, "key"))}
}

func pools(f *Facts) []Finding {
	switch {
	case !f.Site.Services:
		return nil
	case f.Pools.Missing:
		return []Finding{problem("mooring manifest addresspools | kubectl apply -f -",
			"the cluster does not know AddressPools")}
	case f.Pools.Count == 0:
		return []Finding{warning("kubectl explain addresspools.spec",
			"there is no AddressPool: no Service can get an address")}
	}
	return []Finding{ok("%s", plural(f.Pools.Count, "AddressPool"))}
}
