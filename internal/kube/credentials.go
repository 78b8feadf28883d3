package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Credentials are what a kubeconfig holds, as far as renewing them goes.
type Credentials struct {
	// Cert and Key are the user's, PEM; none with a token.
	Cert, Key []byte
	// Embedded: they stand in the kubeconfig and not in files that it names, which
	// somebody else renews.
	Embedded bool
	// Server and CA are the cluster's, as in the file.
	Server string
	CA     []byte
}

// ReadCredentials reads a kubeconfig that an agent could use. The error wraps
// fs.ErrNotExist when there is none yet: an empty file is none, for kubelet makes
// such a one where a pod mounts it.
func ReadCredentials(path string, never []netip.Addr) (Credentials, error) {
	if st, err := os.Stat(path); err == nil && st.Size() == 0 {
		return Credentials{}, fmt.Errorf("kubeconfig %s is empty: %w", path, fs.ErrNotExist)
	}
	cfg, _, err := loadKubeconfig(path, never)
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{Server: cfg.Host, Embedded: len(cfg.CertData) > 0}
	var errs [3]error
	c.CA, errs[0] = dataOrFile(cfg.CAData, cfg.CAFile)
	c.Cert, errs[1] = dataOrFile(cfg.CertData, cfg.CertFile)
	c.Key, errs[2] = dataOrFile(cfg.KeyData, cfg.KeyFile)
	if err := errors.Join(errs[:]...); err != nil {
		return c, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if _, _, err := tlsConfig(cfg); err != nil {
		return c, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return c, nil
}

// SameCluster says whether both lead to the same server, trusted by the same
// authority.
func (c Credentials) SameCluster(other Credentials) bool {
	return c.Server == other.Server && bytes.Equal(bytes.TrimSpace(c.CA), bytes.TrimSpace(other.CA))
}

// Renewed returns the kubeconfig with another certificate and key of its current
// user, PEM, embedded; all else stays.
func Renewed(path string, cert, key []byte) ([]byte, error) {
	file, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	current := file.Contexts[file.CurrentContext]
	if current == nil || file.AuthInfos[current.AuthInfo] == nil {
		return nil, fmt.Errorf("kubeconfig %s has no current user", path)
	}
	u := file.AuthInfos[current.AuthInfo]
	u.ClientCertificate, u.ClientKey = "", ""
	u.ClientCertificateData, u.ClientKeyData = cert, key
	return clientcmd.Write(*file)
}

// Kubeconfig is one for a client certificate. serverName is looked for in the
// server's certificate, whatever its address is. c.Embedded is not looked at.
func Kubeconfig(c Credentials, user, serverName string) ([]byte, error) {
	f := clientcmdapi.NewConfig()
	f.Clusters["cluster"] = &clientcmdapi.Cluster{
		Server: c.Server, TLSServerName: serverName, CertificateAuthorityData: c.CA,
	}
	f.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: c.Cert, ClientKeyData: c.Key}
	f.Contexts["mooring"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: user}
	f.CurrentContext = "mooring"
	return clientcmd.Write(*f)
}
