package haproxy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portsTaken is checkPorts for many addresses: by address, the *PortTakenError of
// those on which another process listens. It reads the tables once, and only if
// some bind is refused. ours lists the processes that may listen.
func portsTaken(binds []netip.AddrPort, ours func() []int) map[netip.AddrPort]error {
	var refused []netip.AddrPort
	for _, a := range binds {
		if bindRefused(a) {
			refused = append(refused, a)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	pids := ours()
	own := map[string]bool{}
	for _, pid := range pids {
		for inode := range sockets(pid) {
			own[inode] = true
		}
	}
	byPort := allListening()
	out := map[netip.AddrPort]error{}
	for _, a := range refused {
		for _, l := range byPort[a.Port()] {
			ip := l.addr.Addr()
			if own[l.inode] || ip != a.Addr() && !ip.IsUnspecified() {
				continue
			}
			out[a] = takenBy(a, l, len(out) < nameMost)
			break
		}
	}
	return out
}

// nameMost is how many listeners are named at most: each costs a look at every
// process's files.
const nameMost = 10

func takenBy(a netip.AddrPort, l listener, name bool) error {
	err := &PortTakenError{Addr: a, Listener: l.addr}
	if name {
		err.PID = socketOwner(l.inode, nil)
		err.Command = command(err.PID)
	}
	return err
}

// allListening reads all listening TCP sockets of this network namespace.
func allListening() map[uint16][]listener {
	out := map[uint16][]listener{}
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue
		}
		for _, l := range parseListeners(string(table)) {
			out[l.addr.Port()] = append(out[l.addr.Port()], l)
		}
	}
	return out
}

// sockets are the inodes of the sockets that a process has open.
func sockets(pid int) map[string]bool {
	out := map[string]bool{}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return out
}
