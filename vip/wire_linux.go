package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// sendLimit is how long one frame may wait for room in a socket's queue.
const sendLimit = 10 * time.Millisecond

// wire sends announcements, over one packet socket per link that is kept.
type wire struct {
	mu    sync.Mutex
	ports map[string]port
}

// port is an open packet socket on a link, and the link's index when it was
// opened: a link that was made anew under its name needs a new socket.
type port struct {
	conn  *packet.Conn
	index int
}

// newWire opens nothing yet.
func newWire() *wire { return &wire{ports: map[string]port{}} }

// announce sends one announcement of the address. The link is looked up each
// time, since a bond may have changed its MAC.
func (w *wire) announce(a lb.Address) error {
	ifi, err := ethernetLink(a.Link)
	if err != nil {
		return err
	}
	frame, err := announcement(ifi, a.IP)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[a.Link]
	if p.conn == nil || p.index != ifi.Index {
		if p.conn != nil {
			p.conn.Close()
		}
		// Protocol 0 receives nothing (packet(7)).
		conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
		if err != nil {
			delete(w.ports, a.Link)
			return fmt.Errorf("open a packet socket on %s (this needs the capability NET_RAW): %v", a.Link, err)
		}
		p = port{conn: conn, index: ifi.Index}
		w.ports[a.Link] = p
	}
	return transmit(p.conn, frame)
}

// close closes all sockets; a later announce opens them again.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, p := range w.ports {
		p.conn.Close()
		delete(w.ports, name)
	}
}

// announcement is the frame that tells the neighbours where the IP is.
func announcement(ifi *net.Interface, ip netip.Addr) ([]byte, error) {
	if ip.Is4() {
		return arpAnnouncement(ifi.HardwareAddr, ip)
	}
	return naAnnouncement(ifi.HardwareAddr, ip, forwards(ifi.Name))
}

// forwards reads whether the node forwards IPv6 on the link (ip-sysctl,
// conf/interface/forwarding: 1 makes it a router). Unreadable is no: a host
// is the harmless claim.
func forwards(link string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/forwarding")
	value := strings.TrimSpace(string(b))
	return err == nil && value != "" && value != "0"
}

// sendTries is how often a frame is tried: on a busy node the limit may pass before
// the goroutine runs again, with room enough in the queue.
const sendTries = 3

// transmit sends a whole Ethernet frame.
func transmit(conn *packet.Conn, frame []byte) error {
	err := os.ErrDeadlineExceeded
	for try := 0; try < sendTries && errors.Is(err, os.ErrDeadlineExceeded); try++ {
		if err := conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
			return fmt.Errorf("limit the time to send: %v", err)
		}
		_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	}
	if err != nil {
		return fmt.Errorf("send a frame: %v", err)
	}
	return nil
}

// ethernetLink gives what the packet package needs to know of a link.
func ethernetLink(name string) (*net.Interface, error) {
	link, err := linkNamed(name)
	if err != nil {
		return nil, err
	}
	at := link.Attrs()
	if err := wantEthernet(link); err != nil {
		return nil, err
	}
	return &net.Interface{Index: at.Index, MTU: at.MTU, Name: at.Name, HardwareAddr: at.HardwareAddr}, nil
}

// ear hears who says that it has one of some addresses of one family on one
// link.
type ear struct {
	ifi  *net.Interface
	conn *packet.Conn
	ips  map[netip.Addr]bool
	read func(frame []byte) (netip.Addr, net.HardwareAddr, bool)
	asks func(frame []byte) (netip.Addr, net.HardwareAddr, bool)
}

// listen opens an ear; ips are all of one family, not empty.
func listen(link string, ips []netip.Addr) (*ear, error) {
	ifi, err := ethernetLink(link)
	if err != nil {
		return nil, err
	}
	e := &ear{ifi: ifi, ips: map[netip.Addr]bool{}, read: arpClaim, asks: arpAsks}
	proto, filter := unix.ETH_P_ARP, arpFilter
	if ips[0].Is6() {
		e.read, e.asks = naClaim, nsAsks
		proto, filter = unix.ETH_P_IPV6, naFilter
	}
	var prog []bpf.RawInstruction
	if prog, err = filter(ips); err != nil {
		return nil, fmt.Errorf("assemble the filter for %d addresses on %s: %v", len(ips), link, err)
	}
	for _, ip := range ips {
		e.ips[ip] = true
	}
	if e.conn, err = packet.Listen(ifi, packet.Raw, proto, &packet.Config{Filter: prog}); err != nil {
		return nil, fmt.Errorf("open a packet socket on %s (this needs the capability NET_RAW): %v", link, err)
	}
	return e, nil
}

// next waits for the next claim of one of the ear's addresses by any host,
// this one included, or for a host that asks for one in order to take it. It
// ends with an error when the socket is closed or the link goes.
func (e *ear) next() (c lb.Claim, asks bool, err error) {
	buf := make([]byte, 256)
	for {
		n, _, err := e.conn.ReadFrom(buf)
		if err != nil {
			return lb.Claim{}, false, fmt.Errorf("listen on %s: %v", e.ifi.Name, err)
		}
		if ip, mac, ok := e.read(buf[:n]); ok && e.ips[ip] {
			return lb.Claim{IP: ip, Link: e.ifi.Name, MAC: mac}, false, nil
		}
		if ip, mac, ok := e.asks(buf[:n]); ok && e.ips[ip] {
			return lb.Claim{IP: ip, Link: e.ifi.Name, MAC: mac}, true, nil
		}
	}
}

// join makes the link take the frames to the addresses' solicited-node groups
// (RFC 4291 §2.7.1), in which other hosts ask for them: without the address the
// kernel is in none of them. A refusal costs rivals heard over IPv6 on links
// that filter, so it is no error.
func (e *ear) join() {
	raw, err := e.conn.SyscallConn()
	if err != nil {
		return
	}
	for ip := range e.ips {
		if ip.Is4() {
			continue
		}
		b := ip.As16()
		m := unix.PacketMreq{Ifindex: int32(e.ifi.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6,
			Address: [8]uint8{0x33, 0x33, 0xff, b[13], b[14], b[15]}}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
		})
	}
}

// place is one socket's worth of listening: all addresses of one family on
// one link.
type place struct {
	link string
	v6   bool
}

// byPlace groups addresses by the socket that hears of them. Values that are
// no address belong to none.
func byPlace(addrs []lb.Address) map[place][]netip.Addr {
	groups := map[place][]netip.Addr{}
	for _, a := range addrs {
		if !a.IP.IsValid() {
			continue
		}
		at := place{a.Link, a.IP.Is6()}
		groups[at] = append(groups[at], a.IP)
	}
	return groups
}
