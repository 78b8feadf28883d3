package haproxy

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// keyPair writes a certificate for a name to a file; the chain of a long one has
// more certificates after it.
func keyPair(t *testing.T, file, name string, chain int) *tls.Certificate {
	t.Helper()
	key, leaf := certificate(t, name, nil, nil)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	for range chain {
		_, more := certificate(t, "of the chain", nil, nil)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: more.Raw})...)
	}
	// An empty line, and what would be a command after it.
	text = append(text, "\nshutdown frontend fe_web\n\n"...)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	put(t, file, text)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// put replaces a file as the kubelet and we do it.
func put(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := writeAtomic(file, string(text)); err != nil {
		t.Fatal(err)
	}
}

// served is the name in the certificate that a client gets, and the first line.
func served(t *testing.T, to string) (string, string) {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 3 * time.Second}, "tcp", to,
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		return err.Error(), ""
	}
	defer c.Close()
	st := c.ConnectionState()
	if st.NegotiatedProtocol != "http/1.1" {
		t.Errorf("ALPN %q", st.NegotiatedProtocol)
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	return st.PeerCertificates[0].Subject.CommonName, strings.TrimSpace(line)
}

func TestCertificateIsSwapped(t *testing.T) {
	pods, dir := startPods(t, 1, 1), shortDir(t)
	file, other := dir+"/web.pem", dir+"/other.pem"
	keyPair(t, file, "one", 0)
	keyPair(t, other, "other", 0)
	s := newSvc(t, front("web", "192.0.2.10:443", pods, func(f *lb.Front) { f.TLS = file }),
		front("other", "192.0.2.10:444", pods, func(f *lb.Front) { f.TLS = other }))
	p := s.proxy()
	s.set(p)
	expect := func(when, name string, reloaded bool, worker int) {
		t.Helper()
		got, line := served(t, "192.0.2.10:443")
		if got != name || !strings.HasPrefix(line, "p1") {
			t.Errorf("%s: %q %q, want %q", when, got, line, name)
		}
		if (s.worker() != worker) != reloaded {
			t.Errorf("%s: worker %d, then %d", when, worker, s.worker())
		}
	}
	worker := s.worker()
	expect("at first", "one", false, worker)
	keyPair(t, file, "two", 0)
	s.set(p)
	expect("changed", "two", false, worker)
	keyPair(t, file, "three", 0)
	s.set(s.proxy())
	expect("changed while no agent was there", "three", false, worker)
	p = s.proxy()
	s.set(p)
	keyPair(t, file, "long", 60)
	s.set(p)
	expect("too long for the socket", "long", true, worker)
	worker = s.worker()

	// A key of another certificate, and no file at all: that frontend alone.
	text, _ := os.ReadFile(file)
	foreign, _ := os.ReadFile(other)
	_, key, _ := strings.Cut(string(foreign), "-----BEGIN PRIVATE KEY")
	cert, _, _ := strings.Cut(string(text), "-----BEGIN PRIVATE KEY")
	put(t, file, []byte(cert+"-----BEGIN PRIVATE KEY"+key))
	if st := s.set(p); !strings.Contains(st.Skipped["web"], file) || len(st.Skipped) != 1 {
		t.Errorf("a foreign key: %q", st.Skipped)
	}
	if name, _ := served(t, "192.0.2.10:444"); name != "other" {
		t.Errorf("the other frontend: %s", name)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if st := s.set(p); !strings.Contains(st.Skipped["web"], "no such file") {
		t.Errorf("no file: %q", st.Skipped)
	}
	keyPair(t, file, "back", 0)
	if st := s.set(p); len(st.Skipped) != 0 {
		t.Errorf("back: %q", st.Skipped)
	}
	expect("back", "back", true, worker)
}

// What HAProxy alone finds out costs the frontend, not the others.
func TestRefusedByHAProxy(t *testing.T) {
	pods, dir := startPods(t, 1, 1), shortDir(t)
	weak := dir + "/weak.pem"
	weakPair(t, weak)
	if _, err := loadCert(weak, nil); err != nil {
		t.Skip("found without HAProxy: ", err)
	}
	s := newSvc(t, front("good", "192.0.2.10:80", pods, nil), front("also", "192.0.2.10:81", pods, nil),
		front("weak", "192.0.2.10:443", pods, func(f *lb.Front) { f.TLS = weak }))
	p := s.proxy()
	st := s.set(p)
	if !strings.Contains(st.Skipped["weak"], "refuses") || len(st.Skipped) != 1 {
		t.Fatalf("%q", st.Skipped)
	}
	worker := s.worker()
	s.cfg.Frontends[0].Backends = nil
	if st = s.set(p); len(st.Skipped) != 1 || s.worker() != worker {
		t.Errorf("tried again without need: %q", st.Skipped)
	}
	s.cfg.Frontends = append(s.cfg.Frontends, front("new", "192.0.2.10:82", pods, nil))
	s.set(p)
	for _, to := range []string{"192.0.2.10:81", "192.0.2.10:82"} {
		if got := who("", to); got != "p1" {
			t.Errorf("%s: %q", to, got)
		}
	}
	// The same path with a good file.
	keyPair(t, weak, "strong", 0)
	if st = s.set(p); len(st.Skipped) != 0 {
		t.Errorf("%q", st.Skipped)
	}
	if name, _ := served(t, "192.0.2.10:443"); name != "strong" {
		t.Errorf("serves %q", name)
	}
}

// weakPair writes a certificate with a key that OpenSSL finds too small.
func weakPair(t *testing.T, file string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weak"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, file, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})...))
}
