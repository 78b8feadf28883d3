package vip

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// settleLimit is how long a new IPv6 address is waited for.
const settleLimit = 100 * time.Millisecond

// settle waits until the kernel takes frames for the new addresses. For IPv6,
// also without duplicate address detection, it makes the local route and joins
// the solicited-node group in a task of its own, after it has said that the
// address is there (addrconf_dad_work): announced before, clients' first frames
// would be lost.
func settle(ctx context.Context, fresh []lb.Address) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for _, a := range fresh {
		for a.IP.Is6() && !taken(a.IP) && ctx.Err() == nil {
			pause(ctx, 500*time.Microsecond)
		}
	}
}

// taken says whether frames for the IP come to this node. Where the kernel does
// not say, they do.
func taken(ip netip.Addr) bool {
	routes, err := netlink.RouteGet(ip.AsSlice())
	return err != nil || len(routes) == 0 || routes[0].Type == unix.RTN_LOCAL
}

// Gateways lists the default routers reached over the link, of both families.
func Gateways(link string) ([]netip.Addr, error) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %v", link, err)
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("routes over %s: %v", link, err)
	}
	var out []netip.Addr
	for _, r := range routes {
		ip, ok := netip.AddrFromSlice(r.Gw)
		if ok && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// OwnAddrs lists the node's own global addresses on the link: those that stay,
// which a VIP does not (its lifetime is finite).
func OwnAddrs(link string) ([]netip.Addr, error) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %v", link, err)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %v", link, err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if ok && ip.IsGlobalUnicast() && (a.PreferedLft != 0 || a.ValidLft == 0) {
			out = append(out, ip)
		}
	}
	return out, nil
}
