package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// insideEnv tells the test binary that it runs in its own network namespace.
const insideEnv = "VIP_TEST_IN_NETNS"

// TestMain runs the tests again in a new network namespace without a name,
// which vanishes with the process, whatever happens.
func TestMain(m *testing.M) {
	if state, isNode := os.LookupEnv(nodeEnv); isNode {
		os.Exit(beNode(state))
	}
	if os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	// The child dies with the thread that started it, so keep that one.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

// labs counts the labs of this process, for names and subnets.
var labs atomic.Int32

// lab is a switch with this process and two other hosts at it.
type lab struct {
	t     testing.TB
	link  string // ours
	peers []*host
	sw    *host
}

// host is another network namespace, without a name.
type host struct {
	t  testing.TB
	ns netns.NsHandle
	nl *netlink.Handle
}

// newLab builds the namespaces and links, all up: we are 10.7.0.1 and
// fd07::1 on lab.link, the peers .2 and .3 on "eth0".
func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err, netlink.LinkSetUp(lo))
	l := &lab{t: t, link: fmt.Sprintf("vip%d", labs.Add(1)), sw: newHost(t)}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	must(t, l.sw.nl.LinkAdd(bridge))
	l.sw.up("br0")
	l.plug(l.link, nil)
	ours, err := netlink.LinkByName(l.link)
	must(t, err)
	t.Cleanup(func() {
		if again, err := netlink.LinkByName(l.link); err == nil {
			must(t, netlink.LinkDel(again))
		}
	})
	must(t, netlink.LinkSetHardwareAddr(ours, testMAC()), netlink.LinkSetUp(ours),
		netlink.AddrAdd(ours, nodad(t, "10.7.0.1/24")), netlink.AddrAdd(ours, nodad(t, "fd07::1/64")))
	for range 2 {
		l.another()
	}
	l.ready()
	return l
}

// another plugs one more peer in, the next address is its own.
func (l *lab) another() *host {
	l.t.Helper()
	p := newHost(l.t)
	l.plug("eth0", p)
	p.up("lo")
	// Until its link-local address is proved unique a host asks for no neighbour
	// over IPv6 (RFC 4862 §5.4), so it forwards nothing.
	p.in(func() error { return writeSysctl("net/ipv6/conf/eth0/accept_dad", "0") })
	p.up("eth0")
	p.add("10.7.0." + fmt.Sprint(len(l.peers)+2) + "/24")
	p.add("fd07::" + fmt.Sprint(len(l.peers)+2) + "/64")
	l.peers = append(l.peers, p)
	return p
}

// ready waits until frames pass between us and the peers: after a link is set
// up the kernel takes up to a second to let the switch's port forward.
func (l *lab) ready() {
	l.t.Helper()
	all := addrs(l.t, strings.ReplaceAll("10.7.0.2 LINK, 10.7.0.3 LINK, fd07::2 LINK, fd07::3 LINK", "LINK", l.link))
	eventually(l.t, 10*time.Second, "frames pass the switch", func() bool {
		got, err := New(Options{Now: boottime}).Probe(context.Background(), all)
		must(l.t, err)
		return len(got) == len(all)
	})
}

// newHost makes a namespace.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread is in the other namespace and ends here.
		runtime.LockOSThread()
		var err error
		h.ns, err = netns.New()
		done <- err
	}()
	must(t, <-done)
	var err error
	h.nl, err = netlink.NewHandleAt(h.ns)
	must(t, err)
	t.Cleanup(func() {
		h.nl.Close()
		must(t, h.ns.Close())
	})
	return h
}

// in runs f on a thread in the host's namespace.
func (h *host) in(f func() error) {
	h.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(h.t, <-done)
}

// plug connects a host's new link, or this process's when h is nil, to the
// switch.
func (l *lab) plug(name string, h *host) {
	l.t.Helper()
	port := fmt.Sprintf("p%d", labs.Add(1))
	attrs := netlink.LinkAttrs{Name: name}
	if h != nil {
		attrs.Namespace = netlink.NsFd(h.ns)
	}
	must(l.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(l.sw.ns)}))
	bridge, err := l.sw.nl.LinkByName("br0")
	must(l.t, err)
	end, err := l.sw.nl.LinkByName(port)
	must(l.t, err, l.sw.nl.LinkSetMaster(end, bridge), l.sw.nl.LinkSetUp(end))
}

// up sets a host's link up.
func (h *host) up(name string) {
	h.t.Helper()
	link, err := h.nl.LinkByName(name)
	must(h.t, err, h.nl.LinkSetUp(link))
}

// add gives the host an address on eth0, usable at once.
func (h *host) add(cidr string) {
	h.t.Helper()
	link, err := h.nl.LinkByName("eth0")
	must(h.t, err, h.nl.AddrAdd(link, nodad(h.t, cidr)))
}

// mac is the MAC of the host's eth0.
func (h *host) mac() net.HardwareAddr {
	h.t.Helper()
	link, err := h.nl.LinkByName("eth0")
	must(h.t, err)
	return link.Attrs().HardwareAddr
}

// capture gives what arrives at the host's eth0 of the two protocols from
// testMAC, until the test ends.
func (h *host) capture(protocols ...int) *tap {
	h.t.Helper()
	p := &tap{}
	for _, proto := range protocols {
		var conn *packet.Conn
		h.in(func() error {
			ifi, err := ethernetLink("eth0")
			if err != nil {
				return err
			}
			conn, err = packet.Listen(ifi, packet.Raw, proto, nil)
			return err
		})
		h.t.Cleanup(func() { conn.Close() })
		go p.record(conn)
	}
	return p
}

// send sends frames from the host's eth0.
func (h *host) send(frames ...[]byte) {
	h.t.Helper()
	h.in(func() error {
		ifi, err := ethernetLink("eth0")
		if err != nil {
			return err
		}
		conn, err := packet.Listen(ifi, packet.Raw, 0, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, frame := range frames {
			if err := transmit(conn, frame); err != nil {
				return err
			}
		}
		return nil
	})
}

// tap holds captured frames.
type tap struct {
	mu     sync.Mutex
	frames []string
}

// record notes our ARP frames and neighbour advertisements; the kernel's own
// solicitations and reports are no business of these tests.
func (p *tap) record(conn *packet.Conn) {
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		frame := buf[:n]
		_, _, isNA := naClaim(frame)
		_, _, isARP := arpClaim(frame)
		if string(frame[6:12]) == string(testMAC()) && (isNA || isARP) {
			p.mu.Lock()
			p.frames = append(p.frames, string(frame))
			p.mu.Unlock()
		}
	}
}

// all gives the frames so far.
func (p *tap) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.frames...)
}

// nodad is an address usable at once.
func nodad(t testing.TB, cidr string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	must(t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// must ends the test at the first error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok holds and gives the time it took.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(begun)
}

// boottime reads the clock that Links shall be given.
func boottime() lb.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return lb.Instant(ts.Nano())
}

// vips are the lab's virtual IPs on our link.
func (l *lab) vips() []lb.Address {
	return []lb.Address{
		{IP: netip.MustParseAddr("10.7.0.9"), Link: l.link},
		{IP: netip.MustParseAddr("fd07::9"), Link: l.link},
	}
}

// on lists what the kernel has of the IP on our link.
func (l *lab) on(ip netip.Addr) []ifAddr {
	l.t.Helper()
	k, err := openKernel()
	must(l.t, err)
	defer k.close()
	index, err := k.linkIndex(l.link)
	must(l.t, err)
	all, err := k.dump()
	must(l.t, err)
	var found []ifAddr
	for _, a := range all {
		if a.index == index && a.ip == ip {
			found = append(found, a)
		}
	}
	return found
}

// has says whether our link has all the addresses.
func (l *lab) has(all ...lb.Address) bool {
	l.t.Helper()
	for _, a := range all {
		if len(l.on(a.IP)) == 0 {
			return false
		}
	}
	return true
}

// byHand deletes an address behind the package's back.
func (l *lab) byHand(a lb.Address) {
	l.t.Helper()
	link, err := netlink.LinkByName(a.Link)
	must(l.t, err, netlink.AddrDel(link, nodad(l.t, netip.PrefixFrom(a.IP, a.IP.BitLen()).String())))
}

// run starts Run and ends it with the test.
func run(t testing.TB, l *Links) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
}

// wish wants the addresses for the lifetime.
func wish(lft time.Duration, all ...lb.Address) lb.Holding {
	return lb.Holding{Addresses: all, ValidLft: lft}
}
