package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"mooring.dev/mooring/e2e/lab"
)

// keepalived is one VRRPv3 group over all nodes.
type keepalived struct {
	name, vip, advert string
	router            int
	procs             map[string]*lab.Process
}

// tuned is the keepalived that ratios are to.
const tuned = "keepalived 0.1 s"

// startPeers runs two groups beside the agents; n1 is the master of both.
func (b *bench) startPeers() {
	b.peers = []*keepalived{
		{name: "keepalived 1 s", vip: "10.99.0.201", router: 51, advert: "1", procs: map[string]*lab.Process{}},
		{name: tuned, vip: "10.99.0.202", router: 52, advert: "0.1", procs: map[string]*lab.Process{}},
	}
	for _, k := range b.peers {
		for i, n := range b.All() {
			k.start(b, n, 150-10*i)
		}
	}
}

// start writes the configuration and runs VRRP alone on the node.
func (k *keepalived) start(b *bench, n *lab.Node, priority int) {
	dir := filepath.Join(n.Dir(), fmt.Sprintf("keepalived-%d", k.router))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatalf("keepalived: %v", err)
	}
	conf := fmt.Sprintf(`global_defs {
  vrrp_version 3
}
vrrp_instance vip {
  state BACKUP
  interface eth0
  virtual_router_id %d
  priority %d
  advert_int %s
  virtual_ipaddress {
    %s/32 dev eth0
  }
}
`, k.router, priority, k.advert, k.vip)
	file := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatalf("keepalived: %v", err)
	}
	k.procs[n.Name()] = n.Spawn(fmt.Sprintf("keepalived-%d", k.router), "keepalived", "-P", "-n", "-l", "-f", file,
		"-p", filepath.Join(dir, "pid"), "-r", filepath.Join(dir, "vrrp.pid"))
}

// signal reaches the parent and its VRRP process: each alone would let the other
// notice and end in order.
func (k *keepalived) signal(n *lab.Node, sig syscall.Signal) {
	parent := k.procs[n.Name()].PID()
	all := []int{parent}
	for _, pid := range n.Processes() {
		if parentOf(pid) == parent {
			all = append(all, pid)
		}
	}
	for _, pid := range all {
		_ = syscall.Kill(pid, sig) // gone in between is as good
	}
}

// parentOf is the fourth field of /proc/PID/stat, proc(5), 0 if there is none.
func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(f[1])
	return parent
}
