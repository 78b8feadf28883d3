package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Kind of a frame about an address.
type Kind int

const (
	// Request is an ARP request or a neighbour solicitation by a host that has an address.
	Request Kind = iota + 1
	// Probing is the same by a host that has none yet (RFC 5227 §1.1, RFC 4862 §5.4.2).
	Probing
	// Reply is an answer: an ARP reply to one host, a solicited neighbour advertisement.
	Reply
	// Announcement is unasked for: a gratuitous ARP in either form, an unsolicited
	// neighbour advertisement.
	Announcement
)

// String is the kind in one word.
func (k Kind) String() string {
	switch k {
	case Request:
		return "request"
	case Probing:
		return "probe"
	case Reply:
		return "reply"
	case Announcement:
		return "announcement"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Frame is one ARP or neighbour discovery frame on the switch.
type Frame struct {
	At   time.Time        // when the switch's kernel saw it
	Kind Kind             //
	IP   netip.Addr       // the address it is about: asked for, answered for or announced
	MAC  net.HardwareAddr // who says so: the ARP sender or the target link-layer option; else the Ethernet source
	Dst  net.HardwareAddr // Ethernet destination
	From netip.Addr       // the speaker's own address, zero for probes
	// Override is the flag of a neighbour advertisement (RFC 4861 §4.4); true for ARP.
	Override bool
	Raw      []byte
}

// String is one line of a capture.
func (f Frame) String() string {
	return fmt.Sprintf("%s %s %s %s → %s", f.At.Format("15:04:05.000000"), f.Kind, f.IP, f.MAC, f.Dst)
}

const (
	etherARP, etherIPv6 = 0x0806, 0x86dd
	protoICMPv6         = 58
	solicitation        = 135 // RFC 4861 §4.3
	advertisement       = 136 // RFC 4861 §4.4
	optSource           = 1   // RFC 4861 §4.6.1
	optTarget           = 2
)

// parseFrame reads an Ethernet frame; false for anything that is not a well-formed
// ARP or neighbour discovery frame.
func parseFrame(raw []byte) (Frame, bool) {
	if len(raw) < 14 {
		return Frame{}, false
	}
	f := Frame{Dst: net.HardwareAddr(raw[0:6]), MAC: net.HardwareAddr(raw[6:12]), Raw: raw}
	switch binary.BigEndian.Uint16(raw[12:14]) {
	case etherARP:
		return parseARP(f, raw[14:])
	case etherIPv6:
		return parseND(f, raw[14:])
	}
	return Frame{}, false
}

// parseARP reads RFC 826 for Ethernet and IPv4.
func parseARP(f Frame, b []byte) (Frame, bool) {
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != 0x0001_0800_0604 {
		return Frame{}, false
	}
	op := binary.BigEndian.Uint16(b[6:8])
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	f.MAC, f.From, f.Override = net.HardwareAddr(b[8:14]), sender, true
	switch {
	case op != 1 && op != 2:
		return Frame{}, false
	case sender == target:
		f.Kind, f.IP = Announcement, sender
	case op == 2 && f.Dst[0]&1 != 0: // a reply to everybody answers nobody
		f.Kind, f.IP = Announcement, sender
	case op == 2:
		f.Kind, f.IP = Reply, sender
	case sender.IsUnspecified():
		f.Kind, f.IP, f.From = Probing, target, netip.Addr{}
	default:
		f.Kind, f.IP = Request, target
	}
	return f, true
}

// parseND reads a neighbour solicitation or advertisement that follows the IPv6
// header directly, as RFC 6980 wants it.
func parseND(f Frame, b []byte) (Frame, bool) {
	const ip, fixed = 40, 24
	if len(b) < ip+fixed || b[0]>>4 != 6 || b[6] != protoICMPv6 {
		return Frame{}, false
	}
	icmp := b[ip:]
	f.From, f.IP = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(icmp[8:24]))
	option := byte(optSource)
	switch icmp[0] {
	case solicitation:
		f.Kind = Request
		if f.From.IsUnspecified() {
			f.Kind, f.From = Probing, netip.Addr{}
		}
	case advertisement:
		const solicited, override = 0x40, 0x20
		f.Kind, f.Override, option = Announcement, icmp[4]&override != 0, optTarget
		if icmp[4]&solicited != 0 {
			f.Kind = Reply
		}
	default:
		return Frame{}, false
	}
	if mac := linkOption(icmp[fixed:], option); mac != nil {
		f.MAC = mac
	}
	return f, true
}

// linkOption finds a link-layer address among the options (RFC 4861 §4.6).
func linkOption(opts []byte, kind byte) net.HardwareAddr {
	for len(opts) >= 8 && opts[1] > 0 {
		size := int(opts[1]) * 8
		if opts[0] == kind {
			return net.HardwareAddr(opts[2:8])
		}
		if size > len(opts) {
			return nil
		}
		opts = opts[size:]
	}
	return nil
}

// arpRequest asks who has the address, to everybody.
func arpRequest(mac net.HardwareAddr, from, who netip.Addr) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	b = append(b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(b, mac...)
	b = append(b, from.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, who.AsSlice()...)
}

// neighborSolicitation asks who has the address, to its solicited-node group
// (RFC 4861 §4.3, RFC 2464 §7).
func neighborSolicitation(mac net.HardwareAddr, from, who netip.Addr) []byte {
	w := who.As16()
	group := [16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: w[13], 14: w[14], 15: w[15]}
	icmp := append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, w[:]...)
	icmp = append(icmp, optSource, 1)
	icmp = append(icmp, mac...)
	src := from.As16()
	binary.BigEndian.PutUint16(icmp[2:], icmpChecksum(src, group, icmp))

	b := append([]byte{0x33, 0x33, 0xff, w[13], w[14], w[15]}, mac...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), protoICMPv6, 255)
	b = append(b, src[:]...)
	b = append(b, group[:]...)
	return append(b, icmp...)
}

// icmpChecksum is RFC 4443 §2.3; the checksum field of the body must be zero.
func icmpChecksum(src, dst [16]byte, body []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	add(src[:])
	add(dst[:])
	add(body) // always even: 24 bytes and options of 8
	sum += uint32(len(body)) + protoICMPv6
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
