package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certLife is how long the lab's certificates are valid.
const certLife = 365 * 24 * time.Hour

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// pki is the cluster's set of keys, laid out as kubeadm does, in one directory.
type pki struct {
	dir   string
	ca    *authority // clients and API servers
	etcd  *authority
	front *authority // aggregation layer
}

// newPKI makes the authorities, the service account key and the certificates that
// all nodes share. Serving certificates of API servers are made per node.
func newPKI(dir string, etcdHosts []string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pki{dir: dir}
	for name, ca := range map[string]**authority{"ca": &p.ca, "etcd-ca": &p.etcd, "front-proxy-ca": &p.front} {
		a, err := newAuthority(name)
		if err != nil {
			return nil, err
		}
		*ca = a
		if err := p.writePair(name, a.pem, a.key); err != nil {
			return nil, err
		}
	}
	shared := []struct {
		by   *authority
		file string
		name pkix.Name
		sans []string
	}{
		{p.etcd, "etcd", pkix.Name{CommonName: "etcd"}, append(etcdHosts, "127.0.0.1", "localhost")},
		{p.front, "front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}, nil},
		{p.ca, "apiserver-kubelet-client",
			pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, nil},
	}
	for _, s := range shared {
		cert, key, err := s.by.issue(s.name, s.sans)
		if err != nil {
			return nil, err
		}
		if err := p.writePair(s.file, cert, key); err != nil {
			return nil, err
		}
	}
	return p, p.writeServiceAccountKey()
}

// writeServiceAccountKey uses an elliptic key: Kubernetes takes it, and an RSA key
// costs up to a second of processor time.
func (p *pki) writeServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := p.write("sa.pub", pemOf("PUBLIC KEY", pub)); err != nil {
		return err
	}
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	return p.write("sa.key", text)
}

// serving issues node's API server certificate as apiserver-NODE.crt and .key. Its
// common name identifies the server that answered through a VIP ([serverOf]).
func (p *pki) serving(node string, sans []string) error {
	cert, key, err := p.ca.issue(pkix.Name{CommonName: servingPrefix + node}, sans)
	if err != nil {
		return err
	}
	return p.writePair("apiserver-"+node, cert, key)
}

// servingPrefix begins the common name of a serving certificate; the node follows.
const servingPrefix = "kube-apiserver-"

// serverOf is the node whose API server owns a serving certificate.
func serverOf(cert *x509.Certificate) string {
	name := cert.Subject.CommonName
	if len(name) > len(servingPrefix) && name[:len(servingPrefix)] == servingPrefix {
		return name[len(servingPrefix):]
	}
	return name
}

// kubeconfig issues a client certificate and wraps it.
func (p *pki) kubeconfig(server, user string, groups ...string) ([]byte, error) {
	cert, key, err := p.client(user, groups...)
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: lab, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
`, server, b64(p.ca.pem), b64(cert), b64(key)), nil
}

// client issues a client certificate as PEM.
func (p *pki) client(user string, groups ...string) (cert, key []byte, err error) {
	cert, signer, err := p.ca.issue(pkix.Name{CommonName: user, Organization: groups}, nil)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(signer)
	return cert, key, err
}

// roots trusts the cluster's authority.
func (p *pki) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.cert)
	return pool
}

// newAuthority makes a self-signed authority. Three different ones are used so that
// a certificate shown to the wrong party is refused, as in a real cluster.
func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key, pem: pemOf("CERTIFICATE", der)}, err
}

// issue makes a certificate good for servers and clients. SANs may be names or addresses.
func (a *authority) issue(subject pkix.Name, sans []string) ([]byte, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t, err := template(subject)
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	return pemOf("CERTIFICATE", der), key, err
}

// template is valid from an hour ago: clocks in a test may be moved back a little.
func template(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
	}, nil
}

// keyPEM uses the SEC 1 form, which every component reads, service accounts included.
func keyPEM(key crypto.Signer) ([]byte, error) {
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T is not a key the lab makes", key)
	}
	der, err := x509.MarshalECPrivateKey(ec)
	return pemOf("EC PRIVATE KEY", der), err
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writePair writes NAME.crt and NAME.key.
func (p *pki) writePair(name string, cert []byte, key crypto.Signer) error {
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := p.write(name+".crt", cert); err != nil {
		return err
	}
	return p.write(name+".key", text)
}

// write keeps everything private: a lab may run on a shared machine.
func (p *pki) write(name string, text []byte) error { return os.WriteFile(p.path(name), text, 0o600) }

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }
