package haproxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write golden files anew")

const (
	envInside = "MOORING_TEST_NETNS"
	envTmp    = "MOORING_TEST_TMP"
)

// TestMain runs all tests in a network namespace of their own, made by
// running this binary again, so that HAProxy can bind what it likes and a
// crash leaves nothing behind: the outer process ends what the inner left.
func TestMain(m *testing.M) {
	if os.Getenv(envInside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	os.Exit(inNamespace())
}

func inNamespace() int {
	tmp, err := os.MkdirTemp("", "mhx")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	defer sweep(tmp)
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1", envTmp+"="+tmp)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// sweep kills what was started with a file below dir.
func sweep(dir string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		text, _ := os.ReadFile(name)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if strings.Contains(string(text), dir+"/") && pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// needNetwork skips where no namespace could be made, and sets up loopback
// with the addresses the tests use.
func needNetwork(t *testing.T) {
	t.Helper()
	if os.Getenv(envInside) == "" {
		t.Skip("needs root")
	}
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "ip", "addr", "replace", "192.0.2.10/32", "dev", "lo")
	run(t, "ip", "addr", "replace", "2001:db8::10/128", "dev", "lo", "nodad")
}

// run runs a command that must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mustRun is run for benchmarks too.
func mustRun(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// shortDir is a directory with a name short enough for unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv(envTmp), "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// pki is a certificate authority with one certificate for "kubernetes".
type pki struct {
	caFile, clientFile string
	pool               *x509.CertPool
	cert               tls.Certificate
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := shortDir(t)
	caKey, ca := certificate(t, "mooring test CA", nil, nil)
	key, leaf := certificate(t, "kubernetes", ca, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{caFile: dir + "/ca.crt", clientFile: dir + "/client.pem", pool: x509.NewCertPool()}
	p.pool.AddCert(ca)
	p.cert = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	for name, content := range map[string][]byte{p.caFile: caPEM, p.clientFile: both} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func certificate(t *testing.T, name string, parent *x509.Certificate,
	signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		tmpl.DNSNames, parent, signer = nil, tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// apiServer is a small TLS server that answers as an API server does.
type apiServer struct {
	name string
	addr netip.AddrPort
	// ready is what /readyz answers with, 200 at first.
	ready atomic.Int32
	// hung makes TLS handshakes wait for ever.
	hung atomic.Bool
	// clients counts the client certificates seen on /readyz.
	clients atomic.Int32
	http    *http.Server
}

// startAPI starts a server; it ends with the test.
func startAPI(t *testing.T, p *pki, name, addr string) *apiServer {
	t.Helper()
	s := &apiServer{name: name, addr: netip.MustParseAddrPort(addr)}
	s.ready.Store(http.StatusOK)
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		s.clients.Add(int32(len(r.TLS.PeerCertificates)))
		w.WriteHeader(int(s.ready.Load()))
	})
	mux.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	gone := make(chan struct{})
	s.http = &http.Server{Handler: mux, ErrorLog: nil}
	s.http.TLSConfig = &tls.Config{
		Certificates: []tls.Certificate{p.cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: p.pool,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if s.hung.Load() {
				<-gone
			}
			return nil, nil
		},
	}
	s.http.ErrorLog = discardLog()
	// SO_REUSEADDR is Go's default, so a killed server can be started again.
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(gone); s.http.Close() })
	go s.http.ServeTLS(l, "", "")
	return s
}

// kill ends a server as SIGKILL does: connections reset or refused.
func (s *apiServer) kill() { s.http.Close() }

// get asks for a path at an address and returns the body.
func (p *pki) get(addr, path string) (string, error) {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: p.pool, ServerName: "kubernetes"},
		DisableKeepAlives: true,
	}
	defer tr.CloseIdleConnections()
	c := http.Client{Transport: tr, Timeout: 3 * time.Second}
	resp, err := c.Get("https://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// dial opens one TLS connection that is kept.
func (p *pki) dial(t *testing.T, addr string) *tls.Conn {
	t.Helper()
	d := &net.Dialer{Timeout: 3 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", addr, &tls.Config{RootCAs: p.pool, ServerName: "kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// client starts TLS on a connection.
func (p *pki) client(c net.Conn) *tls.Conn {
	return tls.Client(c, &tls.Config{RootCAs: p.pool, ServerName: "kubernetes"})
}

// askOver sends one request over a kept connection and returns the whole answer.
func askOver(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, "GET /name HTTP/1.1\r\nHost: kubernetes\r\n\r\n"); err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// eventually waits until ok is true and fails the test after limit; it
// returns how long it took.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(begin)
}

// within is a context that ends with the test and after some time.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
