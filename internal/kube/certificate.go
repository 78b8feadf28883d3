package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
)

// AnonymousReadyz says whether the first API server answers /readyz without
// credentials, that is whether a health check needs no client certificate.
// "Not ready" (5xx) is an answer too. The error says that it could not be
// asked.
func (s *Servers) AnonymousReadyz(ctx context.Context) (bool, error) {
	if s.absent {
		return false, ErrNoCredentials
	}
	// A transport of its own: a connection made with the user's certificate
	// must not be used.
	conf := s.anonymous()
	t := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: dialFirst, ControlContext: s.refuse}).DialContext,
		TLSClientConfig: conf, TLSHandshakeTimeout: handshake, DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.url.Host+"/readyz", nil)
	if err != nil {
		return false, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return false, fmt.Errorf("asking %s for /readyz without credentials: %w", s.url.Host, err)
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK || code >= http.StatusInternalServerError:
		return true, nil
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return false, nil
	default:
		return false, fmt.Errorf("%s answers /readyz with %s; is this an API server?", s.url.Host, resp.Status)
	}
}

// CertificateNames returns the host names and addresses for which the first
// API server's certificate is valid (RFC 5280 §4.2.1.6), as a client sees them
// that connects by address and so sends no server name.
func (s *Servers) CertificateNames(ctx context.Context) (names []string, ips []netip.Addr, err error) {
	if s.absent {
		return nil, nil, ErrNoCredentials
	}
	conf := s.anonymous()
	conf.ServerName = ""
	// The names are what is asked for, so they cannot be verified; the chain
	// is, so that a stranger on the port is not taken for the API server.
	conf.InsecureSkipVerify = true
	conf.VerifyConnection = func(cs tls.ConnectionState) error { return verifyChain(cs, s.tls.RootCAs) }
	ctx, cancel := context.WithTimeout(ctx, dialFirst+handshake)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialFirst, ControlContext: s.refuse}, Config: conf}
	conn, err := d.DialContext(ctx, "tcp", s.url.Host)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the certificate of %s: %w", s.url.Host, err)
	}
	defer conn.Close()
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, errors.New("reading the certificate: not a TLS connection")
	}
	leaf := secure.ConnectionState().PeerCertificates[0]
	for _, ip := range leaf.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			ips = append(ips, a.Unmap())
		}
	}
	return leaf.DNSNames, ips, nil
}

// verifyChain verifies everything but the name.
func verifyChain(cs tls.ConnectionState, roots *x509.CertPool) error {
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(o)
	return err
}
