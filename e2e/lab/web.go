package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
)

// SelfSigned is a certificate for a host name, signed by an authority of its own, and
// its key, PEM.
func SelfSigned(t T, host string) (crt, key []byte) {
	ca, err := newAuthority("lab web")
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	crt, private, err := ca.issue(pkix.Name{CommonName: host}, []string{host})
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	if key, err = keyPEM(private); err != nil {
		t.Fatalf("lab: %v", err)
	}
	return crt, key
}

// Handshake asks a web server at address over TLS, whoever signed its certificate, and
// returns the name in it once the server behind has answered.
func (h *Host) Handshake(ctx context.Context, address string) (string, error) {
	raw, err := h.dialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	// The name is what is asked for here, not who vouches for it.
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}
