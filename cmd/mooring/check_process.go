package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/vip"
)

// needed are the capabilities without which an agent cannot work.
func needed() map[string]int {
	return map[string]int{
		"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	}
}

// lookProcess reads what the agent may, or this process where none is visible.
func (x *exam) lookProcess(context.Context) (func(), error) {
	p := check.Process{Agent: x.pid != 0, PID: x.pid}
	who := "self"
	if p.Agent {
		who = strconv.Itoa(p.PID)
	}
	mask, err := capabilities(who)
	if err != nil {
		return nil, err
	}
	for name, bit := range needed() {
		if mask&(1<<bit) == 0 {
			p.Lacks = append(p.Lacks, name)
		}
	}
	slices.Sort(p.Lacks)
	p.Precedence, p.Why = x.precedence()
	p.Files = openFiles(who)
	if !p.Agent {
		p.Unwritable = unwritable(x.cfg.RunDir, x.cfg.StateDir)
	}
	return func() { x.facts.Process = p }, nil
}

// precedence is the agent's word, or a try on a thread that ends with it.
func (x *exam) precedence() (bool, string) {
	if x.agent != nil {
		return x.agent.Hello.Precedence, "its hellos have none, and go six times slower"
	}
	tried := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its niceness
		tried <- unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	}()
	if err := <-tried; err != nil {
		return false, err.Error()
	}
	return true, ""
}

// capable says whether this process has a capability.
func capable(bit int) bool {
	mask, err := capabilities("self")
	return err == nil && mask&(1<<bit) != 0
}

// capabilities are a process's effective ones (proc_pid_status(5), CapEff).
func capabilities(pid string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/%s/status has no CapEff", pid)
}

// openFiles is a process's hard limit (proc_pid_limits(5)), 0 if it cannot be read.
func openFiles(pid string) uint64 {
	f, err := os.Open(filepath.Join("/proc", pid, "limits"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		rest, ok := strings.CutPrefix(s.Text(), "Max open files")
		if words := strings.Fields(rest); ok && len(words) > 1 {
			if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
				return n
			}
			return 1 << 30 // "unlimited"
		}
	}
	return 0
}

// unwritable are the directories that cannot be written, or made where they are not
// there yet.
func unwritable(dirs ...string) []string {
	var out []string
	for _, dir := range dirs {
		at := dir
		for _, err := os.Stat(at); os.IsNotExist(err) && at != filepath.Dir(at); _, err = os.Stat(at) {
			at = filepath.Dir(at)
		}
		if err := unix.Access(at, unix.W_OK); err != nil {
			out = append(out, fmt.Sprintf("%s cannot be written: %s: %v", dir, at, err))
		}
	}
	return out
}

// lookSysctls reads what the kernel does with the VIPs' links.
func (x *exam) lookSysctls(context.Context) (func(), error) {
	names := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}
	links := []string{"all", x.cfg.Interface}
	for _, ip := range x.cfg.APIServer.VIPs {
		if link, err := vip.LinkFor(ip); err == nil {
			links = append(links, link)
		}
	}
	for _, link := range links {
		for _, name := range []string{"arp_ignore", "rp_filter", "proxy_arp_pvlan", "drop_gratuitous_arp"} {
			names = append(names, "net/ipv4/conf/"+link+"/"+name)
		}
		for _, name := range []string{"disable_ipv6", "drop_unsolicited_na"} {
			names = append(names, "net/ipv6/conf/"+link+"/"+name)
		}
	}
	values := map[string]string{}
	for _, name := range names {
		if text, err := os.ReadFile("/proc/sys/" + name); err == nil {
			values[name] = strings.TrimSpace(string(text))
		}
	}
	if len(values) == 0 {
		return nil, errors.New("/proc/sys cannot be read")
	}
	return func() { x.facts.Sysctls = values }, nil
}
