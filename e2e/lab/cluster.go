package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// heartbeat is how often a long build says that it goes on.
const heartbeat = 10 * time.Second

// clusterLinkFlags stamp the version a real build has. They must not change with
// every build: the file is found by its sources alone.
func clusterLinkFlags() string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, kv := range []string{"gitVersion=v1.36.3", "gitMajor=1", "gitMinor=36", "gitTreeState=clean",
			"gitCommit=lab", "buildDate=2026-01-01T00:00:00Z"} {
			flags = append(flags, "-X", pkg+"."+kv)
		}
	}
	return strings.Join(flags, " ")
}

// ClusterBinary is the path of the lab's Kubernetes: etcd, kube-apiserver,
// kube-controller-manager, kube-proxy and kubectl in one file, the first argument
// says which. It is built once from e2e/cluster and kept in the user's cache
// directory under the hash of its sources; whoever comes during the build waits
// for it. The first build takes some six processor minutes and reports its
// progress through logf.
func ClusterBinary(ctx context.Context, logf func(string, ...any)) (string, error) {
	src := filepath.Join(moduleDir(), "cluster")
	sum, err := sourceHash(src)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	if err != nil {
		return "", fmt.Errorf("no place to keep the lab's Kubernetes: %w: set XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(cache, "mooring")
	target := filepath.Join(dir, "cluster-"+sum)
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, target+".lock", logf)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(target); err == nil { // somebody else built it while we waited
		return target, nil
	}
	half := target + ".part"
	args := []string{"build", "-v", "-ldflags", clusterLinkFlags(), "-o", half, "."}
	if err := goBuild(ctx, src, args, logf); err != nil {
		return "", fmt.Errorf("building the lab's Kubernetes in %s: %w", src, err)
	}
	return target, os.Rename(half, target)
}

// sourceHash covers the sources, the modules they pin and the compiler.
func sourceHash(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("no Go files in %s: run from a checkout of the project", dir)
	}
	files = append(files, filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum"))
	sort.Strings(files)
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version())
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", filepath.Base(f), len(b))
		h.Write(b)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// moduleDir is the e2e directory: this file's parent's parent, which the compiler
// knows as long as nobody builds with -trimpath.
func moduleDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// lockFile takes an exclusive lock that dies with the process, saying that it
// waits if it has to.
func lockFile(ctx context.Context, path string, logf func(string, ...any)) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for waited := time.Duration(0); ; waited += 100 * time.Millisecond {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if waited%heartbeat == 0 {
			logf("lab: somebody else is building %s; waiting (%s)", strings.TrimSuffix(filepath.Base(path), ".lock"), waited)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// goBuild runs the go command and reports every heartbeat how many packages are
// compiled. Flags are those of the project's own builds, so that what both use is
// compiled once.
func goBuild(ctx context.Context, dir string, args []string, logf func(string, ...any)) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=", "GOARCH=")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: the lab builds what it runs and needs the go command in PATH", err)
	}
	var packages atomic.Int64
	done := make(chan struct{})
	defer close(done)
	go report(done, &packages, filepath.Base(dir), logf)
	said := drain(stderr, &packages)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, said)
	}
	return nil
}

// drain counts the lines that are package paths and returns the rest: what the
// compiler complains about.
func drain(r io.Reader, packages *atomic.Int64) string {
	var said bytes.Buffer
	for sc := bufio.NewScanner(r); sc.Scan(); {
		if line := sc.Text(); strings.ContainsAny(line, " \t:") {
			fmt.Fprintln(&said, line)
		} else {
			packages.Add(1)
		}
	}
	return said.String()
}

// report shows that the build is alive: without it ten silent minutes look like a hang.
func report(done <-chan struct{}, packages *atomic.Int64, what string, logf func(string, ...any)) {
	begun := time.Now()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			logf("lab: building %s: %s, %d packages compiled (only once; some six processor minutes)",
				what, time.Since(begun).Round(time.Second), packages.Load())
		}
	}
}
