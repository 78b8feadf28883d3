package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// wanted are the packages that the image is made of, with what they depend on.
var wanted = []string{"haproxy", "nftables", "ca-certificates", "base-files"}

// useful are the packages whose files can be needed at run time. The others in
// the closure serve maintainer scripts, which are never run.
var useful = regexp.MustCompile(`^(lib.*|gcc-.*-base|zlib1g|haproxy|nftables|ca-certificates|base-files)$`)

// source is where Debian packages come from.
type source struct {
	arch string
	// cache holds downloaded packages and lists between runs.
	cache string
	// suite, with mirror, is used instead of this machine's own sources.
	suite, mirror string
	// dir, if set, has the packages already; nothing is downloaded.
	dir string
}

// packages returns the paths of the .deb files, sorted.
func (s source) packages(ctx context.Context) ([]string, error) {
	dir := s.dir
	if dir == "" {
		dir = filepath.Join(s.cache, "debs", s.arch)
		names, err := s.download(ctx, dir)
		if err != nil {
			return nil, err
		}
		for i := range names {
			names[i] = filepath.Join(dir, names[i])
		}
		slices.Sort(names)
		return names, nil
	}
	list, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s has no .deb files: put those there that a run without --debs names in the SBOM", dir)
	}
	return list, err
}

// download fetches what is wanted and returns the names of the files.
func (s source) download(ctx context.Context, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	options, err := s.options(ctx)
	if err != nil {
		return nil, err
	}
	// Seen from a machine without any package, so that the answer is the whole
	// closure and the same everywhere.
	args := append(slices.Clone(options), "-qq", "--print-uris", "--no-install-recommends", "install")
	out, err := run(ctx, "", "apt-get", append(args, wanted...)...)
	if err != nil {
		return nil, fmt.Errorf("%w\nRun apt-get update first, or name a suite: SUITE=trixie", err)
	}
	names, exact := closure(out)
	if len(names) < len(wanted) {
		return nil, fmt.Errorf("apt-get names %d packages only:\n%s", len(names), out)
	}
	// apt-get checks signatures and sums, also of what was downloaded before.
	args = append(slices.Clone(options), "-qq", "-o", "APT::Sandbox::User=root", "download")
	_, err = run(ctx, dir, "apt-get", append(args, exact...)...)
	return names, err
}

// closure reads the output of apt-get --print-uris: the names of the useful files,
// and NAME:ARCH=VERSION of each, for apt-get download.
func closure(out []byte) (names, exact []string) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || !strings.HasSuffix(fields[1], ".deb") {
			continue
		}
		parts := strings.Split(strings.TrimSuffix(fields[1], ".deb"), "_")
		if len(parts) != 3 || !useful.MatchString(parts[0]) {
			continue
		}
		names = append(names, fields[1])
		exact = append(exact, parts[0]+"="+strings.ReplaceAll(parts[1], "%3a", ":"))
	}
	return names, exact
}

// options make apt see no installed package and, with a suite, other sources than
// this machine's, which stay as they are.
func (s source) options(ctx context.Context) ([]string, error) {
	dir := filepath.Join(s.cache, "apt-"+s.suite+"-"+s.arch)
	status := filepath.Join(dir, "status")
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	opt := []string{
		"-o", "Dir::State::status=" + status, "-o", "Debug::NoLocking=1", "-o", "Dir::Cache=" + dir,
		"-o", "APT::Architecture=" + s.arch, "-o", "APT::Architectures=" + s.arch, "-o", "Acquire::Languages=none",
	}
	if s.suite == "" {
		return opt, nil
	}
	list := filepath.Join(dir, "sources.list")
	const line = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n"
	text := fmt.Sprintf(line, s.mirror, s.suite) + fmt.Sprintf(line, s.mirror+"-security", s.suite+"-security")
	if err := os.WriteFile(list, []byte(text), 0o644); err != nil {
		return nil, err
	}
	opt = append(opt, "-o", "Dir::Etc::sourcelist="+list, "-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State::lists="+filepath.Join(dir, "lists"))
	_, err := run(ctx, "", "apt-get", append(slices.Clone(opt), "-qq", "-o", "APT::Sandbox::User=root", "update")...)
	return opt, err
}

// run runs a program in a directory and returns its output; the error has what it
// said.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said.String())
	}
	return out, nil
}
