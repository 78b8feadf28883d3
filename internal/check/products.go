package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Product is a program of others that an agent has to do with.
type Product string

// The products that are recognised.
const (
	Cilium     Product = "Cilium"
	Calico     Product = "Calico"
	ServiceLB  Product = "servicelb"
	MetalLB    Product = "MetalLB"
	KubeVIP    Product = "kube-vip"
	Keepalived Product = "keepalived"
	UCarp      Product = "ucarp"
)

// product says what it belongs to, "" for nothing that matters.
func (w Workload) product() Product {
	for _, name := range append([]string{w.Name}, w.Images...) {
		// klipper-lb is what servicelb's pods run, speaker what announces for MetalLB.
		for _, k := range []struct {
			words   string
			product Product
		}{
			{"svclb-", ServiceLB}, {"klipper-lb", ServiceLB}, {"metallb", MetalLB}, {"kube-vip", KubeVIP},
			{"keepalived", Keepalived}, {"cilium", Cilium}, {"calico-node", Calico}, {"calico/node", Calico},
		} {
			if strings.Contains(name, k.words) {
				return k.product
			}
		}
	}
	return ""
}

// says whether one of its words is among those given, without regard to case.
func (w Workload) says(any ...string) bool {
	return slices.ContainsFunc(w.Words, func(x string) bool {
		return slices.ContainsFunc(any, func(a string) bool { return strings.EqualFold(a, x) })
	})
}

// names says whether it names an address: alone, in a list, or with a prefix length.
func (w Workload) names(ip netip.Addr) bool {
	return slices.ContainsFunc(w.Words, func(x string) bool {
		fields := strings.FieldsFunc(x, func(r rune) bool { return strings.ContainsRune(" =,/\"'\n", r) })
		return slices.ContainsFunc(fields, func(f string) bool {
			a, err := netip.ParseAddr(f)
			return err == nil && a == ip
		})
	})
}

// announces says whether it gives or announces addresses of Services.
func (w Workload) announces() bool {
	switch w.product() {
	case ServiceLB:
		return true
	case MetalLB:
		// The controller gives addresses; the speaker announces them, and is a DaemonSet.
		return w.Kind == "DaemonSet"
	case KubeVIP:
		return w.says("svc_enable=true", "--services", "--services=true")
	case Cilium:
		return w.says("enable-l2-announcements=true")
	default:
		return false
	}
}

// ebpf says whether it stands in for kube-proxy.
func (w Workload) ebpf() bool {
	switch w.product() {
	case Cilium:
		return w.says("kube-proxy-replacement=true", "kube-proxy-replacement=strict")
	case Calico:
		return w.says("FELIX_BPFENABLED=true", "FELIX_BPFENABLED=1")
	default:
		return false
	}
}

// product of a process, by its name as the kernel cuts it to 15 bytes.
func (p Program) product() Product {
	switch p.Command {
	case "keepalived":
		return Keepalived
	case "kube-vip":
		return KubeVIP
	case "ucarp":
		return UCarp
	}
	return ""
}

func network(f *Facts) []Finding {
	by, how := f.replacesKubeProxy()
	if by == "" {
		if g, missing := f.seen(PartWorkloads, PartLinks); missing {
			return []Finding{unseen(g)}
		}
		return []Finding{ok("nothing stands in for kube-proxy")}
	}
	what := fmt.Sprintf("%s stands in for kube-proxy (%s)", by, how)
	if !f.Site.Services {
		return []Finding{ok("%s; the API server's VIP is no Service and works", what)}
	}
	return []Finding{warning("kubectl annotate service NAME mooring.dev/data-path=direct   # where "+string(by)+" "+
		"shall serve it; it must know the address",
		"%s: it takes connections to Services' addresses from pods and nodes itself; HAProxy gets those from outside only "+
			"where it leaves them alone", what)}
}

// replacesKubeProxy names who does, and how that is known.
func (f *Facts) replacesKubeProxy() (Product, string) {
	for _, w := range f.Workloads {
		if w.ebpf() {
			return w.product(), fmt.Sprintf("%s %s/%s", w.Kind, w.Namespace, w.Name)
		}
	}
	has := func(name string) bool { return slices.Contains(f.Links.Names, name) }
	// What is left behind after a way back is there too, so kube-proxy's rules speak first.
	switch {
	case f.Rules.Mode != "" || f.KubeProxy.Mode != "":
	case has("bpfin.cali") || has("bpfout.cali"):
		return Calico, "link bpfin.cali"
	case has("cilium_host") && f.KubeProxy.Absent:
		return Cilium, "link cilium_host, and no kube-proxy"
	}
	return "", ""
}

func loadBalancers(f *Facts) []Finding {
	var out []Finding
	for _, w := range f.Workloads {
		if x, is := f.rival(w); is {
			out = append(out, x)
		}
	}
	for _, p := range f.Programs {
		// The objects of a product say more than its processes.
		known := slices.ContainsFunc(f.Workloads, func(w Workload) bool { return w.product() == p.product() })
		if p.product() != "" && !known {
			out = append(out, f.process(p))
		}
	}
	if len(out) > 0 {
		return out
	}
	if g, missing := f.seen(PartWorkloads, PartPrograms); missing {
		return []Finding{unseen(g)}
	}
	return []Finding{ok("none is seen")}
}

// process judges a program of another load balancer on this node.
func (f *Facts) process(p Program) Finding {
	fix := fmt.Sprintf("ps -o args= -p %d   # it must not have %s", p.PID, vips(f.Site))
	if p.product() == Keepalived {
		fix = "grep -rnA3 virtual_ipaddress /etc/keepalived/   # it must not name " + vips(f.Site) +
			"; else systemctl disable --now keepalived"
	}
	return warning(fix, "%s runs on this node (process %d)", p.product(), p.PID)
}

func vips(s Site) string {
	if len(s.VIPs) == 0 {
		return "a pool's address"
	}
	return list(s.VIPs)
}

// rival judges another load balancer's object; false is none.
func (f *Facts) rival(w Workload) (Finding, bool) {
	p := w.product()
	if p == "" {
		return Finding{}, false
	}
	where := fmt.Sprintf("%s (%s %s/%s)", p, w.Kind, w.Namespace, w.Name)
	fix := wayOut(p, w)
	named := slices.ContainsFunc(f.Site.VIPs, w.names)
	switch {
	case named && p != Cilium && p != Calico:
		return problem(fix, "%s names a VIP of this configuration", where), true
	case w.announces() && f.Site.Services && f.Site.DefaultClass:
		return problem(fix, "%s gives or announces addresses of Services too", where), true
	case w.announces() && f.Site.Services:
		return ok("%s serves Services too; agents take only those of their class", where), true
	case w.announces():
		return ok("%s serves Services; this node's agent serves none", where), true
	case p == KubeVIP || p == Keepalived:
		return warning(fix, "%s runs: it must not have %s", where, vips(f.Site)), true
	}
	return Finding{}, false
}

// wayOut is how to get rid of a rival, or to live beside it.
func wayOut(p Product, w Workload) string {
	switch {
	case p == ServiceLB:
		return "k3s server --disable servicelb   # or disable: [servicelb] in /etc/rancher/k3s/config.yaml; its DaemonSets go with it"
	case p == MetalLB:
		return "kubectl delete daemonset -n " + w.Namespace + " " + w.Name +
			"   # or keep both: services.class: only-class here, spec.loadBalancerClass on the Services"
	case p == Cilium:
		return "cilium config set enable-l2-announcements false   # or services.class: only-class here"
	case w.Kind == "Pod":
		return "rm /etc/kubernetes/manifests/" + string(p) + ".yaml   # on each control-plane node"
	}
	return "kubectl delete " + strings.ToLower(w.Kind) + " -n " + w.Namespace + " " + w.Name
}
