package lab

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// attempt is one connection or request of a probe.
type attempt struct {
	at     time.Time     // when it began
	took   time.Duration // until the answer or the failure
	err    string        // class of the failure, "" for success
	server string        // who answered, if the certificate told
}

// Gap is a time in which every attempt failed.
type Gap struct {
	From time.Time // when the first failed attempt began
	To   time.Time // when the next successful one began; at the end of the probe: its end
	Open bool      // no success followed
}

// Duration of the gap, exact to one probing interval.
func (g Gap) Duration() time.Duration { return g.To.Sub(g.From) }

// Report is what a probe saw. Attempts are judged by when they began.
type Report struct {
	Begin, End time.Time
	Sent       int
	Failed     int
	Outages    []Gap
	Longest    time.Duration  // of the outages
	Slowest    time.Duration  // of the successful attempts
	Median     time.Duration  // of the successful attempts
	Pause      time.Duration  // longest time in which the probe itself did not start an attempt
	Errors     map[string]int // failures by class
	ByServer   map[string]int // successes by the node that answered; empty for plain TCP
	Spans      []Span         // who answered when, in order; empty for plain TCP
}

// Span is a time in which one node answered all attempts that succeeded.
type Span struct {
	Server   string
	From, To time.Time // of the first and the last of them
}

// summarize computes a report; end is when the probe was stopped.
func summarize(attempts []attempt, end time.Time) Report {
	sort.Slice(attempts, func(i, j int) bool { return attempts[i].at.Before(attempts[j].at) })
	r := Report{End: end, Begin: end, Sent: len(attempts), Errors: map[string]int{}, ByServer: map[string]int{}}
	var good []time.Duration
	for i, a := range attempts {
		if i == 0 {
			r.Begin = a.at
		} else {
			r.Pause = max(r.Pause, a.at.Sub(attempts[i-1].at))
		}
		if a.err != "" {
			r.Failed++
			r.Errors[a.err]++
			continue
		}
		good = append(good, a.took)
		if a.server != "" {
			r.ByServer[a.server]++
			r.Spans = extend(r.Spans, a)
		}
	}
	r.Outages = gaps(attempts, end)
	for _, g := range r.Outages {
		r.Longest = max(r.Longest, g.Duration())
	}
	if len(good) > 0 {
		sort.Slice(good, func(i, j int) bool { return good[i] < good[j] })
		r.Slowest, r.Median = good[len(good)-1], good[len(good)/2]
	}
	return r
}

// extend adds a success to the last span if it is the same server's.
func extend(spans []Span, a attempt) []Span {
	if n := len(spans); n > 0 && spans[n-1].Server == a.server {
		spans[n-1].To = a.at
		return spans
	}
	return append(spans, Span{Server: a.server, From: a.at, To: a.at})
}

// gaps wants the attempts in order. Any success ends a gap: two outages with one
// lucky connection in between are two.
func gaps(attempts []attempt, end time.Time) []Gap {
	var out []Gap
	open := false
	for _, a := range attempts {
		switch {
		case a.err != "" && !open:
			out, open = append(out, Gap{From: a.at, To: end, Open: true}), true
		case a.err == "" && open:
			last := &out[len(out)-1]
			last.To, last.Open, open = a.at, false, false
		}
	}
	return out
}

// Since cuts the report's outages to those that end after the moment: what one
// event in a longer run did.
func (r Report) Since(at time.Time) []Gap {
	var out []Gap
	for _, g := range r.Outages {
		if g.To.After(at) {
			out = append(out, g)
		}
	}
	return out
}

// String is one line for a test's log.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent in %s, %d failed", r.Sent, ms(r.End.Sub(r.Begin)), r.Failed)
	if r.Failed > 0 {
		fmt.Fprintf(&b, " (%s)", counts(r.Errors))
	}
	for i, g := range r.Outages {
		if i == 5 {
			fmt.Fprintf(&b, ", … %d outages, longest %s", len(r.Outages), ms(r.Longest))
			break
		}
		fmt.Fprintf(&b, ", out %s at +%s", ms(g.Duration()), ms(g.From.Sub(r.Begin)))
		if g.Open {
			b.WriteString(" and never back")
		}
	}
	if r.Sent > r.Failed {
		fmt.Fprintf(&b, "; answers: median %s, slowest %s", ms(r.Median), ms(r.Slowest))
	}
	if len(r.ByServer) > 0 {
		fmt.Fprintf(&b, "; by %s", counts(r.ByServer))
	}
	fmt.Fprintf(&b, "; own longest pause %s", ms(r.Pause))
	return b.String()
}

// counts sorts, so that equal reports print alike.
func counts(m map[string]int) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s ×%d", k, m[k])
	}
	return strings.Join(keys, ", ")
}

// ms rounds for reading.
func ms(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
