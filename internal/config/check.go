package config

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxVIPs    = 8
	maxServers = 64
	// slack is what a Lease must outlive the sum of a renewal and the fence
	// by: the address must be gone from a dead holder before anybody takes
	// the Lease by its age alone, with room for clocks and a slow write.
	slack = 2 * time.Second
)

// dnsName is a DNS-1123 subdomain (RFC 1123 §2.1), httpPath what is safe in a
// HAProxy configuration.
var (
	dnsName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	httpPath = regexp.MustCompile(`^/[A-Za-z0-9/._~?=&-]{0,254}$`)
)

// config judges every value and returns the typed configuration, of use only
// if no problem was noted.
func (r raw) config(p *problems, host string) Config {
	c := defaults()
	r.head(p)
	c.Kubeconfig = absolute(p, r.Kubeconfig, "")
	if !r.Kubeconfig.given() {
		p.missing("kubeconfig", "write the path of the agent's kubeconfig, "+
			"for example /etc/kubernetes/mooring.conf")
	}
	c.Interface = link(p, r.Interface)
	c.Node = node(p, r.Node, host)
	c.Namespace = namespace(p, r.Namespace, c.Namespace)
	c.RunDir = absolute(p, r.RunDir, c.RunDir)
	c.StateDir = absolute(p, r.StateDir, c.StateDir)
	if c.RunDir == c.StateDir {
		p.add(max(r.RunDir.line, r.StateDir.line), "stateDir", "is the same directory as runDir; "+
			"runDir is emptied at boot, stateDir is not, so give them different ones")
	}
	c.Log.Format = choice(p, r.Log.Format, c.Log.Format, "text", "json")
	c.Log.Level = choice(p, r.Log.Level, c.Log.Level, "debug", "info", "warn", "error")
	c.Metrics.Bind = bind(p, r.Metrics.Bind, c.Metrics.Bind)
	r.apiServer(p, &c)
	r.times(p, &c)
	r.others(p, &c)
	return c
}

// head checks that this is the right kind of file.
func (r raw) head(p *problems) {
	heads := []struct {
		field      text
		name, want string
	}{{r.APIVersion, "apiVersion", APIVersion}, {r.Kind, "kind", Kind}}
	for _, h := range heads {
		switch {
		case !h.field.given():
			p.missing(h.name, "write %s: %s", h.name, h.want)
		case h.field.value != h.want:
			p.at(h.field, "is %q; this program reads %s only", h.field.value, h.want)
		}
	}
}

// apiServer checks the section of the same name.
func (r raw) apiServer(p *problems, c *Config) {
	a, out := r.APIServer, &c.APIServer
	// A node that serves Services alone has none.
	out.VIPs = vips(p, a.VIPs, r.Services.Enabled.value != "true")
	if len(a.VIPs.items) == 0 && c.Interface == "" && r.Services.Enabled.value == "true" {
		p.missing("interface", "without apiServer.vips write the link on which the agents hear each other, for example eth0")
	}
	out.Port = port(p, a.Port, out.Port)
	out.ProxyPort = port(p, a.ProxyPort, out.ProxyPort)
	if out.Port == out.ProxyPort {
		p.add(max(a.Port.line, a.ProxyPort.line), "apiServer.proxyPort", "is %d, the same as apiServer.port; "+
			"the API server already listens there, choose another free port", out.ProxyPort)
	}
	if b := c.Metrics.Bind.Port(); b == out.Port || b == out.ProxyPort {
		p.add(r.Metrics.Bind.line, "metrics.bind", "uses port %d, which apiServer needs; choose another free port", b)
	}
	out.Balance = balance(p, a.Balance, out.Balance)
	out.Servers = servers(p, a.Servers, out.VIPs)
	out.Check.Path = checkPath(p, a.Check.Path, out.Check.Path)
	out.Check.ClientCertificate = ClientCertificate(choice(p, a.Check.ClientCertificate,
		string(out.Check.ClientCertificate), "auto", "always", "never"))
	out.MaxConnections = number(p, a.MaxConnections, out.MaxConnections, limits{0, 1_000_000})
	out.AllowOutsideSubnet = truth(p, a.AllowOutsideSubnet, out.AllowOutsideSubnet)
}

// times checks lease, fence and announce, and that they fit together.
func (r raw) times(p *problems, c *Config) {
	// The sum is judged only if every part of it is a duration in its bounds:
	// a second error about a default would only confuse.
	before := len(p.list)
	whole := time.Second
	c.Lease.Duration = duration(p, r.Lease.Duration, c.Lease.Duration, span{whole, 10 * time.Minute, whole})
	c.Lease.Renew = duration(p, r.Lease.Renew, c.Lease.Renew, span{200 * time.Millisecond, time.Minute, 0})
	c.Fence.ValidLifetime = duration(p, r.Fence.ValidLifetime, c.Fence.ValidLifetime,
		span{2 * time.Second, time.Minute, whole})
	need := c.Lease.Renew + c.Fence.ValidLifetime + slack
	if len(p.list) == before && c.Lease.Duration < need {
		p.add(max(r.Lease.Duration.line, r.Lease.Renew.line, r.Fence.ValidLifetime.line), "lease.duration",
			"is %s, but the holder renews its Lease every %s (lease.renew) and the kernel keeps a dead holder's "+
				"address up to %s (fence.validLifetime); with %s to spare the Lease must last at least %s",
			c.Lease.Duration, c.Lease.Renew, c.Fence.ValidLifetime, slack, roundUp(need))
	}
	c.Announce.Rate = number(p, r.Announce.Rate, c.Announce.Rate, limits{1, 10_000})
	c.Announce.Refresh = duration(p, r.Announce.Refresh, c.Announce.Refresh, span{time.Second, time.Hour, 0})
}

// roundUp gives the next whole second, as lease.duration needs it.
func roundUp(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

// vips checks the list of virtual IPs.
func vips(p *problems, list texts, needed bool) []netip.Addr {
	if len(list.items) == 0 && needed {
		p.missing("apiServer.vips", "list the virtual IPs of the API server, for example [192.0.2.10]")
	}
	if len(list.items) > maxVIPs {
		p.add(list.line, list.path, "has %d addresses, at most %d are possible", len(list.items), maxVIPs)
	}
	var out []netip.Addr
	for _, t := range list.items {
		a, ok := vip(p, t)
		switch {
		case !ok:
		case slices.Contains(out, a):
			p.at(t, "%s is in the list twice; remove one", t.value)
		default:
			out = append(out, a)
		}
	}
	return out
}

// vip checks one virtual IP.
func vip(p *problems, t text) (netip.Addr, bool) {
	// Other tools want a prefix length here, so this slip is common.
	if pre, err := netip.ParsePrefix(t.value); err == nil {
		p.at(t, "has a prefix length; write %s, the agent always adds a VIP as /%d",
			pre.Addr(), pre.Addr().BitLen())
		return netip.Addr{}, false
	}
	return address(p, t, "a host name cannot be announced", "choose a free address of the nodes' subnet")
}

// address checks an address that other hosts reach; noName says why a host name
// will not do, instead what to write for one that is not reached.
func address(p *problems, t text, noName, instead string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(t.value)
	switch {
	case err != nil:
		p.at(t, "%q is not an IP address; write one, %s", t.value, noName)
	case a.Zone() != "":
		p.at(t, "has a zone; write it without %%%s and set \"interface\" instead", a.Zone())
	case a.Is4In6():
		p.at(t, "is an IPv4 address in IPv6 form; write %s", a.Unmap())
	default:
		why := unusable(a)
		if why == "" {
			return a, true
		}
		p.at(t, "%s is %s; %s", a, why, instead)
	}
	return netip.Addr{}, false
}

// unusable says why no other host can reach an address, "" if it can.
func unusable(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsMulticast():
		return "a multicast address"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "link-local, which clients cannot use without naming an interface"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}

// servers checks the static list of API servers.
func servers(p *problems, list texts, never []netip.Addr) []netip.AddrPort {
	if len(list.items) > maxServers {
		p.add(list.line, list.path, "has %d addresses, at most %d are possible", len(list.items), maxServers)
	}
	var out []netip.AddrPort
	for _, t := range list.items {
		a, err := netip.ParseAddrPort(t.value)
		ip := a.Addr().Unmap()
		switch a = netip.AddrPortFrom(ip, a.Port()); {
		case err != nil || a.Port() == 0 || ip.Zone() != "":
			p.at(t, "%q is not ADDRESS:PORT; write for example 10.0.0.11:6443 or [2001:db8::11]:6443", t.value)
		case unusable(ip) != "":
			p.at(t, "%s is %s; write the address of a control-plane node", ip, unusable(ip))
		// The way to the API server must not lead through what it holds up.
		case slices.Contains(never, ip):
			p.at(t, "%s is a virtual IP; write the addresses of the control-plane nodes themselves", ip)
		case slices.Contains(out, a):
			p.at(t, "%s is in the list twice; remove one", t.value)
		default:
			out = append(out, a)
		}
	}
	return out
}

// link checks the name of an interface as the kernel does (dev_valid_name), and
// refuses control bytes, which the kernel does not, because they are a mistake.
func link(p *problems, t text) string {
	bad := strings.ContainsFunc(t.value, func(r rune) bool {
		return r <= ' ' || r == '/' || r == ':' || r == 0x7f
	})
	if bad || len(t.value) > 15 || t.value == "." || t.value == ".." {
		p.at(t, "%q is no name of an interface; \"ip link\" lists them, at most 15 bytes", t.value)
	}
	return t.value
}

// node checks the node's name, by default the host's.
func node(p *problems, t text, host string) string {
	name := t.value
	if name == "" {
		name = host
	}
	switch valid := len(name) <= 253 && dnsName.MatchString(name); {
	case valid:
	case t.given():
		p.at(t, "%q is not the name of a Node (lower-case letters, digits, - and .); "+
			"\"kubectl get nodes\" lists them", name)
	default:
		p.add(0, "node", "the host name %q is not the name of a Node; "+
			"set node to what \"kubectl get nodes\" says", name)
	}
	return name
}

// namespace checks a DNS-1123 label.
func namespace(p *problems, t text, otherwise string) string {
	if !t.given() {
		return otherwise
	}
	if len(t.value) > 63 || strings.Contains(t.value, ".") || !dnsName.MatchString(t.value) {
		p.at(t, "%q is not the name of a namespace; at most 63 lower-case letters, digits and -", t.value)
	}
	return t.value
}

// absolute checks a path.
func absolute(p *problems, t text, otherwise string) string {
	if !t.given() {
		return otherwise
	}
	// Cleaned, so that one path has one spelling when two are compared.
	clean := filepath.Clean(t.value)
	if !filepath.IsAbs(t.value) || clean == "/" || strings.ContainsAny(t.value, "\x00\n\r") {
		p.at(t, "%q is not an absolute path below /; write it in full", t.value)
	}
	return clean
}

// checkPath checks a path for HAProxy's health check.
func checkPath(p *problems, t text, otherwise string) string {
	if !t.given() {
		return otherwise
	}
	if !httpPath.MatchString(t.value) {
		p.at(t, "%q is not a path HAProxy can ask for; write for example /readyz", t.value)
	}
	return t.value
}

// balance accepts "off" also as false and no, because YAML 1.1 tools write
// off so.
func balance(p *problems, t text, otherwise Balance) Balance {
	if slices.Contains([]string{"false", "no"}, strings.ToLower(t.value)) {
		return BalanceOff
	}
	return Balance(choice(p, t, string(otherwise), string(BalanceHAProxy), string(BalanceOff)))
}

// bind checks an address to listen on.
func bind(p *problems, t text, otherwise netip.AddrPort) netip.AddrPort {
	if !t.given() {
		return otherwise
	}
	a, err := netip.ParseAddrPort(t.value)
	if err != nil || a.Port() == 0 {
		p.at(t, "%q is not ADDRESS:PORT; write for example 127.0.0.1:9441, or 0.0.0.0:9441 for all addresses", t.value)
	}
	return a
}

// choice checks that the value is one of a few.
func choice(p *problems, t text, otherwise string, allowed ...string) string {
	if !t.given() {
		return otherwise
	}
	if !slices.Contains(allowed, t.value) {
		p.at(t, "is %q; write one of %s", t.value, strings.Join(allowed, ", "))
	}
	return t.value
}

// truth checks a yes or no.
func truth(p *problems, t text, otherwise bool) bool {
	switch {
	case !t.given():
		return otherwise
	case t.value == "true" || t.value == "false":
		return t.value == "true"
	}
	p.at(t, "is %q; write true or false", t.value)
	return otherwise
}

// limits bound a number, both included.
type limits struct{ min, max int }

// number checks a decimal number.
func number(p *problems, t text, otherwise int, l limits) int {
	if !t.given() {
		return otherwise
	}
	v, err := strconv.Atoi(t.value)
	if err != nil || v < l.min || v > l.max {
		p.at(t, "is %q; write a number from %d to %d", t.value, l.min, l.max)
		return otherwise
	}
	return v
}

// port checks a TCP port.
func port(p *problems, t text, otherwise uint16) uint16 {
	return uint16(number(p, t, int(otherwise), limits{1, 65535}))
}

// span bounds a duration, both included; it must be a multiple of step, if
// that is not 0.
type span struct{ min, max, step time.Duration }

// duration checks a duration with its unit.
func duration(p *problems, t text, otherwise time.Duration, s span) time.Duration {
	if !t.given() {
		return otherwise
	}
	d, err := time.ParseDuration(t.value)
	switch {
	case err != nil:
		p.at(t, "%q is not a duration; write a number with its unit, for example %s", t.value, otherwise)
	case d < s.min || d > s.max:
		p.at(t, "is %s; write a duration from %s to %s", t.value, s.min, s.max)
	case s.step != 0 && d%s.step != 0:
		p.at(t, "is %s; the Kubernetes API and the kernel count whole seconds, write %s", t.value, roundUp(d))
	}
	return d
}
