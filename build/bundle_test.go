package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// checkout copies the project as its version control knows it, without the
// history, and returns the folder.
func checkout(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	list, err := run(t.Context(), "..", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		t.Fatal(err)
	}
	for f := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join("..", f))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, not yet committed
		} else if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// built makes a bundle of a folder and returns its file.
func built(t *testing.T, src string, args ...string) string {
	t.Helper()
	out := t.TempDir()
	err := work(t.Context(), append([]string{"bundle", "--src", src, "--out", out, "--version", "v0.0.0-test"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, "mooring-v0.0.0-test-linux-"+runtime.GOARCH+".tar.gz")
}

// opened unpacks a tar archive into a tree; top is cut off.
func opened(t *testing.T, in io.Reader, top string) tree {
	t.Helper()
	out := make(tree)
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: owner %d:%d, time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, top+"/"), "/")
		if name != "" { // top itself
			out[name] = file{mode: h.Mode, data: data, link: h.Linkname, dir: h.Typeflag == tar.TypeDir}
		}
	}
}

// aptReady runs apt-get update on a machine without lists.
func aptReady(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get")
	}
	out, err := exec.Command("apt-cache", "show", "haproxy").Output()
	if err == nil && len(out) > 0 {
		return
	}
	if _, err := run(t.Context(), "", "apt-get", "-qq", "update"); err != nil {
		t.Fatal(err)
	}
}

// TestBundle builds the bundle in two folders: both are the same to the last bit.
// Then it does with one what a site does.
func TestBundle(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs the image's programs in its file system")
	}
	aptReady(t)
	begun := time.Now()
	one := built(t, checkout(t, "one"))
	two := built(t, checkout(t, "another-folder"))
	t.Logf("two bundles after %s", time.Since(begun).Round(time.Second))
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB, SHA-256 %x", len(a)>>20, sha256.Sum256(a))
	if !bytes.Equal(a, b) {
		t.Errorf("the bundles of two folders differ: %x and %x", sha256.Sum256(a), sha256.Sum256(b))
	}
	z, err := gzip.NewReader(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	all := opened(t, z, strings.TrimSuffix(filepath.Base(one), ".tar.gz"))
	t.Run("sums", func(t *testing.T) { checkSums(t, all) })
	t.Run("manifests", func(t *testing.T) { checkManifests(t, all) })
	t.Run("bill", func(t *testing.T) { checkBill(t, all) })
	t.Run("image", func(t *testing.T) { checkImage(t, all["image/mooring.tar"].data, all["bin/mooring"].data) })
	t.Run("install", func(t *testing.T) { checkInstall(t, all) })
}

// checkSums: every file but the list itself is in it.
func checkSums(t *testing.T, all tree) {
	list := string(all["SHA256SUMS"].data)
	for name, f := range all {
		line := fmt.Sprintf("%x  %s\n", sha256.Sum256(f.data), name)
		if !f.dir && name != "SHA256SUMS" && !strings.Contains(list, line) {
			t.Errorf("%s is not in SHA256SUMS", name)
		}
	}
}

// checkManifests: nothing is pulled, and nothing but this image is named.
func checkManifests(t *testing.T, all tree) {
	pods := 0
	for name, f := range all {
		if !strings.HasPrefix(name, "manifests/") || !strings.HasSuffix(name, ".yaml") {
			continue
		}
		images := strings.Count(string(f.data), " image: ")
		pods += images
		if images != strings.Count(string(f.data), " image: localhost/mooring:v0.0.0-test\n") ||
			images != strings.Count(string(f.data), "imagePullPolicy: Never\n") {
			t.Errorf("%s names another image, or pulls:\n%s", name, f.data)
		}
	}
	if pods == 0 {
		t.Error("no pods")
	}
}

// checkBill: the bill names what the binary and the image are made of, each with a
// licence whose text is there.
func checkBill(t *testing.T, all tree) {
	var bill struct {
		BOMFormat, SpecVersion, SerialNumber string
		Components                           []struct {
			Name, Version, Purl string
			Licenses            []struct{ License struct{ ID, Name string } }
			Hashes              []struct{ Alg, Content string }
		}
	}
	if err := json.Unmarshal(all["sbom.cdx.json"].data, &bill); err != nil {
		t.Fatal(err)
	}
	kinds, unknown := make(map[string]int), 0
	for _, c := range bill.Components {
		kind, _, _ := strings.Cut(strings.TrimPrefix(c.Purl, "pkg:"), "/")
		kinds[kind]++
		if c.Name == "" || c.Version == "" || len(c.Licenses) == 0 {
			t.Errorf("%+v is incomplete", c)
			continue
		}
		if kind == "golang" && c.Licenses[0].License.ID == "" {
			unknown++
			t.Logf("%s: licence not recognised", c.Name)
		}
		if kind == "deb" && (len(c.Hashes) != 1 || len(all["licences/debian/"+c.Name].data) == 0) {
			t.Errorf("%s: no sum or no licence text", c.Name)
		}
	}
	out, err := run(t.Context(), "", "go", "version", "-m", write(t, "mooring", all["bin/mooring"].data))
	if err != nil {
		t.Fatal(err)
	}
	if deps := strings.Count(string(out), "\n\tdep\t"); deps == 0 || kinds["golang"] != deps+1 {
		t.Errorf("the binary has %d modules, the bill %d and the standard library", deps, kinds["golang"]-1)
	}
	if kinds["deb"] < 20 || bill.BOMFormat != "CycloneDX" || bill.SpecVersion != "1.5" || unknown > 0 {
		t.Errorf("%s %s: %v, %d licences unknown", bill.BOMFormat, bill.SpecVersion, kinds, unknown)
	}
}

// write writes a program into a file.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkImage: the archive keeps the promises of both formats, its programs run in
// its file system alone, and there is no shell.
func checkImage(t *testing.T, archive, binary []byte) {
	layers := checkLayout(t, opened(t, bytes.NewReader(archive), ""))
	root := make(tree)
	for _, l := range layers {
		for name, f := range opened(t, bytes.NewReader(l), "") {
			root[name] = f
		}
	}
	if !bytes.Equal(root["usr/local/bin/mooring"].data, binary) {
		t.Error("the image has another binary than the bundle")
	}
	for name := range root {
		for _, shell := range []string{"sh", "dash", "bash", "perl", "busybox"} {
			if filepath.Base(name) == shell && strings.Contains(name, "bin/") {
				t.Errorf("the image has %s", name)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "root")
	if err := root.extract(dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cmd, says string }{
		{"/usr/local/bin/mooring version", "v0.0.0-test"}, {"/usr/sbin/haproxy -vv", "HAProxy version"},
		{"/usr/sbin/nft --version", "nftables v"}, {"/usr/sbin/haproxy -c -f /tmp/h.cfg", ""},
	} {
		cfg := "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n" +
			"listen a\n  bind 127.0.0.1:1\n" +
			"  server b 127.0.0.1:2 check-ssl verify required ca-file /etc/ssl/certs/ca-certificates.crt\n"
		if err := os.WriteFile(filepath.Join(dir, "tmp/h.cfg"), []byte(cfg), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := run(t.Context(), "", "chroot", append([]string{dir}, strings.Fields(c.cmd)...)...)
		if err != nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: %v\n%s", c.cmd, err, out)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		t.Log(first)
	}
}

// checkLayout checks an archive as its readers do and returns the layers.
func checkLayout(t *testing.T, image tree) [][]byte {
	t.Helper()
	type descriptor struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	blob := func(d descriptor) []byte {
		data := image["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")].data
		if len(data) != d.Size || fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != d.Digest {
			t.Fatalf("%s: %d bytes of %d", d.Digest, len(data), d.Size)
		}
		return data
	}
	decode := func(data []byte, to any) {
		if err := json.Unmarshal(data, to); err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []descriptor }
	decode(image["index.json"].data, &index)
	if name := index.Manifests[0].Annotations["io.containerd.image.name"]; name != "localhost/mooring:v0.0.0-test" {
		t.Errorf("containerd calls it %q", name)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(blob(index.Manifests[0]), &manifest)
	var config struct {
		Architecture string
		Rootfs       struct {
			DiffIDs []string `json:"diff_ids"`
		}
		Config struct{ Entrypoint []string }
	}
	decode(blob(manifest.Config), &config)
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(image["manifest.json"].data, &docker)
	if "sha256:"+filepath.Base(docker[0].Config) != manifest.Config.Digest ||
		docker[0].RepoTags[0] != "localhost/mooring:v0.0.0-test" {
		t.Errorf("docker reads %+v", docker)
	}
	if config.Architecture != runtime.GOARCH || config.Config.Entrypoint[0] != "/usr/local/bin/mooring" {
		t.Errorf("config %+v", config)
	}
	var out [][]byte
	for i, l := range manifest.Layers {
		out = append(out, blob(l))
		if l.Digest != config.Rootfs.DiffIDs[i] || docker[0].Layers[i] != "blobs/sha256/"+l.Digest[7:] {
			t.Errorf("layer %d is not the same everywhere", i)
		}
	}
	return out
}

// checkInstall installs the bundle into a node's file system with each shell.
func checkInstall(t *testing.T, all tree) {
	dir := filepath.Join(t.TempDir(), "bundle")
	if err := all.extract(dir); err != nil {
		t.Fatal(err)
	}
	for name, shell := range shells(t) {
		s := &site{t: t, bundle: dir, root: t.TempDir(), bin: t.TempDir(), shell: shell}
		s.must("--profile", "k3s", "--vip", "192.0.2.10,2001:db8::10", "--services", "--metrics-bind", "0.0.0.0:9555")
		pod, err := os.ReadFile(filepath.Join(s.root, "/var/lib/rancher/k3s/agent/pod-manifests/mooring.yaml"))
		if err != nil || !strings.Contains(string(pod), "image: localhost/mooring:v0.0.0-test\n") ||
			!strings.Contains(string(pod), "port: 9555") {
			t.Errorf("%s: %v\n%s", name, err, pod)
		}
		out, err := run(context.Background(), "", s.root+"/usr/local/bin/mooring", "config", "check",
			s.root+"/etc/mooring/mooring.yaml")
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := s.run("--profile", "k3s", "--vip", "192.0.2.10/24", "--root", t.TempDir()); err == nil ||
			!strings.Contains(out, "without prefix length") {
			t.Errorf("%s: a bad VIP: %v\n%s", name, err, out)
		}
	}
}
