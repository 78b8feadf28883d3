package haproxy

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PortTakenError says that another process listens where HAProxy shall.
type PortTakenError struct {
	// Addr is the address that was to be bound.
	Addr netip.AddrPort
	// Listener is where the other process listens, possibly a wildcard.
	Listener netip.AddrPort
	// PID is its process number and Command its name; 0 and "" when it runs in
	// another PID namespace.
	PID     int
	Command string
}

// Error implements error.
func (e *PortTakenError) Error() string {
	who := "a process that is not visible from here"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s)", e.PID, e.Command)
	}
	return fmt.Sprintf("haproxy: %s cannot be bound, %s listens on %s: stop it or choose another port",
		e.Addr, who, e.Listener)
}

// checkPorts finds listeners of other processes on the addresses to bind. Two
// HAProxys would share a port by SO_REUSEPORT without any error, each with a
// part of the connections; others make the start fail without saying who.
// Processes in ours may listen, they are the HAProxy to be reloaded.
func checkPorts(binds []netip.AddrPort, ours []int) error {
	for _, a := range binds {
		// The kernel decides whether there is a conflict, since it alone knows
		// whether a listener on [::] takes IPv4 too (IPV6_V6ONLY).
		if !bindRefused(a) {
			continue
		}
		if err := nameListener(a, ours); err != nil {
			return err
		}
	}
	return nil
}

// bindRefused tries to bind an address the way HAProxy does, but without
// SO_REUSEPORT, and closes it again without ever listening.
func bindRefused(a netip.AddrPort) bool { return errors.Is(tryBind(a, 1), unix.EADDRINUSE) }

// bindMissing says that the host has no such address.
func bindMissing(a netip.AddrPort) bool { return errors.Is(tryBind(a, 0), unix.EADDRNOTAVAIL) }

// tryBind binds an address, with freebind 1 also one that the host has not, and
// closes it again. It returns the error of bind(2) alone.
func tryBind(a netip.AddrPort, freebind int) error {
	family, option, level := unix.AF_INET, unix.IP_FREEBIND, unix.IPPROTO_IP
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(a.Port()), Addr: [4]byte(a.Addr().AsSlice())}
	if a.Addr().Is6() {
		family, option, level = unix.AF_INET6, unix.IPV6_FREEBIND, unix.IPPROTO_IPV6
		sa = &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	// Old connections in TIME_WAIT are no conflict (SO_REUSEADDR, socket(7)).
	for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {level, option, freebind}} {
		if unix.SetsockoptInt(fd, o[0], o[1], o[2]) != nil {
			return nil
		}
	}
	return unix.Bind(fd, sa)
}

// nameListener returns a *PortTakenError for the first foreign listener.
func nameListener(a netip.AddrPort, ours []int) error {
	for _, l := range listening(a.Port()) {
		ip := l.addr.Addr()
		if ip != a.Addr() && !ip.IsUnspecified() {
			continue
		}
		pid := socketOwner(l.inode, ours)
		if slices.Contains(ours, pid) {
			continue
		}
		return &PortTakenError{Addr: a, Listener: l.addr, PID: pid, Command: command(pid)}
	}
	return nil
}

// listener is one listening TCP socket.
type listener struct {
	addr  netip.AddrPort
	inode string
}

// listening reads the sockets that listen on a port from /proc/net/tcp and
// tcp6 (proc_net(5)) of this thread's network namespace.
func listening(port uint16) []listener {
	var out []listener
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue
		}
		for _, l := range parseListeners(string(table)) {
			if l.addr.Port() == port {
				out = append(out, l)
			}
		}
	}
	return out
}

// parseListeners reads the text of /proc/net/tcp or tcp6.
func parseListeners(table string) []listener { return parseSockets(table, "0A") }

// parseSockets picks the sockets of a state (net/tcp_states.h, in hexadecimal).
func parseSockets(table, state string) []listener {
	var out []listener
	for line := range strings.SplitSeq(table, "\n") {
		words := strings.Fields(line)
		if len(words) < 10 || words[3] != state {
			continue
		}
		if a, ok := parseHexAddr(words[1]); ok {
			out = append(out, listener{addr: a, inode: words[9]})
		}
	}
	return out
}

// parseHexAddr reads "0100007F:1D13": the address as 32-bit words in the order
// of the host, the port in hexadecimal.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	ip, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(ip)
	if !ok || err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	if littleEndian() {
		for word := range slices.Chunk(raw, 4) {
			slices.Reverse(word)
		}
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

// socketOwner finds the process that has a socket open, 0 if none is visible.
// The processes in first are looked at first.
func socketOwner(inode string, first []int) int {
	want := "socket:[" + inode + "]"
	for _, pid := range first {
		if hasOpen(pid, want) {
			return pid
		}
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && hasOpen(pid, want) {
			return pid
		}
	}
	return 0
}

func hasOpen(pid int, want string) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == want {
			return true
		}
	}
	return false
}

// command is the name of a process as ps shows it, "" if it is not visible.
func command(pid int) string {
	if pid == 0 {
		return ""
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(name))
}

// listenerPID asks the kernel who listens on a unix socket.
func listenerPID(ctx context.Context, socket string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// littleEndian says how this machine orders the bytes of a word.
func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }
