package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// listen makes a socket as a container runtime has.
func listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestClosure: what apt-get says becomes names of files and exact versions; what
// serves maintainer scripts is left out.
func TestClosure(t *testing.T) {
	names, exact := closure([]byte("Reading package lists...\n" +
		"'http://deb.example/l/libcap2_2.66-4%2bdeb12u3_amd64.deb' libcap2_1%3a2.66-4+deb12u3_amd64.deb 27708 SHA256:00\n" +
		"'http://deb.example/p/perl-base_5.36.0-7_amd64.deb' perl-base_5.36.0-7_amd64.deb 1609596 \n" +
		"'http://deb.example/h/haproxy_3.0.11-1_amd64.deb' haproxy_3.0.11-1_amd64.deb 2628116 \n"))
	if want := []string{"libcap2_1%3a2.66-4+deb12u3_amd64.deb", "haproxy_3.0.11-1_amd64.deb"}; !slices.Equal(names, want) {
		t.Errorf("files %q", names)
	}
	if want := []string{"libcap2=1:2.66-4+deb12u3", "haproxy=3.0.11-1"}; !slices.Equal(exact, want) {
		t.Errorf("packages %q", exact)
	}
}

func TestMerged(t *testing.T) {
	for in, want := range map[string]string{
		"./lib/x86_64-linux-gnu/libc.so.6": "usr/lib/x86_64-linux-gnu/libc.so.6",
		"/lib64/ld-linux-x86-64.so.2":      "usr/lib64/ld-linux-x86-64.so.2",
		"./usr/sbin/nft":                   "usr/sbin/nft", "./sbin/x": "usr/sbin/x", "./library/x": "library/x",
	} {
		if got := merged(in); got != want {
			t.Errorf("%s is in %s, want %s", in, got, want)
		}
	}
}

// TestResolve: links are followed as Debian's packages make them, and a ring of
// them ends.
func TestResolve(t *testing.T) {
	all := tree{
		"usr/lib64/ld.so": {link: "/lib/x/ld.so"}, "usr/lib/x/ld.so": {link: "ld-2.so"},
		"usr/lib/x/ld-2.so": {data: []byte("x")},
		"a":                 {link: "b"}, "b": {link: "a"}, "gone": {link: "nowhere"},
	}
	want := []string{"usr/lib64/ld.so", "usr/lib/x/ld.so", "usr/lib/x/ld-2.so"}
	if got := all.resolve("usr/lib64/ld.so"); !slices.Equal(got, want) {
		t.Errorf("the way is %q", got)
	}
	if all.resolve("a") != nil || all.resolve("gone") != nil {
		t.Error("a link to nowhere leads somewhere")
	}
}

// TestArchive: the same files give the same bytes, whatever the order in which they
// came; the time is the given one.
func TestArchive(t *testing.T) {
	archive := func(names ...string) []byte {
		all := make(tree)
		for _, n := range names {
			all.put(n, 0o644, []byte(n))
		}
		all["link"] = file{link: "a/b"}
		var out bytes.Buffer
		if err := all.write(&out, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	one, two := archive("a/b", "a/c/d", "z"), archive("z", "a/c/d", "a/b")
	if !bytes.Equal(one, two) {
		t.Error("the order of the files shows")
	}
	got := opened(t, bytes.NewReader(one), "")
	if !got["a/c"].dir || got["link"].link != "a/b" || string(got["a/c/d"].data) != "a/c/d" || len(got) != 6 {
		t.Errorf("the archive has %v", got)
	}
}

// TestIncomplete: a library that no package has is an error, not a broken image.
func TestIncomplete(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	all := tree{"usr/sbin/haproxy": {data: self}}
	if _, err := needed(all); err == nil || !strings.Contains(err.Error(), "usr/sbin/nft") {
		t.Errorf("no nft: %v", err)
	}
	if _, err := loads([]byte("#!/bin/sh")); err != nil {
		t.Errorf("a script: %v", err)
	}
	if _, err := loads([]byte("\x7fELF but not really")); err == nil {
		t.Error("a broken program was accepted")
	}
}

func TestLicences(t *testing.T) {
	text := "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n\n" +
		"License: GPL-2+\n text\n\nLicense: BSD-3-clause\n"
	if got := licences([]byte(text)); !slices.Equal(got, []string{"BSD-3-clause", "GPL-2+"}) {
		t.Errorf("licences %q", got)
	}
	if got := licences([]byte("This is free software.")); !slices.Equal(got, []string{"see copyright"}) {
		t.Errorf("free text: %q", got)
	}
	for text, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004": "Apache-2.0", "nothing known": "",
		"Permission is hereby granted, free of charge, to any": "MIT",
	} {
		if got := spdx(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestFlags(t *testing.T) {
	j, err := read([]string{"--version", "v1.2.3"})
	if err != nil || j.image != "localhost/mooring:v1.2.3" || !filepath.IsAbs(j.out) {
		t.Errorf("%+v, %v", j, err)
	}
	for _, bad := range []string{"v1 -X main.x=y", "", "-x", "a/b"} {
		if _, err := read([]string{"--version", bad}); err == nil {
			t.Errorf("version %q was accepted", bad)
		}
	}
	if at, err := epoch("1700000000"); err != nil || at.Unix() != 1700000000 {
		t.Errorf("SOURCE_DATE_EPOCH: %v %v", at, err)
	}
	if _, err := epoch("yesterday"); err == nil {
		t.Error("a time that is none was accepted")
	}
	if at, _ := epoch(""); at.Unix() != 0 {
		t.Errorf("the time is %s", at)
	}
	if err := work(t.Context(), nil); err == nil {
		t.Error("no word is a job")
	}
	// A folder of packages replaces apt altogether.
	empty := source{dir: t.TempDir()}
	if _, err := empty.packages(t.Context()); err == nil || !strings.Contains(err.Error(), "no .deb files") {
		t.Errorf("an empty folder: %v", err)
	}
}
