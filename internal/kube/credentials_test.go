package kube

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// TestKubeconfigIsOurs: what is written leads an agent to its API server, with its
// certificate, although the server's names no address.
func TestKubeconfigIsOurs(t *testing.T) {
	ca := newAuthority(t)
	api := newAPIServer(t, ca, "127.0.0.1:0", "kubernetes", "10.0.0.11") // as kubeadm's: no 127.0.0.1
	_, _, cert, key := issue(t, ca, "mooring:node:n1")
	text, err := Kubeconfig(Credentials{Cert: cert, Key: key, Server: "https://" + api.addr, CA: ca.pem},
		"mooring:node:n1", "kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mooring.conf")
	write(t, path, text)
	c, err := ReadCredentials(path, nil)
	if err != nil || !c.Embedded || !bytes.Equal(c.Cert, cert) || !bytes.Equal(c.Key, key) || !bytes.Equal(c.CA, ca.pem) {
		t.Fatalf("read back: %v\n%s", err, text)
	}
	s, err := NewServers(options(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := s.LocalReady(t.Context()); !ok || err != nil {
		t.Errorf("the API server was not reached: %v", err)
	}
	if api.peer != "mooring:node:n1" {
		t.Errorf("the API server saw %q", api.peer)
	}
	// Another certificate in its place.
	_, _, next, nextKey := issue(t, ca, "mooring:node:n1", "renewed")
	text, err = Renewed(path, next, nextKey)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "renewed.conf")
	write(t, other, text)
	r, err := ReadCredentials(other, nil)
	if err != nil || !bytes.Equal(r.Cert, next) || !bytes.Equal(r.Key, nextKey) || !r.SameCluster(c) {
		t.Errorf("renewed: %v\n%s", err, text)
	}
	if s, err = NewServers(options(t, other)); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.LocalReady(t.Context()); !ok || err != nil {
		t.Errorf("with the renewed one: %v", err)
	}
}

// TestReadCredentials: what is not ours to renew, and what is none.
func TestReadCredentials(t *testing.T) {
	ca := newAuthority(t)
	dir := t.TempDir()
	_, _, cert, key := issue(t, ca, "u")
	write(t, filepath.Join(dir, "c.crt"), cert)
	write(t, filepath.Join(dir, "c.key"), key)
	files := kubeconfig(t, ca, "https://127.0.0.1:6443", fmt.Sprintf("{client-certificate: %[1]s/c.crt, client-key: %[1]s/c.key}", dir))
	if c, err := ReadCredentials(files, nil); err != nil || c.Embedded || !bytes.Equal(c.Cert, cert) || !bytes.Equal(c.CA, ca.pem) {
		t.Errorf("files: embedded %t, %v", c.Embedded, err)
	}
	if c, err := ReadCredentials(kubeconfig(t, ca, "https://127.0.0.1:6443", "{token: x}"), nil); err != nil || c.Cert != nil {
		t.Errorf("a token: %v", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	_, _, _, foreign := issue(t, ca, "u")
	mixed := fmt.Sprintf("{client-certificate-data: %s, client-key-data: %s}", b64(cert), b64(foreign))
	if _, err := ReadCredentials(kubeconfig(t, ca, "https://127.0.0.1:6443", mixed), nil); err == nil ||
		!strings.Contains(err.Error(), "belong together") {
		t.Errorf("another's key: %v", err)
	}
	vips := []netip.Addr{netip.MustParseAddr("10.9.0.10")}
	if _, err := ReadCredentials(kubeconfig(t, ca, "https://10.9.0.10:6443", "{token: x}"), vips); err == nil {
		t.Error("through the virtual IP")
	}
	empty := filepath.Join(dir, "empty")
	write(t, empty, nil)
	for _, path := range []string{empty, filepath.Join(dir, "gone")} {
		if _, err := ReadCredentials(path, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSameCluster(t *testing.T) {
	c := Credentials{Server: "https://127.0.0.1:6443", CA: []byte("ca\n")}
	for _, s := range []struct {
		other Credentials
		want  bool
	}{
		{Credentials{Server: "https://127.0.0.1:6443", CA: []byte("ca"), Cert: []byte("x")}, true},
		{Credentials{Server: "https://127.0.0.1:6443", CA: []byte("made anew")}, false},
		{Credentials{Server: "https://127.0.0.2:6443", CA: []byte("ca")}, false},
	} {
		if got := c.SameCluster(s.other); got != s.want {
			t.Errorf("%+v: %t", s.other, got)
		}
	}
}

// TestNoNamedUser: a kubeconfig without a current user is none to renew.
func TestNoNamedUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf")
	write(t, path, []byte("apiVersion: v1\nkind: Config\ncurrent-context: gone\n"))
	if _, err := Renewed(path, nil, nil); err == nil || !strings.Contains(err.Error(), "no current user") {
		t.Error(err)
	}
	if _, err := Renewed(path+".gone", nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
