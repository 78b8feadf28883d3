package stage

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestRun: whatever happens to the play, the stage is cleared, last first.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		name string
		play func(*Stage)
		code int
	}{
		{"played to the end", func(*Stage) {}, 0},
		{"failed", func(s *Stage) { s.Fatalf("no holder after %d s", 20) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var order []string
			exit := func(int) { t.Error("exit was called without an interrupt") }
			code := Run("show", exit, func(s *Stage) {
				s.Cleanup(func() { order = append(order, "lab") })
				s.Cleanup(func() { order = append(order, "agent") })
				if s.Name() != "show" {
					t.Errorf("name %q", s.Name())
				}
				c.play(s)
			})
			if code != c.code || !slices.Equal(order, []string{"agent", "lab"}) {
				t.Errorf("code %d, cleaned up %v; want %d and the agent before the lab", code, order, c.code)
			}
		})
	}
}

// TestRunPanic: a programming error is no failed play: it surfaces, cleaned up.
func TestRunPanic(t *testing.T) {
	cleaned := 0
	defer func() {
		if r := recover(); r != "bug" || cleaned != 1 {
			t.Errorf("recovered %v, cleaned up %d times", r, cleaned)
		}
	}()
	Run("show", func(int) {}, func(s *Stage) {
		s.Cleanup(func() { cleaned++ })
		panic("bug")
	})
}

// TestFailed: a failed play keeps the lab's logs.
func TestFailed(t *testing.T) {
	var s *Stage
	Run("show", func(int) {}, func(on *Stage) {
		s = on
		on.Fatalf("broken")
	})
	if !s.Failed() {
		t.Error("a failed play does not say so")
	}
	Run("show", func(int) {}, func(on *Stage) { s = on })
	if s.Failed() {
		t.Error("a good play says that it failed")
	}
	if strings.TrimSpace(s.Name()) == "" {
		t.Error("no name")
	}
}

// TestWhole: a lab is settled only when nobody misses anybody.
func TestWhole(t *testing.T) {
	const good = `{"state":"Holding","confirmed":true,"proxy":{"up":["a","b","c"]},
		"members":[{"node":"n1"},{"node":"n2"},{"node":"n3"}],"peers":[{"node":"n2","state":"up"},{"node":"n3","state":"up"}]}`
	for _, c := range []struct {
		what, old, new string
		want           bool
	}{
		{"as it should be", "", "", true},
		{"an API server is out", `"b",`, "", false},
		{"an agent is unknown", `,{"node":"n3"}]`, "]", false},
		{"an agent is not heard", `"n3","state":"up"`, `"n3","state":"late"`, false},
		{"an agent says nothing of its peers", `"peers"`, `"others"`, false},
	} {
		var s Status
		if err := json.Unmarshal([]byte(strings.Replace(good, c.old, c.new, 1)), &s); err != nil {
			t.Fatal(err)
		}
		if got := s.whole(3); got != c.want {
			t.Errorf("%s: %t, want %t", c.what, got, c.want)
		}
	}
}
