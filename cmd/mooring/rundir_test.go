package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRunDirOf: status finds the agent also when the file is broken, which is
// when somebody asks.
func TestRunDirOf(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"broken, runDir given", "nonsense: [\nrunDir: /srv/mooring\n", "/srv/mooring"},
		{"broken, quoted", "runDir: \"/srv/m\" # here\nvips: {", "/srv/m"},
		{"broken, default", "apiServer: {", "/run/mooring"},
		{"broken, relative", "runDir: here\n", "/run/mooring"},
		{"broken, not at the top", "x:\n  runDir: /elsewhere\n", "/run/mooring"},
		{"good", "apiVersion: mooring.dev/v1alpha1\nkind: AgentConfig\nkubeconfig: /k\nrunDir: /srv/good\n" +
			"apiServer: {vips: [192.0.2.10]}\n", "/srv/good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := runDirOf(path); err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
	if _, err := runDirOf(filepath.Join(t.TempDir(), "gone.yaml")); err == nil {
		t.Error("a file that is missing gave a run directory")
	}
}
