package main

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is a regular file, a symbolic link (link is set) or a directory.
type file struct {
	mode int64 // permission bits, with set-uid and the like never set
	data []byte
	link string
	dir  bool
}

// tree holds files by their path without a leading slash.
type tree map[string]file

// put adds a regular file.
func (t tree) put(name string, mode int64, data []byte) { t[name] = file{mode: mode, data: data} }

// merged is where Debian keeps what a path names, since /lib and its like are
// links into /usr (Debian 12 and later; packages of 12 still say /lib).
func merged(name string) string {
	name = path.Clean(strings.TrimPrefix(strings.TrimPrefix(name, "."), "/"))
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "lib", "lib64", "bin", "sbin":
		return "usr/" + name
	}
	return name
}

// resolve follows symbolic links to a file and returns all paths on the way, the
// file's own last; nil if it is not there.
func (t tree) resolve(name string) []string {
	var way []string
	for range 8 {
		f, ok := t[name]
		if !ok {
			return nil
		}
		way = append(way, name)
		if f.link == "" {
			return way
		}
		next := f.link
		if !strings.HasPrefix(next, "/") {
			next = path.Join(path.Dir(name), next)
		}
		name = merged(next)
	}
	return nil
}

// write writes an archive that depends on the files alone: sorted, owned by root,
// with one time for all. Directories above a file need not be in the tree.
func (t tree) write(w io.Writer, at time.Time) error {
	all := maps.Clone(t)
	for name := range t {
		for d := path.Dir(name); d != "." && d != "/"; d = path.Dir(d) {
			if _, ok := all[d]; !ok {
				all[d] = file{mode: 0o755, dir: true}
			}
		}
	}
	out := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		h := &tar.Header{Name: name, Mode: f.mode, Typeflag: tar.TypeReg, Size: int64(len(f.data)), ModTime: at}
		switch {
		case f.dir:
			h.Name, h.Typeflag = name+"/", tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return out.Close()
}

// extract writes the files below a directory, which must be new or empty.
func (t tree) extract(dir string) error {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		f, at := t[name], filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		var err error
		switch {
		case f.dir:
			if err = os.MkdirAll(at, 0o755); err == nil && f.mode&0o1000 != 0 {
				err = os.Chmod(at, 0o777|os.ModeSticky)
			}
		case f.link != "":
			err = os.Symlink(f.link, at)
		default:
			err = os.WriteFile(at, f.data, os.FileMode(f.mode))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
