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

// forwardTable is our own table in the netdev family.
const forwardTable = "mooring-drain"

// Forwarder hands frames of flows that this node does not know to the old
// holder of a VIP, so that what was under way when the address moved ends well
// (nftables netdev ingress: it runs before conntrack and DNAT).
type Forwarder struct {
	mu   sync.Mutex
	last []lb.Forward
	ran  bool
}

// Forward makes exactly these forwards stand; nil removes the table. It is
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
	fmt.Fprintf(&b, "add table netdev %s\ndelete table netdev %s\n", forwardTable, forwardTable)
	if len(want) == 0 {
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
