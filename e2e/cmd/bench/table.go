package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// sample is what one run showed of one contender. Outage is the longest time
// without an answered datagram (of a start or a report: how long that took), TCP
// that without a connection, -1 if nobody tried.
type sample struct {
	Outage, TCP time.Duration
	Failed      int           // datagrams and connections
	Slowest     time.Duration // answer to a datagram
	Two         time.Duration // in which two MACs answered
	Healed      time.Duration // from the heal to one holder; 0: nothing to heal
	Moved       bool          // something moved that must not
	Lane        lane
}

// lateAnswer is worth a word: a client that waited was not served at once.
const lateAnswer = 50 * time.Millisecond

// String is the progress of one run.
func (s sample) String() string {
	text := fmt.Sprintf("out %s", millis(s.Outage))
	if s.TCP >= 0 {
		text += fmt.Sprintf(" (TCP %s), %d failed", millis(s.TCP), s.Failed)
	}
	text += fmt.Sprintf(", two MACs %s", millis(s.Two))
	if s.Healed > 0 {
		text += fmt.Sprintf(", one holder %s after", millis(s.Healed))
	}
	if s.Moved {
		text += ", MOVED"
	}
	return text
}

// result is a row with all its runs.
type result struct {
	Name, Title, Target string
	Samples             map[string][]sample // by contender
	Streams             []string            // what became of long-lived connections
	order               []string
}

// add keeps a contender's next run.
func (r *result) add(contender string, s sample) {
	if !slices.Contains(r.order, contender) {
		r.order = append(r.order, contender)
	}
	r.Samples[contender] = append(r.Samples[contender], s)
}

// contenders are in the order of their first run.
func (r result) contenders() []string { return r.order }

// markdown is the whole report. PURE.
func markdown(figures []string, results []result) string {
	var b strings.Builder
	b.WriteString("# Measured\n\nMedian (min–max). Outage: the longest time in which no datagram of one flow " +
		"(every 5 ms) was answered; TCP: no new connection (every 5 ms); failed: of both. Two MACs: an observer on the " +
		"switch asks for the VIP every " + asks.String() + ". Ratio: median outage / that of " + tuned +
		" in the same runs. All on one shared machine: trust the ratios.\n")
	if len(results) > 0 {
		b.WriteString("\n| fault | contender | runs | outage, ms | TCP, ms | failed | two MACs, ms | also | ratio | target |\n" +
			"|---|---|---|---|---|---|---|---|---|---|\n")
	}
	for _, r := range results {
		for i, name := range r.contenders() {
			title, target := r.Title, r.Target
			if i > 0 {
				title, target = "", ""
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", title, name, r.line(name), r.ratio(name), target)
		}
	}
	if len(figures) > 0 {
		b.WriteString("\n")
	}
	for _, f := range figures {
		b.WriteString("- " + f + "\n")
	}
	return b.String()
}

// line is a contender's part of the table.
func (r result) line(name string) string {
	all := r.Samples[name]
	failed, moved, healed, slowest := 0, 0, time.Duration(0), time.Duration(0)
	for _, s := range all {
		failed += s.Failed
		slowest = max(slowest, s.Slowest)
		healed = max(healed, s.Healed)
		if s.Moved {
			moved++
		}
	}
	var also []string
	if healed > 0 {
		also = append(also, fmt.Sprintf("one holder ≤ %s after the heal", millis(healed)))
	}
	if slowest >= lateAnswer {
		also = append(also, "slowest answer "+millis(slowest))
	}
	if moved > 0 {
		also = append(also, fmt.Sprintf("**not as promised in %d of %d**", moved, len(all)))
	}
	if name == "mooring" {
		also = append(also, r.Streams...)
	}
	tcp := pick(all, func(s sample) time.Duration { return s.TCP })
	return fmt.Sprintf("%d | %s | %s | %d | %s | %s", len(all), distribution(pick(all, func(s sample) time.Duration { return s.Outage })),
		distribution(tcp), failed, distribution(pick(all, func(s sample) time.Duration { return s.Two })), strings.Join(also, "; "))
}

// ratio compares medians with the tuned peer's.
func (r result) ratio(name string) string {
	peer := r.Samples[tuned]
	if name == tuned || len(peer) == 0 {
		return "–"
	}
	outage := func(s sample) time.Duration { return s.Outage }
	return ratio(milli(median(pick(r.Samples[name], outage))), milli(median(pick(peer, outage))))
}

// pick reads one figure of all runs.
func pick(all []sample, of func(sample) time.Duration) []time.Duration {
	out := make([]time.Duration, len(all))
	for i, s := range all {
		out[i] = of(s)
	}
	return out
}

// distribution prints milliseconds: median (min–max), one number if all are equal.
func distribution(v []time.Duration) string {
	low, high := slices.Min(v), slices.Max(v)
	switch {
	case high < 0:
		return "–"
	case low == high:
		return fmt.Sprintf("%.0f", milli(low))
	}
	return fmt.Sprintf("%.0f (%.0f–%.0f)", milli(median(v)), milli(low), milli(high))
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func millis(d time.Duration) string { return fmt.Sprintf("%.0f ms", milli(d)) }

// spread prints median (min-max).
func spread(v []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+"-"+format+")", median(v), slices.Min(v), slices.Max(v))
}

// median takes the upper of two middles: never better than measured.
func median[N float64 | time.Duration](v []N) N {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// ratio prints a/b; nothing lost beside nothing lost is 1.
func ratio(a, b float64) string {
	switch {
	case b == 0 && a == 0:
		return "1 (nothing lost by either)"
	case b == 0:
		return "infinite (the peer lost nothing)"
	default:
		return fmt.Sprintf("%.2f", a/b)
	}
}
