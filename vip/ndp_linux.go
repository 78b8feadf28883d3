package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	ipv6Len = 40
	// naTarget is where the target address stands in a frame with a
	// neighbour advertisement (RFC 4861 §4.4).
	naTarget = etherLen + ipv6Len + 8
	// naType is the ICMPv6 type of a neighbour advertisement.
	naType = 136
	// nsType is that of a solicitation; its target stands at the same place.
	nsType = 135
	// ipv6Src is where the source address stands in a frame.
	ipv6Src = etherLen + 8
)

// naAnnouncement is an unsolicited neighbour advertisement to all nodes (RFC
// 4861 §7.2.6) with Override, without which Linux keeps the old MAC. Its
// source is the VIP, as in the kernel's own; router is the node's forwarding
// state on the link, or hosts would drop it from their router list (§7.2.5).
func naAnnouncement(mac net.HardwareAddr, ip netip.Addr, router bool) ([]byte, error) {
	na := &ndp.NeighborAdvertisement{
		Router:        router,
		Override:      true,
		TargetAddress: ip,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}
	return icmpFrame(mac, ip, netip.IPv6LinkLocalAllNodes(), na)
}

// nsProbe is the neighbour solicitation of duplicate address detection (RFC
// 4862 §5.4.2): from :: and without a link-layer option, so that it touches
// no neighbour table. Who has the address answers to all nodes.
func nsProbe(mac net.HardwareAddr, ip netip.Addr) ([]byte, error) {
	group, err := ndp.SolicitedNodeMulticast(ip)
	if err != nil {
		return nil, fmt.Errorf("build probe for %s: %v", ip, err)
	}
	return icmpFrame(mac, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{TargetAddress: ip})
}

// nsQuestion asks as a neighbour does that has something to send (RFC 4861
// §7.2.2), with the link-layer option, so that the answer comes to src.
func nsQuestion(mac net.HardwareAddr, src, ip netip.Addr) ([]byte, error) {
	group, err := ndp.SolicitedNodeMulticast(ip)
	if err != nil {
		return nil, fmt.Errorf("build question for %s: %v", ip, err)
	}
	return icmpFrame(mac, src, group, &ndp.NeighborSolicitation{
		TargetAddress: ip,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
	})
}

// icmpFrame wraps a message into IPv6 with hop limit 255 and Ethernet. Frames
// are built here and not sent over an ICMPv6 socket because such a socket
// cannot send from ::, and would have to be bound to each VIP anew.
func icmpFrame(mac net.HardwareAddr, src, dst netip.Addr, m ndp.Message) ([]byte, error) {
	body, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		return nil, fmt.Errorf("build neighbour discovery for %s from %s: %v", src, mac, err)
	}
	to := dst.As16()
	// RFC 2464 §7: 33:33 and the last four bytes of the group.
	frame := etherHeader(net.HardwareAddr{0x33, 0x33, to[12], to[13], to[14], to[15]}, mac, unix.ETH_P_IPV6)
	frame = append(frame, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
	frame = append(frame, unix.IPPROTO_ICMPV6, ndp.HopLimit)
	frame = append(frame, src.AsSlice()...)
	frame = append(frame, to[:]...)
	return append(frame, body...), nil
}

// naClaim reads an Ethernet frame: the target of a neighbour advertisement
// and the MAC it is said to have, the frame's source where the option is
// missing. Anything else gives false. The checksum is not looked at: on
// virtual links the sender leaves it to hardware that is not there.
func naClaim(frame []byte) (netip.Addr, net.HardwareAddr, bool) {
	body, ok := icmpBody(frame)
	if !ok || body[0] != naType || body[1] != 0 {
		return netip.Addr{}, nil, false
	}
	m, err := ndp.ParseMessage(body)
	if err != nil {
		return netip.Addr{}, nil, false
	}
	na, ok := m.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress.IsMulticast() {
		return netip.Addr{}, nil, false
	}
	for _, o := range na.Options {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == ndp.Target && len(lla.Addr) == 6 {
			return na.TargetAddress, lla.Addr, true
		}
	}
	return na.TargetAddress, net.HardwareAddr(append([]byte(nil), frame[6:12]...)), true
}

// nsAsks reads the solicitation of duplicate address detection (RFC 4862
// §5.4.2): the address that its sender wants to take, and the frame's source
// MAC. Anything else gives false.
func nsAsks(frame []byte) (netip.Addr, net.HardwareAddr, bool) {
	body, ok := icmpBody(frame)
	if !ok || body[0] != nsType || body[1] != 0 {
		return netip.Addr{}, nil, false
	}
	src, ok := netip.AddrFromSlice(frame[ipv6Src : ipv6Src+16])
	if !ok || !src.IsUnspecified() {
		return netip.Addr{}, nil, false
	}
	m, err := ndp.ParseMessage(body)
	if err != nil {
		return netip.Addr{}, nil, false
	}
	ns, ok := m.(*ndp.NeighborSolicitation)
	if !ok || ns.TargetAddress.IsMulticast() {
		return netip.Addr{}, nil, false
	}
	return ns.TargetAddress, net.HardwareAddr(append([]byte(nil), frame[6:12]...)), true
}

// icmpBody finds the ICMPv6 message, at least 4 bytes, of an IPv6 frame with
// hop limit 255, which no router forwarded (RFC 4861 §11.2).
func icmpBody(frame []byte) ([]byte, bool) {
	if len(frame) < etherLen+ipv6Len+4 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IPV6 {
		return nil, false
	}
	ip := frame[etherLen:]
	if ip[0]>>4 != 6 || ip[6] != unix.IPPROTO_ICMPV6 || ip[7] != ndp.HopLimit {
		return nil, false
	}
	size := int(binary.BigEndian.Uint16(ip[4:]))
	if size < 4 || len(ip) < ipv6Len+size {
		return nil, false
	}
	return ip[ipv6Len : ipv6Len+size], true
}

// naFilter lets only neighbour advertisements, and solicitations from ::, pass
// whose target ends in the same 32 bits as one of ips; naClaim and nsAsks then
// look at the whole addresses. Of the source the last 32 bits decide.
func naFilter(ips []netip.Addr) ([]bpf.RawInstruction, error) {
	words := make([]uint32, len(ips))
	for i, ip := range ips {
		sixteen := ip.As16()
		words[i] = binary.BigEndian.Uint32(sixteen[12:])
	}
	prog := append(forUs(),
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: naType, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nsType, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: ipv6Src + 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: naTarget + 12, Size: 4},
	)
	return bpf.Assemble(append(prog, anyOf(words)...))
}
