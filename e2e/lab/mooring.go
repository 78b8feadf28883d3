package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// buildMooring builds the product once per process.
var buildMooring = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(ownerDir(os.Getpid()), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "mooring")
	root := filepath.Dir(moduleDir())
	silent := func(string, ...any) {}
	if err := goBuild(context.Background(), root, []string{"build", "-o", out, "./cmd/mooring"}, silent); err != nil {
		return "", fmt.Errorf("building mooring in %s: %w", root, err)
	}
	return out, nil
})

// Mooring is the path of the binary under test: MOORING_BINARY if that is set,
// else built once per run from this checkout.
func Mooring(t T) string {
	if path := os.Getenv("MOORING_BINARY"); path != "" {
		abs, err := filepath.Abs(path) // the agent has another working directory
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			t.Fatalf("lab: MOORING_BINARY: %v", err)
		}
		return abs
	}
	path, err := buildMooring()
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	return path
}

// Install applies the manifests that agents need, as the binary under test
// prints them: namespace, RBAC and the types of our own.
func (l *Lab) Install() {
	for _, name := range []string{"namespace", "rbac", "rbac-services", "addresspools"} {
		out, err := exec.Command(Mooring(l.t), "manifest", name).Output()
		if err != nil {
			l.t.Fatalf("mooring manifest %s: %v", name, err)
		}
		l.Apply(out)
	}
}
