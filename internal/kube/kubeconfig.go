package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// userAgent is what the API server's audit log shows.
const userAgent = "mooring"

// loadKubeconfig reads the file and refuses, with the way out, what cannot
// lead to an API server of this cluster.
func loadKubeconfig(path string, never []netip.Addr) (*rest.Config, *url.URL, error) {
	// LoadFromFile and not the deferred loader, which would silently fall
	// back to a Pod's service account when the file holds nothing.
	file, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w; create it for this node's user, "+
			"or set \"kubeconfig\" in the configuration to the file that exists", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w; write it again with a tool of your cluster", path, err)
	}
	for _, c := range file.Clusters {
		c.LocationOfOrigin = path
	}
	for _, u := range file.AuthInfos {
		u.LocationOfOrigin = path
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w; it needs a current-context that names a cluster and a user, "+
			"and the files these name (certificate-authority, client-certificate, client-key, tokenFile)", path, err)
	}
	server, err := checkKubeconfig(cfg, never)
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	cfg.UserAgent = userAgent
	return cfg, server, nil
}

// checkKubeconfig says what is missing for reaching an API server directly.
func checkKubeconfig(cfg *rest.Config, never []netip.Addr) (*url.URL, error) {
	u, err := url.Parse(cfg.Host)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("the cluster's server is %q; set it to this node's own API server, "+
			"for example https://127.0.0.1:6443", cfg.Host)
	case u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("the cluster's server %s has a path, so it is a proxy; "+
			"set it to this node's own API server, for example https://127.0.0.1:6443", cfg.Host)
	case isOneOf(u.Hostname(), never):
		return nil, fmt.Errorf("the cluster's server %s is the virtual IP itself, which needs this agent to be up; "+
			"set it to this node's own API server, for example https://127.0.0.1:6443", cfg.Host)
	case cfg.Insecure:
		return nil, errors.New("insecure-skip-tls-verify is set; " +
			"remove it and give the cluster's certificate-authority (often /etc/kubernetes/pki/ca.crt)")
	case cfg.CAFile == "" && len(cfg.CAData) == 0:
		return nil, errors.New("the cluster has no certificate-authority; " +
			"add certificate-authority (often /etc/kubernetes/pki/ca.crt) or certificate-authority-data")
	case cfg.ExecProvider != nil || cfg.AuthProvider != nil:
		return nil, errors.New("the user needs a credential plugin, which does not exist where the agent runs; " +
			"give a client certificate or a tokenFile")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	return u, nil
}

// isOneOf compares a host, as an address, with the list.
func isOneOf(host string, list []netip.Addr) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, a := range list {
		if a.Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}

// tlsConfig is the cluster's CA and the user's client certificate, read again
// from its file at handshakes, so that a rotated one is used.
func tlsConfig(cfg *rest.Config) (*tls.Config, []byte, error) {
	c, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates of the kubeconfig: %w; "+
			"check that certificate-authority, client-certificate and client-key exist and belong together", err)
	}
	ca, err := dataOrFile(cfg.CAData, cfg.CAFile)
	return c, ca, err
}

// dataOrFile returns the data if there is any, else the file's content.
func dataOrFile(data []byte, file string) ([]byte, error) {
	if len(data) > 0 || file == "" {
		return data, nil
	}
	return os.ReadFile(file)
}

// CAPEM returns the cluster's certificate authority as PEM.
func (s *Servers) CAPEM() []byte { return s.ca }

// ClientPEM returns the user's certificate followed by its key as PEM, as
// HAProxy's crt wants it, read at this moment, or nil when the user of the
// kubeconfig has no readable client certificate (a token).
func (s *Servers) ClientPEM() []byte {
	cert, err := dataOrFile(s.base.CertData, s.base.CertFile)
	if err != nil || len(cert) == 0 {
		return nil
	}
	key, err := dataOrFile(s.base.KeyData, s.base.KeyFile)
	if err != nil || len(key) == 0 {
		return nil
	}
	both := append([]byte{}, cert...)
	if both[len(both)-1] != '\n' {
		both = append(both, '\n')
	}
	return append(both, key...)
}
