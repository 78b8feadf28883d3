package lb

import (
	"net/netip"
	"slices"
)

// Where HAProxy listens for Services whose ports kube-proxy takes (Modeless): at
// ports from ShiftFirst on, ShiftPorts of them. They lie above the NodePorts
// (30000-32767) and the ports that Linux gives to clients (32768-60999, ip-sysctl
// ip_local_port_range), in which any process may listen for a moment. The number is
// a prime, so that 80 and 8080, 443 and 8443 do not want the same one.
const (
	ShiftFirst = 61000
	ShiftPorts = 3989
)

// shiftsOf are the shifted ports, by what clients call them: 80 becomes 61080 where
// no other port of the address has that. They follow from the Services alone, so
// that all nodes agree. A port for which none is left has none.
func shiftsOf(services []Service) map[netip.AddrPort]uint16 {
	taken, wanted := map[netip.AddrPort]bool{}, []netip.AddrPort(nil)
	for i := range services {
		s := &services[i]
		for _, p := range s.Ports {
			for _, ip := range s.Has {
				if p.Protocol != TCP {
					continue
				}
				at := netip.AddrPortFrom(ip, p.Port)
				taken[at] = true
				if s.Modeless {
					wanted = append(wanted, at)
				}
			}
		}
	}
	slices.SortFunc(wanted, netip.AddrPort.Compare)
	out := map[netip.AddrPort]uint16{}
	for _, at := range slices.Compact(wanted) {
		for i := range uint16(ShiftPorts) {
			to := ShiftFirst + (at.Port()%ShiftPorts+i)%ShiftPorts
			if there := netip.AddrPortFrom(at.Addr(), to); !taken[there] {
				taken[there], out[at] = true, to
				break
			}
		}
	}
	return out
}

// shift makes a frontend listen at shifted ports too. It keeps the others, so that
// nobody is refused when the API server learns the mode, or a redirect is missing.
func shift(f *Frontend, shifts map[netip.AddrPort]uint16) {
	for _, at := range slices.Clone(f.Binds) {
		to, ok := shifts[at]
		if !ok {
			continue
		}
		f.Binds = append(f.Binds, netip.AddrPortFrom(at.Addr(), to))
		f.Redirects = append(f.Redirects, Redirect{
			VIP: at.Addr(), From: at.Port(), To: to,
			// With source ranges kube-proxy drops, in iptables mode, what it did not
			// translate itself. It heeds them, so let it serve what begins elsewhere.
			Elsewhere: len(f.Front.Sources) == 0,
		})
	}
}

// Redirects are those of the frontends that HAProxy serves in this state, and
// serves with what is wanted of them.
func Redirects(fronts []Frontend, s ProxyState) []Redirect {
	var out []Redirect
	seen := map[netip.AddrPort]bool{}
	for _, f := range fronts {
		_, skipped := s.Skipped[f.Name]
		if !s.Serving || skipped || slices.Contains(s.Pending, f.Name) {
			continue
		}
		for _, r := range f.Redirects {
			// Two Services may quarrel about a port; HAProxy serves the one.
			if at := netip.AddrPortFrom(r.VIP, r.From); !seen[at] {
				seen[at] = true
				out = append(out, r)
			}
		}
	}
	return out
}
