package kube

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// ServersOptions is what NewServers needs.
type ServersOptions struct {
	// Kubeconfig is the path of the file; its server should be this node's
	// own API server.
	Kubeconfig string
	// Never lists the virtual IPs: no connection is made to them.
	Never []netip.Addr
	Log   *slog.Logger
	// Now is a monotonic clock, any zero.
	Now func() time.Duration
	// Crowd says which requests there may be a thousand of at once: only some of them
	// are under way at a time, and none of the others waits for them. nil is none.
	Crowd func(*http.Request) bool
}

// Servers is the way to all API servers: the kubeconfig's first, then every
// other by its own address, never through a virtual IP. It is safe for
// concurrent use.
type Servers struct {
	log   *slog.Logger
	now   func() time.Duration
	never []netip.Addr
	base  *rest.Config
	url   *url.URL
	tls   *tls.Config
	ca    []byte
	// crowd is ServersOptions.Crowd, room the room for its requests.
	crowd func(*http.Request) bool
	room  chan struct{}
	// own lists this host's addresses.
	own func() []netip.Addr
	// wake tells Run that a server is suspected or doubted.
	wake chan struct{}
	// probes sends with the user's credentials to the server that the
	// request's URL names, and to no other.
	probes http.RoundTripper

	// absent: there are no credentials, and so no way.
	absent bool

	mu      sync.Mutex
	list    []*server
	refused refusal
}

// ServerState is what is thought of one API server.
type ServerState struct {
	// Addr is host:port as dialled.
	Addr string
	// Suspect servers are asked last.
	Suspect bool
	// Why says why it is suspected, for people.
	Why string
}

// NewServers reads the kubeconfig. It connects to nothing. Its error wraps
// fs.ErrNotExist when there is no such file (yet).
func NewServers(o ServersOptions) (*Servers, error) {
	base, at, err := loadKubeconfig(o.Kubeconfig, o.Never)
	if err != nil {
		return nil, err
	}
	conf, ca, err := tlsConfig(base)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", o.Kubeconfig, err)
	}
	s := &Servers{
		log: o.Log, now: o.Now, never: o.Never, base: base, url: at, tls: conf, ca: ca,
		own: ownAddresses, wake: make(chan struct{}, 1), crowd: o.Crowd, room: make(chan struct{}, crowdRoom),
	}
	s.probes, err = rest.HTTPWrappersForConfig(s.credentials(), direct{s})
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w; check the user's token or tokenFile", o.Kubeconfig, err)
	}
	s.list = []*server{s.firstServer(at.Host)}
	return s, nil
}

// Set gives the other API servers, in any order and with or without this
// node's own. Virtual IPs and duplicates are left out; the kubeconfig's server
// stays first. Watches on servers that are gone end, so that they are opened
// again elsewhere.
func (s *Servers) Set(addrs []netip.AddrPort) {
	if s.absent {
		return
	}
	// One spelling of each address, or duplicates would go unnoticed.
	addrs = slices.Clone(addrs)
	for i, a := range addrs {
		addrs[i] = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	own := s.own() // not under the lock: it asks the kernel

	s.mu.Lock()
	old := s.list
	s.list = []*server{old[0]}
	for _, a := range addrs {
		if !a.IsValid() || isOneOf(a.Addr().String(), s.never) || sameServer(old[0], a, own) {
			continue
		}
		i := slices.IndexFunc(old, func(v *server) bool { return v.addr == a.String() })
		if i >= 0 {
			s.list = append(s.list, old[i])
			continue
		}
		s.list = append(s.list, s.newServer(a.String(), otherName, dialOther))
	}
	var gone []*server
	for _, v := range old {
		if !slices.Contains(s.list, v) {
			gone = append(gone, v)
			v.cut()
		}
	}
	s.mu.Unlock()
	for _, v := range gone {
		v.idle()
	}
}

// sameServer says whether the address is another name of the first server:
// https://127.0.0.1:6443 and this node's own address in the list lead to the
// same process, and asking a hung one twice helps nobody.
func sameServer(first *server, a netip.AddrPort, own []netip.Addr) bool {
	if a.String() == first.addr {
		return true
	}
	host, port, err := net.SplitHostPort(first.addr)
	if err != nil || port != fmt.Sprint(a.Port()) {
		return false
	}
	ip, err := netip.ParseAddr(host)
	here := host == "localhost" || err == nil && ip.IsLoopback()
	return here && slices.Contains(own, a.Addr())
}

// ownAddresses lists this host's addresses, none when they cannot be read.
func ownAddresses() []netip.Addr {
	var out []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// RESTConfig returns a configuration for client-go whose requests go over all
// servers, without client-side rate limit. With hedge > 0 a GET, PUT, POST or
// PATCH not answered within hedge is sent to the next server too, and so on:
// the first useful answer wins. A 409 may then be the answer to our own
// duplicate when the server that took the first copy has died: read again
// before believing it.
func (s *Servers) RESTConfig(hedge time.Duration) *rest.Config {
	c := s.credentials()
	c.Host = "https://" + s.url.Host
	c.Transport = tripper{s: s, hedge: hedge}
	c.QPS = -1
	c.WarningHandler = rest.NoWarnings{}
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return c
}

// credentials copies what goes into the headers of a request; client
// certificates are in the transports.
func (s *Servers) credentials() *rest.Config {
	return &rest.Config{
		Username: s.base.Username, Password: s.base.Password,
		BearerToken: s.base.BearerToken, BearerTokenFile: s.base.BearerTokenFile,
		Impersonate: s.base.Impersonate, UserAgent: s.base.UserAgent,
	}
}

// State returns what is thought of each server, in the order of preference.
func (s *Servers) State() []ServerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ServerState, len(s.list))
	for i, v := range s.list {
		out[i] = ServerState{Addr: v.addr, Suspect: v.suspect, Why: v.why}
	}
	return out
}

// order returns the servers as the next request shall try them: the suspects
// last.
func (s *Servers) order() []*server {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*server, 0, len(s.list))
	for _, want := range []bool{false, true} {
		for _, v := range s.list {
			if v.suspect == want {
				out = append(out, v)
			}
		}
	}
	return out
}
