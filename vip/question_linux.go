package vip

import (
	"net"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// question is the frame that asks for the IP on the link, nil if it is not to be
// asked for now. A watched one is asked for in order to take it: its holder is to
// answer and to learn nothing of us.
func (p *asker) question(ifi *net.Interface, ip netip.Addr, watched []lb.Address) ([]byte, error) {
	mac := ifi.HardwareAddr
	if slices.Contains(watched, lb.Address{IP: ip, Link: ifi.Name}) {
		if ip.Is6() {
			return nsProbe(mac, ip)
		}
		return arpProbe(mac, ip)
	}
	src := source(p.from, ifi.Index, ip, watched)
	switch {
	case !src.IsValid() && ip.Is6():
		// A solicitation from :: would make a host that is proving this address give
		// it up (RFC 4862 §5.4.3).
		p.nameless = true
		return nil, nil
	case !src.IsValid():
		p.nameless = true
		return arpProbe(mac, ip)
	case ip.Is6():
		return nsQuestion(mac, src, ip)
	}
	return arpRequest(mac, src, ip)
}

// sources lists the addresses of this node that it may speak from: no virtual
// IPs, which are ours or deprecated, and none that is not yet proved unique.
func sources() ([]ifAddr, error) {
	all, err := notOurs()
	return slices.DeleteFunc(all, func(a ifAddr) bool { return a.preferred == 0 || a.unproved }), err
}

// source is the link's address to ask for the target from; the zero Addr where
// there is none. Over IPv4 one in the target's subnet comes first, since a host
// may not answer others (ip-sysctl, arp_ignore), and over IPv6 the link-local
// one; single addresses, which may be another program's virtual IPs, come last.
func source(from []ifAddr, index int, target netip.Addr, watched []lb.Address) netip.Addr {
	var best netip.Addr
	most := 0
	for _, a := range from {
		virtual := slices.ContainsFunc(watched, func(w lb.Address) bool { return w.IP == a.ip })
		if a.index != index || a.ip.Is4() != target.Is4() || a.ip == target || virtual {
			continue
		}
		rank := 2
		switch {
		case a.bits == hostBits(a.ip):
			rank = 1
		case a.ip.IsLinkLocalUnicast() && a.ip.Is6(), a.ip.Is4() && a.prefix().Contains(target):
			rank = 3
		}
		if rank > most {
			best, most = a.ip, rank
		}
	}
	return best
}
