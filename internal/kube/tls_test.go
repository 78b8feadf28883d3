package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority is a certificate authority for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = issue(t, nil, "test CA")
	return a
}

// issue makes a certificate for names and addresses, signed by itself without
// an authority.
func issue(
	t *testing.T, by *authority, cn string, names ...string,
) (_ *x509.Certificate, _ *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: by == nil, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}

// apiserver is an API server as far as HTTP and TLS go.
type apiserver struct {
	t    *testing.T
	ca   *authority
	addr string
	cert tls.Certificate
	http *httptest.Server
	mu   sync.Mutex
	// answer is what it does; it may be changed.
	answer http.HandlerFunc
	asked  int
	peer   string // common name of the last client certificate
	auth   string // last Authorization header
}

// newAPIServer starts one at addr (127.0.0.1:0 for any port) whose certificate
// has the names.
func newAPIServer(t *testing.T, ca *authority, addr string, names ...string) *apiserver {
	t.Helper()
	s := &apiserver{t: t, ca: ca, addr: addr, answer: func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, addr)
	}}
	_, _, cert, key := issue(t, ca, "kube-apiserver", names...)
	var err error
	if s.cert, err = tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens, after stop at the same address.
func (s *apiserver) start() {
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	h := httptest.NewUnstartedServer(s)
	h.Listener.Close()
	h.Listener = l
	h.EnableHTTP2 = true
	h.Config.ErrorLog = log.New(s.t.Output(), "", 0)
	h.TLS = &tls.Config{
		Certificates: []tls.Certificate{s.cert}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	h.StartTLS()
	s.http = h
}

// stop ends the server and all its connections.
func (s *apiserver) stop() {
	if s.http == nil {
		return
	}
	s.http.CloseClientConnections()
	s.http.Close()
	s.http = nil
}

// ServeHTTP implements http.Handler.
func (s *apiserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	s.auth = r.Header.Get("Authorization")
	s.peer = ""
	if len(r.TLS.PeerCertificates) > 0 {
		s.peer = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	answer := s.answer
	s.mu.Unlock()
	answer(w, r)
}

// does changes the answer.
func (s *apiserver) does(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// count returns how often it was asked.
func (s *apiserver) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// silent accepts connections and never says a word, as the kernel does for a
// stopped process.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	return l.Addr().String()
}

// kubeconfig writes a kubeconfig for a server; user is the YAML of its user.
func kubeconfig(t *testing.T, ca *authority, server, user string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.crt"), ca.pem)
	path := filepath.Join(dir, "config")
	// A relative path is relative to the file (client-go clientcmd).
	write(t, path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: ca.crt}}]
users: [{name: u, user: %s}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, server, user))
	return path
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// options are good for a test.
func options(t *testing.T, path string) ServersOptions {
	start := time.Now()
	return ServersOptions{Kubeconfig: path, Log: quiet(t), Now: func() time.Duration { return time.Since(start) }}
}

// noLeak fails if a goroutine of this package outlives the test.
func noLeak(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var text string
		for range 100 {
			buf := make([]byte, 1<<20)
			text = string(buf[:runtime.Stack(buf, true)])
			text = strings.Join(strings.SplitAfter(text, "\n\n")[1:], "") // the first is this one
			if !strings.Contains(text, "internal/kube.") && !strings.Contains(text, "http2clientConn") &&
				!strings.Contains(text, "clientConnReadLoop") {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("goroutines left:\n%s", text)
	})
}
