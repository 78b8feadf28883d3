package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := work(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

const usage = "usage: build image|rootfs|bundle [flags]; --help lists them"

// work does what the command line says.
func work(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	j, err := read(args[1:])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mooring-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	switch args[0] {
	case "image":
		m, err := j.make(ctx, dir)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("mooring-image-%s-linux-%s.tar", j.version, j.packages.arch)
		return j.save(filepath.Join(j.out, name), m.archive)
	case "rootfs":
		return j.rootfs(ctx)
	case "bundle":
		return j.bundle(ctx, dir)
	}
	return errors.New(usage)
}

// version is what a file name, an image's tag and ldflags can take.
var version = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$`)

// read reads the flags.
func read(args []string) (job, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return job{}, err
	}
	var j job
	fs := flag.NewFlagSet("build", flag.ContinueOnError)
	fs.StringVar(&j.src, "src", "..", "the project's `DIR`")
	fs.StringVar(&j.out, "out", "../dist", "where to write, a `DIR`")
	fs.StringVar(&j.version, "version", "dev", "the `VERSION`")
	fs.StringVar(&j.binary, "binary", "", "this `FILE` instead of a build")
	fs.StringVar(&j.image, "image", "", "the image's `NAME`; localhost/mooring:VERSION, which nobody looks up elsewhere")
	fs.StringVar(&j.packages.arch, "arch", runtime.GOARCH, "amd64 or arm64")
	fs.StringVar(&j.packages.dir, "debs", "", "use the packages in this `DIR` and download nothing")
	fs.StringVar(&j.packages.suite, "suite", "", "Debian `SUITE` instead of this machine's apt sources")
	fs.StringVar(&j.packages.mirror, "mirror", "http://deb.debian.org/debian", "where the suite comes from, `URL`")
	fs.StringVar(&j.packages.cache, "cache", filepath.Join(cache, "mooring"), "keeps packages between runs, a `DIR`")
	if err := fs.Parse(args); err != nil {
		return j, err
	}
	if !version.MatchString(j.version) {
		return j, fmt.Errorf("version %q: letters, digits, dots, dashes and underscores only", j.version)
	}
	if j.image == "" {
		j.image = "localhost/mooring:" + j.version
	}
	for _, p := range []*string{&j.src, &j.out, &j.packages.cache} {
		if *p, err = filepath.Abs(*p); err != nil {
			return j, err
		}
	}
	j.created, err = epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	return j, err
}

// epoch is the time of everything made: SOURCE_DATE_EPOCH, or 1970.
func epoch(s string) (time.Time, error) {
	if s == "" {
		s = "0"
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q, which is not a number of seconds", s)
	}
	return time.Unix(n, 0).UTC(), nil
}

// rootfs writes the image's files into a directory, for an image builder.
func (j job) rootfs(ctx context.Context) error {
	debs, err := j.packages.packages(ctx)
	if err != nil {
		return err
	}
	r, err := makeRoot(ctx, debs)
	if err != nil {
		return err
	}
	if j.binary != "" {
		data, err := os.ReadFile(j.binary)
		if err != nil {
			return err
		}
		r.files.put("usr/local/bin/mooring", 0o755, data)
	}
	return r.files.extract(j.out)
}
