package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// programs are what the agent starts.
var programs = []string{"usr/sbin/haproxy", "usr/sbin/nft"}

// root is a file system for the image, and what it is made of.
type root struct {
	files    tree
	packages []debian // those with a file in it, sorted by name
	release  string   // VERSION_CODENAME of os-release
}

// makeRoot reads packages and picks the programs, the libraries they need, CA
// certificates and licences. There is no shell in it.
func makeRoot(ctx context.Context, debs []string) (root, error) {
	all, owner := make(tree), make(map[string]string)
	var packages []debian
	for _, name := range debs {
		d, err := readDeb(ctx, name)
		if err != nil {
			return root{}, err
		}
		packages = append(packages, d)
		for f := range d.files {
			owner[f] = d.name
		}
		maps.Copy(all, d.files)
	}
	names, err := needed(all)
	if err != nil {
		return root{}, err
	}
	release := strings.ReplaceAll(string(all["usr/lib/os-release"].data), "=", ": ")
	r := root{files: make(tree), release: field(release, "VERSION_CODENAME")}
	used := make(map[string]bool)
	names = append(names, below(all, "usr/share/common-licenses/", "")...) // what licence texts refer to
	for _, n := range append(names, certificates(all)...) {
		used[owner[n]] = true
		r.files[n] = all[n]
	}
	r.fixed()
	return r, r.account(all, packages, used, owner)
}

// needed lists the programs and the libraries they load, with the links on the way.
func needed(all tree) ([]string, error) {
	// glibc loads this one when a thread is cancelled or a backtrace is asked for.
	queue := append(slices.Clone(programs), "libgcc_s.so.1")
	queue = append(queue, "usr/lib/os-release")
	seen := make(map[string]bool)
	for len(queue) > 0 {
		want := queue[0]
		queue = queue[1:]
		way := find(all, want)
		if way == nil {
			return nil, fmt.Errorf("no package has %s: is it of another architecture, or incomplete?", want)
		}
		for _, n := range way {
			seen[n] = true
		}
		last := way[len(way)-1]
		more, err := loads(all[last].data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", last, err)
		}
		for _, m := range more {
			if w := find(all, m); w == nil || !seen[w[0]] {
				queue = append(queue, m)
			}
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// find looks for a path, or for a library as the loader does.
func find(all tree, name string) []string {
	if strings.Contains(name, "/") {
		return all.resolve(merged(name))
	}
	for _, dir := range libraryDirs {
		if way := all.resolve(dir + name); way != nil {
			return way
		}
	}
	return nil
}

// libraryDirs is where Debian's loader looks without a cache.
var libraryDirs = []string{"usr/lib/x86_64-linux-gnu/", "usr/lib/aarch64-linux-gnu/", "usr/lib/", "usr/lib64/"}

// loads lists what an ELF file asks the loader for, and its loader; nothing for
// other files.
func loads(data []byte) ([]string, error) {
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return nil, err
		}
		names = append(names, string(bytes.TrimRight(loader, "\x00")))
	}
	return names, nil
}

// certificates lists Mozilla's certificates.
func certificates(all tree) []string { return below(all, "usr/share/ca-certificates/mozilla/", ".crt") }

// below lists the files of a directory that end in a suffix, sorted.
func below(all tree, dir, suffix string) []string {
	var out []string
	for n := range all {
		if strings.HasPrefix(n, dir) && strings.HasSuffix(n, suffix) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// fixed adds what no package has: links of the merged /usr, the users, the bundle
// of certificates, and places to mount upon, as the root may be read-only.
func (r *root) fixed() {
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		r.files[d] = file{link: "usr/" + d}
	}
	var bundle []byte
	for _, n := range certificates(r.files) {
		bundle = append(append(bundle, r.files[n].data...), '\n')
		delete(r.files, n)
	}
	r.files.put("etc/ssl/certs/ca-certificates.crt", 0o644, bundle)
	r.files["etc/os-release"] = file{link: "../usr/lib/os-release"}
	r.files.put("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/nologin\nnobody:x:65534:65534:nobody:/:/nologin\n"))
	r.files.put("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	r.files.put("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	for _, d := range []string{
		"dev", "proc", "sys", "run/mooring", "var/lib/mooring", "etc/mooring", "etc/kubernetes", "usr/bin", "usr/lib64",
	} {
		r.files[d] = file{mode: 0o755, dir: true}
	}
	r.files["tmp"] = file{mode: 0o1777, dir: true}
}

// account adds licences and the package database that scanners read.
func (r *root) account(all tree, packages []debian, used map[string]bool, owner map[string]string) error {
	for i, d := range packages {
		if !used[d.name] {
			continue
		}
		text := copyright(all, d.name)
		packages[i].licence = all[text].data
		if len(all[text].data) == 0 {
			return fmt.Errorf("package %s has no licence text", d.name)
		}
		r.files[text] = all[text]
		// The text may be another package's, which is then part of the image.
		if o := owner[text]; !used[o] {
			used[o] = true
			return r.account(all, packages, used, owner)
		}
	}
	r.packages = nil
	for _, d := range packages {
		if used[d.name] {
			r.packages = append(r.packages, d)
			r.files.put(path.Join("var/lib/dpkg/status.d", d.name), 0o644, []byte(d.control))
		}
	}
	slices.SortFunc(r.packages, func(a, b debian) int { return strings.Compare(a.name, b.name) })
	return nil
}
