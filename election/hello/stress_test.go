package hello

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
)

var (
	stress     = flag.Duration("stress", 3*time.Second, "how long TestStress runs")
	stressBusy = flag.Int("stress.busy", 0, "how many goroutines spin in each agent itself")
	stressMode = flag.String("stress.mode", "helper", "helper, thread, plain (50 ms × 3 all the same) or fallback (300 ms × 3)")
)

// roleEnv names what a child process of the tests plays, argEnv its argument.
const (
	roleEnv = "HELLO_TEST_ROLE"
	argEnv  = "HELLO_TEST_ARG"
)

// roles are what this binary does instead of tests.
var roles = map[string]func() error{"spin": spin, "agent": playAgent, "peers": playPeers}

// child is a process of this binary that plays a role.
type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
	out   strings.Builder
	ended bool
}

// spawn starts a child, at the latest until the test ends; its fd 3 is the host's
// namespace.
func spawn(t testing.TB, h *host, role, arg string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role, argEnv+"="+arg)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, os.Stderr
	if h != nil {
		fd, err := unix.FcntlInt(uintptr(h.ns), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		ns := os.NewFile(uintptr(fd), "netns")
		defer ns.Close()
		c.cmd.ExtraFiles = []*os.File{ns}
	}
	stdin, err := c.cmd.StdinPipe()
	must(t, err, c.cmd.Start())
	c.stdin = stdin
	t.Cleanup(func() { c.end() })
	return c
}

// stop asks the child to end: it also sees it when this process is killed.
func (c *child) stop() { c.stdin.Close() }

// end waits for the child's end and gives what it printed.
func (c *child) end() string {
	c.t.Helper()
	c.stop()
	if !c.ended {
		c.ended = true
		must(c.t, c.cmd.Wait())
	}
	return c.out.String()
}

// untilClosed waits until the parent closes stdin or is gone.
func untilClosed() { _, _ = io.Copy(io.Discard, os.Stdin) }

// spin keeps a core busy.
func spin() error {
	go waste()
	untilClosed()
	return nil
}

// waste never ends.
func waste() {
	for n := 0; ; n++ {
		runtime.KeepAlive(n)
	}
}

// playAgent runs a loop with one peer, "MODE OWN-NUMBER PEER-NUMBER BUSY", and
// prints how often the peer was late and down.
func playAgent() error {
	var mode string
	var own, other, busy int
	if _, err := fmt.Sscan(os.Getenv(argEnv), &mode, &own, &other, &busy); err != nil {
		return err
	}
	for range busy {
		go waste()
	}
	me, peer := host{n: own}, host{n: other}
	var lates, downs atomic.Int64
	opt := Options{Node: me.node(), Port: port, Now: boottime, Changed: func(c Change) {
		switch c.State {
		case election.PeerLate:
			lates.Add(1)
		case election.PeerDown:
			downs.Add(1)
		case election.PeerUnknown, election.PeerUp:
		}
	}}
	if mode == "helper" {
		opt = withHelper(opt)
	}
	l := New(opt)
	switch mode {
	case "plain":
		l.precede = func() error { return nil }
	case "fallback":
		l.precede = errRefused
	}
	l.enter = func() error { return unix.Setns(3, unix.CLONE_NEWNET) }
	key, err := NewKey(secretA)
	if err != nil {
		return err
	}
	l.SetKeys([]Key{key})
	l.SetPeers([]Target{peer.target()})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var summary string
	go func() {
		untilClosed()
		s := l.Status()
		summary = fmt.Sprintln(downs.Load(), lates.Load(), s.Stalls, s.Peers[0].Received, s.Peers[0].State, s.Precedence)
		cancel()
	}()
	go func() {
		for ctx.Err() == nil {
			// The state loop's stalls are no matter of this test.
			l.Beat(boottime() + time.Second)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	if err := l.Run(ctx); err != nil {
		return err
	}
	fmt.Print(summary)
	return nil
}

// TestStress has two agents watch each other, in processes of their own, while
// twice as many processes as there are cores spin, and counts false downs. By
// default it only shows that it runs; for a figure:
//
//	go test ./election/hello -run TestStress -stress 5m -v -timeout 10m
func TestStress(t *testing.T) {
	if testing.Short() {
		t.Skip("not short")
	}
	l := newLab(t, 2)
	var agents []*child
	for i := range l.hosts {
		agents = append(agents, spawn(t, l.hosts[i], "agent", fmt.Sprint(*stressMode, " ", i+1, " ", 2-i, " ", *stressBusy)))
	}
	for range 2 * runtime.NumCPU() {
		spawn(t, nil, "spin", "")
	}
	time.Sleep(*stress)
	for _, a := range agents {
		a.stop() // both, before one can miss the other
	}
	for i, a := range agents {
		var downs, lates, stalls, received int
		var state string
		var real bool
		if _, err := fmt.Sscan(a.end(), &downs, &lates, &stalls, &received, &state, &real); err != nil {
			t.Fatal(err)
		}
		t.Logf("agent %d, %s, %v: %d false downs, %d lates, %d own stalls, %d hellos heard, at the end %s, precedence %v",
			i+1, *stressMode, *stress, downs, lates, stalls, received, state, real)
		if received == 0 {
			t.Error("nothing was heard")
		}
	}
}

// crowd is how many peers the benchmark has.
const crowd = 300

// crowded is the i-th peer of the benchmark, at host 2.
func crowded(i int) Target {
	return Target{Node: fmt.Sprintf("p%03d", i), Addr: netip.AddrFrom4([4]byte{10, 8, 1 + byte(i/200), 1 + byte(i%200)}), Link: "eth0"}
}

// playPeers simulates the crowd at 50 ms against host 1, until stdin closes: one
// cheap sender that echoes what it finds in the datagrams it gets.
func playPeers() error {
	runtime.LockOSThread()
	if err := unix.Setns(3, unix.CLONE_NEWNET); err != nil {
		return err
	}
	key, err := NewKey(secretA)
	if err != nil {
		return err
	}
	sock, err := openSocket(place{link: "eth0"}, port)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { untilClosed(); close(ended) }()
	_ = precede() // or it would be late, and the loop under test idle
	in, to := newInbox(), &unix.SockaddrInet4{Addr: (&host{n: 1}).v4().As4(), Port: port}
	m := Message{Incarnation: 1, Interval: 50 * time.Millisecond, Floor: MinInterval, Multiplier: 3, Groups: sample().Groups}
	begin := boottime()
	for n := uint64(0); ; n++ {
		select {
		case <-ended:
			return nil
		default:
		}
		if err := drain(in, sock.fd, &m); err != nil {
			return err
		}
		i := int(n % crowd)
		m.Node, m.Sequence = crowded(i).Node, n/crowd+1
		b, err := Encode(nil, m, key)
		if err != nil {
			return err
		}
		source := crowded(i).Addr.As4()
		if _, err := unix.SendmsgN(sock.fd, b, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source}), to, 0); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		next := begin + time.Duration(n+1)*m.Interval/crowd
		if wait := next - boottime(); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_, _ = unix.Ppoll(nil, &ts, nil)
		}
	}
}

// drain empties the socket and learns whom to echo.
func drain(in *inbox, fd int, m *Message) error {
	for n := batch; n == batch; {
		if n = in.receive(fd); n > 0 {
			b, _, _ := in.datagram(0)
			if len(b) > atEcho {
				m.Echo = binary.BigEndian.Uint64(b[atIncarnation:])
			}
		}
	}
	return nil
}

// BenchmarkPeers300 shows what 300 peers at 50 ms cost one agent; the peers are
// another process and not counted. Each iteration is a second.
func BenchmarkPeers300(b *testing.B) {
	l := newLab(b, 2)
	for i := range crowd {
		l.hosts[1].address(crowded(i).Addr.String() + "/32")
	}
	spawn(b, l.hosts[1], "peers", "")
	var targets []Target
	for i := range crowd {
		targets = append(targets, crowded(i))
	}
	opt := l.hosts[0].options()
	opt.Interval, opt.Multiplier = 50*time.Millisecond, 3
	a := l.hosts[0].start(opt, targets...)
	eventually(b, "all peers up", func() bool { return count(a, up) == crowd })
	before := totals(a)
	changes := len(a.changes)
	user, system := usage(b)
	begun := boottime()
	b.ResetTimer()
	for range b.N {
		time.Sleep(time.Second)
	}
	b.StopTimer()
	wall := (boottime() - begun).Seconds()
	user2, system2 := usage(b)
	after := totals(a)
	b.ReportMetric((user2-user).Seconds()/wall*100, "%user")
	b.ReportMetric((system2-system).Seconds()/wall*100, "%system")
	b.ReportMetric((user2-user+system2-system).Seconds()/wall*100, "%core")
	b.ReportMetric(float64(after[0]-before[0])/wall, "sent/s")
	b.ReportMetric(float64(after[1]-before[1])/wall, "heard/s")
	b.ReportMetric(float64(len(a.changes)-changes), "changes")
}

// count is how many peers are in the state.
func count(a *agent, state election.PeerState) (n int) {
	for _, p := range a.Status().Peers {
		if p.State == state {
			n++
		}
	}
	return n
}

// totals sums sent and received.
func totals(a *agent) (sum [2]uint64) {
	for _, p := range a.Status().Peers {
		sum[0] += p.Sent
		sum[1] += p.Received
	}
	return sum
}

// usage is this process's time on a core so far.
func usage(b *testing.B) (user, system time.Duration) {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}
