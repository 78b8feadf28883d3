package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// module is a Go module in the binary.
type module struct {
	path, version, sum string
	licence            string          // an SPDX name, "" if the text is of another
	texts              map[string]file // licence and notice files
}

// modules reads which modules a binary has, with their licences from the module
// cache; src is the source's directory.
func modules(ctx context.Context, src, binary string) ([]module, string, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, "", err
	}
	// Of the packages that were just compiled: their sources are here.
	out, err := run(ctx, src, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}}{{end}}", "./cmd/mooring")
	if err != nil {
		return nil, "", err
	}
	dirs := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if name, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			dirs[name] = dir
		}
	}
	var list []module
	for _, d := range info.Deps {
		m := module{path: d.Path, version: d.Version, sum: d.Sum, texts: make(map[string]file)}
		if err := m.read(dirs[d.Path]); err != nil {
			return nil, "", err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return list, strings.TrimPrefix(info.GoVersion, "go"), nil
}

// legal names the files that go with a binary.
var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)`)

// read reads the licence files of a module.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the sources of %s: %w; go mod download fetches them", m.path, err)
	}
	for _, e := range entries {
		if !legal.MatchString(e.Name()) || e.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		m.texts[e.Name()] = file{mode: 0o644, data: data}
		if m.licence == "" {
			m.licence = spdx(string(data))
		}
	}
	if len(m.texts) == 0 {
		return fmt.Errorf("module %s has no licence file", m.path)
	}
	return nil
}

// spdx recognises the licences of Go modules by what only they say.
func spdx(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []struct{ id, says string }{
		{"Apache-2.0", "Apache License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License, version 2.0"},
		{"BSD-3-Clause", "may be used to endorse or promote products derived from this software"},
		{"BSD-2-Clause", "Redistribution and use in source and binary forms"},
		{"ISC", "Permission to use, copy, modify, and/or distribute this software"},
		{"ISC", "Permission to use, copy, modify, and distribute this software"},
		{"MIT", "Permission is hereby granted, free of charge"},
	} {
		if strings.Contains(text, l.says) {
			return l.id
		}
	}
	return ""
}

// sbom is the bill of materials, CycloneDX 1.5.
func sbom(version string, at time.Time, mods []module, goVersion string, r root) ([]byte, error) {
	parts := []any{object{
		"type": "library", "name": "stdlib", "version": goVersion, "bom-ref": "pkg:golang/stdlib@" + goVersion,
		"purl": "pkg:golang/stdlib@" + goVersion, "licenses": licensed("BSD-3-Clause", ""),
	}}
	for _, m := range mods {
		purl := "pkg:golang/" + m.path + "@" + m.version
		parts = append(parts, object{
			"type": "library", "name": m.path, "version": m.version, "bom-ref": purl, "purl": purl,
			"licenses":   licensed(m.licence, "see licences/go"),
			"properties": []any{object{"name": "go.sum", "value": m.sum}},
		})
	}
	for _, d := range r.packages {
		parts = append(parts, d.part(r))
	}
	doc := object{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": parts,
		"metadata": object{
			"timestamp": at.UTC().Format(time.RFC3339),
			"component": object{
				"type": "application", "name": "mooring", "version": version, "bom-ref": "mooring@" + version,
				"licenses": licensed("Apache-2.0", ""),
			},
		},
	}
	// A number that follows from the content: the same bill has the same.
	plain, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	u := sha256.Sum256(plain)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // RFC 9562, version 8
	doc["serialNumber"] = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
	return json.MarshalIndent(doc, "", " ")
}

// part is a package's entry in the bill.
func (d debian) part(r root) object {
	purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=%s", d.name, strings.ReplaceAll(d.version, "+", "%2B"),
		d.arch, r.release)
	var names []any
	for _, l := range licences(d.licence) {
		names = append(names, object{"license": object{"name": l}})
	}
	return object{
		"type": "library", "name": d.name, "version": d.version, "bom-ref": purl, "purl": purl, "licenses": names,
		"hashes": []any{object{"alg": "SHA-256", "content": d.sha256}},
	}
}

// licensed is CycloneDX's list of one licence, by its SPDX name or another.
func licensed(id, other string) []any {
	if id == "" {
		return []any{object{"license": object{"name": other}}}
	}
	return []any{object{"license": object{"id": id}}}
}

// texts are all licence files by their path in the bundle.
func texts(mods []module, r root) tree {
	out := make(tree)
	for _, m := range mods {
		for name, f := range m.texts {
			out[path.Join("licences/go", m.path+"@"+m.version, name)] = f
		}
	}
	for _, d := range r.packages {
		out.put("licences/debian/"+d.name, 0o644, d.licence)
	}
	const common = "usr/share/common-licenses/"
	for _, n := range below(r.files, common, "") {
		if way := r.files.resolve(n); way != nil { // links are of no use outside
			out["licences/debian/common-licenses/"+strings.TrimPrefix(n, common)] = r.files[way[len(way)-1]]
		}
	}
	return out
}
