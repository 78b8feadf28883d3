package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func configuration(f *Facts) []Finding {
	s := f.Site
	if len(s.Faults) > 0 {
		var out []Finding
		for _, line := range s.Faults {
			fix := "mooring config check " + s.File
			if s.Missing {
				fix = "mooring config minimal > " + s.File + "   # and set kubeconfig and apiServer.vips"
			}
			out = append(out, problem(fix, "%s", line))
		}
		return append(out, ok("what follows is with the defaults, and without any VIP"))
	}
	what := "no VIP of the API server"
	if len(s.VIPs) > 0 {
		what = "VIP " + list(s.VIPs)
	}
	if s.Services {
		what += ", Services"
	}
	if len(s.VIPs) == 0 && !s.Services {
		return []Finding{warning("mooring config reference", "%s is sound and gives the agent nothing to do", s.File)}
	}
	return []Finding{ok("%s: node %s, %s", s.File, s.Node, what)}
}

func interfaces(f *Facts) []Finding {
	var out []Finding
	for _, v := range f.Links.VIPs {
		switch {
		case v.Fault != "":
			out = append(out, problem("ip -brief address; then set interface or apiServer.vips in "+f.Site.File, "%s", v.Fault))
		case !v.Up:
			out = append(out, problem("ip link set "+v.Link+" up", "%s: its link %s is down", v.IP, v.Link))
		case !v.Carrier:
			out = append(out, problem("ethtool "+v.Link, "%s: its link %s has no carrier: cable, switch port or bond", v.IP,
				v.Link))
		case len(v.Beside) > 0 && v.IP.Is4() && f.strongest("arp_ignore", v.Link) == "0":
			out = append(out, warning("sysctl -w net.ipv4.conf.all.arp_ignore=1",
				"%s: %s is in its subnet besides %s, and the kernel answers for it on both, with two MACs", v.IP, list(v.Beside), v.Link))
		default:
			out = append(out, ok("%s on %s, up, MTU %d", v.IP, v.Link, v.MTU))
		}
	}
	return out
}

// strongest is the sysctl's effective value for a link where the kernel takes the
// greater of the link's and of all's, "" where it cannot be read.
func (f *Facts) strongest(name, link string) string {
	return max(f.Sysctls["net/ipv4/conf/all/"+name], f.Sysctls["net/ipv4/conf/"+link+"/"+name])
}

func claims(f *Facts) []Finding {
	var out []Finding
	for _, c := range f.Wire.Claims {
		switch {
		case c.Node != "":
			out = append(out, ok("%s is answered by %s (%s), a candidate", c.IP, c.Node, c.MAC))
		case strings.HasPrefix(c.MAC, "00:00:5e:00:"):
			out = append(out, problem("grep -rn "+c.IP.String()+" /etc/keepalived/",
				"%s is answered by MAC %s, a VRRP router's: keepalived or a router has it", c.IP, c.MAC))
		case !f.Wire.Known:
			out = append(out, warning("ip neigh show | grep -i "+c.MAC,
				"%s is answered by MAC %s; the candidates' MACs are not known here, it may be one of them", c.IP, c.MAC))
		default:
			out = append(out, problem("ip neigh show | grep -i "+c.MAC+"   # find that host and take the address from it, "+
				"or choose another",
				"%s is answered by MAC %s, a host that is no candidate", c.IP, c.MAC))
		}
	}
	if f.Wire.Fault != "" {
		return append(out, unseen(Gap{Why: f.Wire.Fault}))
	}
	for _, v := range f.Links.VIPs {
		if v.Fault == "" && (!v.Up || !v.Carrier) {
			out = append(out, unseen(Gap{Why: "who has " + v.IP.String() + ": nothing can be heard on " + v.Link}))
			continue
		}
		if v.Fault == "" && !slices.ContainsFunc(f.Wire.Claims, func(c Claim) bool { return c.IP == v.IP }) {
			out = append(out, ok("no other host answers for %s", v.IP))
		}
	}
	return out
}

func witnesses(f *Facts) []Finding {
	if len(f.Links.VIPs) == 0 {
		return nil
	}
	w := f.Wire
	silent := slices.DeleteFunc(slices.Clone(w.Asked), func(a netip.Addr) bool { return slices.Contains(w.Answered, a) })
	const way = "witnesses: [ADDRESS]   # in the configuration: any host on the link that is always on, a switch for example"
	switch {
	case len(w.Answered) > 0 && len(silent) > 0:
		return []Finding{ok("%s answers; %s does not", list(w.Answered), list(silent))}
	case len(w.Answered) > 0:
		return []Finding{ok("%s answers", list(w.Answered))}
	case w.Candidates == 2:
		return []Finding{problem(way,
			"two candidates and no witness%s: when one dies the other takes over only when the Lease has run out",
			deaf(silent))}
	case w.Candidates == 1:
		return []Finding{ok("one candidate: nobody could take over from another")}
	case w.Candidates == 0:
		return []Finding{warning(way, "no gateway and no witness answers%s; with two candidates one is needed", deaf(silent))}
	}
	return []Finding{ok("no gateway or witness answers%s; %d candidates are each other's witnesses", deaf(silent),
		w.Candidates)}
}

// deaf names hosts that did not answer.
func deaf(silent []netip.Addr) string {
	if len(silent) == 0 {
		return " (there is no gateway on the VIP's link)"
	}
	return fmt.Sprintf(" (%s does not)", list(silent))
}

// whose names the process that was looked at.
func (p Process) whose() string {
	if p.Agent {
		return fmt.Sprintf("the agent (process %d)", p.PID)
	}
	return "this command"
}

// elsewhere is what to add where no agent was looked at: its rights may be others.
func (p Process) elsewhere() string {
	if p.Agent {
		return ""
	}
	return "; an agent's own may differ"
}

func capabilities(f *Facts) []Finding {
	p := f.Process
	if len(p.Lacks) == 0 {
		return []Finding{ok("%s has NET_ADMIN, NET_RAW and NET_BIND_SERVICE%s", p.whose(), p.elsewhere())}
	}
	fix := "mooring manifest static-pod | grep -A2 'add:'   # capabilities.add of the container; under systemd CapabilityBoundingSet"
	if !p.Agent {
		return []Finding{warning("sudo mooring check   # or in the agent's pod: kubectl -n kube-system exec POD -- "+
			"mooring check",
			"this command lacks %s; an agent's own rights may differ, and were not seen", list(p.Lacks))}
	}
	return []Finding{problem(fix, "%s lacks %s", p.whose(), list(p.Lacks))}
}

func priority(f *Facts) []Finding {
	p := f.Process
	if p.Precedence {
		return []Finding{ok("%s gets the highest niceness%s", p.whose(), p.elsewhere())}
	}
	return []Finding{warning("mooring manifest static-pod | grep -A2 'add:'   # SYS_NICE; under systemd "+
		"CapabilityBoundingSet and LimitNICE=-20",
		"%s does not get the highest niceness: %s", p.whose(), p.Why)}
}

func directories(f *Facts) []Finding {
	var out []Finding
	p := f.Process
	for _, why := range p.Unwritable {
		if !p.Agent && len(p.Lacks) > 0 {
			// What an ordinary user may not write, root may.
			return []Finding{unseen(Gap{Why: why, Fix: "sudo mooring check"})}
		}
		out = append(out, problem("mkdir -p /run/mooring /var/lib/mooring   # and mount them into the pod, not read-only",
			"%s", why))
	}
	if len(out) == 0 {
		out = append(out, ok("runDir and stateDir can be written"))
	}
	return out
}

func arp(f *Facts) []Finding {
	var out []Finding
	for _, v := range f.Links.VIPs {
		if v.Fault != "" {
			continue
		}
		if v.IP.Is4() {
			out = append(out, f.arp4(v)...)
		} else {
			out = append(out, f.arp6(v)...)
		}
	}
	if len(out) == 0 && len(f.Links.VIPs) > 0 {
		out = append(out, ok("nothing keeps the kernel from answering; ip_nonlocal_bind is not needed"))
	}
	return out
}

// arp4 judges one IPv4 address's link (Documentation/networking/ip-sysctl.rst).
func (f *Facts) arp4(v Placed) []Finding {
	var out []Finding
	set := func(name, value string) string {
		return fmt.Sprintf("sysctl -w net.ipv4.conf.%s.%s=%s", dotless(v.Link), name, value)
	}
	if f.strongest("arp_ignore", v.Link) == "8" {
		out = append(out, problem("sysctl -w net.ipv4.conf.all.arp_ignore=1 && "+set("arp_ignore", "1"),
			"arp_ignore is 8: this kernel answers nobody who asks for %s", v.IP))
	}
	if f.Sysctls["net/ipv4/conf/"+v.Link+"/proxy_arp_pvlan"] == "1" {
		out = append(out, problem(set("proxy_arp_pvlan", "0"),
			"proxy_arp_pvlan of %s is 1: this node answers for %s whoever holds it", v.Link, v.IP))
	}
	if f.strongest("drop_gratuitous_arp", v.Link) == "1" {
		out = append(out, warning("sysctl -w net.ipv4.conf.all.drop_gratuitous_arp=0 && "+set("drop_gratuitous_arp", "0"),
			"drop_gratuitous_arp is 1: this node itself goes on sending to the old holder of %s", v.IP))
	}
	return out
}

// dotless is a link's name as sysctl(8) wants it, where a dot means a slash.
func dotless(link string) string { return strings.ReplaceAll(link, ".", "/") }

// arp6 is the same for IPv6.
func (f *Facts) arp6(v Placed) []Finding {
	var out []Finding
	set := func(name string) string { return fmt.Sprintf("sysctl -w net.ipv6.conf.%s.%s=0", dotless(v.Link), name) }
	at := func(name string) string { return f.Sysctls["net/ipv6/conf/"+v.Link+"/"+name] }
	if at("disable_ipv6") == "1" {
		out = append(out, problem(set("disable_ipv6"), "IPv6 is switched off on %s: the kernel refuses %s", v.Link, v.IP))
	}
	if at("drop_unsolicited_na") == "1" {
		out = append(out, warning(set("drop_unsolicited_na"),
			"drop_unsolicited_na is 1: this node itself goes on sending to the old holder of %s", v.IP))
	}
	return out
}

func returnPath(f *Facts) []Finding {
	var out []Finding
	for _, v := range f.Links.VIPs {
		if v.Fault == "" && v.IP.Is4() && v.Elsewhere != "" && f.strongest("rp_filter", v.Link) == "1" {
			out = append(out, warning(fmt.Sprintf("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2",
				dotless(v.Link)),
				"rp_filter is 1 (strict) and the default route goes over %s: clients from outside the subnet of %s cannot reach %s",
				v.Elsewhere, v.Link, v.IP))
		}
	}
	if len(out) == 0 && len(f.Links.VIPs) > 0 {
		out = append(out, ok("answers may leave the way they do"))
	}
	return out
}

func forwarding(f *Facts) []Finding {
	if !f.Site.Services {
		return nil
	}
	if f.Sysctls["net/ipv4/ip_forward"] == "0" {
		return []Finding{problem("sysctl -w net.ipv4.ip_forward=1   # and in /etc/sysctl.d",
			"ip_forward is 0: what is for pods is not forwarded")}
	}
	if f.Sysctls["net/ipv6/conf/all/forwarding"] == "0" {
		return []Finding{ok("ip_forward is on; IPv6 forwarding is off, which Services with IPv6 addresses need")}
	}
	return []Finding{ok("ip_forward is on, for IPv6 too where there is IPv6")}
}
