package main

import (
	"net"
	"path/filepath"
	"testing"
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
