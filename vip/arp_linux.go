package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// etherLen is the length of an untagged Ethernet header.
	etherLen = 14
	// etherMin is the shortest Ethernet frame without its checksum. Drivers
	// pad shorter ones, some hypervisors' virtual switches drop them.
	etherMin = 60
	// arpLen is the length of an ARP packet for IPv4 over Ethernet (RFC 826).
	arpLen = 28
	// arpSender is where the sender's IPv4 address stands in a frame.
	arpSender = etherLen + 14
	// arpTarget is where the target's stands.
	arpTarget = etherLen + 24
	// keep is what a filter returns for a frame to be delivered whole.
	keep = 0xffff
)

// broadcast is the Ethernet broadcast address.
func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// arpAnnouncement is a gratuitous ARP frame in the request form, sender =
// target = VIP (RFC 5227 §2.3). The reply form is ignored by a Linux neighbour
// whose entry is less than a second old.
func arpAnnouncement(mac net.HardwareAddr, ip netip.Addr) ([]byte, error) {
	return arpRequest(mac, ip, ip)
}

// arpProbe is an ARP probe, sender 0.0.0.0 (RFC 5227 §2.1.1): it asks without
// touching anyone's neighbour table.
func arpProbe(mac net.HardwareAddr, ip netip.Addr) ([]byte, error) {
	return arpRequest(mac, netip.IPv4Unspecified(), ip)
}

// arpRequest is a broadcast ARP request with an all-zero target MAC, padded
// to the shortest Ethernet frame.
func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(arp.OperationRequest, mac, sender, make(net.HardwareAddr, 6), target)
	if err != nil {
		return nil, fmt.Errorf("build ARP for %s from %s: %v", target, mac, err)
	}
	body, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("build ARP for %s from %s: %v", target, mac, err)
	}
	frame := etherHeader(broadcast(), mac, unix.ETH_P_ARP)
	frame = append(frame, body...)
	return append(frame, make([]byte, etherMin-len(frame))...), nil
}

// etherHeader is an Ethernet header with room for a small packet behind it.
func etherHeader(dst, src net.HardwareAddr, proto uint16) []byte {
	frame := make([]byte, 0, 96)
	frame = append(frame, dst...)
	frame = append(frame, src...)
	return binary.BigEndian.AppendUint16(frame, proto)
}

// arpClaim reads an Ethernet frame: the IPv4 address that its sender says it
// has, and the sender's MAC. Requests and replies both count. Probes (sender
// 0.0.0.0) and anything malformed give false.
func arpClaim(frame []byte) (netip.Addr, net.HardwareAddr, bool) {
	p, ok := arpPacket(frame)
	if !ok || p.SenderIP.IsUnspecified() {
		return netip.Addr{}, nil, false
	}
	return p.SenderIP, p.SenderHardwareAddr, true
}

// arpAsks reads an ARP probe (RFC 5227 §2.1.1): the IPv4 address that its sender
// wants to take, and the sender's MAC. Anything else gives false.
func arpAsks(frame []byte) (netip.Addr, net.HardwareAddr, bool) {
	p, ok := arpPacket(frame)
	if !ok || p.Operation != arp.OperationRequest || !p.SenderIP.IsUnspecified() || !p.TargetIP.Is4() {
		return netip.Addr{}, nil, false
	}
	return p.TargetIP, p.SenderHardwareAddr, true
}

// arpPacket reads ARP for IPv4 over Ethernet (RFC 826).
func arpPacket(frame []byte) (p arp.Packet, ok bool) {
	if len(frame) < etherLen+arpLen || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return p, false
	}
	if err := p.UnmarshalBinary(frame[etherLen:]); err != nil {
		return p, false
	}
	ethernet := p.HardwareType == 1 && p.HardwareAddrLength == 6
	return p, ethernet && p.ProtocolType == unix.ETH_P_IP && p.SenderIP.Is4()
}

// arpFilter lets only ARP frames pass whose sender IP is one of ips, and probes
// for one of them, so that the broadcasts of a large segment do not wake us.
func arpFilter(ips []netip.Addr) ([]bpf.RawInstruction, error) {
	words := make([]uint32, len(ips))
	for i, ip := range ips {
		four := ip.As4()
		words[i] = binary.BigEndian.Uint32(four[:])
	}
	prog := append(forUs(),
		bpf.LoadAbsolute{Off: arpSender, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: 1},
		bpf.LoadAbsolute{Off: arpTarget, Size: 4},
	)
	return bpf.Assemble(append(prog, anyOf(words)...))
}

// forUs drops frames for other hosts and lets the next instruction decide
// about all others. A frame of a VLAN that has no link here arrives as one for
// another host, its tag removed (__netif_receive_skb_core).
func forUs() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
}

// filterMax is the most addresses one filter compares; the kernel takes 4096
// instructions (BPF_MAXINSNS), each address needs two.
const filterMax = 1024

// anyOf ends a filter: frames pass whose 32 bits, loaded before, are one of
// words. With more than filterMax words all pass, and Go compares alone.
func anyOf(words []uint32) []bpf.Instruction {
	if len(words) > filterMax {
		return []bpf.Instruction{bpf.RetConstant{Val: keep}}
	}
	var prog []bpf.Instruction
	for _, w := range words {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: w, SkipFalse: 1},
			bpf.RetConstant{Val: keep})
	}
	return append(prog, bpf.RetConstant{Val: 0})
}
