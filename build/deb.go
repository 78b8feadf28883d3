package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// debian is a Debian package.
type debian struct {
	name, version, arch string
	control             string // its paragraph
	sha256              string // of the .deb file, hex
	licence             []byte // its text, which may be another package's
	files               tree
}

// readDeb reads a package; its maintainer scripts are left alone.
func readDeb(ctx context.Context, name string) (debian, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return debian{}, err
	}
	sum := sha256.Sum256(raw)
	control, err := run(ctx, "", "dpkg-deb", "--field", name)
	if err != nil {
		return debian{}, err
	}
	archive, err := run(ctx, "", "dpkg-deb", "--fsys-tarfile", name)
	if err != nil {
		return debian{}, err
	}
	d := debian{control: string(control), sha256: hex.EncodeToString(sum[:])}
	d.name, d.version, d.arch = field(d.control, "Package"), field(d.control, "Version"), field(d.control, "Architecture")
	d.files, err = unpack(archive)
	if err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// unpack reads an archive of a package; what only manuals and translations need is
// left out.
func unpack(archive []byte) (tree, error) {
	t := make(tree)
	for in := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, err
		}
		name := merged(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(in)
			if err != nil {
				return nil, err
			}
			t.put(name, h.Mode&0o755, data)
		case tar.TypeSymlink:
			t[name] = file{link: h.Linkname}
		case tar.TypeLink:
			t[name] = t[merged(h.Linkname)]
		}
	}
}

// field is one field of a control paragraph.
func field(control, name string) string {
	for line := range strings.SplitSeq(control, "\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// copyright is the path of the package's licence text within all, whose
// documentation may be that of another package.
func copyright(all tree, name string) string {
	doc := "usr/share/doc/" + name
	if way := all.resolve(doc + "/copyright"); way != nil {
		return way[len(way)-1]
	}
	if f, ok := all[doc]; ok && f.link != "" {
		return merged(path.Join(path.Dir(doc), f.link, "copyright"))
	}
	return ""
}

// short is a name of a licence in a machine-readable copyright file.
var short = regexp.MustCompile(`(?m)^License: *([^\s].*)$`)

// licences lists the short names of a copyright file (DEP-5), sorted. An older,
// free text has none: "see copyright".
func licences(text []byte) []string {
	var out []string
	for _, m := range short.FindAllSubmatch(text, -1) {
		out = append(out, strings.TrimSpace(string(m[1])))
	}
	if len(out) == 0 {
		return []string{"see copyright"}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
