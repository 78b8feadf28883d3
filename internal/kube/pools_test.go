package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

// addressPool is a pool of ranges; the changes tell the story.
func addressPool(ranges string, changes ...func(*v1alpha1.AddressPoolSpec)) *v1alpha1.AddressPool {
	p := &v1alpha1.AddressPool{}
	p.Name = "public"
	for r := range strings.SplitSeq(ranges, "|") {
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(r))
	}
	for _, change := range changes {
		change(&p.Spec)
	}
	return p
}

// drawPool prints the ranges and what differs from a plain pool.
func drawPool(p lb.Pool, wrong []lb.Issue) string {
	var b strings.Builder
	for _, r := range p.Ranges {
		fmt.Fprintf(&b, "%s-%s\n", r.From, r.To)
	}
	plain := lb.Pool{Name: "public", AutoAssign: true, Shards: 8}
	p.Ranges = nil
	if diff := cmp.Diff(plain, p); diff != "" {
		data, _ := json.Marshal(p)
		fmt.Fprintf(&b, "%s\n", data)
	}
	for _, i := range wrong {
		fmt.Fprintf(&b, "issue %s: %s\n", i.Field, i.Problem)
	}
	return b.String()
}

func TestPoolRanges(t *testing.T) {
	const nothing = "issue spec.addresses: has nothing that can be used; give a prefix such as 192.0.2.0/28\n"
	issue := func(text string) string { return "issue spec.addresses[0]: " + text + "\n" + nothing }
	for _, s := range []struct{ name, in, want string }{
		{"a prefix", "192.0.2.0/28", "192.0.2.0-192.0.2.15\n"},
		{"host bits do not count", "192.0.2.9/28", "192.0.2.0-192.0.2.15\n"},
		{"a range, one address, IPv6, in this order", "192.0.2.9-192.0.2.10|192.0.2.1|2001:db8::/64",
			"192.0.2.9-192.0.2.10\n192.0.2.1-192.0.2.1\n2001:db8::-2001:db8::ffff:ffff:ffff:ffff\n"},
		{"a range with blanks, as MetalLB has it", "192.0.2.9 - 192.0.2.10", "192.0.2.9-192.0.2.10\n"},
		{"all of one address", "192.0.2.1/32|2001:db8::1/128", "192.0.2.1-192.0.2.1\n2001:db8::1-2001:db8::1\n"},
		{"backwards", "192.0.2.10-192.0.2.9", issue(`"192.0.2.10-192.0.2.9" runs backwards; put the smaller address first`)},
		{"two families", "192.0.2.1-2001:db8::1", issue(`"192.0.2.1-2001:db8::1" mixes families; make two ranges of it`)},
		{"IPv4 and its IPv6 form", "192.0.2.1-::ffff:192.0.2.9",
			issue(`"192.0.2.1-::ffff:192.0.2.9" mixes families; make two ranges of it`)},
		{"IPv4 in IPv6 form", "::ffff:192.0.2.1-::ffff:192.0.2.9",
			issue(`"::ffff:192.0.2.1-::ffff:192.0.2.9" contains ::ffff:0.0.0.0/96 (IPv4 in IPv6 form); leave those out`)},
		{"so as a prefix", "::ffff:192.0.2.0/120", issue(`"::ffff:192.0.2.0/120" is IPv4 in IPv6 form; write it as IPv4`)},
		{"a zone", "fe80::1%eth0", issue(`"fe80::1%eth0" has a zone; name the link in spec.announce.l2.interfaces`)},
		{"nonsense", "web.example", issue(`"web.example" is not a prefix, a range FROM-TO or an address`)},
		{"nothing", "", issue(`"" is not a prefix, a range FROM-TO or an address`)},
		{"three ends", "192.0.2.1-192.0.2.2-192.0.2.3",
			issue(`"192.0.2.1-192.0.2.2-192.0.2.3" is not a prefix, a range FROM-TO or an address`)},
		{"no such length", "192.0.2.0/33", issue(`"192.0.2.0/33" is not a prefix such as 192.0.2.0/28 or 2001:db8::/64`)},
		{"hostile", "a\n;\"", issue(`"a\n;\"" is not a prefix, a range FROM-TO or an address`)},
		{"the largest", "10.0.0.0/8|2001:db8::/48",
			"10.0.0.0-10.255.255.255\n2001:db8::-2001:db8:0:ffff:ffff:ffff:ffff:ffff\n"},
		{"too large", "10.0.0.0/7", issue(`"10.0.0.0/7" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"everything", "0.0.0.0/0", issue(`"0.0.0.0/0" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"too large, IPv6", "2001:db8::/47",
			issue(`"2001:db8::/47" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"as many as the largest, elsewhere", "10.0.0.5-11.0.0.4", "10.0.0.5-11.0.0.4\n"},
		{"one more", "10.0.0.5-11.0.0.5",
			issue(`"10.0.0.5-11.0.0.5" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"many more", "10.0.0.5-13.0.0.4",
			issue(`"10.0.0.5-13.0.0.4" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"up to the last address", "240.0.0.0-255.255.255.254",
			issue(`"240.0.0.0-255.255.255.254" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"loopback", "127.0.0.1", issue(`"127.0.0.1" contains 127.0.0.0/8 (loopback); leave those out`)},
		{"loopback within", "126.255.0.0-128.0.0.1",
			issue(`"126.255.0.0-128.0.0.1" is too large; use at most as much as a /8 of IPv4 or a /48 of IPv6`)},
		{"loopback at the end", "126.255.0.0-127.0.0.0",
			issue(`"126.255.0.0-127.0.0.0" contains 127.0.0.0/8 (loopback); leave those out`)},
		{"multicast", "239.1.1.0/24", issue(`"239.1.1.0/24" contains 224.0.0.0/4 (multicast); leave those out`)},
		{"multicast, IPv6", "ff02::1", issue(`"ff02::1" contains ff00::/8 (multicast); leave those out`)},
		{"link-local within", "169.253.0.0-169.255.0.0",
			issue(`"169.253.0.0-169.255.0.0" contains 169.254.0.0/16 (link-local); leave those out`)},
		{"link-local, IPv6", "fe80::/64", issue(`"fe80::/64" contains fe80::/10 (link-local); leave those out`)},
		{"loopback, IPv6", "::1-::2", issue(`"::1-::2" contains ::1/128 (loopback); leave those out`)},
		{"unspecified", "::-::2", issue(`"::-::2" contains ::/128 (unspecified); leave those out`)},
		{"broadcast", "255.255.255.0/24",
			issue(`"255.255.255.0/24" contains 255.255.255.255/32 (broadcast); leave those out`)},
		{"a bad one leaves the others", "x|192.0.2.1", "192.0.2.1-192.0.2.1\n" +
			"issue spec.addresses[0]: \"x\" is not a prefix, a range FROM-TO or an address\n"},
		{"overlapping: both stay", "192.0.2.0/28|192.0.2.20|192.0.2.15-192.0.2.30",
			"192.0.2.0-192.0.2.15\n192.0.2.20-192.0.2.20\n192.0.2.15-192.0.2.30\n" +
				"issue spec.addresses[2]: \"192.0.2.15-192.0.2.30\" overlaps 192.0.2.0-192.0.2.15 above; its addresses count once\n"},
		{"neighbours do not overlap", "192.0.2.0-192.0.2.1|192.0.2.2-192.0.2.3",
			"192.0.2.0-192.0.2.1\n192.0.2.2-192.0.2.3\n"},
	} {
		t.Run(s.name, func(t *testing.T) {
			if diff := cmp.Diff(s.want, drawPool(TranslatePool(addressPool(s.in)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPoolFields(t *testing.T) {
	type spec = v1alpha1.AddressPoolSpec
	const r = "192.0.2.1-192.0.2.1\n"
	never := `{"Labels":{"mooring.dev/unreadable-selector":"true"},"Requirements":null}`
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like",
		Values: []string{"x"}}}}
	good := metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"},
		MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "c", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"d"}}}}
	goodText := `{"Labels":{"a":"b"},"Requirements":[{"Key":"c","Operator":"NotIn","Values":["d"]}]}`
	for _, s := range []struct {
		name   string
		change func(*spec)
		// want is a JSON field of the pool for each that differs, or the issue.
		want []string
	}{
		{"autoAssign off", func(s *spec) { s.AutoAssign = ptr(false) }, list(`"AutoAssign":false`)},
		{"autoAssign on", func(s *spec) { s.AutoAssign = ptr(true) }, nil},
		{"avoidBuggyIPs", func(s *spec) { s.AvoidBuggyIPs = true }, list(`"AvoidBuggy":true`)},
		{"priority", func(s *spec) { s.Priority = 7 }, list(`"Priority":7`)},
		{"priority less than none", func(s *spec) { s.Priority = -1 }, list(`issue spec.priority: -1 is less than 0`)},
		{"namespaces", func(s *spec) { s.Namespaces = list("shop") }, list(`"Namespaces":["shop"]`)},
		{"a namespace that is none stays, or all would have the pool", func(s *spec) { s.Namespaces = list("Shop") },
			list(`"Namespaces":["Shop"]`, `issue spec.namespaces[0]: "Shop" is not the name of a namespace`)},
		{"selectors", func(s *spec) {
			s.NamespaceSelectors, s.ServiceSelectors = list(good), list(metav1.LabelSelector{}, good)
		}, list(`"NamespaceSelectors":[`+goodText+`]`,
			`"ServiceSelectors":[{"Labels":null,"Requirements":null},`+goodText+`]`)},
		{"of two selectors one is bad", func(s *spec) { s.ServiceSelectors = list(bad, good) },
			list(`"ServiceSelectors":[`+goodText+`]`,
				`issue spec.serviceSelectors[0]: cannot be used: "\"Like\" is not a valid`)},
		{"a bad selector alone matches nothing", func(s *spec) { s.NamespaceSelectors = list(bad) },
			list(`"NamespaceSelectors":[`+never+`]`, `issue spec.namespaceSelectors[0]: cannot be used`)},
		{"interfaces and shards", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{Interfaces: list("bond0.12"), Shards: 3} },
			list(`"Interfaces":["bond0.12"]`, `"Shards":3`)},
		{"l2 with nothing in it", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{} }, nil},
		{"too many shards", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{Shards: 65} },
			list(`"Shards":64`, `issue spec.announce.l2.shards: 65 is not from 1 to 64; going on with 64`)},
		{"too few shards", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{Shards: -1} },
			list(`"Shards":1`, `issue spec.announce.l2.shards: -1 is not from 1 to 64; going on with 1`)},
		{"no interface", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{Interfaces: list("a b")} },
			list(`"Interfaces":["a b"]`, `issue spec.announce.l2.interfaces[0]: "a b" is not the name of an interface`)},
		{"nodes", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{NodeSelector: &good} }, list(`"NodeSelector":` + goodText)},
		{"bad nodes are none", func(s *spec) { s.Announce.L2 = &v1alpha1.L2{NodeSelector: &bad} },
			list(`"NodeSelector":`+never, `issue spec.announce.l2.nodeSelector: cannot be used`)},
	} {
		t.Run(s.name, func(t *testing.T) {
			got := drawPool(TranslatePool(addressPool("192.0.2.1", s.change)))
			rest, ok := strings.CutPrefix(got, r)
			if !ok || len(s.want) == 0 && rest != "" {
				t.Errorf("got %s", got)
			}
			for _, w := range s.want {
				if !strings.Contains(rest, w) {
					t.Errorf("got %s, which lacks %s", rest, w)
				}
			}
			if n := strings.Count(rest, "issue"); n > strings.Count(strings.Join(s.want, ""), "issue") {
				t.Errorf("more issues: %s", rest)
			}
		})
	}
}

// FuzzTranslatePool: whatever is written, the ranges are of one family, in
// order, of unicast addresses, and at most as large as allowed.
func FuzzTranslatePool(f *testing.F) {
	for _, r := range []string{"10.0.0.0/8", "10.0.0.5-11.0.0.4", "2001:db8::/48", "::ffff:1.2.3.4", "1.2.3.4-", "-",
		"0.0.0.0", "fe80::1%a-fe80::2%a"} {
		f.Add(r, "10.0.0.0/7")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		p, wrong := TranslatePool(addressPool(one + "|" + two))
		for _, r := range p.Ranges {
			for _, a := range []netip.Addr{r.From, r.To} {
				if !a.IsGlobalUnicast() || a.Zone() != "" || a.Is4In6() {
					t.Errorf("%s-%s", r.From, r.To)
				}
			}
			if r.From.BitLen() != r.To.BitLen() || r.To.Less(r.From) {
				t.Errorf("%s-%s", r.From, r.To)
			}
			// The distance in whole /8 or /48.
			if high(r.To)-high(r.From) > 1 {
				t.Errorf("%s-%s is too large", r.From, r.To)
			}
		}
		for _, i := range wrong {
			if len(i.Problem) > maxProblem || strings.ContainsFunc(i.Problem, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("issue %q", i.Problem)
			}
		}
	})
}

// high is the part of an address above the largest prefix.
func high(a netip.Addr) (n uint64) {
	b := a.AsSlice()
	for _, octet := range b[:map[int]int{4: 1, 16: 6}[len(b)]] {
		n = n<<8 | uint64(octet)
	}
	return n
}
