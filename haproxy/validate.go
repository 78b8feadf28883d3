package haproxy

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// FieldError says which field of a Config or Redirect is not acceptable and
// how to mend it. Nothing is written or run when it is returned.
type FieldError struct {
	// Field is a path such as "Frontends[0].Check.Path".
	Field string
	// Value is the offending value, cut to 64 bytes and quoted.
	Value string
	// Problem says what is wrong and what is expected.
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("haproxy: %s is %s: %s", e.Field, e.Value, e.Problem)
}

// The grammar of every string that reaches a line of haproxy.cfg or of the
// runtime socket. They name what is allowed: HAProxy splits lines at blanks,
// expands $VARIABLES, knows quotes, backslashes and #, and its socket runs
// what follows a semicolon, so a list of what is forbidden would have gaps.
var (
	reName     = regexp.MustCompile(`^` + label + `$`)
	reFrontend = regexp.MustCompile(`^` + label + `(_` + label + `_[0-9]{1,5})?$`)
	reBackend  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	reHost     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	reFile     = regexp.MustCompile(`^/[A-Za-z0-9/._-]{1,254}$`)
	reHTTPPath = regexp.MustCompile(`^/[A-Za-z0-9/._~?=&-]{0,254}$`)
)

// label is a DNS label (RFC 1123), of which the names of Services' frontends have two
// and a port (lb.FrontendName).
const label = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`

// maxDir leaves room in sockaddr_un (108 bytes, unix(7)) for the longest file
// name and for the suffix ".PID.tmp" that HAProxy binds under at first.
const maxDir = 80

func fieldErr(field, value, problem string) *FieldError {
	const show = 64
	if len(value) > show {
		value = value[:show] + "…"
	}
	return &FieldError{Field: field, Value: fmt.Sprintf("%q", value), Problem: problem}
}

// Validate checks every field of c; its error is a *FieldError. Set is more
// lenient with Services' frontends: it leaves out what Validate refuses.
func (c Config) Validate() error {
	if err := c.validateGlobal(); err != nil {
		return err
	}
	if c.forServices() {
		return c.validateServices()
	}
	return c.validateFrontends()
}

// validateGlobal checks what concerns all frontends.
func (c Config) validateGlobal() error {
	if !reName.MatchString(c.Name) {
		return fieldErr("Name", c.Name, "use 1 to 63 of a-z, 0-9 and -")
	}
	if err := checkFile("Dir", c.Dir); err != nil {
		return err
	}
	if len(c.Dir) > maxDir {
		return fieldErr("Dir", c.Dir, fmt.Sprintf("use at most %d bytes, unix sockets are made in it", maxDir))
	}
	if c.MaxConn < 0 || c.MaxConn > 1_000_000 {
		return fieldErr("MaxConn", fmt.Sprint(c.MaxConn), "use 0 (default) to 1000000")
	}
	if c.Threads < 0 || c.Threads > 64 {
		return fieldErr("Threads", fmt.Sprint(c.Threads), "use 0 (default) to 64")
	}
	for i, f := range c.Frontends {
		if (f.Front == nil) == c.forServices() {
			return fieldErr(fmt.Sprintf("Frontends[%d]", i), f.Name,
				"API servers and Services cannot share a proxy; give each its own directory")
		}
	}
	return c.validatePeers()
}

// validateFrontends checks each frontend and what must be unique over all.
func (c Config) validateFrontends() error {
	names, binds := map[string]bool{}, map[netip.AddrPort]bool{}
	backends := 0
	for i, f := range c.Frontends {
		at := fmt.Sprintf("Frontends[%d]", i)
		if err := validateFrontend(at, f); err != nil {
			return err
		}
		if names[f.Name] {
			return fieldErr(at+".Name", f.Name, "is used by another frontend too")
		}
		names[f.Name] = true
		for j, b := range f.Binds {
			if binds[unmap(b)] {
				return fieldErr(fmt.Sprintf("%s.Binds[%d]", at, j), b.String(), "is bound twice")
			}
			binds[unmap(b)] = true
		}
		backends += len(f.Backends)
	}
	if backends > MaxBackends {
		return fieldErr("Frontends", fmt.Sprint(backends), fmt.Sprintf("use at most %d backends in all", MaxBackends))
	}
	return c.validateNoLoop()
}

// validateNoLoop refuses a backend that is one of the bound addresses: HAProxy
// would connect to itself until no descriptor is left. The port is not
// looked at, because a Redirect may lead the other port back here.
func (c Config) validateNoLoop() error {
	vips := map[netip.Addr]bool{}
	for _, b := range c.binds() {
		vips[b.Addr().Unmap()] = true
	}
	for i, f := range c.Frontends {
		for j, b := range f.Backends {
			if vips[b.Addr.Addr().Unmap()] {
				return fieldErr(fmt.Sprintf("Frontends[%d].Backends[%d].Addr", i, j), b.Addr.String(),
					"is a bound address itself, connections would go in a circle; use the server's own address")
			}
		}
	}
	return nil
}

func validateFrontend(at string, f lb.Frontend) error {
	if err := validateListening(at, f); err != nil {
		return err
	}
	if err := validateBackends(at, f.Backends); err != nil {
		return err
	}
	return validateCheck(at+".Check", f.Check)
}

// validateListening checks name and addresses of a frontend of either kind.
func validateListening(at string, f lb.Frontend) error {
	if !reFrontend.MatchString(f.Name) {
		return fieldErr(at+".Name", f.Name, "use 1 to 63 of a-z, 0-9 and -, or NAMESPACE_NAME_PORT of such")
	}
	if len(f.Binds) == 0 {
		return fieldErr(at+".Binds", "", "give at least one address and port")
	}
	for i, b := range f.Binds {
		if err := checkAddr(fmt.Sprintf("%s.Binds[%d]", at, i), b); err != nil {
			return err
		}
	}
	return nil
}

func validateBackends(at string, list []lb.Backend) error {
	names, addrs := map[string]bool{}, map[netip.AddrPort]bool{}
	for i, b := range list {
		at := fmt.Sprintf("%s.Backends[%d]", at, i)
		if !reBackend.MatchString(b.Name) {
			return fieldErr(at+".Name", b.Name, "use 1 to 63 of a-z, 0-9, . and -")
		}
		if err := checkAddr(at+".Addr", b.Addr); err != nil {
			return err
		}
		if names[b.Name] {
			return fieldErr(at+".Name", b.Name, "is used by another backend of the frontend too")
		}
		if addrs[unmap(b.Addr)] {
			return fieldErr(at+".Addr", b.Addr.String(), "is used by another backend of the frontend too")
		}
		names[b.Name], addrs[unmap(b.Addr)] = true, true
	}
	return nil
}

func validateCheck(at string, c lb.Check) error {
	if !reHTTPPath.MatchString(c.Path) {
		return fieldErr(at+".Path", c.Path,
			"use an absolute path such as /readyz, at most 255 bytes of A-Z a-z 0-9 / . _ ~ ? = & -")
	}
	if err := checkHost(at+".ServerName", c.ServerName); err != nil {
		return err
	}
	if err := checkFile(at+".CAFile", c.CAFile); err != nil {
		return err
	}
	if c.ClientPEM == "" {
		return nil
	}
	return checkFile(at+".ClientPEM", c.ClientPEM)
}

// checkHost accepts a DNS name (RFC 1123 §2.1). HAProxy compares the SNI with
// the certificate's DNS names only, so an IP address could never verify.
func checkHost(field, v string) error {
	if !reHost.MatchString(v) {
		return fieldErr(field, v, "use a DNS name of the servers' certificate, such as kubernetes")
	}
	if _, err := netip.ParseAddr(v); err == nil {
		return fieldErr(field, v, "is an IP address; use a DNS name of the servers' certificate, such as kubernetes")
	}
	for label := range strings.SplitSeq(v, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fieldErr(field, v, "is not a DNS name")
		}
	}
	return nil
}

// checkFile accepts an absolute, clean path; "@" and other prefixes with a
// meaning to HAProxy are outside the grammar.
func checkFile(field, v string) error {
	if !reFile.MatchString(v) || path.Clean(v) != v {
		return fieldErr(field, v, "use an absolute path without . or .., of A-Z a-z 0-9 / . _ -, at most 255 bytes")
	}
	return nil
}

// checkAddr accepts one unicast address and port. A wildcard is refused: it
// would take the port from every other address of the host.
func checkAddr(field string, a netip.AddrPort) error {
	ip := a.Addr()
	switch {
	case !a.IsValid() || a.Port() == 0:
		return fieldErr(field, a.String(), "use IP:PORT with a port of 1 to 65535")
	case ip.Zone() != "":
		return fieldErr(field, a.String(), "an address with a zone cannot be used")
	case ip.Unmap().IsUnspecified() || ip.Unmap().IsMulticast():
		return fieldErr(field, a.String(), "use a unicast address")
	}
	return nil
}
