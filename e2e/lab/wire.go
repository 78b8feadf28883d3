package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// askEvery is the interval of Answers: short against any failover, long against
// the round trip.
const askEvery = 100 * time.Millisecond

// observerOctet is the host that asks: 10.99.0.99, fd99::99.
const observerOctet = 99

// Wire is a tap on the switch that sees every ARP and neighbour discovery frame,
// also those between two other hosts.
type Wire struct {
	lab  *Lab
	tap  *os.File
	once sync.Once
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	missed int
}

// Wire starts listening; the lab's end stops it.
func (l *Lab) Wire() *Wire {
	fd, err := openTap(l.sw)
	if err != nil {
		l.fatalf("tapping the switch: %v", err)
	}
	w := &Wire{lab: l, tap: os.NewFile(uintptr(fd), "switch"), done: make(chan struct{})}
	go w.listen()
	l.onStop(w.Stop)
	return w
}

// openTap makes a packet socket on the bridge. A promiscuous bridge hands up all
// it forwards.
func openTap(sw *space) (int, error) {
	fd, err := sw.socket(unix.AF_PACKET, unix.SOCK_RAW) // protocol 0: nothing until the filter is in place
	if err != nil {
		return 0, err
	}
	index, err := linkIndex(sw, bridgeName)
	if err == nil {
		err = errors.Join(attachFilter(fd, neighborFilter()),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
				&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}))
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// neighborFilter keeps ARP, and ICMPv6 of types 135 and 136, in the kernel: on a
// busy switch everything else would drown them.
func neighborFilter() []unix.SockFilter {
	const ldHalf, ldByte, jeq, ret = 0x28, 0x30, 0x15, 0x06
	return []unix.SockFilter{
		{Code: ldHalf, K: 12},
		{Code: jeq, K: etherARP, Jt: 6},
		{Code: jeq, K: etherIPv6, Jf: 6},
		{Code: ldByte, K: 14 + 6},
		{Code: jeq, K: protoICMPv6, Jf: 4},
		{Code: ldByte, K: 14 + 40},
		{Code: jeq, K: solicitation, Jt: 1},
		{Code: jeq, K: advertisement, Jf: 1},
		{Code: ret, K: 0xffff},
		{Code: ret, K: 0},
	}
}

// attachFilter installs a classic BPF program (socket(7), SO_ATTACH_FILTER).
func attachFilter(fd int, program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// listen reads until the tap is closed.
func (w *Wire) listen() {
	defer close(w.done)
	raw, err := w.tap.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for {
		var n, oobn int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		if rerr != nil { // the bridge went down for a moment: keep listening
			continue
		}
		if f, ok := parseFrame(append([]byte(nil), buf[:n]...)); ok {
			f.At = stamp(oob[:oobn])
			w.mu.Lock()
			w.frames = append(w.frames, f)
			w.mu.Unlock()
		}
	}
}

// stamp is the kernel's receive time, or now if it sent none.
func stamp(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS &&
			len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix())
		}
	}
	return time.Now()
}

// Frames are all frames so far, those about one address if ip is not empty.
func (w *Wire) Frames(ip string) []Frame {
	var want netip.Addr
	if ip != "" {
		want = w.lab.parseAddr(ip)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Frame
	for _, f := range w.frames {
		if ip == "" || f.IP == want {
			out = append(out, f)
		}
	}
	return out
}

// Stop ends listening; the frames stay readable.
func (w *Wire) Stop() {
	w.once.Do(func() {
		w.lost()
		_ = w.tap.Close()
		<-w.done
	})
}

// lost adds up what the socket had to drop. Reading the counter resets it.
func (w *Wire) lost() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.tap.SyscallConn()
	if err != nil {
		return w.missed
	}
	_ = raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			w.missed += int(st.Drops)
		}
	})
	return w.missed
}

// Answers asks who has the address again and again, from a host of its own, with an
// ARP request or a neighbour solicitation, and notes who answers.
type Answers struct {
	wire     *Wire
	observer *Host
	ip       netip.Addr
	send     *os.File
	every    time.Duration
	begun    time.Time
	cancel   context.CancelFunc
	done     chan struct{}
	once     sync.Once
	report   AnswerReport

	mu    sync.Mutex
	asked []time.Time
}

// Answers starts asking for an address every 100 ms, until Stop.
func (w *Wire) Answers(vip string) *Answers { return w.AnswersEvery(vip, askEvery) }

// AnswersEvery is Answers with another interval, for measurements.
func (w *Wire) AnswersEvery(vip string, every time.Duration) *Answers {
	observer := w.lab.fixedHost("observer", observerOctet)
	fd, err := openSender(observer.space())
	if err != nil {
		w.lab.fatalf("asking for %s: %v", vip, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &Answers{wire: w, observer: observer, ip: w.lab.parseAddr(vip), send: os.NewFile(uintptr(fd), "observer"),
		every: every, begun: time.Now(), cancel: cancel, done: make(chan struct{})}
	go a.run(ctx)
	w.lab.onStop(func() { a.Stop() })
	return a
}

// openSender bypasses the observer's own neighbour table: it asks even for what it
// knows, and whatever the answer, the next question is the same.
func openSender(s *space) (int, error) {
	fd, err := s.socket(unix.AF_PACKET, unix.SOCK_RAW) // protocol 0: it receives nothing
	if err != nil {
		return 0, err
	}
	index, err := linkIndex(s, "eth0")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index})
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

// run sends one prepared frame over and over.
func (a *Answers) run(ctx context.Context) {
	defer close(a.done)
	defer a.send.Close()
	question := arpRequest(a.observer.mac, a.observer.ip4, a.ip)
	if a.ip.Is6() {
		question = neighborSolicitation(a.observer.mac, a.observer.ip6, a.ip)
	}
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		at := time.Now()
		if _, err := a.send.Write(question); err == nil {
			a.mu.Lock()
			a.asked = append(a.asked, at)
			a.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Stop ends the asking and reports. Further calls return the same report.
func (a *Answers) Stop() AnswerReport {
	a.once.Do(func() {
		a.cancel()
		<-a.done
		// The last question deserves its answer too.
		time.Sleep(a.every)
		a.report = a.Snapshot()
	})
	return a.report
}

// Snapshot reports so far.
func (a *Answers) Snapshot() AnswerReport {
	a.mu.Lock()
	asked := append([]time.Time(nil), a.asked...)
	a.mu.Unlock()
	r := AnswerReport{IP: a.ip, Every: a.every, End: time.Now(), Asked: asked, Missed: a.wire.lost(),
		observer: a.observer.MAC(), names: a.wire.lab.names()}
	for _, f := range a.wire.Frames(a.ip.String()) {
		own := f.Kind == Request && f.MAC.String() == r.observer
		if !own && !f.At.Before(a.begun) {
			r.Frames = append(r.Frames, f)
		}
	}
	return r
}

// names maps hardware addresses to hosts.
func (l *Lab) names() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := map[string]string{hostMAC(254).String(): "gateway"}
	for _, h := range l.hosts {
		m[h.MAC()] = h.name
	}
	return m
}

// htons: packet sockets want the protocol in network order (packet(7)).
func htons(v uint16) uint16 { return v<<8 | v>>8 }

// linkIndex is valid in that namespace only.
func linkIndex(s *space, link string) (index int, err error) {
	err = s.netlink(func(h *netlink.Handle) error {
		dev, err := h.LinkByName(link)
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		index = dev.Attrs().Index
		return nil
	})
	return index, err
}
