package hello

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// port is the tests' UDP port.
const port = 7947

// TestMain lets the tests start this binary as a helper, the stress test and the
// benchmark as a peer.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == helperArg {
		if err := Serve(boottime); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == spinArg {
		for begun := time.Now(); time.Since(begun) < 20*time.Second; {
			continue // at the priority that it was given
		}
		os.Exit(0)
	}
	if role := os.Getenv(roleEnv); role != "" {
		play, known := roles[role]
		if !known {
			fmt.Fprintln(os.Stderr, "unknown role", role)
			os.Exit(1)
		}
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hosts counts the hosts of this process, for the names of links.
var hosts atomic.Int32

// lab is a switch with hosts at it, each a network namespace without a name.
type lab struct {
	t     testing.TB
	sw    *host
	hosts []*host
}

// host is a namespace with the link eth0: 10.8.0.N and fd08::N, N from 1.
type host struct {
	t    testing.TB
	n    int
	port string // at the switch
	ns   netns.NsHandle
	nl   *netlink.Handle
}

// newLab builds n hosts at a switch, all up.
func newLab(t testing.TB, n int) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{t: t, sw: newHost(t, 0)}
	must(t, l.sw.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	l.sw.set("br0", true)
	for i := range n {
		h := newHost(t, i+1)
		l.hosts = append(l.hosts, h)
		l.plug(h)
	}
	return l
}

// newHost makes a namespace.
func newHost(t testing.TB, n int) *host {
	t.Helper()
	h := &host{t: t, n: n}
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

// plug gives the host its link, addresses and place at the switch.
func (l *lab) plug(h *host) {
	l.t.Helper()
	h.port = fmt.Sprintf("p%d", hosts.Add(1))
	must(l.t, h.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: h.port,
		PeerNamespace: netlink.NsFd(l.sw.ns)}))
	bridge, err := l.sw.nl.LinkByName("br0")
	must(l.t, err)
	end, err := l.sw.nl.LinkByName(h.port)
	must(l.t, err, l.sw.nl.LinkSetMaster(end, bridge), l.sw.nl.LinkSetUp(end))
	h.set("eth0", true)
	h.address(h.v4().String() + "/16")
	h.address(h.v6().String() + "/64")
}

// address gives the host's link an address, usable at once.
func (h *host) address(cidr string) {
	h.t.Helper()
	link, err := h.nl.LinkByName("eth0")
	must(h.t, err)
	a, err := netlink.ParseAddr(cidr)
	must(h.t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	must(h.t, h.nl.AddrAdd(link, a))
}

// set sets a link of the host up or down.
func (h *host) set(name string, up bool) {
	h.t.Helper()
	link, err := h.nl.LinkByName(name)
	must(h.t, err)
	if up {
		must(h.t, h.nl.LinkSetUp(link))
	} else {
		must(h.t, h.nl.LinkSetDown(link))
	}
}

func (h *host) node() string     { return fmt.Sprintf("n%d", h.n) }
func (h *host) v4() netip.Addr   { return netip.AddrFrom4([4]byte{10, 8, 0, byte(h.n)}) }
func (h *host) v6() netip.Addr   { return netip.MustParseAddr(fmt.Sprintf("fd08::%x", h.n)) }
func (h *host) target() Target   { return Target{Node: h.node(), Addr: h.v4(), Link: "eth0"} }
func (h *host) targetV6() Target { return Target{Node: h.node(), Addr: h.v6(), Link: "eth0"} }

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

// raw opens a raw UDP socket in the host's namespace: it hears copies of all
// datagrams and sends any, beside the loop's own socket.
func (h *host) raw(ttl int) int {
	h.t.Helper()
	var fd int
	h.in(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	})
	h.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// inject sends a payload from the host's address and the hello port with a TTL.
func (h *host) inject(to *host, ttl int, payload []byte) {
	h.t.Helper()
	n := len(payload) + 8
	udp := []byte{port >> 8, port & 0xff, port >> 8, port & 0xff, byte(n >> 8), byte(n), 0, 0}
	must(h.t, unix.Sendto(h.raw(ttl), append(udp, payload...), 0, &unix.SockaddrInet4{Addr: to.v4().As4()}))
}

// record gives n payloads that come to the host from the other one.
func (h *host) record(from *host, n int) [][]byte {
	h.t.Helper()
	fd := h.raw(hops)
	var all [][]byte
	buf := make([]byte, 2048)
	for len(all) < n {
		got, err := unix.Read(fd, buf)
		must(h.t, err)
		// 20 bytes IPv4 header with the source at 12, 8 bytes UDP.
		if got > 28 && netip.AddrFrom4([4]byte(buf[12:16])) == from.v4() {
			all = append(all, slices.Clone(buf[28:got]))
		}
	}
	return all
}

// agent is a running loop with a state loop that beats.
type agent struct {
	*Loop
	t     testing.TB
	stop  func()
	beats atomic.Bool

	mu      sync.Mutex
	changes []Change
}

// options are the tests' usual ones; they do not depend on a quick machine.
func (h *host) options() Options {
	return Options{Node: h.node(), Interval: 20 * time.Millisecond, Multiplier: 10, Port: port, Now: boottime}
}

// start runs an agent's loop on the host until the test ends.
func (h *host) start(opt Options, peers ...Target) *agent {
	h.t.Helper()
	a := &agent{t: h.t}
	opt.Changed = a.changed
	a.Loop = New(opt)
	a.enter = func() error { return netns.Set(h.ns) }
	a.SetKeys([]Key{keyOf(h.t, secretA)})
	a.SetPeers(peers)
	a.run()
	return a
}

// run starts the loop and its heart.
func (a *agent) run() {
	a.beats.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := a.Run(ctx); err != nil {
			a.t.Error(err)
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			if a.beats.Load() {
				a.Beat(boottime())
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	a.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	a.t.Cleanup(a.stop)
}

// changed notes a change.
func (a *agent) changed(c Change) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes = append(a.changes, c)
}

// all gives the changes of the node so far.
func (a *agent) all(node string) []Change {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Change
	for _, c := range a.changes {
		if c.Node == node {
			out = append(out, c)
		}
	}
	return out
}

// states gives the states of the node so far, without repetition.
func (a *agent) states(node string) []election.PeerState {
	var out []election.PeerState
	for _, c := range a.all(node) {
		out = append(out, c.State)
	}
	return slices.Compact(out)
}

// await waits until the newest change of the node is to the state.
func (a *agent) await(node string, state election.PeerState) Change {
	a.t.Helper()
	var last Change
	eventually(a.t, fmt.Sprintf("%s sees %s %v", a.opt.Node, node, state), func() bool {
		all := a.all(node)
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		return len(all) > 0 && last.State == state
	})
	return last
}

// peer is the status of the node.
func (a *agent) peer(node string) PeerStatus {
	for _, p := range a.Status().Peers {
		if p.Node == node {
			return p
		}
	}
	return PeerStatus{Rejected: map[string]uint64{}}
}

// awaitRejected waits until so many datagrams of the node were refused.
func (a *agent) awaitRejected(node string, r Reason, n uint64) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%d datagrams of %s refused as %s", n, node, r.Slug()), func() bool {
		return a.peer(node).Rejected[r.Slug()] >= n
	})
}

// awaitReceived waits until the agent has taken n more hellos of the node.
func (a *agent) awaitReceived(node string, n uint64) {
	a.t.Helper()
	begin := a.peer(node).Received
	eventually(a.t, fmt.Sprintf("%d more hellos of %s", n, node), func() bool {
		return a.peer(node).Received >= begin+n
	})
}

// term is what an agent says in the tests.
func term(n int64) map[string]election.Say {
	return map[string]election.Say{"apiserver": {Transitions: n}}
}

// saysTerm says whether the change has the words of term.
func (c Change) saysTerm(n int64) bool { return maps.Equal(c.Groups, term(n)) }

// must ends the test at the first error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok holds, generously: no test is about speed.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const limit = 20 * time.Second
	for begun := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// boottime reads the clock that a Loop shall be given.
func boottime() lb.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return lb.Instant(ts.Nano())
}

// errRefused is what a kernel says to an agent without SYS_NICE.
func errRefused() error { return syscall.EPERM }
