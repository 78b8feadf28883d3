package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

//go:embed install.sh
var installer []byte

// job is one run of this program.
type job struct {
	src, out, version, image string
	binary                   string // given; "" builds it
	created                  time.Time
	packages                 source
}

// compile builds the static binary so that the folder does not show: without
// paths, without the version control's state. Other builds keep theirs, because
// the lab shares their cache.
func (j job) compile(ctx context.Context, arch, out string) error {
	cmd := []string{"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=", "GOARM64=",
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version=" + j.version,
		"-o", out, "./cmd/mooring"}
	_, err := run(ctx, j.src, "env", cmd...)
	return err
}

// made is what image and bundle share.
type made struct {
	binary, archive []byte
	path            string // of the binary
	root            root
}

// make builds the binary, unless it is given, and the image around it.
func (j job) make(ctx context.Context, dir string) (made, error) {
	m := made{path: j.binary}
	if m.path == "" {
		m.path = filepath.Join(dir, "mooring")
		if err := j.compile(ctx, j.packages.arch, m.path); err != nil {
			return m, err
		}
	}
	debs, err := j.packages.packages(ctx)
	if err != nil {
		return m, err
	}
	if m.root, err = makeRoot(ctx, debs); err != nil {
		return m, err
	}
	if m.binary, err = os.ReadFile(m.path); err != nil {
		return m, err
	}
	agent := make(tree)
	agent.put("usr/local/bin/mooring", 0o755, m.binary)
	// The agent's layer is the upper one: an upgrade loads Debian's no more.
	img := image{
		name: j.image, version: j.version, arch: j.packages.arch, created: j.created,
		layers: []tree{m.root.files, agent},
	}
	var buf bytes.Buffer
	err = img.write(&buf)
	m.archive = buf.Bytes()
	return m, err
}

// bundle writes everything a site needs in one file.
func (j job) bundle(ctx context.Context, dir string) error {
	m, err := j.make(ctx, dir)
	if err != nil {
		return err
	}
	mods, goVersion, err := modules(ctx, j.src, m.path)
	if err != nil {
		return err
	}
	all := texts(mods, m.root)
	all.put("bin/mooring", 0o755, m.binary)
	all.put("image/mooring.tar", 0o644, m.archive)
	all.put("image/name", 0o644, []byte(j.image+"\n"))
	all.put("install.sh", 0o755, installer)
	bill, err := sbom(j.version, j.created, mods, goVersion, m.root)
	if err != nil {
		return err
	}
	all.put("sbom.cdx.json", 0o644, bill)
	if err := j.manifests(ctx, all, m.path, dir); err != nil {
		return err
	}
	if err := j.documents(all); err != nil {
		return err
	}
	all.put("SHA256SUMS", 0o644, sums(all))
	top := fmt.Sprintf("mooring-%s-linux-%s", j.version, j.packages.arch)
	packed := make(tree)
	for name, f := range all {
		packed[top+"/"+name] = f
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if err := packed.write(z, j.created); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return j.save(filepath.Join(j.out, top+".tar.gz"), buf.Bytes())
}

// manifests adds what the binary prints, for this image, which is never pulled.
func (j job) manifests(ctx context.Context, all tree, binary, dir string) error {
	if j.packages.arch != runtime.GOARCH {
		binary = filepath.Join(dir, "here")
		if err := j.compile(ctx, runtime.GOARCH, binary); err != nil {
			return err
		}
	}
	list, err := run(ctx, "", binary, "manifest", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		name := strings.Fields(line)[0]
		text, err := run(ctx, "", binary, "manifest", name, "--image", j.image, "--pull-policy", "Never")
		if err != nil {
			return err
		}
		all.put("manifests/"+name, 0o644, text)
	}
	return nil
}

// documents adds the project's own pages.
func (j job) documents(all tree) error {
	pages, err := filepath.Glob(filepath.Join(j.src, "docs", "*.md"))
	if err != nil {
		return err
	}
	for _, p := range append(pages, filepath.Join(j.src, "LICENSE"), filepath.Join(j.src, "CHANGELOG.md")) {
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(j.src, p)
		if err != nil {
			return err
		}
		all.put(name, 0o644, data)
	}
	return nil
}

// sums is a list for sha256sum -c.
func sums(all tree) []byte {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(all[name].data), name)
	}
	return out.Bytes()
}

// save writes a file at once or not at all, and its sum beside it.
func (j job) save(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256(data), filepath.Base(name))
	for path, content := range map[string][]byte{name: data, name + ".sha256": []byte(sum)} {
		if err := os.WriteFile(path+".new", content, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	fmt.Printf("%s%s: %d MiB\n", sum, name, len(data)>>20)
	return nil
}
