package lab

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
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns/"

// errGone: the namespace was removed (its host is switched off).
var errGone = errors.New("the network namespace is gone: its host is switched off")

// space is one named network namespace and a thread that lives in it. A socket
// belongs for good to the namespace of the thread that made it, so only its
// making has to happen there; connecting and reading can be done anywhere.
type space struct {
	name string
	fd   int
	work chan func()
	gone chan struct{}
	once sync.Once
}

// newSpace makes the namespace; it fails if the name is taken.
func newSpace(name string) (*space, error) {
	if err := run("ip", "netns", "add", name); err != nil {
		return nil, err
	}
	fd, err := unix.Open(netnsDir+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	s := &space{name: name, fd: fd, work: make(chan func()), gone: make(chan struct{})}
	entered := make(chan error)
	go s.live(entered)
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("entering network namespace %s: %w", name, err)
	}
	return s, nil
}

// live runs the jobs on a thread inside the namespace. The thread is never
// unlocked, so the runtime destroys it instead of giving it to other goroutines.
func (s *space) live(entered chan<- error) {
	runtime.LockOSThread()
	err := unix.Setns(s.fd, unix.CLONE_NEWNET)
	entered <- err
	if err != nil {
		return
	}
	for {
		select {
		case job := <-s.work:
			job()
		case <-s.gone:
			return
		}
	}
}

// do runs f, which must be quick, on the namespace's thread.
func (s *space) do(f func() error) error {
	if s == nil {
		return errGone
	}
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- f() }:
		return <-done
	case <-s.gone:
		return errGone
	}
}

// remove ends the thread and deletes the namespace. Processes must be dead already,
// else the namespace lives on without a name.
func (s *space) remove() error {
	var err error
	s.once.Do(func() {
		close(s.gone)
		_ = unix.Close(s.fd)
		err = run("ip", "netns", "del", s.name)
	})
	return err
}

// netlink runs f with a handle whose socket is inside the namespace.
func (s *space) netlink(f func(*netlink.Handle) error) error {
	if s == nil {
		return errGone
	}
	select {
	case <-s.gone:
		return errGone
	default:
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(s.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink in %s: %w", s.name, err)
	}
	defer h.Close()
	return f(h)
}

// sysctl writes net.* settings; /proc/sys/net shows the namespace of the thread that opens it.
func (s *space) sysctl(settings ...string) error {
	return s.do(func() error {
		for _, set := range settings {
			key, value, _ := strings.Cut(set, "=")
			if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0o644); err != nil {
				return fmt.Errorf("sysctl %s: %w", set, err)
			}
		}
		return nil
	})
}

// socket makes a non-blocking socket inside the namespace; the caller closes it.
func (s *space) socket(family, kind int) (int, error) {
	fd := -1
	err := s.do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// connect opens a TCP connection from inside the namespace. The file is the
// socket; a deadline of ctx bounds the handshake.
func (s *space) connect(ctx context.Context, to netip.AddrPort) (*os.File, error) {
	fd, err := s.socket(familyOf(to.Addr()), unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return nil, err
	}
	// Only now: a socket that was not told to connect polls as hung up.
	f := os.NewFile(uintptr(fd), to.String())
	if err := awaitConnected(ctx, f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// awaitConnected waits for the end of the handshake. The runtime's poller does the
// waiting, so a thousand attempts under way cost no thread.
func awaitConnected(ctx context.Context, f *os.File) error {
	if at, ok := ctx.Deadline(); ok {
		if err := f.SetDeadline(at); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code != 0 {
			failed = errors.Join(err, unix.Errno(code))
			return true
		}
		// Writable without an error and without a peer is a spurious wake-up.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) && connected(raw) {
		err = nil // in time: it was this process that came late to look
	}
	return errors.Join(err, failed)
}

// connected asks the kernel. A prober's deadline is shorter than the pause before
// a SYN is sent again, so that "connected by now" means "at the first attempt".
func connected(raw syscall.RawConn) (is bool) {
	err := raw.Control(func(fd uintptr) {
		_, err := unix.Getpeername(int(fd))
		is = err == nil
	})
	return is && err == nil
}

// dial is connect as net/http and crypto/tls want it.
func (s *space) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	f, err := s.connect(ctx, to)
	if err != nil {
		return nil, err
	}
	defer f.Close() // FileConn has a duplicate
	return net.FileConn(f)
}

// pids are the processes in the namespace, without this one: its main thread may
// well be a thread that lives there.
func (s *space) pids() []int {
	if s == nil {
		return nil
	}
	return pidsIn(s.name)
}

// familyOf picks the socket family; the lab never uses v4-mapped addresses.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sockaddr has no zone: link-local addresses are not probed.
func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
}

// run executes a system tool and puts what it said into the error.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
