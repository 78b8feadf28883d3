package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// ShiftTable is the nftables table, of family inet, that holds the redirects of
// Services and nothing else. Whatever is in it is ours.
const ShiftTable = "mooring-services"

// RenderShifts is RenderRedirects for Services, of which there may be thousands: a
// connection is looked up in maps, and no rule stands for one of them. It is pure;
// the order of the list does not matter. Its error is a *FieldError.
//
// They are for Services whose connections kube-proxy would take (lb.Service.
// Modeless). The port must be another one: kube-proxy's filters refuse what it did not
// translate itself (source ranges, no endpoints), and IPVS takes what comes in. Its
// chain for source ranges in nftables mode, at -110, sees the old port all the same:
// the kernel translates at -100 whatever the priority of a nat chain, which only
// says which of them is asked first. It drops nothing that HAProxy would accept, but
// for clients that a PROXY header names.
func RenderShifts(list []lb.Redirect) (string, error) {
	list = slices.Clone(list)
	for i := range list {
		list[i].VIP = list[i].VIP.Unmap()
	}
	if err := validateRedirects(list); err != nil {
		return "", err
	}
	slices.SortFunc(list, func(a, b lb.Redirect) int {
		return cmp.Or(a.VIP.Compare(b.VIP), cmp.Compare(a.From, b.From))
	})
	// Adding the table first makes the deletion work when there is none.
	text := fmt.Sprintf("table inet %s {}\ndelete table inet %[1]s\n", ShiftTable)
	if len(list) == 0 {
		return text, nil
	}
	return text + shiftTable(byFamily(list)), nil
}

// shiftTable writes the table for the families that have redirects.
func shiftTable(families []shiftFamily) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", ShiftTable)
	for _, f := range families {
		f.maps(&b)
	}
	// What comes from other hosts and from pods, then what this host sends.
	for _, hook := range []string{"prerouting", "output"} {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook %[1]s priority %d; policy accept;\n", hook, redirectPriority)
		for _, f := range families {
			f.translate(&b)
		}
		b.WriteString("\t}\n")
	}
	// The ports behind are no second door, as in RenderRedirects.
	b.WriteString("\tchain input {\n\t\ttype filter hook input priority -10; policy accept;\n")
	for _, f := range families {
		fmt.Fprintf(&b, "\t\t%s daddr . tcp dport @behind-%[1]s %s iifname != \"lo\" ct status & dnat == 0 drop\n",
			f.word, onlySYN)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// shiftFamily is what one address family has in ShiftTable.
type shiftFamily struct {
	// word and kind are nft's names of the family and of its addresses.
	word, kind string
	list       []lb.Redirect
}

// byFamily parts a list; a family without redirects is left out.
func byFamily(list []lb.Redirect) []shiftFamily {
	families := []shiftFamily{{word: "ip", kind: "ipv4_addr"}, {word: "ip6", kind: "ipv6_addr"}}
	for _, r := range list {
		f := &families[0]
		if r.VIP.Is6() {
			f = &families[1]
		}
		f.list = append(f.list, r)
	}
	return slices.DeleteFunc(families, func(f shiftFamily) bool { return len(f.list) == 0 })
}

// maps writes what connections are looked up in: "shift" leads to the ports behind,
// which are in the set "behind", "same" to where the connection goes anyway.
func (f shiftFamily) maps(b *strings.Builder) {
	var shift, same, behind []string
	for _, r := range f.list {
		from, to := fmt.Sprintf("%s . %d", r.VIP, r.From), fmt.Sprintf("%s . %d", r.VIP, r.To)
		shift, behind = append(shift, from+" : "+to), append(behind, to)
		if r.Elsewhere {
			same = append(same, from+" : "+from)
		}
	}
	write := func(kind, name, types string, elements []string) {
		fmt.Fprintf(b, "\t%s %s-%s {\n\t\ttype %s\n", kind, name, f.word, types)
		if len(elements) > 0 {
			fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ",\n\t\t\t"))
		}
		b.WriteString("\t}\n")
	}
	key := f.kind + " . inet_service"
	write("map", "shift", key+" : "+key, shift)
	write("map", "same", key+" : "+key, same)
	write("set", "behind", key, behind)
}

// translate writes the rules of a nat chain. Where the host has the address, its
// HAProxy serves. Elsewhere the connection is translated to where it goes already:
// the first translation is the only one, so kube-proxy leaves it alone and it
// reaches the holder.
func (f shiftFamily) translate(b *strings.Builder) {
	for _, r := range []struct{ where, name string }{{"==", "shift"}, {"!=", "same"}} {
		fmt.Fprintf(b, "\t\t%s fib daddr type %s local dnat %s to %[3]s daddr . tcp dport map @%[4]s-%[3]s\n",
			onlySYN, r.where, f.word, r.name)
	}
}

// shifted explains an error about a bind to which a redirect leads: nobody asked
// for that port.
func shifted(f lb.Frontend, a netip.AddrPort, err error) error {
	for _, r := range f.Redirects {
		if netip.AddrPortFrom(r.VIP, r.To) == a {
			return fmt.Errorf("%w; HAProxy wants it for port %d, whose connections kube-proxy takes itself because the "+
				"API server keeps no ipMode", err, r.From)
		}
	}
	return err
}
