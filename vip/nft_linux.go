package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// nftLimit is how long nft may run: the kernel takes rules in some 50 ms.
	nftLimit = 2 * time.Second
	// muteLimit is the same where two nodes answer for a VIP until it is over.
	muteLimit = 800 * time.Millisecond
)

// nft applies rules as one transaction: all of them or none. An error says what
// nft said and what to install. When the limit is over it is not known which. With
// the flag -c nothing is applied.
func nft(ctx context.Context, rules string, limit time.Duration, flags ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", append(flags, "-f", "-")...)
	cmd.Stdin = strings.NewReader(rules)
	cmd.WaitDelay = 100 * time.Millisecond
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return nftFault(ctx, err, strings.TrimSpace(stderr.String()), limit)
}

// nftFault says why nft failed and what to do.
func nftFault(ctx context.Context, err error, said string, limit time.Duration) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("nft: %w: install the package nftables", err)
	case ctx.Err() != nil:
		return fmt.Errorf("nft: no answer within %v: %w", limit, ctx.Err())
	case strings.Contains(said, "not permitted"):
		return errors.New("nft may not change rules: give the agent the capability NET_ADMIN")
	}
	return fmt.Errorf("nft: %v: %s (is the package nftables installed, and nf_tables with the families arp and netdev "+
		"and CONFIG_NFT_FWD_NETDEV in the kernel?)", err, said)
}

// tableStands asks the kernel for a table of ours in a family of netfilter
// (NFPROTO_*). A kernel without nf_tables has none.
func tableStands(family uint8, name string) bool {
	const getTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	req := nl.NewNetlinkRequest(getTable, unix.NLM_F_ACK)
	req.AddRawData([]byte{family, unix.NFNETLINK_V0, 0, 0}) // struct nfgenmsg
	req.AddRawData(attr(unix.NFTA_TABLE_NAME, append([]byte(name), 0)))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err == nil
}

// forwardTableStands says whether the kernel has the table of forwards.
func forwardTableStands() bool { return tableStands(unix.NFPROTO_NETDEV, forwardTable) }

// muteTablesStand says which of the families' mute tables the kernel has.
func muteTablesStand() (arp, ip6 bool) {
	return tableStands(unix.NFPROTO_ARP, muteTable), tableStands(unix.NFPROTO_IPV6, muteTable)
}

// attr is a netlink attribute with its value, or with the attributes in it
// (struct nlattr), padded.
func attr(kind int, value []byte) []byte {
	const header = unix.SizeofNlAttr
	size := header + len(value)
	b := make([]byte, (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1))
	binary.NativeEndian.PutUint16(b, uint16(size))
	binary.NativeEndian.PutUint16(b[2:], uint16(kind))
	copy(b[header:], value)
	return b
}
