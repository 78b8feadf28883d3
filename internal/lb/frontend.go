package lb

import (
	"net/netip"
	"strconv"
	"strings"
)

// Backend is one server behind a frontend.
type Backend struct {
	// Name is unique within its frontend: [a-z0-9.-], at most 63 bytes.
	Name string
	Addr netip.AddrPort
	// Drain: it keeps its connections and clients that belong to it, and gets no
	// others.
	Drain bool
}

// Frontend is one load-balanced TCP service as HAProxy shall serve it.
type Frontend struct {
	// Name is unique within a proxy: [a-z0-9-], at most 63 bytes.
	Name string
	// Binds are the listening addresses, bound even while the host does not
	// have the address (ip(7), IP_TRANSPARENT).
	Binds []netip.AddrPort
	// Backends in any order; the renderer sorts them.
	Backends []Backend
	// Check is how HAProxy asks an API server whether it serves.
	Check Check
	// Front makes it a Service's frontend, without Check; nil is the API servers'.
	Front *Front
	// Redirects lead to some of Binds. They may stand only while HAProxy listens there.
	Redirects []Redirect
}

// BackendAt names a backend after its address: "s-10-0-0-11-6443", safe in a
// HAProxy configuration and unique ("-" stands for "." only or for ":" only, and
// an IPv6 address of four groups has "--"), the same on every node and across
// restarts.
func BackendAt(a netip.AddrPort) Backend {
	host := strings.NewReplacer(".", "-", ":", "-", "%", "-").Replace(a.Addr().Unmap().String())
	return Backend{Name: "s-" + host + "-" + strconv.Itoa(int(a.Port())), Addr: a}
}

// Check is an HTTPS health check of a backend.
type Check struct {
	// Path is asked with GET, for example "/readyz".
	Path string
	// ServerName is sent as SNI and verified in the certificate.
	ServerName string
	// CAFile verifies the backend, PEM.
	CAFile string
	// ClientPEM is the file with certificate and key to present, or "".
	ClientPEM string
}

// Redirect sends what arrives for VIP:From to VIP:To on the same node.
type Redirect struct {
	VIP  netip.Addr
	From uint16
	To   uint16
	// Elsewhere: a node without the address lets nobody else translate VIP:From, so
	// that connections from there reach the holder. For Services only.
	Elsewhere bool
}

// ProxyState is what is known of a running HAProxy.
type ProxyState struct {
	// Serving says that HAProxy runs, listens with the wanted configuration
	// and answers on its socket.
	Serving bool
	// Up lists the backends that pass their check, sorted by name. When none
	// does all are used (fail open).
	Up []string
	// Why says why Serving is false, for people.
	Why string
	// Skipped are Services' frontends that cannot be served, by name, each with the
	// reason for people; the others are.
	Skipped map[string]string `json:",omitempty"`
	// Pending are Services' frontends, sorted, that are new or changed and wait for
	// a reload, which comes by itself; until then what was before goes on.
	Pending []string `json:",omitempty"`
}
