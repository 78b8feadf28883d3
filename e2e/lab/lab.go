package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// T is what the lab needs of a test; testing.TB has it, and so has any program
// that wants a lab outside a test. If it also has Failed() bool, that decides
// whether logs are kept.
type T interface {
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Name() string
}

// The addresses every lab uses. Labs do not see each other, so all may use the same.
const (
	VIP4 = "10.99.0.200" // the virtual IP that serving certificates name by default
	VIP6 = "fd99::200"
	// Gateway4 and Gateway6 are the switch itself, the default route of every host.
	Gateway4 = "10.99.0.254"
	Gateway6 = "fd99::254"
)

// Lab is one switch with the hosts on it.
type Lab struct {
	t      T
	prefix string // of every namespace and cgroup: moor-<pid>-<k>-
	dir    string // temporary files and logs
	sw     *space // the namespace with the bridge
	guard  *watchdog
	groups *cgroups

	mu       sync.Mutex // guards what follows; never held while a process or namespace is waited for
	hosts    []*Host
	nodes    []*Node
	vips     []string
	noVIP    bool // serving certificates do not name the VIPs
	twoLinks bool // nodes have an eth1 for etcd and the API servers
	next     int  // last octet of the next extra host
	stops    []func()
	backend  bool // the pod that API servers proxy to is there
	pulse    bool // the ConfigMap that watches look at changes
	failed   bool // the lab itself called Fatalf
	booted   bool // the control plane was ready once: from now on a cut-off pair is capped
	pki      *pki
	cluster  string // path of the Kubernetes binary
}

// New makes an empty lab: a switch, no hosts. It is torn down by t.Cleanup. What
// labs of dead owners left behind is swept first. It needs root.
func New(t T) *Lab {
	if os.Geteuid() != 0 {
		t.Fatalf("lab: needs root (network namespaces): run it as root, for example with sudo -E")
	}
	sweep()
	l := &Lab{t: t, vips: []string{VIP4, VIP6}, next: firstExtraHost}
	if err := l.claimPrefix(); err != nil {
		t.Fatalf("lab: %v", err)
	}
	t.Cleanup(l.close)
	if err := l.open(); err != nil {
		l.fatalf("%v", err)
	}
	return l
}

// open makes what every lab has: a directory, a watchdog, a switch.
func (l *Lab) open() error {
	base := ownerDir(os.Getpid())
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	safe := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(l.t.Name(), "_")
	// Short: a unix socket's path has 107 bytes, and nodes have sockets below.
	if len(safe) > 16 {
		safe = safe[:16]
	}
	dir, err := os.MkdirTemp(base, safe+"-")
	if err != nil {
		return err
	}
	l.dir, l.groups = dir, newCgroups(l.prefix, l.t.Logf)
	if l.guard, err = startWatchdog(l.prefix, l.groups.root); err != nil {
		return err
	}
	return l.openSwitch()
}

// Nodes adds n nodes, n1 … and the client host. Call it once, before Start.
func (l *Lab) Nodes(n int) []*Node {
	for i := 1; i <= n; i++ {
		node := &Node{Host: newHost(l, fmt.Sprintf("n%d", i), 10+i), index: i, group: l.groups.add(fmt.Sprintf("n%d", i))}
		node.forward = true
		if l.twoLinks {
			node.api4 = netip.AddrFrom4([4]byte{10, 98, 0, byte(10 + i)})
			node.api6 = netip.MustParseAddr(fmt.Sprintf("fd9a::%d", 10+i))
		}
		l.must(node.plug())
		l.mu.Lock()
		l.nodes = append(l.nodes, node)
		l.mu.Unlock()
	}
	l.Client()
	return l.All()
}

// All returns the nodes in order.
func (l *Lab) All() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Node(nil), l.nodes...)
}

// Node returns node i, counted from 1.
func (l *Lab) Node(i int) *Node {
	nodes := l.All()
	if i < 1 || i > len(nodes) {
		l.fatalf("there is no node %d: this lab has %d, call Nodes first", i, len(nodes))
	}
	return nodes[i-1]
}

// Client returns the host that has no part in the cluster and uses its VIP.
func (l *Lab) Client() *Host { return l.fixedHost("client", 100) }

// Host adds a host that is neither node nor client (a router, a stranger that
// claims an address, a second client), at the next free address from
// 10.99.0.101 and fd99::101 on. A host of that name is returned as it is.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	octet := l.next
	l.next++
	l.mu.Unlock()
	return l.fixedHost(name, octet)
}

// firstExtraHost leaves .1–.99 to nodes and the observer, .100 to the client.
const firstExtraHost = 101

// fixedHost finds or makes a host. Hosts that the lab itself needs have fixed
// addresses, so that captures of different runs can be compared.
func (l *Lab) fixedHost(name string, octet int) *Host {
	if h := l.host(name); h != nil {
		return h
	}
	h := newHost(l, name, octet)
	l.must(h.plug())
	return h
}

// host finds a host of the switch by name, nil if there is none.
func (l *Lab) host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// VIPs replaces the addresses that serving certificates name besides the nodes'
// own, by default VIP4 and VIP6. Call it before Start.
func (l *Lab) VIPs(vips ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.vips = vips
}

// WithoutVIPInCertificate makes Start issue serving certificates that do not
// name the VIPs, as on a cluster installed before it had one.
func (l *Lab) WithoutVIPInCertificate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noVIP = true
}

// Dir is the lab's directory: one sub-directory per host, pki. It is removed
// after a good run and kept, without databases, after a failed one.
func (l *Lab) Dir() string { return l.dir }

// Holder is the node that has the address on a link other than lo, nil if no
// node has it. With several it is the first: [Wire] tells whether that is so.
func (l *Lab) Holder(vip string) *Node {
	for _, n := range l.All() {
		if n.Has(vip) {
			return n
		}
	}
	return nil
}

// Holders are all nodes that have the address on a link other than lo.
func (l *Lab) Holders(vip string) []*Node {
	var out []*Node
	for _, n := range l.All() {
		if n.Has(vip) {
			out = append(out, n)
		}
	}
	return out
}

// Eventually asks ok every 10 ms until it says true and returns how long that
// took; the test is over if it has not within the limit.
func (l *Lab) Eventually(limit time.Duration, what string, ok func() bool) time.Duration {
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			l.fatalf("after %s still not: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// Consistently asks ok every 10 ms for the whole time; the test is over at the first false.
func (l *Lab) Consistently(whole time.Duration, what string, ok func() bool) {
	start := time.Now()
	for time.Since(start) < whole {
		if !ok() {
			l.fatalf("no longer so after %s: %s", time.Since(start).Round(time.Millisecond), what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// onStop has f called when the lab ends, before its processes are killed.
func (l *Lab) onStop(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, f)
}

// must is for what only a broken machine makes fail: no test has to look at it.
func (l *Lab) must(err error) {
	if err != nil {
		l.fatalf("%v", err)
	}
}

// fatalf ends the test and says which line outside this package asked for what
// failed: T has no Helper, so the test's own report would name a line in here.
func (l *Lab) fatalf(format string, args ...any) {
	l.mu.Lock()
	l.failed = true
	l.mu.Unlock()
	l.t.Fatalf("%slab: %s", callerOutside(), fmt.Sprintf(format, args...))
}

// callerOutside is "file:line: " of the nearest caller that is not one of this
// package's own sources; its tests count as outside.
func callerOutside() string {
	pcs := make([]uintptr, 24)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		inside := strings.Contains(f.Function, "/e2e/lab.") && !strings.HasSuffix(f.File, "_test.go")
		if !inside && f.File != "" && !strings.Contains(f.Function, "runtime.") {
			return fmt.Sprintf("%s:%d: ", filepath.Base(f.File), f.Line)
		}
		if !more {
			return ""
		}
	}
}

// parseAddr reads an address that a test wrote down; a typo ends the test.
func (l *Lab) parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		l.fatalf("%q is not an IP address", s)
	}
	return a
}
