package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// epoch is any moment: nothing here looks at a clock.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// must ends the test at the first error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// ca makes an authority that is good for ten years from the epoch, RSA as kubeadm's
// or elliptic as k3s's.
func ca(t *testing.T, name string, elliptical bool, change ...func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	for _, f := range change {
		f(c)
	}
	if elliptical {
		k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		der := must(x509.CreateCertificate(rand.Reader, c, c, k.Public(), k))(t)
		return pemOf("CERTIFICATE", der), pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(k))(t))
	}
	k := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	der := must(x509.CreateCertificate(rand.Reader, c, c, k.Public(), k))(t)
	return pemOf("CERTIFICATE", der), pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
}

// TestIssue: what the authority signs is what API servers and the agent itself ask for.
func TestIssue(t *testing.T) {
	for _, elliptical := range []bool{false, true} {
		cert, key := ca(t, "kubernetes", elliptical)
		a := must(NewAuthority(cert, key))(t)
		p := must(a.Issue("n1", epoch, 365*24*time.Hour))(t)
		l, err := p.Check("n1", cert, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if l.User != "mooring:node:n1" || len(l.Groups) != 1 || l.Groups[0] != "mooring:agents" {
			t.Errorf("it is %s of %v", l.User, l.Groups)
		}
		if got := l.NotAfter; !got.Equal(epoch.AddDate(1, 0, 0)) || !l.NotBefore.Equal(epoch.Add(-backdate)) {
			t.Errorf("good from %s until %s", l.NotBefore, got)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(cert)
		if _, err := l.leaf.Verify(x509.VerifyOptions{
			Roots: pool, CurrentTime: epoch, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil {
			t.Errorf("an API server refuses it: %v", err)
		}
		if l.leaf.IsCA || len(l.leaf.DNSNames)+len(l.leaf.IPAddresses) > 0 {
			t.Error("it is good for more than a client")
		}
		again, err := a.Issue("n1", epoch, time.Hour)
		if other, _ := Read(again.Cert); err != nil || other.leaf.SerialNumber.Cmp(l.leaf.SerialNumber) == 0 {
			t.Errorf("two certificates have one serial number (%v)", err)
		}
	}
}

// TestIssueLimits: never longer than the authority, nothing once that is over.
func TestIssueLimits(t *testing.T) {
	cert, key := ca(t, "kubernetes", true)
	a := must(NewAuthority(cert, key))(t)
	p := must(a.Issue("n1", epoch.AddDate(9, 11, 0), 365*24*time.Hour))(t)
	if l, err := Read(p.Cert); err != nil || !l.NotAfter.Equal(epoch.AddDate(10, 0, 0)) {
		t.Errorf("it ends at %s, its authority at %s (%v)", l.NotAfter, epoch.AddDate(10, 0, 0), err)
	}
	if _, err := a.Issue("n1", epoch.AddDate(11, 0, 0), time.Hour); err == nil || !strings.Contains(err.Error(), "renew it first") {
		t.Errorf("an authority that has expired signs: %v", err)
	}
}

func TestNewAuthorityRefuses(t *testing.T) {
	cert, key := ca(t, "one", true)
	other, _ := ca(t, "two", true)
	leaf, leafKey := ca(t, "leaf", true, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	for _, s := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"another's key", other, key, "do not belong together"},
		{"no key", cert, nil, "do not belong together or cannot be read"},
		{"no certificate", key, key, "do not belong together or cannot be read"},
		{"no authority", leaf, leafKey, `of "leaf" is no authority's`},
	} {
		if _, err := NewAuthority(s.cert, s.key); err == nil || !strings.Contains(err.Error(), s.want) {
			t.Errorf("%s: %v, want %q", s.name, err, s.want)
		}
	}
	if _, err := NewAuthority(append(cert, other...), key); err != nil {
		t.Errorf("a bundle whose first certificate is the key's: %v", err)
	}
}

// sign is a signer elsewhere: it takes the request as it is, but for a change.
func sign(t *testing.T, caCert, caKey, request []byte, change func(*x509.Certificate)) []byte {
	t.Helper()
	b, _ := pem.Decode(request)
	r := must(x509.ParseCertificateRequest(b.Bytes))(t)
	if err := r.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	a := must(NewAuthority(caCert, caKey))(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: r.Subject, NotBefore: epoch, NotAfter: epoch.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(c)
	}
	return pemOf("CERTIFICATE", must(x509.CreateCertificate(rand.Reader, c, a.cert, r.PublicKey, a.key))(t))
}

// TestCheck: an answer to a request is looked at before it is used.
func TestCheck(t *testing.T) {
	caCert, caKey := ca(t, "kubernetes", true)
	foreign, foreignKey := ca(t, "kubernetes", true) // the same name: a cluster made anew
	key := must(NewKey())(t)
	text := must(key.PEM())(t)
	again := must(ParseKey(text))(t)
	request := must(again.Request("n1"))(t)
	other := must(must(NewKey())(t).PEM())(t)
	for _, s := range []struct {
		name   string
		cert   []byte
		key    []byte
		change string
	}{
		{"as asked for", sign(t, caCert, caKey, request, nil), text, ""},
		{"for another key", sign(t, caCert, caKey, request, nil), other, "does not belong to the key"},
		{"for another node", sign(t, caCert, caKey, request, func(c *x509.Certificate) { c.Subject.CommonName = "mooring:node:n2" }),
			text, "must be for CN=mooring:node:n1"},
		{"with more groups", sign(t, caCert, caKey, request, func(c *x509.Certificate) {
			c.Subject.Organization = append(c.Subject.Organization, "system:masters")
		}), text, "O=mooring:agents alone"},
		{"for servers", sign(t, caCert, caKey, request, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), text, "clientAuth"},
		{"too late", sign(t, caCert, caKey, request, func(c *x509.Certificate) { c.NotAfter = epoch.Add(time.Minute) }),
			text, "it expired at 2030-01-02T03:05:05Z"},
		{"of another cluster", sign(t, foreign, foreignKey, request, nil), text, "not signed by the authority"},
		{"nothing", nil, text, "no certificate in it"},
		{"garbage", pemOf("CERTIFICATE", []byte("x")), text, "malformed"},
	} {
		_, err := Pair{Cert: s.cert, Key: s.key}.Check("n1", caCert, epoch.Add(2*time.Minute))
		if s.change == "" && err != nil || s.change != "" && (err == nil || !strings.Contains(err.Error(), s.change)) {
			t.Errorf("%s: %v, want %q", s.name, err, s.change)
		}
	}
	both := append(append([]byte{}, foreign...), caCert...)
	if _, err := (Pair{Cert: sign(t, caCert, caKey, request, nil), Key: text}).Check("n1", both, epoch); err != nil {
		t.Errorf("one of two authorities signed it: %v", err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for name, text := range map[string][]byte{"nothing": nil, "garbage": pemOf("PRIVATE KEY", []byte("x"))} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%s is a key", name)
		}
	}
}

// TestLife: the instants that decide when to renew.
func TestLife(t *testing.T) {
	l := Life{User: "mooring:node:n1", Groups: []string{Group}, NotBefore: epoch, NotAfter: epoch.Add(30 * time.Hour)}
	if got := l.At(2, 3); !got.Equal(epoch.Add(20 * time.Hour)) {
		t.Errorf("two thirds are over at %s", got)
	}
	if got := l.At(1, 2); !got.Equal(epoch.Add(15 * time.Hour)) {
		t.Errorf("half is over at %s", got)
	}
	for at, want := range map[time.Duration][2]bool{ // valid, expired
		-time.Second: {false, false}, 0: {true, false}, 30*time.Hour - 1: {true, false}, 30 * time.Hour: {false, true},
	} {
		if got := [2]bool{l.Valid(epoch.Add(at)), l.Expired(epoch.Add(at))}; got != want {
			t.Errorf("after %s: valid, expired are %v, want %v", at, got, want)
		}
	}
	if !l.Of("n1") || l.Of("n2") {
		t.Error("it is n1's alone")
	}
}
