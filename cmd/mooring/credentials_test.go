package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/identity"
	"mooring.dev/mooring/internal/kube"
)

// pkiDir has an authority as kubeadm leaves it.
func pkiDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := pair(t)
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), cert, 0o644), os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600))
	return dir
}

// mint runs `mooring credentials` with that authority; it gives what was printed.
func mint(t *testing.T, pki, out string, args ...string) (string, error) {
	t.Helper()
	var said bytes.Buffer
	all := append([]string{"--ca", filepath.Join(pki, "ca.crt"), "--ca-key", filepath.Join(pki, "ca.key"),
		"--node", "n1", "--out", out}, args...)
	err := cmdCredentials(t.Context(), all, &said)
	return said.String(), err
}

// minted is the life of the certificate in a kubeconfig.
func minted(t *testing.T, path string) identity.Life {
	t.Helper()
	c, err := kube.ReadCredentials(path, nil)
	must(t, err)
	l, err := identity.Read(c.Cert)
	must(t, err)
	return l
}

// TestMint: the first time it writes, from then on it waits for half of the life.
func TestMint(t *testing.T) {
	pki, out := pkiDir(t), filepath.Join(t.TempDir(), "made", "mooring.conf")
	said, err := mint(t, pki, out)
	if err != nil || !strings.Contains(said, "wrote "+out+": user mooring:node:n1, group mooring:agents, until ") {
		t.Fatalf("%v\n%s", err, said)
	}
	st, err := os.Stat(out)
	if must(t, err); st.Mode().Perm() != 0o600 {
		t.Errorf("it is readable as %v", st.Mode())
	}
	text, err := os.ReadFile(out)
	must(t, err)
	for _, want := range []string{"https://127.0.0.1:6443", "tls-server-name: kubernetes"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if leaf, key := minted(t, out), filepath.Join(pki, "ca.key"); !leaf.Of("n1") || strings.Contains(string(text), readFile(t, key)) {
		t.Errorf("it is %+v", leaf)
	}
	said, err = mint(t, pki, out)
	if err != nil || !strings.Contains(said, "nothing to do") || readFile(t, out) != string(text) {
		t.Errorf("again: %v\n%s", err, said)
	}
	if said, err = mint(t, pki, out, "--force"); err != nil || readFile(t, out) == string(text) {
		t.Errorf("forced: %v\n%s", err, said)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// TestMintRenews: a timer's run writes when half of the life is over, or all of it.
func TestMintRenews(t *testing.T) {
	pki, out := pkiDir(t), filepath.Join(t.TempDir(), "mooring.conf")
	m := minting{node: "n1", out: out, server: "https://127.0.0.1:6443", life: 40 * time.Minute, say: &bytes.Buffer{},
		ca: places{client: filepath.Join(pki, "ca.crt"), key: filepath.Join(pki, "ca.key"), server: filepath.Join(pki, "ca.crt")}}
	born := time.Now()
	for _, s := range []struct {
		after time.Duration
		wrote bool
	}{{0, true}, {10 * time.Minute, false}, {25 * time.Minute, true}, {30 * time.Minute, false}, {80 * time.Minute, false}} {
		m.now = born.Add(s.after)
		before := ""
		if s.after > 0 {
			before = readFile(t, out)
		}
		err := m.issue()
		if s.after == 80*time.Minute { // the authority of this test has ended too
			if err == nil || !strings.Contains(err.Error(), "renew it first") {
				t.Errorf("after %s: %v", s.after, err)
			}
			continue
		}
		if must(t, err); (readFile(t, out) != before) != s.wrote {
			t.Errorf("after %s it wrote: %t", s.after, !s.wrote)
		}
	}
}

// TestMintRefuses: what is there and is not ours to write over stays, and every
// refusal names the way out.
func TestMintRefuses(t *testing.T) {
	pki, dir := pkiDir(t), t.TempDir()
	mine := filepath.Join(dir, "mine.conf")
	_, err := mint(t, pki, mine)
	must(t, err)
	admin := filepath.Join(dir, "admin.conf")
	must(t, writeSite(dir, authority(t), ""), os.Rename(filepath.Join(dir, "kube.conf"), admin))
	garbage := filepath.Join(dir, "garbage")
	must(t, os.WriteFile(garbage, []byte("{{{"), 0o600))
	bare := t.TempDir() // an external authority
	must(t, os.WriteFile(filepath.Join(bare, "ca.crt"), []byte(readFile(t, filepath.Join(pki, "ca.crt"))), 0o600))
	fresh := filepath.Join(dir, "fresh")
	for _, s := range []struct {
		name, pki, out, want string
		args                 []string
	}{
		{"somebody else's kubeconfig", pki, admin, "is not the kubeconfig of mooring:node:n1: give another --out", nil},
		{"another node's", pki, mine, "is not the kubeconfig of mooring:node:n2", []string{"--node", "n2"}},
		{"garbage", pki, garbage, "--force writes over it", nil},
		{"another cluster's", pkiDir(t), mine, "is it another cluster's? --force", nil},
		{"no key", bare, fresh, "mooring credentials --csr", nil},
		{"no authority", t.TempDir(), fresh, "give --profile or --ca", nil},
		{"no such profile", pki, fresh, "there are kubeadm, k0s, k3s", []string{"--profile", "rke"}},
		{"a VIP as server", pki, fresh, "is the virtual IP itself", []string{"--config", filepath.Join(dir, "agent.yaml"),
			"--server", "https://10.9.0.10:6443"}},
		{"no configuration", pki, fresh, "no such file", []string{"--config", filepath.Join(dir, "gone.yaml")}},
	} {
		before, _ := os.ReadFile(s.out)
		said, err := mint(t, s.pki, s.out, s.args...)
		if err == nil || !strings.Contains(err.Error(), s.want) {
			t.Errorf("%s: %v, want %q\n%s", s.name, err, s.want, said)
		}
		if after, _ := os.ReadFile(s.out); !bytes.Equal(before, after) && s.name != "a VIP as server" {
			t.Errorf("%s: it was written over", s.name)
		}
	}
	if _, err := mint(t, pki, admin, "--force"); err != nil || !minted(t, admin).Of("n1") {
		t.Errorf("forced: %v", err)
	}
	for _, args := range [][]string{{"--days", "0"}, {"--csr", "--cert", "x"}, {"extra"}} {
		if _, err := mint(t, pki, fresh, args...); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestMintBehindAMount: kubelet makes an empty file where a pod mounts a kubeconfig
// that is not there yet; what is written then must be seen through the mount.
func TestMintBehindAMount(t *testing.T) {
	pki, out := pkiDir(t), filepath.Join(t.TempDir(), "mooring.conf")
	must(t, os.WriteFile(out, nil, 0o644))
	mounted, err := os.Open(out)
	must(t, err)
	defer mounted.Close()
	_, err = mint(t, pki, out)
	must(t, err)
	var seen bytes.Buffer
	_, err = seen.ReadFrom(mounted)
	if st, _ := os.Stat(out); err != nil || seen.String() != readFile(t, out) || st.Mode().Perm() != 0o600 {
		t.Errorf("through the mount there are %d bytes, mode %v (%v)", seen.Len(), st.Mode(), err)
	}
	// A link is followed, not replaced.
	link := filepath.Join(t.TempDir(), "link.conf")
	must(t, os.Symlink(out, link))
	_, err = mint(t, pki, link, "--force")
	if st, _ := os.Lstat(link); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
}

// TestMintElsewhere: the authority's key is on another host.
func TestMintElsewhere(t *testing.T) {
	pki, out := pkiDir(t), filepath.Join(t.TempDir(), "mooring.conf")
	elsewhere := filepath.Join(t.TempDir(), "ca.key")
	must(t, os.Rename(filepath.Join(pki, "ca.key"), elsewhere))
	said, err := mint(t, pki, out, "--csr")
	if err != nil || !strings.Contains(said, "mooring credentials --cert FILE") {
		t.Fatalf("%v\n%s", err, said)
	}
	key, request := readFile(t, out+".key"), readFile(t, out+".csr")
	if _, err := mint(t, pki, out, "--csr"); err != nil || readFile(t, out+".key") != key {
		t.Errorf("asked again, the first request is void: %v", err)
	}
	if st, _ := os.Stat(out + ".key"); st.Mode().Perm() != 0o600 {
		t.Errorf("the key is readable as %v", st.Mode())
	}
	signed := filepath.Join(t.TempDir(), "n1.crt")
	must(t, os.WriteFile(signed, signRequest(t, filepath.Join(pki, "ca.crt"), elsewhere, request), 0o600))
	foreign := filepath.Join(t.TempDir(), "foreign.crt")
	other, _ := pair(t)
	must(t, os.WriteFile(foreign, other, 0o600))
	if _, err := mint(t, pki, out, "--cert", foreign); err == nil || !strings.Contains(err.Error(), "issued for another request") {
		t.Errorf("a certificate that is not the request's: %v", err)
	}
	if _, err := mint(t, pki, out, "--cert", signed); err != nil || !minted(t, out).Of("n1") {
		t.Fatal(err)
	}
	for _, gone := range []string{out + ".key", out + ".csr"} {
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if _, err := mint(t, pki, out, "--cert", signed); err == nil || !strings.Contains(err.Error(), "--csr makes one") {
		t.Errorf("without a request: %v", err)
	}
}

// TestProfiles: where the distributions keep their authorities, and that somebody
// who runs it elsewhere is told where was looked.
func TestProfiles(t *testing.T) {
	for name, want := range map[string]string{
		"kubeadm": "/etc/kubernetes/pki/ca.crt /etc/kubernetes/pki/ca.key /etc/kubernetes/pki/ca.crt",
		"k0s":     "/var/lib/k0s/pki/ca.crt /var/lib/k0s/pki/ca.key /var/lib/k0s/pki/ca.crt",
		"k3s": "/var/lib/rancher/k3s/server/tls/client-ca.crt /var/lib/rancher/k3s/server/tls/client-ca.key " +
			"/var/lib/rancher/k3s/server/tls/server-ca.crt",
	} {
		var m minting
		must(t, m.place(name))
		if got := m.ca.client + " " + m.ca.key + " " + m.ca.server; got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	m := minting{ca: places{client: "/x/ca.crt", key: "/x/ca.key"}}
	if must(t, m.place("")); m.ca.server != "/x/ca.crt" {
		t.Errorf("one authority for both is %+v", m.ca)
	}
	m = minting{}
	if err := m.place(""); err == nil || !strings.Contains(err.Error(), "/etc/kubernetes/pki/ca.crt, /var/lib/k0s") {
		if _, here := os.Stat("/etc/kubernetes/pki/ca.crt"); here != nil {
			t.Errorf("without any: %v", err)
		}
	}
}

// TestMintFromConfiguration: what the agent's file says need not be said again.
func TestMintFromConfiguration(t *testing.T) {
	pki, dir := pkiDir(t), t.TempDir()
	must(t, writeSite(dir, authority(t), ""), os.Remove(filepath.Join(dir, "kube.conf")))
	edited := strings.Replace(readFile(t, filepath.Join(dir, "agent.yaml")), "balance: off", "balance: off, port: 8443", 1)
	must(t, os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(edited), 0o600))
	var said bytes.Buffer
	err := cmdCredentials(context.Background(), []string{"--config", filepath.Join(dir, "agent.yaml"),
		"--ca", filepath.Join(pki, "ca.crt"), "--ca-key", filepath.Join(pki, "ca.key")}, &said)
	must(t, err)
	c, err := kube.ReadCredentials(filepath.Join(dir, "kube.conf"), nil)
	if err != nil || c.Server != "https://127.0.0.1:8443" || !minted(t, filepath.Join(dir, "kube.conf")).Of("n1") {
		t.Errorf("%+v, %v\n%s", c, err, said.String())
	}
}
