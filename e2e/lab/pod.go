package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// newPod describes pod number of a node; the number is its last octet. All pods of
// a node hang on a bridge "pods" in the node, as with the bridge CNI plugin.
func newPod(n *Node, name string, number int) *Host {
	l := n.lab
	h := newHost(l, name, number)
	h.ip4 = netip.AddrFrom4([4]byte{10, 244, byte(n.index), byte(number)})
	h.ip6 = netip.MustParseAddr(fmt.Sprintf("fd98:%d::%d", n.index, number))
	h.mac = net.HardwareAddr{0x02, 0x00, 10, 244, byte(n.index), byte(number)}
	h.attach = func(h *Host) error { return attachPod(n, h) }
	h.detach = func(h *Host) error {
		return n.space().netlink(func(nh *netlink.Handle) error {
			link, err := nh.LinkByName(podPort(h))
			if err != nil {
				return err
			}
			return nh.LinkDel(link)
		})
	}
	return h
}

// podPort is the node's end of a pod's cable.
func podPort(h *Host) string { return fmt.Sprintf("pod%d", h.octet) }

// attachPod connects the pod and makes it known to all nodes, as a CNI plugin does.
func attachPod(n *Node, pod *Host) error {
	if err := openPodBridge(n); err != nil {
		return err
	}
	err := n.space().netlink(func(nh *netlink.Handle) error {
		br, err := nh.LinkByName("pods")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = podPort(pod), br.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: pod.mac,
			PeerNamespace: netlink.NsFd(pod.space().fd)}
		if err := nh.LinkAdd(veth); err != nil {
			return fmt.Errorf("cable of pod %s: %w", pod.name, err)
		}
		return up(nh, attrs.Name)
	})
	if err != nil {
		return err
	}
	if err := configurePod(n, pod); err != nil {
		return err
	}
	return n.lab.routePods()
}

// openPodBridge makes the bridge with the pods' gateway addresses, once per power-on.
func openPodBridge(n *Node) error {
	return n.space().netlink(func(nh *netlink.Handle) error {
		if _, err := nh.LinkByName("pods"); err == nil {
			return nil
		}
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name = "pods"
		if err := nh.LinkAdd(br); err != nil {
			return fmt.Errorf("pod bridge of %s: %w", n.name, err)
		}
		if err := addAddrs(nh, "pods", podGateway4(n)+"/24", podGateway6(n)+"/64"); err != nil {
			return err
		}
		return up(nh, "pods")
	})
}

// configurePod is configure with the node as the gateway.
func configurePod(n *Node, pod *Host) error {
	return pod.space().netlink(func(nh *netlink.Handle) error {
		if err := up(nh, "lo"); err != nil {
			return err
		}
		if err := addAddrs(nh, "eth0", pod.IP()+"/24", pod.IP6()+"/64"); err != nil {
			return err
		}
		if err := up(nh, "eth0"); err != nil {
			return err
		}
		return addRoutes(nh, [2]string{"0.0.0.0/0", podGateway4(n)}, [2]string{"::/0", podGateway6(n)})
	})
}

// routePods tells every node and the gateway through which node each pod network is.
func (l *Lab) routePods() error {
	nodes := l.All()
	spaces := map[string]*space{"": l.sw}
	for _, n := range nodes {
		if n.space() != nil {
			spaces[n.name] = n.space()
		}
	}
	for owner, s := range spaces {
		err := s.netlink(func(nh *netlink.Handle) error {
			for _, to := range nodes {
				if to.name == owner || len(to.pods) == 0 {
					continue
				}
				via4, via6 := to.apiIP().String(), to.apiIP6().String()
				if owner == "" { // the gateway is on the first switch alone
					via4, via6 = to.IP(), to.IP6()
				}
				routes := [][2]string{
					{fmt.Sprintf("10.244.%d.0/24", to.index), via4},
					{fmt.Sprintf("fd98:%d::/64", to.index), via6},
				}
				if err := addRoutes(nh, routes...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func podGateway4(n *Node) string { return fmt.Sprintf("10.244.%d.1", n.index) }
func podGateway6(n *Node) string { return fmt.Sprintf("fd98:%d::1", n.index) }
