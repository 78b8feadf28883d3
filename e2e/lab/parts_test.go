package lab

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestPKI(t *testing.T) {
	p, err := newPKI(filepath.Join(t.TempDir(), "pki"), []string{"10.99.0.11"})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n1", "n2"} {
		if err := p.serving(node, []string{VIP4, VIP6, "kubernetes"}); err != nil {
			t.Fatal(err)
		}
		cert := readCert(t, p.path("apiserver-"+node+".crt"))
		if serverOf(cert) != node {
			t.Errorf("%s's certificate names %s", node, serverOf(cert))
		}
		for _, name := range []string{VIP4, VIP6, "kubernetes"} {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: p.roots(), DNSName: name}); err != nil {
				t.Errorf("%s as %s: %v", node, name, err)
			}
		}
		if err := cert.VerifyHostname("10.99.0.201"); err == nil {
			t.Error("good for any address")
		}
	}
	if _, err := readCert(t, p.path("etcd.crt")).Verify(x509.VerifyOptions{Roots: p.roots()}); err == nil {
		t.Error("etcd's certificate is signed by the cluster's authority: API clients could talk to etcd")
	}
	cfg, err := p.kubeconfig("https://10.99.0.11:6443", "mooring:node:n1", "mooring:agents")
	if err != nil || !strings.Contains(string(cfg), `server: "https://10.99.0.11:6443"`) {
		t.Errorf("kubeconfig %s, %v", cfg, err)
	}
	info, err := os.Stat(p.path("ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v, %v", info, err)
	}
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestWithoutQuorum(t *testing.T) {
	ok, cut, dead, off := member{true, true}, member{false, true}, member{true, false}, member{false, false}
	for _, tc := range []struct {
		nodes []member
		want  []bool
	}{
		{[]member{ok}, []bool{false}},
		{[]member{ok, ok, ok}, []bool{false, false, false}},
		{[]member{ok, ok, cut}, []bool{false, false, true}},
		{[]member{ok, cut, cut}, []bool{true, true, true}},
		{[]member{ok, ok, off}, []bool{false, false, true}},
		{[]member{ok, off, off}, []bool{true, true, true}},
		{[]member{ok, ok, dead}, []bool{false, false, false}},
		{[]member{ok, dead, dead}, []bool{true, true, true}},
		{[]member{ok, ok, ok, cut, cut}, []bool{false, false, false, true, true}},
	} {
		if got := withoutQuorum(tc.nodes); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%v: %v, want %v", tc.nodes, got, tc.want)
		}
	}
}

func TestQuotaFile(t *testing.T) {
	for _, tc := range []struct {
		v2, capped  bool
		file, value string
	}{
		{false, true, "cpu.cfs_quota_us", "15000"},
		{false, false, "cpu.cfs_quota_us", "-1"},
		{true, true, "cpu.max", "15000 100000"},
		{true, false, "cpu.max", "max 100000"},
	} {
		if f, v := quotaFile(tc.v2, tc.capped); f != tc.file || v != tc.value {
			t.Errorf("v2 %t capped %t: %s %s", tc.v2, tc.capped, f, v)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a ) b (c) T 1 42 42 0 -1 4194560 96 0 0 0 7 5 0 0 20 0 1 0 100 2000000 250 18446744073709551615 1 1 0"
	st, err := parseStat(line)
	if err != nil || st.state != 'T' || st.parent != 1 || st.ticks != 12 || st.rssPages != 250 {
		t.Errorf("%+v, %v", st, err)
	}
	for _, bad := range []string{"", "42 (x", "42 (x) R 1 2 3", strings.Replace(line, " 7 5 ", " 7 five ", 1)} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if st, err := readStat(os.Getpid()); err != nil || st.state == 0 || st.rssPages == 0 {
		t.Errorf("this very process: %+v, %v", st, err)
	}
}

func TestOwnerOf(t *testing.T) {
	for name, want := range map[string]int{
		"moor-4711-0-n1": 4711, "moor-4711-": 4711, "moor-x-0-n1": 0, "moor-4711": 0, "moor--5-n1": 0,
		"other-4711-0-n1": 0, "cni-1234": 0, "": 0,
	} {
		if got := ownerOf(name); got != want {
			t.Errorf("%q is owned by %d, want %d", name, got, want)
		}
	}
	if ownerDead(fmt.Sprintf("moor-%d-0-n1", os.Getpid())) {
		t.Error("this process is taken for dead")
	}
}

func TestClass(t *testing.T) {
	for want, err := range map[string]error{
		"":            nil,
		"refused":     fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		"reset":       fmt.Errorf("read: %w", syscall.ECONNRESET),
		"unreachable": syscall.EHOSTUNREACH,
		"timeout":     fmt.Errorf("get: %w", context.DeadlineExceeded),
		"HTTP 500":    fmt.Errorf("HTTP 500"),
		"bad thing":   fmt.Errorf("get: https: bad thing"),
	} {
		if got := class(err); got != want {
			t.Errorf("%v is called %q, want %q", err, got, want)
		}
	}
}

func TestDrainTellsPackagesFromComplaints(t *testing.T) {
	var n atomic.Int64
	said := drain(strings.NewReader("k8s.io/api/core/v1\nruntime\n# x/y\n./a.go:1:2: undefined: z\n"), &n)
	if n.Load() != 2 || said != "# x/y\n./a.go:1:2: undefined: z\n" {
		t.Errorf("%d packages, said %q", n.Load(), said)
	}
}

func TestSourceHash(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sourceHash(dir); err == nil {
		t.Error("a directory without sources has a hash")
	}
	write("main.go", "a")
	write("go.mod", "m")
	write("go.sum", "s")
	first, err := sourceHash(dir)
	if err != nil {
		t.Fatal(err)
	}
	write("README", "does not matter")
	if again, _ := sourceHash(dir); again != first {
		t.Error("another file changes the hash")
	}
	// Moving text from one file to the next must not go unnoticed.
	write("go.mod", "")
	write("go.sum", "ms")
	if moved, _ := sourceHash(dir); moved == first {
		t.Error("other modules, same hash")
	}
}

func TestLockFileWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	unlock, err := lockFile(t.Context(), path, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	var said atomic.Int64
	waiting := func(string, ...any) { said.Add(1) }
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path, waiting); err == nil || said.Load() != 1 {
		t.Errorf("a held lock: %v, said %d times that it waits", err, said.Load())
	}
	got := make(chan error, 1)
	go func() {
		again, err := lockFile(t.Context(), path, waiting)
		if err == nil {
			again()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestGoBuildQuotesTheCompiler(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module x\n\ngo 1.26\n", "x.go": "package main\n\nfunc main() { y() }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := goBuild(t.Context(), dir, []string{"build", "-v", "-o", "out", "."}, t.Logf)
	if err == nil || !strings.Contains(err.Error(), "undefined: y") {
		t.Errorf("want the compiler's words, not %v", err)
	}
}
