package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// figure is one line of the table: what was measured, once per run.
type figure struct {
	What string
	// Target says what is asked for, "" for a figure that only informs.
	Target string
	// Format prints one sample, with its unit.
	Format  string
	Samples []float64
}

// add keeps a sample of a figure, which is told from others by its first field.
func (b *scale) add(f figure, sample float64) {
	i := slices.IndexFunc(b.figures, func(g figure) bool { return g.What == f.What })
	if i < 0 {
		i = len(b.figures)
		b.figures = append(b.figures, f)
	}
	b.figures[i].Samples = append(b.figures[i].Samples, sample)
	b.Logf("%s: %s%s", f.What, fmt.Sprintf(f.Format, sample), prefixed(" (target ", f.Target, ")"))
}

// markdown is the whole report. PURE.
func markdown(figures []figure) string {
	var b strings.Builder
	b.WriteString("# Services, measured\n\nThree nodes with an etcd and a kube-apiserver each, agents, HAProxy and " +
		"clients share one machine; 10 endpoints per Service. Median (min–max) of the runs.\n\n" +
		"| what | target | measured | runs |\n|---|---|---|---|\n")
	for _, f := range figures {
		target := f.Target
		if target == "" {
			target = "–"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d |\n", f.What, target, f.spread(), len(f.Samples))
	}
	return b.String()
}

// spread prints median (min–max), one number if all are equal.
func (f figure) spread() string {
	low, high := slices.Min(f.Samples), slices.Max(f.Samples)
	text := fmt.Sprintf(f.Format, percentile(f.Samples, 50))
	if low != high {
		text += fmt.Sprintf(" ("+f.Format+"–"+f.Format+")", low, high)
	}
	return text
}

// percentile is the least sample that p percent of all are not above: never better
// than measured.
func percentile(v []float64, p float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[max(0, int(math.Ceil(p/100*float64(len(s))))-1)]
}

// millis are milliseconds.
func millis(all []time.Duration) []float64 {
	out := make([]float64, len(all))
	for i, d := range all {
		out[i] = float64(d) / float64(time.Millisecond)
	}
	return out
}

// busiest is the most instants in any window of that length. PURE.
func busiest(at []time.Time, window time.Duration) int {
	at = slices.SortedFunc(slices.Values(at), time.Time.Compare)
	most, from := 0, 0
	for to := range at {
		for at[to].Sub(at[from]) >= window {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

func prefixed(before, text, after string) string {
	if text == "" {
		return ""
	}
	return before + text + after
}
