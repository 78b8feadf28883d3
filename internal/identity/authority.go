package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// backdate is how far a certificate's beginning lies in the past, as the
// cluster's own signer has it: clocks of nodes differ.
const backdate = 5 * time.Minute

// Authority signs agents' certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority takes the authority's certificate, the first of the text, and its
// key (PEM; PKCS #1, PKCS #8 or SEC 1, not encrypted). The error says what of
// them cannot be used.
func NewAuthority(cert, key []byte) (Authority, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return Authority{}, fmt.Errorf("the authority's certificate and key do not belong together or cannot be read: %w",
			err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return Authority{}, errors.New("the authority's key cannot sign")
	case !pair.Leaf.IsCA:
		return Authority{}, fmt.Errorf("the certificate of %q is no authority's", pair.Leaf.Subject.CommonName)
	}
	return Authority{cert: pair.Leaf, key: signer}, nil
}

// Issue makes a key and a client certificate of the node's agent, good from a
// moment before now for the given time, at most as long as the authority itself.
func (a Authority) Issue(node string, now time.Time, life time.Duration) (Pair, error) {
	if !now.Before(a.cert.NotAfter) {
		return Pair{}, fmt.Errorf("the authority %q expired at %s: renew it first", a.cert.Subject.CommonName,
			a.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	key, err := NewKey()
	if err != nil {
		return Pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // RFC 5280 §4.1.2.2: at most 20 octets
	if err != nil {
		return Pair{}, err
	}
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: subject(node), NotBefore: now.Add(-backdate), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.signer.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("signing with the authority's key: %w", err)
	}
	text, err := key.PEM()
	return Pair{Cert: pemOf(pemCertificate, der), Key: text}, err
}
