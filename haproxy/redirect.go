package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// RedirectTable is the nftables table, of family inet, that holds all
// redirects and nothing else. Whatever is in it is ours.
const RedirectTable = "mooring-api"

// redirectPriority is before kube-proxy and everything else that translates
// at dstnat (-100): the first translation of a connection is the only one.
const redirectPriority = -120

// onlySYN matches the first packet of a connection. Connections that were
// established before the table, straight to a server on this host, are taken
// up by conntrack in their middle and must not be translated then.
const onlySYN = "tcp flags & (fin | syn | rst | ack) == syn"

// RenderRedirects writes the input of `nft -f` that replaces whatever the
// table held by the given redirects, or by nothing, in one transaction. It is
// pure; the order of the list does not matter. Its error is a *FieldError.
//
// Rules match only while the host itself has the address (fib daddr type
// local): on a standby, local clients must reach the holder's port untouched.
func RenderRedirects(list []lb.Redirect) (string, error) {
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
	text := fmt.Sprintf("table inet %s {}\ndelete table inet %[1]s\n", RedirectTable)
	if len(list) == 0 {
		return text, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%stable inet %s {\n", text, RedirectTable)
	// What comes from other hosts and from pods, then what this host sends.
	for _, hook := range []string{"prerouting", "output"} {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook %[1]s priority %d; policy accept;\n", hook, redirectPriority)
		for _, r := range list {
			b.WriteString("\t\t" + dnat(r) + "\n")
		}
		b.WriteString("\t}\n")
	}
	// The port behind is no second door: new connections that did not come
	// through a translation are dropped, except the host's own.
	b.WriteString("\tchain input {\n\t\ttype filter hook input priority -10; policy accept;\n")
	for _, r := range list {
		fmt.Fprintf(&b, "\t\t%s daddr %s tcp dport %d %s iifname != \"lo\" ct status & dnat == 0 drop\n",
			nftFamily(r.VIP), r.VIP, r.To, onlySYN)
	}
	b.WriteString("\t}\n}\n")
	return b.String(), nil
}

func dnat(r lb.Redirect) string {
	to := netip.AddrPortFrom(r.VIP, r.To)
	return fmt.Sprintf("%[1]s daddr %[2]s tcp dport %[3]d %[4]s fib daddr type local dnat %[1]s to %[5]s",
		nftFamily(r.VIP), r.VIP, r.From, onlySYN, to)
}

func nftFamily(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// validateRedirects checks addresses and ports, and that none leads to
// another: the kernel translates once, so a chain would end half-way.
func validateRedirects(list []lb.Redirect) error {
	from, to := map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	for i, r := range list {
		at := fmt.Sprintf("Redirects[%d]", i)
		if err := checkAddr(at+".From", netip.AddrPortFrom(r.VIP, r.From)); err != nil {
			return err
		}
		if err := checkAddr(at+".To", netip.AddrPortFrom(r.VIP, r.To)); err != nil {
			return err
		}
		if from[netip.AddrPortFrom(r.VIP, r.From)] {
			return fieldErr(at+".From", fmt.Sprint(r.From), "is redirected twice")
		}
		from[netip.AddrPortFrom(r.VIP, r.From)] = true
		to[netip.AddrPortFrom(r.VIP, r.To)] = true
	}
	for i, r := range list {
		if to[netip.AddrPortFrom(r.VIP, r.From)] {
			return fieldErr(fmt.Sprintf("Redirects[%d].From", i), fmt.Sprint(r.From), "is also where a redirect leads")
		}
	}
	return nil
}
