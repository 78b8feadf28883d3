package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/identity"
	"mooring.dev/mooring/internal/kube"
)

// keptFile in stateDir is the kubeconfig with a renewed certificate where the
// file of the configuration cannot be written, as in a pod.
const keptFile = "credentials.conf"

// credentials are what a node shows to API servers.
type credentials struct {
	// path is the kubeconfig in use, missing one that does not exist yet.
	path    string
	missing bool
	kube.Credentials
	// life is the certificate's, if there is one.
	life   identity.Life
	known  bool
	digest [sha256.Size]byte // of the file
}

func keptCredentials(cfg config.Config) string { return filepath.Join(cfg.StateDir, keptFile) }

// credentialStamp tells that one of the files has changed without reading them.
func credentialStamp(cfg config.Config) string {
	return stampOf(cfg.Kubeconfig) + "|" + stampOf(keptCredentials(cfg))
}

// isAbsent says that there is no file yet. kubelet makes an empty one where a pod mounts it.
func isAbsent(path string) bool {
	st, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0
}

// chooseCredentials takes the kubeconfig of the configuration, or the one kept
// beside it that differs by a newer certificate, still valid, of the same user.
// The error is a file that is there and cannot be used.
func chooseCredentials(cfg config.Config, now time.Time) (credentials, error) {
	if isAbsent(cfg.Kubeconfig) {
		return credentials{path: cfg.Kubeconfig, missing: true}, nil
	}
	c, err := readCredentials(cfg.Kubeconfig, cfg)
	if err != nil {
		return c, err
	}
	kept, err := readCredentials(keptCredentials(cfg), cfg)
	if err == nil && kept.renews(c, now) {
		c = kept
	}
	return c, nil
}

// renews says whether c is the same identity as old with a newer certificate.
func (c credentials) renews(old credentials, now time.Time) bool {
	return c.known && old.known && c.SameCluster(old.Credentials) && c.life.User == old.life.User &&
		c.life.Valid(now) && c.life.NotBefore.After(old.life.NotBefore)
}

// readCredentials reads one kubeconfig.
func readCredentials(path string, cfg config.Config) (credentials, error) {
	c := credentials{path: path}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	c.digest = sha256.Sum256(text)
	if c.Credentials, err = kube.ReadCredentials(path, cfg.APIServer.VIPs); err != nil {
		return c, err
	}
	if len(c.Cert) > 0 {
		c.life, err = identity.Read(c.Cert)
		c.known = err == nil
	}
	return c, err
}

// kubeconfigOf is the file that the agent of this configuration uses now.
func kubeconfigOf(cfg config.Config) string {
	c, _ := chooseCredentials(cfg, time.Now())
	return cmp.Or(c.path, cfg.Kubeconfig) // who reads it says what is wrong
}

// findServers prepares the way to the API servers, or, without credentials, none.
func (n *node) findServers() error {
	n.looked = credentialStamp(n.cfg) // before they are read: a change meanwhile is seen
	c, err := chooseCredentials(n.cfg, time.Now())
	if err != nil {
		return err
	}
	n.credentials = c
	if c.missing {
		n.log.Warn("no credentials yet: going on without an API server", "kubeconfig", c.path)
		n.servers = kube.NoServers(n.serversOptions(c))
		return nil
	}
	n.servers, err = kube.NewServers(n.serversOptions(c))
	return err
}

func (n *node) serversOptions(c credentials) kube.ServersOptions {
	return kube.ServersOptions{Kubeconfig: c.path, Never: n.cfg.APIServer.VIPs, Log: n.log, Now: boottime, Crowd: ofGroup}
}

// newCredentials says whether other credentials than the node's are there that
// can be used. Those that cannot are said, and so is that a file is gone; what was
// read before stays in use.
func (n *node) newCredentials() bool {
	stamp := credentialStamp(n.cfg)
	if stamp == n.looked {
		return false
	}
	n.looked = stamp
	c, err := chooseCredentials(n.cfg, time.Now())
	if err == nil && !c.missing {
		_, err = kube.NewServers(n.serversOptions(c))
	}
	const stay = "; those read before stay in use"
	switch {
	case err != nil:
		n.complain("credentials-file", err.Error()+stay)
		n.log.Error("credentials not taken over", "err", err)
		return false
	case c.missing && !n.credentials.missing:
		n.complain("credentials-file", "kubeconfig "+c.path+" is gone"+stay)
		return false
	}
	n.complain("credentials-file", "")
	if c.missing || c.digest == n.credentials.digest {
		return false
	}
	n.log.Info("other credentials, starting over with the addresses kept", "kubeconfig", c.path)
	return true
}

// keepRenewed writes a renewed kubeconfig in place of the configuration's, or,
// where that cannot be written, beside the agent's state. It returns the path.
func keepRenewed(cfg config.Config, text []byte) (string, error) {
	kept := keptCredentials(cfg)
	path, err := filepath.EvalSymlinks(cfg.Kubeconfig)
	if err == nil {
		err = replace(path, text)
	}
	if err == nil {
		_ = os.Remove(kept) // one key less on the disk
		return path, nil
	}
	if other := replace(kept, text); other != nil {
		return "", errors.Join(err, other)
	}
	return kept, nil
}

// replace writes a secret file that its readers see whole, and that a power
// failure leaves whole.
func replace(path string, text []byte) error {
	next := path + ".next"
	_ = os.Remove(next) // of whatever mode and owner
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next)
	}
	return err
}

// fill writes a file that is there and empty in place: a pod that mounts it sees
// what is written, and not what takes its name.
func fill(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Chmod(0o600) // before the secret is in it
	if err == nil {
		_, err = f.Write(text)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// credentialsReport is what `mooring status` says of them.
type credentialsReport struct {
	Kubeconfig string     `json:"kubeconfig"`
	User       string     `json:"user,omitempty"`
	Expires    *time.Time `json:"expires,omitempty"`
	// Request is the CertificateSigningRequest under way.
	Request string `json:"request,omitempty"`
}

// line is the report for people.
func (r credentialsReport) line(now time.Time) string {
	switch {
	case r.Kubeconfig == "":
		return "" // an agent of an older version
	case r.Expires == nil && r.User == "":
		return "credentials: " + r.Kubeconfig
	}
	text := fmt.Sprintf("credentials: %s, until %s (%s)", r.User, r.Expires.UTC().Format(time.DateOnly),
		left(*r.Expires, now))
	if r.Request != "" {
		text += ", renewal asked for: " + r.Request
	}
	return text
}

// left prints how long until then, as people say it.
func left(then, now time.Time) string {
	switch d := then.Sub(now); {
	case d <= 0:
		return "expired"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes left", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours left", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days left", int(d.Hours()/24))
	}
}

// behindMount says that the file has no name any more: it was replaced on the node,
// and a pod that mounts the file itself goes on seeing what was there before.
func behindMount(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Nlink != 0 {
		return ""
	}
	return fmt.Sprintf("%s was replaced on the node, and this pod's mount shows what was there before: restart the pod, "+
		"and let it mount the directory instead (kubeconfig: /etc/mooring/mooring.conf)", path)
}

// hasCA finds the cluster's authority, of the kubeconfig or, without, of the last
// run of this boot: HAProxy's checks need it. Without it the node's own API server
// is what answers at the VIP.
func (n *node) hasCA() bool {
	if len(bytes.TrimSpace(n.servers.CAPEM())) > 0 {
		return true
	}
	_, err := os.Stat(n.file(caFile))
	return err == nil
}
