package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// execLimit bounds a command that was expected to be quick.
const execLimit = 60 * time.Second

// Host is one machine on the switch: a network namespace with an eth0.
type Host struct {
	lab      *Lab
	name     string
	octet    int
	ip4, ip6 netip.Addr
	mac      net.HardwareAddr
	api4     netip.Addr          // of eth1; the zero value without a second link
	api6     netip.Addr          //
	forward  bool                // forwards packets, as Kubernetes nodes and routers do
	attach   func(*Host) error   // how its eth0 gets connected; a pod's differs
	detach   func(*Host) error   // pulls the cable for good, before the namespace goes
	onPlug   []func(*Host) error // what else to set up after each power-on

	mu    sync.Mutex
	ns    *space        // nil while switched off
	cut   map[Link]bool // links that are not whole
	procs []*Process
}

func newHost(l *Lab, name string, octet int) *Host {
	h := &Host{
		lab: l, name: name, octet: octet, mac: hostMAC(octet),
		ip4:    netip.AddrFrom4([4]byte{10, 99, 0, byte(octet)}),
		ip6:    netip.MustParseAddr(fmt.Sprintf("fd99::%d", octet)),
		attach: attachToSwitch, detach: detachFromSwitch,
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	return h
}

// plug makes the namespace and connects it: power-on.
func (h *Host) plug() error {
	ns, err := newSpace(h.lab.prefix + h.name)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.ns, h.cut = ns, map[Link]bool{}
	h.mu.Unlock()
	if err := os.MkdirAll(filepath.Join(h.Dir(), "log"), 0o755); err != nil {
		return err
	}
	if err := quietIPv6(ns); err != nil {
		return err
	}
	if h.forward {
		if err := ns.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"); err != nil {
			return err
		}
	}
	if err := h.attach(h); err != nil {
		return err
	}
	for _, f := range h.onPlug {
		if err := f(h); err != nil {
			return err
		}
	}
	return nil
}

// attachToSwitch is how every host but a pod is connected.
func attachToSwitch(h *Host) error {
	for _, c := range h.cables() {
		if err := plugVeth(h.lab.sw, h.space(), c); err != nil {
			return err
		}
	}
	if err := configure(h.space(), h.ip4, h.ip6); err != nil || !h.api4.IsValid() {
		return err
	}
	return configureAPILink(h.space(), h.api4, h.api6)
}

// detachFromSwitch leaves no port behind: to its neighbours the host is off.
func detachFromSwitch(h *Host) error {
	var errs []error
	for _, c := range h.cables() {
		// A rule left behind would wait for the next port of its name.
		errs = append(errs, removePort(h.lab.sw, c.port), openPort(h.lab.sw, c.port))
	}
	return errors.Join(errs...)
}

// powerOff ends every process at once and removes the namespace with everything
// its kernel knew: addresses, rules, connections.
func (h *Host) powerOff() error {
	h.mu.Lock()
	ns := h.ns
	h.ns = nil
	h.mu.Unlock()
	if ns == nil {
		return nil
	}
	procs := h.running()
	err := h.detach(h) // first the wire: a dying process must not get a last word out
	if left := killAll(ns.name); left != nil {
		return fmt.Errorf("%s: processes %v do not die", h.name, left)
	}
	for _, p := range procs {
		p.awaitReaped() // dead to the kernel is not yet dead to Alive
	}
	if rm := ns.remove(); err == nil {
		err = rm
	}
	return err
}

// space is the host's namespace, nil while it is switched off (every method of a
// nil space says so).
func (h *Host) space() *space {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ns
}

// Name is n1, client, ….
func (h *Host) Name() string { return h.name }

// IP is the host's own IPv4 address.
func (h *Host) IP() string { return h.ip4.String() }

// IP6 is the host's own IPv6 address.
func (h *Host) IP6() string { return h.ip6.String() }

// MAC is the hardware address of eth0, the same after every Boot.
func (h *Host) MAC() string { return h.mac.String() }

// Namespace is the name of the host's network namespace, for `ip netns exec`.
func (h *Host) Namespace() string { return h.lab.prefix + h.name }

// Dir is the host's own directory, its disk: it outlives Kill, except for run.
func (h *Host) Dir() string { return filepath.Join(h.lab.dir, h.name) }

// Has says whether the address is on one of the host's links, lo excepted: an
// address on lo is not announced. A host that is off has none.
func (h *Host) Has(address string) bool {
	return h.find(address, func(link string) bool { return link != "lo" })
}

// HasOn says whether the address is on the named link.
func (h *Host) HasOn(link, address string) bool {
	return h.find(address, func(l string) bool { return l == link })
}

// find looks at the kernel, not at what anybody believes is configured.
func (h *Host) find(address string, on func(link string) bool) bool {
	want, found := h.lab.parseAddr(address), false
	err := h.space().netlink(func(nh *netlink.Handle) error {
		links, err := nh.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			if !on(link.Attrs().Name) {
				continue
			}
			addrs, err := nh.AddrList(link, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				got, _ := netip.AddrFromSlice(a.IP)
				found = found || got.Unmap() == want
			}
		}
		return nil
	})
	return err == nil && found
}

// Exec runs a command inside the host and returns what it printed; a failure ends the test.
func (h *Host) Exec(argv ...string) string {
	out, err := h.Try(argv...)
	h.lab.must(err)
	return out
}

// Try is Exec for commands that may fail; the error quotes their output.
func (h *Host) Try(argv ...string) (string, error) { return h.feed("", argv...) }

// feed runs a command with that standard input.
func (h *Host) feed(input string, argv ...string) (string, error) {
	if h.space() == nil {
		return "", fmt.Errorf("%s: %w", h.name, errGone)
	}
	ctx, cancel := context.WithTimeout(context.Background(), execLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.Namespace()}, argv...)...)
	cmd.Env, cmd.Dir = h.env(), h.Dir()
	cmd.Stdin = strings.NewReader(input)
	// A grandchild that keeps the pipe open must not keep us.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w\n%s", h.name, strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// env is all a process in the lab inherits. Proxy variables of the caller would
// send cluster traffic out of the lab.
func (h *Host) env() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + h.Dir(), "LANG=C.UTF-8",
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

// HTTP is a client inside the host. Each request opens a connection of its own;
// URLs must name IP addresses, for there is no DNS in the lab. It trusts the
// cluster's certificate authority.
func (h *Host) HTTP(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DialContext:       h.dialContext,
		TLSClientConfig:   h.lab.tlsConfig(),
		DisableKeepAlives: true,
	}}
}

// dialContext makes net/http use the host's network instead of the machine's.
func (h *Host) dialContext(ctx context.Context, _, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q: the lab has no DNS, use an IP address and a port: %w", address, err)
	}
	return h.space().dial(ctx, to)
}

// tlsConfig trusts the cluster, if there is one yet. Without the VIP in the
// certificates it verifies a name that all of them have.
func (l *Lab) tlsConfig() *tls.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if l.pki != nil {
		cfg.RootCAs = l.pki.roots()
	}
	if l.noVIP {
		cfg.ServerName = "kubernetes"
	}
	return cfg
}
