package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// openLimit bounds the opening of a stream, not its life.
const openLimit = 3 * time.Second

// Watch is a kube watch from the host through address ("10.99.0.200:6443") on an
// object that changes every 50 ms.
func (h *Host) Watch(address string) *Stream {
	h.lab.startPulse()
	return h.lab.startStream("watch", h.getter("https://"+address+pulsePath, -1))
}

// Download reads that many bytes at an even rate from a pod, through the proxy
// subresource of the API server at address. Stop waits for nothing: see Done.
func (h *Host) Download(address string, bytes int64, over time.Duration) *Stream {
	h.lab.needBackend()
	url := fmt.Sprintf("https://%s%s/zeros?bytes=%d&seconds=%f", address, backendPath, bytes, over.Seconds())
	return h.lab.startStream("download", h.getter(url, bytes))
}

// Upgraded is a connection upgraded through the proxy subresource of the API
// server at address, as exec and port-forward are: a line goes to a pod and back
// every 50 ms.
func (h *Host) Upgraded(address string) *Stream {
	h.lab.needBackend()
	cfg := h.lab.adminTLS()
	return h.lab.startStream("upgraded stream", func(ctx context.Context, opened func(), got func(int)) error {
		return h.converse(ctx, address, cfg, opened, got)
	})
}

// needBackend puts the backend on the last node that is on.
func (l *Lab) needBackend() {
	on := l.on()
	l.Backend(on[len(on)-1])
}

// adminTLS is a cluster-admin's side of a connection.
func (l *Lab) adminTLS() *tls.Config {
	certPEM, keyPEM, err := l.keys().client("kubernetes-admin", "system:masters")
	l.must(err)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	l.must(err)
	cfg := l.tlsConfig()
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}

// getter reads the body of one GET; want is its length, -1 if it has no end.
func (h *Host) getter(url string, want int64) func(context.Context, func(), func(int)) error {
	transport := &http.Transport{DialContext: h.dialContext, TLSClientConfig: h.lab.adminTLS(),
		DisableKeepAlives: true, TLSHandshakeTimeout: openLimit, ResponseHeaderTimeout: openLimit}
	return func(ctx context.Context, opened func(), got func(int)) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		opened()
		return readAll(resp.Body, want, got)
	}
}

// readAll takes each piece as it arrives.
func readAll(body io.Reader, want int64, got func(int)) error {
	buf, total := make([]byte, 64<<10), int64(0)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			total += int64(n)
			got(n)
		}
		if errors.Is(err, io.EOF) && total == want {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		if err != nil {
			return err
		}
	}
}

// errEnded: the other side ended what should have gone on, without an error.
var errEnded = errors.New("ended")

// converse upgrades a connection and speaks on it until it breaks.
func (h *Host) converse(ctx context.Context, address string, cfg *tls.Config, opened func(), got func(int)) error {
	dialling, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	raw, err := h.dialContext(dialling, "tcp", address)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	cfg = cfg.Clone()
	if host, _, err := net.SplitHostPort(address); err == nil && cfg.ServerName == "" {
		cfg.ServerName = host
	}
	conn := tls.Client(raw, cfg)
	if err := conn.SetDeadline(time.Now().Add(openLimit)); err != nil {
		return err
	}
	answers, err := upgrade(conn, address)
	if err != nil {
		return err
	}
	opened()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	go speak(conn)
	for {
		line, err := answers.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		if err != nil {
			return err
		}
		got(len(line))
	}
}

// upgrade shakes hands and returns what comes after.
func upgrade(conn net.Conn, address string) (*bufio.Reader, error) {
	_, err := fmt.Fprintf(conn, "GET %s/upgrade HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		backendPath, address, upgradeTo)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	return r, nil
}

// speak writes until the connection is closed or breaks.
func speak(conn net.Conn) {
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(conn, "line %d\n", i); err != nil {
			return
		}
		time.Sleep(pulseEvery)
	}
}
