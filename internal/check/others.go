package check

import "slices"

// seen gives the gaps among parts, for checks that have several sources: with
// nothing found a gap is what is said.
func (f *Facts) seen(parts ...Part) (gap Gap, missing bool) {
	for _, p := range parts {
		if g, is := f.Gaps[p]; is {
			return g, true
		}
	}
	return Gap{}, false
}

func kubeProxy(f *Facts) []Finding {
	mode, told := f.KubeProxy.Mode, f.KubeProxy.Told
	if f.KubeProxy.Stated && mode == "" {
		mode = "iptables" // its default on Linux
	}
	if mode == "" && f.Rules.Mode != "" {
		mode, told = f.Rules.Mode, "this node's kernel"
	}
	if mode == "" && slices.Contains(f.Links.Names, ipvsLink) {
		mode, told = "ipvs", "link "+ipvsLink
	}
	var out []Finding
	for _, ip := range f.Links.OnIPVS {
		out = append(out, problem("kubectl get services -A -o wide | grep "+ip.String(),
			"%s is on %s: a Service has the API server's VIP", ip, ipvsLink))
	}
	switch {
	case mode == "":
		if g, missing := f.seen(PartKubeProxy, PartRules, PartLinks); missing {
			return append(out, unseen(g))
		}
		return append(out, ok("no kube-proxy is seen on this node"))
	case mode != "ipvs":
		return append(out, ok("mode %s, says %s", mode, told))
	}
	return append(out, f.strictARP(told))
}

const ipvsLink = "kube-ipvs0"

// strictARP judges ipvs mode: what the kernel does counts before what is configured.
func (f *Facts) strictARP(told string) Finding {
	const fix = "kubectl -n kube-system get configmap kube-proxy -o yaml | sed 's/strictARP: false/strictARP: true/' | kubectl apply -f - && " +
		"kubectl -n kube-system rollout restart daemonset kube-proxy"
	ignore := f.Sysctls["net/ipv4/conf/all/arp_ignore"]
	loose := ignore == "0" || ignore == "" && f.KubeProxy.Stated && !f.KubeProxy.StrictARP
	switch {
	case loose && f.Site.Services:
		return problem(fix, "mode ipvs (says %s) without strictARP: this node answers ARP for every Service's address", told)
	case loose:
		return warning(fix, "mode ipvs (says %s) without strictARP: this node answers ARP for every address on %s", told,
			ipvsLink)
	case f.KubeProxy.Stated && !f.KubeProxy.StrictARP && ignore != "":
		return ok("mode ipvs, says %s; strictARP is off, but arp_ignore is %s already", told, ignore)
	}
	return ok("mode ipvs with strictARP, says %s", told)
}
