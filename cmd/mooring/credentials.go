package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/identity"
	"mooring.dev/mooring/internal/kube"
)

// defaultKubeconfig is where the agent's kubeconfig goes when no configuration says.
const defaultKubeconfig = "/etc/kubernetes/mooring.conf"

// places are where a distribution keeps its authorities on a control-plane node:
// client and its key sign users, server is what signs API servers.
type places struct{ name, client, key, server string }

// profiles are the distributions, looked for in this order.
func profiles() []places {
	return []places{
		{"kubeadm", "/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/ca.crt"},
		{"k0s", "/var/lib/k0s/pki/ca.crt", "/var/lib/k0s/pki/ca.key", "/var/lib/k0s/pki/ca.crt"},
		{"k3s", "/var/lib/rancher/k3s/server/tls/client-ca.crt", "/var/lib/rancher/k3s/server/tls/client-ca.key",
			"/var/lib/rancher/k3s/server/tls/server-ca.crt"},
	}
}

// minting is one run of `mooring credentials`.
type minting struct {
	node, out, server string
	ca                places
	life              time.Duration
	force             bool
	never             []netip.Addr // the VIPs
	now               time.Time
	say               io.Writer
}

// cmdCredentials makes the agent's kubeconfig on the node itself; the
// authority's key is read and goes nowhere.
func cmdCredentials(_ context.Context, args []string, out io.Writer) error {
	f := flags("credentials", "makes or renews the kubeconfig of this node's agent from the cluster's CA; "+
		"good in a timer: it writes when half of the certificate's life is over")
	path := f.String("config", defaultConfig, "the agent's configuration `FILE`, if there is one: "+
		"kubeconfig, node and port come from it")
	profile := f.String("profile", "", "where the CA is: kubeadm, k0s or k3s; empty looks for them in this order")
	days := f.Int("days", 365, "how long the certificate is good")
	csr := f.Bool("csr", false, "the CA's key is elsewhere: write a key and a request to be signed there")
	cert := f.String("cert", "", "the signed certificate `FILE` of an earlier --csr")
	m := minting{now: time.Now(), say: out}
	f.StringVar(&m.node, "node", "", "the `NODE`'s name; empty is the configuration's, else the host's")
	f.StringVar(&m.out, "out", "", "the kubeconfig to write; empty is the configuration's, else "+defaultKubeconfig)
	f.StringVar(&m.server, "server", "", "this node's own API server; empty is https://127.0.0.1:6443")
	f.StringVar(&m.ca.client, "ca", "", "the authority that API servers trust for clients, in place of the profile's")
	f.StringVar(&m.ca.key, "ca-key", "", "its key")
	f.StringVar(&m.ca.server, "server-ca", "", "the authority of API servers, if it is another one")
	f.BoolVar(&m.force, "force", false, "write over whatever is there")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if *csr && *cert != "" || *days < 1 || *days > 3650 {
		fmt.Fprintln(f.Output(), "mooring credentials: first --csr, then --cert FILE; --days is 1 to 3650")
		return errUsage
	}
	m.life = time.Duration(*days) * 24 * time.Hour
	if err := m.fromConfig(*path); err != nil {
		return err
	}
	if *csr {
		return m.request() // needs no authority: a worker has none
	}
	if err := m.place(*profile); err != nil {
		return err
	}
	switch {
	case *cert != "":
		return m.complete(*cert)
	default:
		return m.issue()
	}
}

// fromConfig fills in what the flags left out.
func (m *minting) fromConfig(path string) error {
	cfg, err := config.Load(path)
	port := uint16(6443)
	switch {
	case err == nil:
		m.never, port = cfg.APIServer.VIPs, cfg.APIServer.Port
	case !errors.Is(err, fs.ErrNotExist) || path != defaultConfig:
		return err
	}
	host, err := os.Hostname()
	if err != nil && m.node == "" && cfg.Node == "" {
		return fmt.Errorf("this host's name: %w; give --node", err)
	}
	m.node = first(m.node, cfg.Node, strings.ToLower(host))
	m.out = first(m.out, cfg.Kubeconfig, defaultKubeconfig)
	m.server = first(m.server, fmt.Sprintf("https://127.0.0.1:%d", port))
	return nil
}

// first is the first that is not empty.
func first(all ...string) string {
	i := slices.IndexFunc(all, func(s string) bool { return s != "" })
	if i < 0 {
		return ""
	}
	return all[i]
}

// place finds the authorities.
func (m *minting) place(profile string) error {
	var names, at []string
	for _, p := range profiles() {
		names, at = append(names, p.name), append(at, p.client)
		_, err := os.Stat(p.client)
		if profile == p.name || profile == "" && m.ca.client == "" && err == nil {
			m.ca.name = p.name
			m.ca.client, m.ca.key = first(m.ca.client, p.client), first(m.ca.key, p.key)
			m.ca.server = first(m.ca.server, p.server)
			return nil
		}
	}
	switch {
	case profile != "":
		return fmt.Errorf("there is no profile %q; there are %s", profile, strings.Join(names, ", "))
	case m.ca.client == "":
		return fmt.Errorf("no cluster CA on this host (looked for %s): run this on a control-plane node once its CA is "+
			"there (kubeadm init, or kubeadm init phase certs ca), or give --ca and --ca-key", strings.Join(at, ", "))
	}
	m.ca.server = first(m.ca.server, m.ca.client)
	return nil
}

// authorities reads the certificates of both.
func (m *minting) authorities() (client, server []byte, err error) {
	client, err = os.ReadFile(m.ca.client)
	if err != nil {
		return nil, nil, fmt.Errorf("the cluster's CA: %w; give --profile or --ca", err)
	}
	server, err = os.ReadFile(m.ca.server)
	if err != nil {
		return nil, nil, fmt.Errorf("the API servers' CA: %w; give --server-ca", err)
	}
	return client, server, nil
}

// issue signs with the authority's key, if it is time to.
func (m *minting) issue() error {
	client, server, err := m.authorities()
	if err != nil {
		return err
	}
	if good, err := m.present(client); good || err != nil {
		return err
	}
	key, err := os.ReadFile(m.ca.key)
	if errors.Is(err, fs.ErrNotExist) || m.ca.key == "" {
		return fmt.Errorf("the CA's key is not on this host (%s): mooring credentials --csr makes a request to be signed "+
			"where it is, or give --ca-key", orNone(m.ca.key))
	}
	if err != nil {
		return fmt.Errorf("the CA's key: %w", err)
	}
	ca, err := identity.NewAuthority(client, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", m.ca.client, m.ca.key, err)
	}
	pair, err := ca.Issue(m.node, m.now, m.life)
	if err != nil {
		return err
	}
	return m.write(pair, server)
}

// present looks at the kubeconfig that is there: good needs nothing. The error is
// one that is not to be written over.
func (m *minting) present(client []byte) (good bool, err error) {
	if m.force || isAbsent(m.out) {
		return false, nil
	}
	c, err := kube.ReadCredentials(m.out, m.never)
	if err != nil {
		return false, fmt.Errorf("%w; --force writes over it", err)
	}
	l, err := identity.Read(c.Cert)
	switch {
	case err != nil || !l.Of(m.node):
		return false, fmt.Errorf("%s is not the kubeconfig of %s: give another --out, or --force to write over it",
			m.out, identity.User(m.node))
	case !l.From(client):
		return false, fmt.Errorf("the certificate in %s is not signed by %s: is it another cluster's? --force writes over it",
			m.out, m.ca.client)
	case m.now.Before(l.At(1, 2)) && l.Valid(m.now):
		fmt.Fprintf(m.say, "%s is good until %s and is renewed from %s on: nothing to do (--force writes it anew)\n", m.out,
			l.NotAfter.UTC().Format(time.RFC3339), l.At(1, 2).UTC().Format(time.RFC3339))
		return true, nil
	}
	return false, nil
}

// write puts the kubeconfig in place, for its reader whole and for nobody else.
func (m *minting) write(p identity.Pair, server []byte) error {
	life, err := identity.Read(p.Cert)
	if err != nil {
		return err
	}
	c := kube.Credentials{Cert: p.Cert, Key: p.Key, Server: m.server, CA: server}
	text, err := kube.Kubeconfig(c, identity.User(m.node), serverName)
	if err != nil {
		return err
	}
	path := m.out
	if real, err := filepath.EvalSymlinks(m.out); err == nil {
		path = real
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	put := replace
	if st, err := os.Stat(path); err == nil && st.Size() == 0 {
		put = fill
	}
	if err := put(path, text); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	// What is written must be what the agent can use.
	if _, err := kube.ReadCredentials(path, m.never); err != nil {
		return err
	}
	fmt.Fprintf(m.say, "wrote %s: user %s, group %s, until %s, for %s\n", m.out, identity.User(m.node), identity.Group,
		life.NotAfter.UTC().Format(time.RFC3339), m.server)
	return nil
}

func (m *minting) keyPath() string     { return m.out + ".key" }
func (m *minting) requestPath() string { return m.out + ".csr" }

// request writes a key and a request for it; a key that is there already stays,
// for its request may be on its way.
func (m *minting) request() error {
	text, err := os.ReadFile(m.keyPath())
	var key identity.Key
	if err == nil && !m.force {
		key, err = identity.ParseKey(text)
		if err != nil {
			return fmt.Errorf("%s: %w; --force makes another", m.keyPath(), err)
		}
	} else if key, err = identity.NewKey(); err != nil {
		return err
	} else if text, err = key.PEM(); err != nil {
		return err
	}
	csr, err := key.Request(m.node)
	if err != nil {
		return err
	}
	err = errors.Join(os.MkdirAll(filepath.Dir(m.out), 0o755), replace(m.keyPath(), text), replace(m.requestPath(), csr))
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	fmt.Fprintf(m.say, "wrote %s, and its key %s, which stays here\n"+
		"have it signed by the authority that API servers trust for clients (--client-ca-file), for clientAuth, subject "+
		"O=%s, CN=%s as it stands; then: mooring credentials --cert FILE\n",
		m.requestPath(), m.keyPath(), identity.Group, identity.User(m.node))
	return nil
}

// complete takes the signed certificate.
func (m *minting) complete(file string) error {
	client, server, err := m.authorities()
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(m.keyPath())
	if err != nil {
		return fmt.Errorf("the key of the request: %w; mooring credentials --csr makes one", err)
	}
	p := identity.Pair{Cert: cert, Key: key}
	if _, err := p.Check(m.node, client, m.now); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if !m.force && !isAbsent(m.out) {
		c, err := kube.ReadCredentials(m.out, m.never)
		if l, bad := identity.Read(c.Cert); err != nil || bad != nil || !l.Of(m.node) {
			return fmt.Errorf("%s is not the kubeconfig of %s: give another --out, or --force to write over it",
				m.out, identity.User(m.node))
		}
	}
	if err := m.write(p, server); err != nil {
		return err
	}
	return errors.Join(os.Remove(m.keyPath()), os.Remove(m.requestPath()))
}
