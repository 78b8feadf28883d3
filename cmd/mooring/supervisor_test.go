package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mooring.dev/mooring/internal/config"
)

// supervised is a supervisor of a good file, its configuration and its gauge.
func supervised(t *testing.T) (s *supervisor, old config.Config, gauge func() float64) {
	t.Helper()
	dir := t.TempDir()
	must(t, writeSite(dir, authority(t), ""))
	s = &supervisor{
		path: filepath.Join(dir, "agent.yaml"), log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		configGood: prometheus.NewGauge(prometheus.GaugeOpts{Name: "good"}),
	}
	s.configGood.Set(1)
	old, err := config.Load(s.path)
	must(t, err)
	r := prometheus.NewRegistry()
	r.MustRegister(s.configGood)
	return s, old, func() float64 {
		all, err := r.Gather()
		must(t, err)
		return all[0].GetMetric()[0].GetGauge().GetValue()
	}
}

// edit changes the supervised file.
func (s *supervisor) edit(t *testing.T, old, to string) {
	t.Helper()
	text, err := os.ReadFile(s.path)
	must(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("no %q in\n%s", old, text)
	}
	must(t, os.WriteFile(s.path, []byte(strings.Replace(string(text), old, to, 1)), 0o600))
}

// TestReload: which edits are taken over, and what the others leave.
func TestReload(t *testing.T) {
	stories := []struct {
		name, old, to string
		taken         bool
		refused       string // in the complaint
	}{
		{"nothing but a comment", "kind:", "# here\nkind:", false, ""},
		{"another VIP", "10.9.0.10", "10.9.0.11", true, ""},
		{"balancing on", "balance: off", "balance: haproxy", true, ""},
		{"the log's level", "runDir:", "log: {level: debug}\nrunDir:", true, ""},
		{"a typing error", "vips:", "vipz:", false, "agent.yaml:8: apiServer.vipz"},
		{"another node name", "node: n1", "node: n2", false, "node take effect at the agent's next start only"},
		{"two that need a restart", "node: n1", "node: n2\nnamespace: other", false, "node, namespace take effect"},
		{"one that needs a restart and one that does not", "node: n1", "node: n2\nlog: {level: debug}", false, "restart it"},
	}
	for _, st := range stories {
		t.Run(st.name, func(t *testing.T) {
			s, old, gauge := supervised(t)
			s.edit(t, st.old, st.to)
			next, taken := s.read(old)
			if taken != st.taken {
				t.Errorf("taken over: %t, want %t", taken, st.taken)
			}
			if taken && len(next.Changed(old)) == 0 {
				t.Error("what was taken over is what was there")
			}
			good := st.refused == ""
			if good != (s.refused == "") || !strings.Contains(s.refused, st.refused) || flag01(good) != gauge() {
				t.Errorf("complaint %q with gauge %v, want %q", s.refused, gauge(), st.refused)
			}
			// Put right again: no complaint stays.
			s.edit(t, st.to, st.old)
			if _, taken := s.read(old); taken || s.refused != "" || gauge() != 1 {
				t.Errorf("after the old content came back: taken %t, complaint %q, gauge %v", taken, s.refused, gauge())
			}
		})
	}
}

// TestReloadOfNothing: a file that is gone, for example between the two steps of
// an editor, leaves the old configuration in force.
func TestReloadOfNothing(t *testing.T) {
	s, old, gauge := supervised(t)
	must(t, os.Remove(s.path))
	if _, taken := s.read(old); taken || gauge() != 0 || !strings.Contains(s.refused, "no such file") {
		t.Errorf("taken %t, gauge %v, complaint %q", taken, gauge(), s.refused)
	}
}

// TestStampOf: any way in which a file gets another content is seen, although
// nothing is read; a ConfigMap is a changed symbolic link.
func TestStampOf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.yaml")
	last := ""
	note := func(what string) {
		t.Helper()
		now := stampOf(path)
		if now == last {
			t.Errorf("%s looks like what was before", what)
		}
		if again := stampOf(path); again != now {
			t.Errorf("%s: two looks, %s and %s", what, now, again)
		}
		last = now
	}
	note("nothing there")
	must(t, os.WriteFile(path, []byte("one"), 0o600))
	note("written")
	must(t, os.WriteFile(path, []byte("longer"), 0o600))
	note("another length")
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	note("another time")
	other := filepath.Join(dir, "other")
	st, err := os.Stat(path)
	must(t, err)
	must(t, os.WriteFile(other, []byte("LONGER"), 0o600), os.Chtimes(other, time.Time{}, st.ModTime()),
		os.Rename(other, path))
	note("another file of the same length and time")
	must(t, os.WriteFile(other, []byte("LONGER"), 0o600), os.Chtimes(other, time.Time{}, st.ModTime()))
	must(t, os.Remove(path), os.Symlink(other, path))
	note("a link to another file of the same length and time")
}

// TestLockRun: one agent to a run directory; the lock ends with its holder.
func TestLockRun(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockRun(dir)
	must(t, err)
	_, err = lockRun(dir)
	if err == nil || !strings.Contains(err.Error(), "another agent runs on this node with runDir "+dir) {
		t.Errorf("second: %v", err)
	}
	unlock()
	again, err := lockRun(dir)
	must(t, err)
	again()
	if _, err := lockRun(filepath.Join(dir, "gone")); err == nil || !strings.Contains(err.Error(), "runDir") {
		t.Errorf("no directory: %v", err)
	}
}

// TestSetLevel: the level may change while the agent runs.
func TestSetLevel(t *testing.T) {
	level := new(slog.LevelVar)
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level}))
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
		"nonsense": slog.LevelInfo,
	} {
		setLevel(level, config.Config{Log: config.Log{Level: text}})
		if level.Level() != want {
			t.Errorf("%s is %s", text, level.Level())
		}
		b.Reset()
		log.Log(t.Context(), want-1, "too low")
		log.Log(t.Context(), want, "just right")
		if strings.Contains(b.String(), "too low") || !strings.Contains(b.String(), "just right") {
			t.Errorf("%s: %s", text, b.String())
		}
	}
}
