package kube

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

const (
	// leastBits4 and leastBits6 are the largest prefixes of a pool: a whole IPv4 /8,
	// a site's IPv6 /48 (RFC 6177 §2). More is a slip.
	leastBits4 = 8
	leastBits6 = 48
	// maxShards bounds the Leases that a pool costs.
	maxShards = 64
)

// reLink is the name of a link: IFNAMSIZ is 16 with the final NUL.
var reLink = regexp.MustCompile(`^[A-Za-z0-9._@:-]{1,15}$`)

// noMatch chooses nothing that anybody labels so; it stands for selectors none
// of which can be read, so that a slip does not open a pool to everybody.
func noMatch() lb.Selector {
	return lb.Selector{Labels: map[string]string{"mooring.dev/unreadable-selector": "true"}}
}

// TranslatePool turns an AddressPool into what addresses are taken from, and
// says what of it cannot be used, by field; the rest can. A pool may be left
// without any range.
func TranslatePool(p *v1alpha1.AddressPool) (lb.Pool, []lb.Issue) {
	var is issues
	spec := &p.Spec
	out := lb.Pool{
		Name: p.Name, AutoAssign: spec.Auto(), AvoidBuggy: spec.AvoidBuggyIPs, Priority: int(spec.Priority),
		Namespaces: slices.Clone(spec.Namespaces), Shards: v1alpha1.DefaultShards,
		NamespaceSelectors: selectors("spec.namespaceSelectors", spec.NamespaceSelectors, &is),
		ServiceSelectors:   selectors("spec.serviceSelectors", spec.ServiceSelectors, &is),
	}
	out.Ranges = ranges(spec.Addresses, &is)
	if spec.Priority < 0 {
		out.Priority = 0
		is.add("spec.priority",
			fmt.Sprintf("%d is less than 0; 0 comes after all others, 1 is first", spec.Priority), false)
	}
	for i, n := range spec.Namespaces {
		// It stays: a list that is empty then would open the pool to everybody.
		if !reLabel.MatchString(n) {
			is.add(fmt.Sprintf("spec.namespaces[%d]", i),
				quoted(n)+" is not the name of a namespace and matches none", false)
		}
	}
	if l2 := spec.Announce.L2; l2 != nil {
		announced(&out, l2, &is)
	}
	return out, is.all()
}

// announced takes over how a pool is announced on the local link.
func announced(out *lb.Pool, l2 *v1alpha1.L2, is *issues) {
	const field = "spec.announce.l2."
	if l2.Shards != 0 {
		out.Shards = int(min(max(l2.Shards, 1), maxShards))
	}
	if l2.Shards < 0 || l2.Shards > maxShards {
		is.add(field+"shards",
			fmt.Sprintf("%d is not from 1 to %d; going on with %d", l2.Shards, maxShards, out.Shards), false)
	}
	out.Interfaces = slices.Clone(l2.Interfaces)
	for i, name := range l2.Interfaces {
		// As with namespaces: no link has this name, and an empty list would be all.
		if !reLink.MatchString(name) {
			is.add(fmt.Sprintf("%sinterfaces[%d]", field, i), quoted(name)+" is not the name of an interface", false)
		}
	}
	if l2.NodeSelector != nil {
		s, wrong := selector(l2.NodeSelector)
		if wrong != "" {
			is.add(field+"nodeSelector", wrong+"; no node announces the pool", false)
			s = noMatch()
		}
		out.NodeSelector = s
	}
}

// ranges parses what can be used of a list, in its order.
func ranges(list []v1alpha1.AddressRange, is *issues) []lb.Range {
	var out []lb.Range
	for i, text := range list {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		r, wrong := oneRange(string(text))
		if wrong != "" {
			is.add(field, wrong, false)
			continue
		}
		for _, earlier := range out {
			if r.From.Compare(earlier.To) <= 0 && earlier.From.Compare(r.To) <= 0 {
				is.add(field, fmt.Sprintf("%s overlaps %s-%s above; its addresses count once",
					quoted(string(text)), earlier.From, earlier.To), false)
				break
			}
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		is.add("spec.addresses", "has nothing that can be used; give a prefix such as 192.0.2.0/28", false)
	}
	return out
}

// oneRange parses a prefix, a range or an address.
func oneRange(text string) (r lb.Range, wrong string) {
	from, to, pair := strings.Cut(text, "-")
	switch {
	case pair:
		r, wrong = fromTo(strings.TrimSpace(from), strings.TrimSpace(to))
	case strings.Contains(text, "/"):
		r, wrong = whole(text)
	default:
		r, wrong = fromTo(text, text)
	}
	if wrong != "" {
		return r, quoted(text) + " " + wrong
	}
	if what, why := unusable(r); why != "" {
		return r, fmt.Sprintf("%s contains %s (%s); leave those out", quoted(text), what, why)
	}
	return r, ""
}

// unusable finds addresses in a range that no host can announce, not only at its
// ends: it may begin below them and end above.
func unusable(r lb.Range) (what netip.Prefix, why string) {
	for _, u := range []struct{ what, why string }{
		{"0.0.0.0/8", "this network's own"}, {"127.0.0.0/8", "loopback"}, {"169.254.0.0/16", "link-local"},
		{"224.0.0.0/4", "multicast"}, {"255.255.255.255/32", "broadcast"},
		{"::/128", "unspecified"}, {"::1/128", "loopback"}, {"::ffff:0:0/96", "IPv4 in IPv6 form"},
		{"fe80::/10", "link-local"}, {"ff00::/8", "multicast"},
	} {
		p := netip.MustParsePrefix(u.what)
		same := r.From.BitLen() == p.Addr().BitLen()
		if same && r.From.Compare(last(p)) <= 0 && p.Addr().Compare(r.To) <= 0 {
			return p, u.why
		}
	}
	return what, ""
}

// fromTo parses the two ends of a range.
func fromTo(from, to string) (r lb.Range, wrong string) {
	for _, end := range []struct {
		text string
		at   *netip.Addr
	}{{from, &r.From}, {to, &r.To}} {
		a, err := netip.ParseAddr(end.text)
		switch {
		case err != nil:
			return r, "is not a prefix, a range FROM-TO or an address"
		case a.Zone() != "":
			return r, "has a zone; name the link in spec.announce.l2.interfaces"
		}
		*end.at = a
	}
	switch {
	case r.From.BitLen() != r.To.BitLen():
		return r, "mixes families; make two ranges of it"
	case r.To.Less(r.From):
		return r, "runs backwards; put the smaller address first"
	case tooLarge(r):
		return r, fmt.Sprintf("is too large; use at most as much as a /%d of IPv4 or a /%d of IPv6",
			leastBits4, leastBits6)
	}
	return r, ""
}

// tooLarge says whether a range has more addresses than the largest prefix.
func tooLarge(r lb.Range) bool {
	bits := leastBits4
	if r.From.Is6() {
		bits = leastBits6
	}
	// As many addresses from From on: the number is the bits above the host's part.
	step, _ := r.From.Prefix(bits)
	next := last(step).Next()
	if !next.IsValid() || r.To.Less(next) {
		return false
	}
	// In the next prefix the range may reach up to just below From's host part.
	end, _ := r.To.Prefix(bits)
	if end.Addr() != next {
		return true
	}
	return !hostPartLess(r.To, r.From, bits)
}

// hostPartLess compares what follows the first bits of two addresses of a family.
func hostPartLess(a, b netip.Addr, bits int) bool {
	x, y := a.AsSlice(), b.AsSlice()
	for i := bits / 8; i < len(x); i++ { // bits are whole bytes
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

// whole is a prefix as a range. Bits beyond its length do not count.
func whole(text string) (r lb.Range, wrong string) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return r, "is not a prefix such as 192.0.2.0/28 or 2001:db8::/64"
	}
	if p.Addr().Is4In6() {
		return r, "is IPv4 in IPv6 form; write it as IPv4"
	}
	p = p.Masked()
	return fromTo(p.Addr().String(), last(p).String())
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// selectors translates a list of which any one is enough: those that cannot be
// read are left out, but never all.
func selectors(field string, list []metav1.LabelSelector, is *issues) []lb.Selector {
	var out []lb.Selector
	for i := range list {
		s, wrong := selector(&list[i])
		if wrong != "" {
			is.add(fmt.Sprintf("%s[%d]", field, i), wrong+"; it matches nothing", false)
			continue
		}
		out = append(out, s)
	}
	if len(list) > 0 && len(out) == 0 {
		return []lb.Selector{noMatch()}
	}
	return out
}

// selector translates one, or says what is wrong with it, as Kubernetes would.
func selector(in *metav1.LabelSelector) (lb.Selector, string) {
	if _, err := metav1.LabelSelectorAsSelector(in); err != nil {
		return lb.Selector{}, "cannot be used: " + strconv.QuoteToASCII(clip(err.Error(), maxProblem/2))
	}
	out := lb.Selector{Labels: in.MatchLabels}
	for _, r := range in.MatchExpressions {
		out.Requirements = append(out.Requirements,
			lb.Requirement{Key: r.Key, Operator: string(r.Operator), Values: r.Values})
	}
	return out, ""
}
