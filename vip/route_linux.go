package vip

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

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
