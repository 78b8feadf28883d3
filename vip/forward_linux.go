package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// forwardTable is our own table in the netdev family, muteTable in the families
// arp and ip6.
const (
	forwardTable = "mooring-drain"
	muteTable    = "mooring-mute"
)

// Forwarder hands frames of flows that this node does not know to the old
// holder of a VIP, so that what was under way when the address moved ends well
// (nftables netdev ingress: it runs before conntrack and DNAT).
type Forwarder struct {
	mu   sync.Mutex
	last []lb.Forward
	ran  bool
}

// Forward makes exactly these forwards stand; nil removes the tables. It is
// idempotent and runs nft only for a change. An error says what to install.
func (f *Forwarder) Forward(ctx context.Context, want []lb.Forward) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The first call always runs: a killed predecessor may have left its table.
	if slices.Equal(want, f.last) && f.ran {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(forwardRules(want))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) && len(want) == 0 {
		err = nil // without nft there is no table of ours
	}
	if err != nil {
		return fmt.Errorf("nft: %v: %s (is the package nftables installed, and CONFIG_NFT_FWD_NETDEV in the kernel?)",
			err, strings.TrimSpace(stderr.String()))
	}
	f.last, f.ran = slices.Clone(want), true
	return nil
}

// forwardRules renders the whole table as one transaction. A flow is known
// when this node saw its SYN; every other TCP frame for the VIP goes on.
func forwardRules(want []lb.Forward) string {
	var b strings.Builder
	for _, t := range []string{"netdev " + forwardTable, "arp " + muteTable, "ip6 " + muteTable} {
		fmt.Fprintf(&b, "add table %s\ndelete table %s\n", t, t)
	}
	var flows []lb.Forward
	for _, w := range want {
		if w.To.IsValid() {
			flows = append(flows, w)
		}
	}
	b.WriteString(muteRules(want))
	if want = flows; len(want) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table netdev %s {\n", forwardTable)
	for _, fam := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&b, " set mine-%s { type %s_addr . inet_service . %s_addr . inet_service; "+
			"flags dynamic,timeout; timeout 1m; size 65536; }\n", fam, fam, fam)
	}
	for i, w := range want {
		ip, set := "ip", "mine-ipv4"
		if w.VIP.IP.Is6() {
			ip, set = "ip6", "mine-ipv6"
		}
		key := fmt.Sprintf("%s saddr . tcp sport . %s daddr . tcp dport", ip, ip)
		fmt.Fprintf(&b, " chain in%d {\n  type filter hook ingress device %q priority -150; policy accept;\n", i, w.VIP.Link)
		fmt.Fprintf(&b, "  %s daddr != %s accept\n", ip, w.VIP.IP)
		fmt.Fprintf(&b, "  meta l4proto != tcp accept\n")
		fmt.Fprintf(&b, "  tcp flags & (syn | ack) == syn add @%s { %s } accept\n", set, key)
		fmt.Fprintf(&b, "  %s @%s accept\n", key, set)
		fmt.Fprintf(&b, "  fwd %s to %s device %q\n }\n", ip, w.To, w.VIP.Link)
	}
	b.WriteString("}\n")
	return b.String()
}

// muteRules renders the silence of an old holder: it drops questions for the
// VIP and its own that would name the VIP, for a fraction of a second. The kernel
// asks for a neighbour with the address of the waiting packet, which teaches the
// client the wrong MAC (arp(7), arp_announce; RFC 4861 §7.2.2).
func muteRules(want []lb.Forward) string {
	var arpIn, arpOut, ndIn, ndOut strings.Builder
	for _, w := range want {
		switch {
		case w.To.IsValid():
		case w.VIP.IP.Is4():
			fmt.Fprintf(&arpIn, "  arp daddr ip %s drop\n", w.VIP.IP)
			fmt.Fprintf(&arpOut, "  arp saddr ip %s drop\n", w.VIP.IP)
		default:
			// The target is bytes 8 to 23 of the message (RFC 4861 §4.3).
			fmt.Fprintf(&ndIn, "  icmpv6 type nd-neighbor-solicit @th,64,128 0x%x drop\n", w.VIP.IP.AsSlice())
			fmt.Fprintf(&ndOut, "  ip6 saddr %s icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } drop\n", w.VIP.IP)
		}
	}
	table := func(family, in, out string) string {
		if in == "" {
			return ""
		}
		return fmt.Sprintf("table %s %s {\n chain in {\n  type filter hook input priority 0; policy accept;\n%s }\n"+
			" chain out {\n  type filter hook output priority 0; policy accept;\n%s }\n}\n", family, muteTable, in, out)
	}
	return table("arp", arpIn.String(), arpOut.String()) + table("ip6", ndIn.String(), ndOut.String())
}
