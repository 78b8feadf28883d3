package kube

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"k8s.io/client-go/util/connrotation"
)

const (
	// dialFirst is generous: it is normally this host.
	dialFirst = time.Second
	// dialOther bounds what a powered-off node costs one request.
	dialOther = 300 * time.Millisecond
	// handshake bounds a stopped process, whose kernel still accepts.
	handshake = time.Second
	// pingAfter and pingWait find a hung server that only has watches open:
	// an HTTP/2 PING (RFC 9113 §6.7) is no API request.
	pingAfter = 3 * time.Second
	pingWait  = 2 * time.Second
	// resetEvery bounds how often a 401 costs the connections.
	resetEvery = 10 * time.Second
	// otherName is in every API server's certificate, whereas the address of
	// another node need not be.
	otherName = "kubernetes"
)

// server is one API server. What is known of it is guarded by Servers.mu.
type server struct {
	addr string // host:port to dial, unique
	rt   http.RoundTripper
	idle func() // closes connections that nothing uses
	// reset closes all connections, also those in use.
	reset func()

	// Guarded from here on.
	suspect bool
	why     string
	// doubted asks for one probe: something odd was seen, nothing proved.
	doubted   bool
	nextProbe time.Duration
	nextReset time.Duration
	streams   map[*body]struct{}
}

// newServer makes the transport of one server. It dials nothing.
func (s *Servers) newServer(addr, serverName string, dial time.Duration) *server {
	conf := s.tls.Clone()
	conf.ServerName = serverName
	dialer := net.Dialer{Timeout: dial, KeepAlive: 15 * time.Second, ControlContext: s.refuse}
	conns := connrotation.NewDialer(dialer.DialContext)
	t := &http.Transport{
		// No Proxy: a node's address is reached directly or not at all.
		DialContext:         conns.DialContext,
		TLSClientConfig:     conf,
		TLSHandshakeTimeout: handshake,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     90 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait},
	}
	return &server{
		addr: addr, rt: t, idle: t.CloseIdleConnections, reset: conns.CloseAll,
		streams: make(map[*body]struct{}),
	}
}

// refuse stops a dial to a virtual IP, also when a host name leads there.
func (s *Servers) refuse(_ context.Context, _, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err == nil && isOneOf(host, s.never) {
		return fmt.Errorf("%s is a virtual IP: the way to the API server must not depend on it; "+
			"set the kubeconfig's server to this node's own API server", host)
	}
	return nil
}

// firstServer is the kubeconfig's server, verified as the kubeconfig says.
func (s *Servers) firstServer(addr string) *server {
	name := s.tls.ServerName
	if name == "" {
		name, _, _ = net.SplitHostPort(addr) // checked when the URL was read
	}
	return s.newServer(addr, name, dialFirst)
}

// anonymous is the TLS configuration without the user's certificate.
func (s *Servers) anonymous() *tls.Config {
	conf := s.tls.Clone()
	conf.GetClientCertificate = nil
	conf.Certificates = nil
	return conf
}

// unauthorized takes note of a 401. API servers check a client certificate's
// time at every request, so a connection made with one that has expired since
// is of no use although its file was renewed in time: new connections read it
// anew. Every 10 s at most, because a 401 may have other causes.
func (s *Servers) unauthorized(v *server) {
	if s.base.CertFile == "" {
		return
	}
	s.mu.Lock()
	due := s.now() >= v.nextReset
	if due {
		v.nextReset = s.now() + resetEvery
	}
	s.mu.Unlock()
	if due {
		v.idle() // first, so that nobody picks a connection that is being closed
		v.reset()
	}
}
