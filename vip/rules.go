package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

const (
	// forwardTable is our own table in the netdev family.
	forwardTable = "mooring-drain"
	// muteTable is our own in the families arp and ip6.
	muteTable = "mooring-mute"
	// flowsMax is the most flows that a new holder knows per VIP.
	flowsMax = 65536
	// hopsMax is how often a frame is sent on, at most. Where chains of several
	// nodes form a circle, as they may while a move is under way, a frame of a flow
	// that none of them knows dies after so many hops, not after 64.
	hopsMax = 8
)

// flow is a TCP connection to a virtual IP, as its frames show it on the wire.
type flow struct {
	client, vip netip.AddrPort
}

// armRules renders, for one VIP, the chain that sends frames of unknown flows to
// the old holder (nftables netdev ingress: before conntrack and DNAT). A flow is
// known when its SYN was seen here, or was given as own: such a one began at
// this node. The set is made where it is missing, and keeps what it has.
//
// When a flood of SYNs has filled the set, one more cannot be added and its rule
// does not match: the SYN goes on to the old holder, whose copy serves the
// connection until the drain ends.
//
// The kernel itself ends the forward after left: the element in the set "for"
// goes, and the frames come in.
func armRules(f forwarded, left lb.Instant, own []flow, size int) string {
	ip, name := family(f.IP), chainName(f.vip())
	mine, still := "mine-"+name, "for-"+name
	key := fmt.Sprintf("%s saddr . tcp sport . %s daddr . tcp dport", ip, ip)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("add table netdev %s", forwardTable)
	line("%s", addSets(f, size))
	line("flush set netdev %s %s", forwardTable, still)
	line("add element netdev %s %s { %s timeout %s }", forwardTable, still, f.IP, seconds(left))
	// A chain is made anew with its link, which may not be the one it was made for.
	line("%s", dropChain(name))
	line("add chain netdev %s in-%s { type filter hook ingress device %q priority -150; policy accept; }",
		forwardTable, name, f.Link)
	hops := "ip ttl"
	if f.IP.Is6() {
		hops = "ip6 hoplimit"
	}
	rules := []string{
		// Else ARP, which has neither address, would pass all rules down to the last.
		fmt.Sprintf("meta protocol != %s accept", ip),
		fmt.Sprintf("%s daddr != %s accept", ip, f.IP),
		"meta l4proto != tcp accept",
		fmt.Sprintf("tcp flags & (syn | ack) == syn add @%s { %s timeout 30s } accept", mine, key),
		fmt.Sprintf("%s @%s update @%s { %s timeout 1h } accept", key, mine, mine, key),
		fmt.Sprintf("%s daddr != @%s accept", ip, still),
	}
	if f.MACs != "" {
		// The old holder's own clients use its copy: what comes from it, it sent on.
		// Dropped and not taken in, where it would be answered with a reset: TCP sends
		// it again, and by then the way has changed.
		rules = append(rules, fmt.Sprintf("ether saddr { %s } drop", strings.ReplaceAll(f.MACs, ",", ", ")))
	}
	rules = append(rules, fmt.Sprintf("%s > %d %s set %d", hops, hopsMax, hops, hopsMax),
		fmt.Sprintf("fwd %s to %s device %q", ip, f.To, f.Link))
	for _, rule := range rules {
		line("add rule netdev %s in-%s %s", forwardTable, name, rule)
	}
	for some := range slices.Chunk(own, 256) {
		keys := make([]string, len(some))
		for i, o := range some {
			keys[i] = fmt.Sprintf("%s . %d . %s . %d timeout 1h", o.client.Addr(), o.client.Port(), o.vip.Addr(), o.vip.Port())
		}
		line("add element netdev %s %s { %s }", forwardTable, mine, strings.Join(keys, ", "))
	}
	return b.String()
}

// disarmRules renders the removal of a VIP's chain and sets, whether or not they
// are there.
func disarmRules(f forwarded, size int) string {
	name := chainName(f.vip())
	return fmt.Sprintf("add table netdev %s\n%s\n%s\ndelete set netdev %s mine-%s\ndelete set netdev %s for-%s\n",
		forwardTable, dropChain(name), addSets(f, size), forwardTable, name, forwardTable, name)
}

// addSets makes the sets of a VIP unless they are there.
func addSets(f forwarded, size int) string {
	kind, name := "ipv4_addr", chainName(f.vip())
	if f.IP.Is6() {
		kind = "ipv6_addr"
	}
	return fmt.Sprintf("add set netdev %s mine-%s { type %s . inet_service . %s . inet_service; "+
		"flags dynamic,timeout; timeout 1h; size %d; }\n"+
		"add set netdev %s for-%s { type %s; flags timeout; }",
		forwardTable, name, kind, kind, size, forwardTable, name, kind)
}

// dropChain removes a chain, whether or not it is there: without a hook "add"
// leaves one with a hook as it is.
func dropChain(name string) string {
	chain := fmt.Sprintf("chain netdev %s in-%s", forwardTable, name)
	return fmt.Sprintf("add %s\nflush %s\ndelete %s", chain, chain, chain)
}

// dropTable removes a table, whether or not it is there.
func dropTable(family, name string) string {
	return fmt.Sprintf("add table %s %s\ndelete table %s %s\n", family, name, family, name)
}

// muteRules renders the silence of an old holder about the VIPs that it has on
// lo, as one transaction that replaces the tables. No question for a VIP is
// answered, on any link: Linux answers ARP for the addresses of all its links.
// Its own questions would teach the asked client the wrong MAC, since the kernel
// asks with the address of the waiting packet (ip-sysctl, arp_announce; RFC 4861
// §7.2.2); without an answer the drained connection would end. So ARP asks with
// the node's own address, 0.0.0.0 (RFC 5227 §1.1) on links where that is unknown.
//
// IPv6 needs no such table: a /128 on lo is neither answered for nor named on
// another link (ndisc_recv_ns and ndisc_solicit look at that link's addresses).
// Its rules only cover the moment in which the VIP is on both, and proxy_ndp.
func muteRules(copies []copied, now lb.Instant) string {
	var four, six []copied
	for _, c := range copies {
		if c.IP.Is4() {
			four = append(four, c)
		} else {
			six = append(six, c)
		}
	}
	return dropTable("arp", muteTable) + dropTable("ip6", muteTable) + muteARP(four, now) + muteND(six, now)
}

// muteARP renders the table of the family arp.
func muteARP(copies []copied, now lb.Instant) string {
	if len(copies) == 0 {
		return ""
	}
	var own strings.Builder
	for _, c := range copies {
		if c.Own.Is4() {
			fmt.Fprintf(&own, "  arp saddr ip @vips oifname %q arp saddr ip %s arp saddr ip set %s\n", c.Link, c.IP, c.Own)
		}
	}
	return fmt.Sprintf("table arp %s {\n set vips { type ipv4_addr; flags timeout; elements = { %s } }\n"+
		" chain in {\n  type filter hook input priority 0; policy accept;\n  arp daddr ip @vips drop\n }\n"+
		" chain out {\n  type filter hook output priority 0; policy accept;\n"+
		"  arp operation reply arp saddr ip @vips drop\n%s  arp saddr ip @vips arp saddr ip set 0.0.0.0\n }\n}\n",
		muteTable, muted(copies, now), own.String())
}

// muteND renders the table of the family ip6. The target of a solicitation is
// bytes 8 to 23 of the message (RFC 4861 §4.3), which nft 1.0.6 compares with
// no set of addresses: so each VIP has a set of the message's type, which
// is empty once its time is over.
func muteND(copies []copied, now lb.Instant) string {
	if len(copies) == 0 {
		return ""
	}
	var sets, in strings.Builder
	for _, c := range copies {
		name := "asks-" + chainName(c.vip())
		fmt.Fprintf(&sets, " set %s { type icmpv6_type; flags timeout; elements = { nd-neighbor-solicit timeout %s } }\n",
			name, muteTime(c, now))
		fmt.Fprintf(&in, "  icmpv6 type @%s @th,64,128 0x%x drop\n", name, c.IP.AsSlice())
	}
	return fmt.Sprintf("table ip6 %s {\n set vips { type ipv6_addr; flags timeout; elements = { %s } }\n%s"+
		" chain in {\n  type filter hook input priority 0; policy accept;\n%s }\n"+
		" chain out {\n  type filter hook output priority 0; policy accept;\n"+
		"  ip6 saddr @vips icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop\n }\n}\n",
		muteTable, muted(copies, now), &sets, &in)
}

// muted lists the VIPs as elements, which go by themselves.
func muted(copies []copied, now lb.Instant) string {
	all := make([]string, len(copies))
	for i, c := range copies {
		all[i] = fmt.Sprintf("%s timeout %s", c.IP, muteTime(c, now))
	}
	return strings.Join(all, ", ")
}

// muteTime is how long a VIP is mute: it outlives its copy, which the kernel
// removes up to half a second late.
func muteTime(c copied, now lb.Instant) string { return seconds(c.Until - now + 2*second) }

// seconds prints a time for nft, in whole seconds and at least one: 0 would be
// for ever.
func seconds(d lb.Instant) string { return fmt.Sprintf("%ds", max(1, int64(d/second))) }

// family is nft's word for the IP's family.
func family(ip netip.Addr) string {
	if ip.Is6() {
		return "ip6"
	}
	return "ip"
}

// chainName is a name for what is kept per VIP, of the characters that nft takes
// in one.
func chainName(a lb.Address) string {
	return strings.NewReplacer(":", "-", "@", "_", "+", "_").Replace(a.IP.String() + "-" + a.Link)
}
