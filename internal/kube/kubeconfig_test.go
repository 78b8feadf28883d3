package kube

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestKubeconfigErrors: each says what to do.
func TestKubeconfigErrors(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	head := "apiVersion: v1\nkind: Config\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n"
	nobody := "users: [{name: u, user: {}}]\n"
	pair := nobody + "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', "
	good := "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', certificate-authority: ca.crt}}]\n"
	write(t, filepath.Join(dir, "ca.crt"), ca.pem)
	stories := []struct{ name, text, want string }{
		{"garbage", "{{{", "write it again"},
		{"empty", "", "current-context that names a cluster"},
		{"no cluster", head + nobody, "current-context that names a cluster"},
		{"no CA", head + pair + "}}]\n", "add certificate-authority"},
		{"insecure", head + pair + "insecure-skip-tls-verify: true}}]\n", "remove it and give"},
		{"CA file missing", head + pair + "certificate-authority: gone.crt}}]\n", "certificate-authority"},
		{"http", head + nobody + "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:8080'}}]\n",
			"https://127.0.0.1:6443"},
		{"a proxy", head + strings.Replace(good, "6443", "6443/k8s", 1) + nobody, "has a path"},
		{"a plugin", head + good + "users: [{name: u, user: {exec: {command: x, " +
			"apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}]\n", "credential plugin"},
		{"certificate missing", head + good + "users: [{name: u, user: {client-certificate: no, client-key: no}}]\n",
			"client-certificate"},
		{"token file missing", head + good + "users: [{name: u, user: {tokenFile: gone}}]\n", "tokenFile"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			path := filepath.Join(dir, "config")
			write(t, path, []byte(s.text))
			_, err := NewServers(options(t, path))
			if err == nil || !strings.Contains(err.Error(), s.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q with the path", err, s.want)
			}
		})
	}
	if _, err := NewServers(options(t, filepath.Join(dir, "gone"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}
