package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// story is a probe as text: one character per 10 ms, '.' for success, 'x' for a
// timeout, 'r' for a refusal, '1' and '2' for answers of the servers n1 and n2.
func story(s string) ([]attempt, time.Time) {
	t0 := time.Unix(1000, 0)
	var out []attempt
	for i, c := range s {
		a := attempt{at: t0.Add(time.Duration(i) * 10 * time.Millisecond), took: time.Duration(i+1) * time.Millisecond}
		switch c {
		case 'x':
			a.err = "timeout"
		case 'r':
			a.err = "refused"
		case '1', '2':
			a.server = "n" + string(c)
		}
		out = append(out, a)
	}
	return out, t0.Add(time.Duration(len(s)) * 10 * time.Millisecond)
}

func TestSummarize(t *testing.T) {
	for _, tc := range []struct {
		story   string
		failed  int
		outages []time.Duration
		longest time.Duration
		open    bool
	}{
		{story: ""},
		{story: "....."},
		{story: "..x..", failed: 1, outages: []time.Duration{10}, longest: 10},
		{story: "xx...", failed: 2, outages: []time.Duration{20}, longest: 20},
		{story: ".xxx.rr.", failed: 5, outages: []time.Duration{30, 20}, longest: 30},
		{story: ".x.xxxx", failed: 5, outages: []time.Duration{10, 40}, longest: 40, open: true},
		{story: "xxxx", failed: 4, outages: []time.Duration{40}, longest: 40, open: true},
	} {
		attempts, end := story(tc.story)
		r := summarize(attempts, end)
		if r.Sent != len(tc.story) || r.Failed != tc.failed || r.Longest != tc.longest*time.Millisecond {
			t.Errorf("%q: sent %d failed %d longest %s", tc.story, r.Sent, r.Failed, r.Longest)
		}
		if len(r.Outages) != len(tc.outages) {
			t.Errorf("%q: outages %v", tc.story, r.Outages)
			continue
		}
		for i, g := range r.Outages {
			last := i == len(r.Outages)-1
			if g.Duration() != tc.outages[i]*time.Millisecond || g.Open != (tc.open && last) {
				t.Errorf("%q: outage %d is %s, open %t", tc.story, i, g.Duration(), g.Open)
			}
		}
	}
}

func TestSummarizeCounts(t *testing.T) {
	attempts, end := story("11x2r")
	// Attempts end in another order than they begin.
	attempts[0], attempts[4] = attempts[4], attempts[0]
	r := summarize(attempts, end)
	if r.ByServer["n1"] != 2 || r.ByServer["n2"] != 1 || r.Errors["timeout"] != 1 || r.Errors["refused"] != 1 {
		t.Errorf("by server %v, errors %v", r.ByServer, r.Errors)
	}
	if r.Pause != 10*time.Millisecond || r.Median != 2*time.Millisecond || r.Slowest != 4*time.Millisecond {
		t.Errorf("pause %s, median %s, slowest %s", r.Pause, r.Median, r.Slowest)
	}
	for _, want := range []string{
		"5 sent", "2 failed (refused ×1, timeout ×1)", "out 10ms at +20ms", "never back", "n1 ×2, n2 ×1",
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q does not say %q", r, want)
		}
	}
}

func TestReportPause(t *testing.T) {
	attempts, end := story("....")
	attempts = append(attempts[:1], attempts[3])
	if r := summarize(attempts, end); r.Pause != 30*time.Millisecond {
		t.Errorf("the probe paused 30 ms, reported %s", r.Pause)
	}
}

func TestSince(t *testing.T) {
	attempts, end := story(".x.xx.")
	r := summarize(attempts, end)
	if got := r.Since(r.Begin.Add(25 * time.Millisecond)); len(got) != 1 || got[0].Duration() != 20*time.Millisecond {
		t.Errorf("only the second outage ended after 25 ms, not %v", got)
	}
}

// TestSpans: who answered when; failures and plain connections make no span.
func TestSpans(t *testing.T) {
	for story1, want := range map[string]string{
		"":          "",
		"...":       "",
		"111":       "n1 0-20",
		"11xx22":    "n1 0-10 n2 40-50",
		"1x1":       "n1 0-20",
		"121":       "n1 0-0 n2 10-10 n1 20-20",
		"r2222xxxx": "n2 10-40",
	} {
		attempts, end := story(story1)
		var got []string
		for _, s := range summarize(attempts, end).Spans {
			begin := time.Unix(1000, 0)
			got = append(got, fmt.Sprintf("%s %d-%d", s.Server, s.From.Sub(begin).Milliseconds(), s.To.Sub(begin).Milliseconds()))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", story1, got, want)
		}
	}
}
