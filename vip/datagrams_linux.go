package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// datagramsTo matches what conntrack remembers of datagrams to the IPs.
type datagramsTo map[netip.Addr]bool

// MatchConntrackFlow is netlink.CustomConntrackFilter.
func (d datagramsTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	ip, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	return ok && flow.Forward.Protocol == unix.IPPROTO_UDP && d[ip.Unmap()]
}

// forgetDatagrams deletes conntrack's entries of datagrams to the IPs. UDP knows no
// beginning: an entry of the time before, when this node held the address last or
// routed it elsewhere, would send a client that never pauses to a pod that is gone.
// A kernel without conntrack has none.
func forgetDatagrams(ips []netip.Addr) error {
	four, six := datagramsTo{}, datagramsTo{}
	for _, ip := range ips {
		if ip.Is4() {
			four[ip] = true
		} else {
			six[ip] = true
		}
	}
	var faults []error
	for family, all := range map[netlink.InetFamily]datagramsTo{unix.AF_INET: four, unix.AF_INET6: six} {
		if len(all) == 0 {
			continue
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, all)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			faults = append(faults, fmt.Errorf("forget datagrams to addresses that were taken over: %v: "+
				"clients that never pause may go to pods that are gone for some minutes", err))
		}
	}
	return errors.Join(faults...)
}

// forgetFlows does that for addresses that were created, until ctx ends: reading all
// of conntrack may take long, and an announcement waits for nothing.
func (l *Links) forgetFlows(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ips := <-l.taken:
			for len(l.taken) > 0 {
				ips = append(ips, <-l.taken...)
			}
			l.drains.say(forgetDatagrams(ips))
		}
	}
}
