package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// end of a socket: which of its two addresses is meant. The values are those of
// the kernel's filter (linux/inet_diag.h, INET_DIAG_BC_S_COND and _D_COND).
type end uint8

const (
	localIs  end = 7
	remoteIs end = 8
)

const (
	// diagBytecode is INET_DIAG_REQ_BYTECODE.
	diagBytecode = 1
	// diagIDLen is the size of struct inet_diag_sockid.
	diagIDLen = 48
	// openStates are ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and
	// CLOSING (net/tcp_states.h): both ends have spoken, and it is not over.
	openStates = 1<<1 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// socket is one TCP connection of this network namespace.
type socket struct {
	local, remote netip.AddrPort
	family        uint8
	id            []byte // struct inet_diag_sockid
}

// socketsOf lists the open TCP connections that have one of the IPs at that end
// (sock_diag(7)); IPv6 sockets that speak IPv4 count too. It walks all of the
// kernel's connections once per family, about a millisecond each, so many IPs are
// asked for at once; of one alone the kernel does the choosing.
func socketsOf(at end, ips ...netip.Addr) ([]socket, error) {
	wanted := map[netip.Addr]bool{}
	four := false
	for _, ip := range ips {
		wanted[ip] = true
		four = four || ip.Is4()
	}
	families := []uint8{unix.AF_INET6}
	if four {
		families = append(families, unix.AF_INET)
	}
	var out []socket
	for _, af := range families {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddRawData(diagRequest(af, openStates, make([]byte, diagIDLen)))
		if len(ips) == 1 {
			req.AddRawData(attr(diagBytecode, hostFilter(ips[0], at)))
		}
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
			if s, ok := parseSocket(msg); ok && wanted[s.at(at).Addr()] {
				out = append(out, s)
			}
			return true
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, fmt.Errorf("list the connections of %v: %v", ips, err)
		}
	}
	return out, nil
}

// at is the address at that end.
func (s socket) at(e end) netip.AddrPort {
	if e == localIs {
		return s.local
	}
	return s.remote
}

// diagRequest is struct inet_diag_req_v2 for TCP.
func diagRequest(af uint8, states uint32, id []byte) []byte {
	b := binary.NativeEndian.AppendUint32([]byte{af, unix.IPPROTO_TCP, 0, 0}, states)
	return append(b, id...)
}

// hostFilter is a program of one instruction (struct inet_diag_bc_op and
// inet_diag_hostcond): past its end by four is no, its end is yes.
func hostFilter(ip netip.Addr, at end) []byte {
	af := byte(unix.AF_INET)
	if ip.Is6() {
		af = unix.AF_INET6
	}
	size := 12 + ip.BitLen()/8
	b := binary.NativeEndian.AppendUint16([]byte{byte(at), byte(size)}, uint16(size+4))
	b = append(b, af, byte(ip.BitLen()), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // any port
	return append(b, ip.AsSlice()...)
}

// parseSocket reads struct inet_diag_msg.
func parseSocket(b []byte) (socket, bool) {
	if len(b) < 4+diagIDLen {
		return socket{}, false
	}
	s := socket{family: b[0], id: append([]byte(nil), b[4:4+diagIDLen]...)}
	size := 4
	if s.family == unix.AF_INET6 {
		size = 16
	}
	src, _ := netip.AddrFromSlice(s.id[4 : 4+size])
	dst, _ := netip.AddrFromSlice(s.id[20 : 20+size])
	s.local = netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(s.id))
	s.remote = netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(s.id[2:]))
	return s, true
}

// errNoDestroy: the kernel cannot end others' sockets.
var errNoDestroy = errors.New("this kernel cannot end other programs' connections (CONFIG_INET_DIAG_DESTROY): " +
	"those of this node to a virtual IP that moves may hang until they send")

// destroy ends the connection: its program gets ECONNABORTED, the other side a
// reset. One that is gone already is no error.
func (s socket) destroy() error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddRawData(diagRequest(s.family, 0, s.id))
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return errNoDestroy
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("end the connection %s to %s: %v: give the agent the capability NET_ADMIN", s.local, s.remote, err)
	}
	return fmt.Errorf("end the connection %s to %s: %v", s.local, s.remote, err)
}

// resetSockets ends the open connections that have one of the IPs at that end.
// With remoteIs those from the IP to itself are spared: they are to this node's
// own copy and live on.
func resetSockets(at end, ips ...netip.Addr) error {
	if len(ips) == 0 {
		return nil
	}
	all, err := socketsOf(at, ips...)
	faults := []error{err}
	for _, s := range all {
		if at == remoteIs && s.local.Addr() == s.remote.Addr() {
			continue
		}
		if err := s.destroy(); err != nil {
			faults = append(faults, err)
			break // the next one would fail alike
		}
	}
	return errors.Join(faults...)
}
