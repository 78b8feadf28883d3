package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// cutOffQuota is the share of one processor that a control plane without quorum
// gets. An API server and an etcd that cannot reach their peers retry without
// pause and would take 0.85 of a core from what is being measured.
const cutOffQuota = 0.15

// cgroups limits processor time, through the v1 cpu controller or v2, whichever
// this machine lets us write.
type cgroups struct {
	root   string // directory for our groups; "" if there is none
	v2     bool
	prefix string

	mu   sync.Mutex
	made []string
}

// cgroup is one group. A nil group limits nothing.
type cgroup struct {
	dir string
	v2  bool

	mu     sync.Mutex
	capped bool
}

// newCgroups finds where groups can be made and says so once if nowhere.
func newCgroups(prefix string, logf func(string, ...any)) *cgroups {
	c := &cgroups{prefix: prefix}
	c.root, c.v2 = cgroupRoot()
	if c.root == "" {
		logf("lab: no writable cgroup with a cpu controller: control planes that are cut off " +
			"will spin and disturb timings")
	}
	return c
}

// cgroupRoot prefers v1: where both are mounted, the cpu controller is on v1.
func cgroupRoot() (root string, v2 bool) {
	const v1 = "/sys/fs/cgroup/cpu"
	if _, err := os.Stat(v1 + "/cpu.cfs_quota_us"); err == nil && writableDir(v1) {
		return v1, false
	}
	const unified = "/sys/fs/cgroup"
	ctl, err := os.ReadFile(unified + "/cgroup.controllers")
	if err != nil || !strings.Contains(string(ctl), "cpu") {
		return "", false
	}
	// Already enabled or not permitted: writableDir and the quota file tell which.
	_ = os.WriteFile(unified+"/cgroup.subtree_control", []byte("+cpu"), 0o644)
	if !writableDir(unified) {
		return "", false
	}
	return unified, true
}

// writableDir makes a group and removes it again: permissions say nothing on a
// read-only mount.
func writableDir(root string) bool {
	dir := filepath.Join(root, fmt.Sprintf("moor-%d-try", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return false
	}
	return os.Remove(dir) == nil
}

// add makes a group, nil if none can be made.
func (c *cgroups) add(name string) *cgroup {
	if c.root == "" {
		return nil
	}
	dir := filepath.Join(c.root, c.prefix+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil
	}
	c.mu.Lock()
	c.made = append(c.made, dir)
	c.mu.Unlock()
	return &cgroup{dir: dir, v2: c.v2}
}

// remove deletes the groups that are left; their processes must have ended.
func (c *cgroups) remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first error
	for _, dir := range c.made {
		if err := os.Remove(dir); err != nil && !os.IsNotExist(err) && first == nil {
			first = err
		}
	}
	return first
}

// admit puts a process into the group. A process that has already ended is no error.
func (g *cgroup) admit(pid int) {
	if g != nil {
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	}
}

// limit caps the group at cutOffQuota or lifts the cap; it writes only changes.
func (g *cgroup) limit(capped bool) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.capped == capped {
		return
	}
	file, value := quotaFile(g.v2, capped)
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o644); err == nil {
		g.capped = capped
	}
}

// quotaFile is what to write where, cgroups(7): microseconds per 100 ms.
func quotaFile(v2, capped bool) (file, value string) {
	const period = 100_000
	quota := strconv.Itoa(int(cutOffQuota * period))
	switch {
	case v2 && capped:
		return "cpu.max", quota + " " + strconv.Itoa(period)
	case v2:
		return "cpu.max", "max " + strconv.Itoa(period)
	case capped:
		return "cpu.cfs_quota_us", quota
	default:
		return "cpu.cfs_quota_us", "-1"
	}
}

// member is what matters of a node for the question who has quorum.
type member struct {
	linked bool // on, and its cable whole
	etcd   bool // its etcd runs
}

// withoutQuorum says for each node whether its control plane cannot reach a
// majority: it is cut off by itself, or too few are left.
func withoutQuorum(nodes []member) []bool {
	quorum, together := len(nodes)/2+1, 0
	for _, n := range nodes {
		if n.linked && n.etcd {
			together++
		}
	}
	out := make([]bool, len(nodes))
	for i, n := range nodes {
		reach := together
		if !n.linked {
			reach = 1
		}
		out[i] = reach < quorum
	}
	return out
}

// balance caps the control planes that are without quorum and lifts the cap from
// all others. Called after every change; before the first start is complete it
// does nothing, for then nobody has quorum and everybody needs the processor.
func (l *Lab) balance() {
	l.mu.Lock()
	booted := l.booted
	l.mu.Unlock()
	if !booted {
		return
	}
	nodes := l.All()
	members := make([]member, len(nodes))
	for i, n := range nodes {
		members[i] = member{linked: n.peered(), etcd: n.etcd.Alive() && !n.etcd.Frozen()}
	}
	for i, capped := range withoutQuorum(members) {
		nodes[i].group.limit(capped)
	}
}
