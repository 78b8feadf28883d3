package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// Group is what the manifests grant the agents' rights to (the certificate's O).
	Group = "mooring:agents"
	// userPrefix begins the user's name (CN); the node's follows.
	userPrefix = "mooring:node:"

	pemCertificate = "CERTIFICATE"
	pemRequest     = "CERTIFICATE REQUEST"
	pemKey         = "PRIVATE KEY"
)

// User is the agent's name to the API server, the certificate's CN.
func User(node string) string { return userPrefix + node }

// Key is a private key made here.
type Key struct{ signer crypto.Signer }

// NewKey makes a P-256 key, which every API server since 1.0 takes and which a
// slow machine makes at once.
func NewKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return Key{k}, err
}

// ParseKey reads a key that PEM wrote.
func ParseKey(text []byte) (Key, error) {
	b, _ := pem.Decode(text)
	if b == nil {
		return Key{}, errors.New("no private key in it (PEM)")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return Key{}, err
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return Key{}, fmt.Errorf("a %T cannot sign", k)
	}
	return Key{signer}, nil
}

// PEM is the key in the PKCS #8 form.
func (k Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	return pemOf(pemKey, der), err
}

// Request is a certificate signing request (PKCS #10, PEM) for the node's agent.
func (k Key) Request(node string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject(node)}, k.signer)
	return pemOf(pemRequest, der), err
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: User(node), Organization: []string{Group}}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Pair is a client certificate and its key, both PEM. The certificate may have
// intermediates behind it.
type Pair struct{ Cert, Key []byte }

// Life is what a certificate says of itself.
type Life struct {
	User      string
	Groups    []string
	NotBefore time.Time
	NotAfter  time.Time
	leaf      *x509.Certificate
}

// Read parses the first certificate of a PEM text.
func Read(cert []byte) (Life, error) {
	b, _ := pem.Decode(cert)
	if b == nil || b.Type != pemCertificate {
		return Life{}, errors.New("no certificate in it (PEM)")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return Life{}, err
	}
	return Life{
		User: c.Subject.CommonName, Groups: c.Subject.Organization,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, leaf: c,
	}, nil
}

// Of says whether it is the identity of the node's agent, and nobody else's.
func (l Life) Of(node string) bool {
	return l.User == User(node) && slices.Equal(l.Groups, []string{Group})
}

// Expired says whether it is of no use any more.
func (l Life) Expired(now time.Time) bool { return !now.Before(l.NotAfter) }

// Valid says whether it is of use now.
func (l Life) Valid(now time.Time) bool { return !now.Before(l.NotBefore) && !l.Expired(now) }

// Whole is its whole life.
func (l Life) Whole() time.Duration { return l.NotAfter.Sub(l.NotBefore) }

// At is the instant when num/den of its life are over.
func (l Life) At(num, den int64) time.Time {
	return l.NotBefore.Add(l.Whole() / time.Duration(den) * time.Duration(num))
}

// From says whether one of the authorities (PEM) has signed it, without a look at
// the time.
func (l Life) From(authorities []byte) bool {
	for rest := authorities; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return false
		}
		ca, err := x509.ParseCertificate(b.Bytes)
		if err == nil && bytes.Equal(ca.RawSubject, l.leaf.RawIssuer) && l.leaf.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
}

// Check says why the pair does not make the node's agent known to API servers
// that trust the authorities (PEM; none are not looked at), or nil.
func (p Pair) Check(node string, authorities []byte, now time.Time) (Life, error) {
	l, err := Read(p.Cert)
	if err != nil {
		return l, err
	}
	if _, err := tls.X509KeyPair(p.Cert, p.Key); err != nil {
		return l, errors.New("the certificate does not belong to the key: it was issued for another request")
	}
	switch {
	case !l.Of(node):
		return l, fmt.Errorf("it is for CN=%s, O=%s and must be for CN=%s, O=%s alone: sign the request as it is",
			l.User, strings.Join(l.Groups, ", O="), User(node), Group)
	case !slices.Contains(l.leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return l, errors.New("it is not for clients: sign it with the extended key usage clientAuth")
	case l.Expired(now):
		return l, fmt.Errorf("it expired at %s", l.NotAfter.UTC().Format(time.RFC3339))
	case len(authorities) > 0 && !l.From(authorities):
		return l, errors.New("it is not signed by the authority that API servers trust for clients")
	}
	return l, nil
}
