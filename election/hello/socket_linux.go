package hello

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// hops is the TTL that no router can have lowered (RFC 5082, GTSM).
	hops = 255
	// networkControl is DSCP CS6, the class of routing protocols (RFC 4594 §3.1).
	networkControl = 0xc0
	// received is the wanted size of a socket's queue: 300 peers' hellos of half a
	// second, at about a kilobyte each in the kernel's account.
	received = 4 << 20
	// batch is how many datagrams are taken in one system call.
	batch = 32
)

// place is one socket's worth of peers: one family on one link.
type place struct {
	link string
	v6   bool
}

// socket is a UDP socket that sends and hears on one link only.
type socket struct {
	fd int
	// index is the link's, at opening: a link made anew under its name needs
	// another socket.
	index int
}

// openSocket opens the place's socket, with port for both ends.
func openSocket(at place, port uint16) (socket, error) {
	family, any := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port)})
	if at.v6 {
		family, any = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return socket{}, fmt.Errorf("open a UDP socket: %v", err)
	}
	s := socket{fd: fd}
	if s.index, err = linkIndex(fd, at.link); err == nil {
		err = setUp(fd, at)
	}
	if err != nil {
		unix.Close(fd)
		return socket{}, err
	}
	if err := unix.Bind(fd, any); err != nil {
		unix.Close(fd)
		return socket{}, fmt.Errorf("listen on UDP port %d of %s: %v; is another agent running on this node?", port, at.link, err)
	}
	return s, nil
}

// setUp sets the options that make a hello what it is: of this link, unrouted.
func setUp(fd int, at place) error {
	if err := unix.BindToDevice(fd, at.link); err != nil {
		return fmt.Errorf("bind a socket to %s (this needs the capability NET_RAW): %v", at.link, err)
	}
	type option struct{ level, name, value int }
	options := []option{
		{unix.IPPROTO_IP, unix.IP_TTL, hops},
		{unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
		{unix.IPPROTO_IP, unix.IP_TOS, networkControl},
	}
	if at.v6 {
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}, // the port is also IPv4's
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, networkControl},
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set option %d of the hello socket on %s: %v", o.name, at.link, err)
		}
	}
	// A short queue only loses hellos after a stall, so a refusal is no error.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, received) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, received)
	}
	return nil
}

// linkIndex looks a link up by any socket, cheaply (netdevice(7), SIOCGIFINDEX).
func linkIndex(fd int, link string) (int, error) {
	ask, err := unix.NewIfreq(link)
	if err != nil {
		return 0, fmt.Errorf("link name %q: %v", link, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ask); err != nil {
		return 0, fmt.Errorf("link %s: %v; is it there and spelled so?", link, err)
	}
	return int(int32(ask.Uint32())), nil
}

// stale says whether the link is gone, or another one under the same name.
func (s socket) stale(link string) bool {
	index, err := linkIndex(s.fd, link)
	return err != nil || index != s.index
}

// sockaddr is the destination for sendto(2), made once per peer.
func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	n      uint32
}

// inbox holds the datagrams that one recvmmsg(2) brings, in memory used again.
type inbox struct {
	headers [batch]mmsghdr
	vectors [batch]unix.Iovec
	names   [batch]unix.RawSockaddrInet6
	control [batch][64]byte // one control message of an int is 24 bytes
	data    [batch][MaxSize + 1]byte
}

// newInbox ties headers and memory together.
func newInbox() *inbox {
	in := &inbox{}
	for i := range batch {
		in.vectors[i].Base = &in.data[i][0]
		in.vectors[i].SetLen(len(in.data[i]))
		h := &in.headers[i].header
		h.Name = (*byte)(unsafe.Pointer(&in.names[i]))
		h.Iov = &in.vectors[i]
		h.SetIovlen(1)
		h.Control = &in.control[i][0]
	}
	return in
}

// receive fetches what waits in the socket's queue, at most batch datagrams,
// without blocking; 0 is none.
func (in *inbox) receive(fd int) int {
	for i := range in.headers {
		h := &in.headers[i].header
		h.Namelen = uint32(unsafe.Sizeof(in.names[i]))
		h.SetControllen(len(in.control[i]))
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&in.headers[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		// EAGAIN, or an ICMP error, which anybody can send: no news either way.
		return 0
	}
	return int(n)
}

// datagram gives the i-th datagram: its bytes, its source and its TTL or hop
// limit, 0 if the kernel did not tell. One that was too long keeps a byte more
// than MaxSize.
func (in *inbox) datagram(i int) (b []byte, from netip.AddrPort, ttl int) {
	h := &in.headers[i]
	name := &in.names[i]
	// sin_port and sin6_port are at the same place, in network order.
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	switch name.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		from = netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	case unix.AF_INET6:
		from = netip.AddrPortFrom(netip.AddrFrom16(name.Addr), port)
	}
	return in.data[i][:h.n], from, hopsOf(in.control[i][:h.header.Controllen])
}

// hopsOf finds the TTL (ip(7), IP_RECVTTL) or hop limit (RFC 3542 §6.3).
func hopsOf(control []byte) int {
	for len(control) >= unix.CmsgLen(4) {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if header.Level == unix.IPPROTO_IP && header.Type == unix.IP_TTL ||
			header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_HOPLIMIT {
			return int(binary.NativeEndian.Uint32(data))
		}
		control = rest
	}
	return 0
}

// highest is the niceness of what must not wait for ordinary work: its share of a
// core is some eighty times theirs (sched(7)).
const highest = -20

// precede gives the calling thread the highest niceness, unless it has inherited it:
// the threads of a busy node would otherwise make it late and its peers nervous.
// Not SCHED_FIFO: what goes wrong in a thread with that can stop a node.
func precede() error {
	if nice, err := niceness(); err == nil && nice == highest {
		return nil
	}
	return setNice(highest)
}

// setNice gives the calling thread a niceness; what it starts inherits it.
func setNice(to int) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, to) }

// niceness is the calling thread's. The system call itself gives 20 less that
// (getpriority(2)).
func niceness() (int, error) {
	got, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	return 20 - got, err
}
