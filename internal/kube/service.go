package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/internal/lb"
)

// Class is our spec.loadBalancerClass.
const Class = "mooring.dev/lb"

// ClassMode says which Services are ours by their spec.loadBalancerClass.
type ClassMode string

const (
	// ClassDefault are those without a class, and those of ours.
	ClassDefault ClassMode = "default"
	// ClassOnly are those of our class, so that another load balancer keeps the
	// others.
	ClassOnly ClassMode = "only-class"
)

// poolLabel and LabelEnable are k3s' (klipper-lb) labels for the nodes that serve a
// Service.
const poolLabel = "svccontroller.k3s.cattle.io/lbpool"

// nobody is what no connection comes from: the limited broadcast address is
// never a source (RFC 1122 §3.2.1.3).
var nobody = netip.MustParsePrefix("255.255.255.255/32")

// Ours says whether a Service is one that we serve: of type LoadBalancer, and
// of our class, or of none in ClassDefault, or of a class in accepted.
func Ours(svc *corev1.Service, mode ClassMode, accepted []string) bool {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false
	}
	class := svc.Spec.LoadBalancerClass
	if class == nil {
		return mode != ClassOnly
	}
	return *class == Class || slices.Contains(accepted, *class)
}

// KeyOf is the name of a Service.
func KeyOf(svc *corev1.Service) lb.ServiceKey { return lb.ServiceKey(svc.Namespace + "/" + svc.Name) }

// TranslateService turns a Service of type LoadBalancer, its EndpointSlices and
// the labels of its namespace (nil while not known) into what the load balancer
// works with. What cannot be used is an Issue and nothing else. The result
// shares the labels' maps with its input.
func TranslateService(svc *corev1.Service, all []*discovery.EndpointSlice, ns map[string]string) lb.Service {
	d := draft{s: lb.Service{
		Key: KeyOf(svc), UID: string(svc.UID), Labels: svc.Labels, NamespaceLabels: ns,
		Policy: lb.FamilyPolicy(deref(svc.Spec.IPFamilyPolicy, "")),
		Local:  svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}}
	if !svc.CreationTimestamp.IsZero() {
		d.s.Born = svc.CreationTimestamp.Unix()
	}
	if d.s.Local {
		d.s.Selector = canonical(svc.Spec.Selector)
	}
	d.families(svc)
	d.ports(svc, all)
	d.s.DataPath = defaultPath(&d.s)
	d.status(svc.Status.LoadBalancer.Ingress)
	d.annotated(svc.Annotations)
	d.s.Modeless = d.s.DataPath == lb.DataPathProxy && slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, noProxy)
	d.requests(svc)
	d.clients(svc)
	d.nodes(svc.Labels)
	d.s.Issues = d.all()
	return d.s
}

// draft is a Service while it is translated.
type draft struct {
	s lb.Service
	issues
}

// canonical prints a selector so that equal ones are equal text.
func canonical(selector map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(selector)) {
		list = append(list, k+"="+selector[k])
	}
	return strings.Join(list, ",")
}

// families are those of the cluster IPs: an address of another family would
// lead to endpoints that are not there.
func (d *draft) families(svc *corev1.Service) {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err == nil && !slices.Contains(d.s.Families, lb.FamilyOf(a)) {
			d.s.Families = append(d.s.Families, lb.FamilyOf(a))
		}
	}
	if len(d.s.Families) == 0 {
		d.fatal("spec.clusterIPs", quoted(list[0])+" is no cluster IP, and without one no address can be served; "+
			"a headless Service cannot be of type LoadBalancer")
	}
}

// defaultPath is HAProxy for what it can carry, kube-proxy for the rest and for
// those who ask for the client's address.
func defaultPath(s *lb.Service) lb.DataPath {
	if s.Local || !onlyTCP(s.Ports) {
		return lb.DataPathDirect
	}
	return lb.DataPathProxy
}

// status reads what another agent, or another load balancer before us, wrote.
func (d *draft) status(ingress []corev1.LoadBalancerIngress) {
	had := make(map[lb.Family]bool)
	for _, in := range ingress {
		a, err := netip.ParseAddr(in.IP)
		if err != nil || a.Zone() != "" {
			d.s.Foreign = true
			continue
		}
		a = a.Unmap()
		f := lb.FamilyOf(a)
		// Two of a family are klipper-lb's: the addresses of nodes.
		if in.Hostname != "" || had[f] || !slices.Contains(d.s.Families, f) {
			d.s.Foreign = true
		}
		had[f] = true
		d.s.Has = append(d.s.Has, a)
	}
}

// noProxy says of an entry of a status that kube-proxy takes connections to it.
func noProxy(in corev1.LoadBalancerIngress) bool {
	return in.IP != "" && deref(in.IPMode, ModeVIP) != ModeProxy
}

// annotated reads the table of annotations, and complains about what it does not
// know.
func (d *draft) annotated(all map[string]string) {
	for _, row := range annotations {
		key, text := row.find(all)
		if key == "" {
			continue
		}
		wrong := row.needs.unmet(&d.s)
		if wrong == "" {
			wrong = row.read(&d.s, text)
		}
		if wrong != "" {
			d.add(key, wrong, row.fatal)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		name, ours := strings.CutPrefix(key, prefix)
		if ours && !slices.ContainsFunc(annotations, func(a annotation) bool { return a.name == name }) {
			d.add(key, "is not known; the nearest name that is is "+prefix+nearest(name), false)
		}
	}
}

// requests checks the addresses asked for against each other and against the
// families (rules 7 and 18 of MetalLB's allocation, which its users rely on).
func (d *draft) requests(svc *corev1.Service) {
	const field = "spec.loadBalancerIP"
	key, _ := annotations[0].find(svc.Annotations)
	if text := svc.Spec.LoadBalancerIP; text != "" {
		a, wrong := requested(text)
		switch {
		case wrong != "":
			d.fatal(field, wrong)
		case key == "":
			d.s.Addresses, key = []netip.Addr{a}, field
		case !slices.Contains(d.s.Addresses, a):
			d.fatal(field, quoted(text)+" is not among the addresses of "+key+"; remove one of the two")
		}
	}
	if len(d.s.Addresses) == 0 || len(d.s.Families) == 0 {
		return
	}
	fits := len(d.s.Addresses) == len(d.s.Families)
	for _, a := range d.s.Addresses {
		fits = fits && slices.Contains(d.s.Families, lb.FamilyOf(a))
	}
	if !fits {
		d.fatal(key, fmt.Sprintf("asks for %s and the Service's cluster IPs are of %s; ask for one address of each "+
			"family, or change spec.ipFamilyPolicy", familiesOf(d.s.Addresses), join(d.s.Families)))
	}
}

// familiesOf names the families of addresses.
func familiesOf(list []netip.Addr) string {
	var out []lb.Family
	for _, a := range list {
		out = append(out, lb.FamilyOf(a))
	}
	return join(out)
}

func join(list []lb.Family) string {
	var out []string
	for _, f := range list {
		out = append(out, fmt.Sprintf("IPv%d", f))
	}
	return strings.Join(out, " and ")
}

// clients says who may connect, and who comes back to the same pod.
func (d *draft) clients(svc *corev1.Service) {
	field, list := "spec.loadBalancerSourceRanges", svc.Spec.LoadBalancerSourceRanges
	// The annotation that was before the field; kube-proxy does not know it.
	const old = corev1.AnnotationLoadBalancerSourceRangesKey
	if text := strings.TrimSpace(svc.Annotations[old]); len(list) == 0 && text != "" {
		field, list = old, strings.Split(text, ",")
		if d.s.DataPath == lb.DataPathDirect {
			d.add(field, "is not heeded by kube-proxy, everybody may connect; use spec.loadBalancerSourceRanges", false)
		}
	}
	var wrong string
	d.s.Front.Sources, wrong = prefixes(list)
	if wrong != "" {
		d.add(field, wrong, false)
	}
	// No usable one of several is not the same as none: nobody may connect.
	if len(list) > 0 && len(d.s.Front.Sources) == 0 {
		d.s.Front.Sources = []netip.Prefix{nobody}
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil {
			seconds = deref(c.ClientIP.TimeoutSeconds, seconds)
		}
		// The API allows 1 s to a day.
		d.s.Front.Affinity = time.Duration(min(max(seconds, 1), 86400)) * time.Second
	}
}

// nodes are chosen by the labels that a Service under klipper-lb has.
func (d *draft) nodes(labels map[string]string) {
	for _, key := range []string{LabelEnable, poolLabel} {
		text := labels[key]
		switch {
		case text == "":
		case !reLabelValue.MatchString(text):
			d.add("metadata.labels["+key+"]", quoted(text)+" is not the value of a label and chooses no nodes", false)
		default:
			if d.s.NodeSelector == nil {
				d.s.NodeSelector = make(map[string]string)
			}
			d.s.NodeSelector[key] = text
		}
	}
}
