package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DatagramLimit is when an unanswered datagram counts as lost, as for
	// connections: an answer that was only late is in Report.Slowest. The kernel's
	// time of arrival decides: a prober that is late to read it is no outage.
	DatagramLimit = ConnectLimit
	// readLimit is how late the prober may be.
	readLimit = time.Second
)

// UDPProbe sends a datagram from the host to address ("10.99.0.200" or
// "fd99::200") every interval until Stop; a small server on every node answers
// at [EchoPort] to whatever address it was asked, and says its name. All
// datagrams are one flow: one socket, one source port.
func (h *Host) UDPProbe(address string, every time.Duration) *Probe {
	h.lab.startEchoes()
	return h.flowTo(netip.AddrPortFrom(h.lab.parseAddr(address), EchoPort), every)
}

// Datagrams is UDPProbe towards a web server ("10.99.0.210:53").
func (h *Host) Datagrams(address string, every time.Duration) *Probe {
	to, err := netip.ParseAddrPort(address)
	h.lab.must(err)
	return h.flowTo(to, every)
}

// flowTo is a probe of one flow.
func (h *Host) flowTo(to netip.AddrPort, every time.Duration) *Probe {
	conn, err := h.space().datagrams(to.Addr())
	h.lab.must(err)
	f := &flow{conn: conn, to: to, waiting: map[uint64]chan arrival{}}
	go f.listen()
	return h.lab.startProbe(&Probe{every: every, limit: readLimit, ask: f.ask, after: conn.Close})
}

// Ask sends one datagram from the host to address ("10.99.0.210:53") and returns the
// answer, which must come within a second and from there.
func (h *Host) Ask(address string) (string, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", err
	}
	conn, err := h.space().datagrams(to.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.WriteToUDPAddrPort([]byte("who"), to); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	if err == nil && netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != to {
		err = fmt.Errorf("asked %s, answered by %s", to, from)
	}
	return string(buf[:n]), err
}

// datagrams opens a socket that nobody connects: so errors that routers report
// for one datagram do not spoil the next.
func (s *space) datagrams(to netip.Addr) (*net.UDPConn, error) {
	fd, err := s.socket(familyOf(to), unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	source := netip.IPv4Unspecified()
	if to.Is6() {
		source = netip.IPv6Unspecified()
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "probe")
	defer file.Close() // FilePacketConn has a duplicate
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// flow matches answers to questions.
type flow struct {
	conn *net.UDPConn
	to   netip.AddrPort

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]chan arrival
}

// arrival is an answer: whose, and when the kernel had it.
type arrival struct {
	server string
	at     time.Time
}

// ask sends one datagram and waits for its own answer.
func (f *flow) ask(ctx context.Context) (string, error) {
	answer := make(chan arrival, 1)
	f.mu.Lock()
	f.seq++
	seq := f.seq
	f.waiting[seq] = answer
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.waiting, seq)
		f.mu.Unlock()
	}()
	sent := time.Now()
	if _, err := f.conn.WriteToUDPAddrPort(datagram(seq), f.to); err != nil {
		return "", err
	}
	select {
	case a := <-answer:
		if a.at.Sub(sent) > DatagramLimit {
			return "", os.ErrDeadlineExceeded
		}
		return a.server, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// listen hands out answers until the socket is closed. One from another address
// than was asked is none: a client's kernel would not take it for one.
func (f *flow) listen() {
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for {
		n, oobn, _, from, err := f.conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		seq, server, ok := parseEcho(buf[:n])
		if err != nil || !ok || from != f.to {
			continue
		}
		f.mu.Lock()
		if answer := f.waiting[seq]; answer != nil {
			answer <- arrival{server, stamp(oob[:oobn])}
			delete(f.waiting, seq) // a duplicate finds nobody
		}
		f.mu.Unlock()
	}
}
