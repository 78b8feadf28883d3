package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeName is the switch; every host has a port on it with the host's name.
// apiBridge is the second one, with TwoLinks: ports "n1-api" ….
const (
	bridgeName = "br0"
	apiBridge  = "br1"
)

// openSwitch makes the bridge. It is also the default gateway, so that hosts have
// a neighbour that is no node.
func (l *Lab) openSwitch() error {
	if err := quietIPv6(l.sw); err != nil {
		return err
	}
	if err := l.sw.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"); err != nil {
		return err
	}
	return l.sw.netlink(func(h *netlink.Handle) error {
		// Snooping would hold back neighbour solicitations until groups are learnt.
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &off}
		br.Name, br.HardwareAddr = bridgeName, hostMAC(254)
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("making the switch: %w", err)
		}
		if err := up(h, "lo"); err != nil {
			return err
		}
		if err := addAddrs(h, bridgeName, Gateway4+"/24", Gateway6+"/64"); err != nil {
			return err
		}
		return up(h, bridgeName)
	})
}

// openSecondSwitch makes a bridge that only nodes are on: it routes nowhere.
func openSecondSwitch(sw *space) error {
	return sw.netlink(func(h *netlink.Handle) error {
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &off}
		br.Name = apiBridge
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("making the second switch: %w", err)
		}
		return up(h, apiBridge)
	})
}

// quietIPv6 switches off duplicate detection and router discovery before any link
// exists: an address must be usable at once, and nothing may appear by itself.
func quietIPv6(s *space) error {
	var set []string
	for _, dev := range []string{"all", "default"} {
		p := "net.ipv6.conf." + dev
		set = append(set, p+".accept_dad=0", p+".dad_transmits=0", p+".accept_ra=0",
			"net.ipv4.conf."+dev+".rp_filter=0")
	}
	return s.sysctl(set...)
}

// plugVeth connects a host's link to a new port of its switch.
func plugVeth(sw, host *space, c cable) error {
	return sw.netlink(func(h *netlink.Handle) error {
		br, err := h.LinkByName(c.bridge)
		if err != nil {
			return fmt.Errorf("switch: %w", err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = c.port, br.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: string(c.link), PeerHardwareAddr: c.mac,
			PeerNamespace: netlink.NsFd(host.fd)}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("cable of %s: %w", c.port, err)
		}
		return up(h, c.port)
	})
}

// configureAPILink gives a node's eth1 its address; it leads to the nodes alone.
func configureAPILink(s *space, ip4, ip6 netip.Addr) error {
	return s.netlink(func(h *netlink.Handle) error {
		if err := addAddrs(h, string(APILink), ip4.String()+"/24", ip6.String()+"/64"); err != nil {
			return err
		}
		return up(h, string(APILink))
	})
}

// configure gives a host's eth0 its addresses and default routes.
func configure(s *space, ip4, ip6 netip.Addr) error {
	return s.netlink(func(h *netlink.Handle) error {
		if err := up(h, "lo"); err != nil {
			return err
		}
		if err := addAddrs(h, "eth0", ip4.String()+"/24", ip6.String()+"/64"); err != nil {
			return err
		}
		if err := up(h, "eth0"); err != nil {
			return err
		}
		return addRoutes(h, [2]string{"0.0.0.0/0", Gateway4}, [2]string{"::/0", Gateway6})
	})
}

// addAddrs skips duplicate detection for IPv6: it would make an address unusable
// for its first second, which a test would take for an outage.
func addAddrs(h *netlink.Handle, link string, prefixes ...string) error {
	dev, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		if err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(dev, a); err != nil {
			return fmt.Errorf("address %s on %s: %w", p, link, err)
		}
	}
	return nil
}

// addRoutes adds {destination, gateway} pairs.
func addRoutes(h *netlink.Handle, routes ...[2]string) error {
	for _, r := range routes {
		_, dst, err := net.ParseCIDR(r[0])
		if err != nil {
			return err
		}
		if err := h.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(r[1])}); err != nil {
			return fmt.Errorf("route %s via %s: %w", r[0], r[1], err)
		}
	}
	return nil
}

// up is setUp for the usual case.
func up(h *netlink.Handle, link string) error { return setUp(h, link, true) }

// setUp is administrative: the other end of a cable loses its carrier.
func setUp(h *netlink.Handle, link string, on bool) error {
	dev, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if on {
		return h.LinkSetUp(dev)
	}
	return h.LinkSetDown(dev)
}

// removePort deletes the switch's end of a cable and with it the host's end.
func removePort(sw *space, port string) error {
	return sw.netlink(func(h *netlink.Handle) error {
		dev, err := h.LinkByName(port)
		if err != nil {
			return fmt.Errorf("switch port %s: %w", port, err)
		}
		return h.LinkDel(dev)
	})
}

// hostMAC is a locally administered address that shows the host's last octet, so
// that captures can be read by eye.
func hostMAC(octet int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x00, 10, 99, 0, byte(octet)}
}
