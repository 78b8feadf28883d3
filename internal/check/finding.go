package check

import (
	"fmt"
	"slices"
	"strings"
)

// Severity is how bad a finding is.
type Severity string

// The severities, worst last. Unseen is no judgement: it says what could not be
// looked at, and is no problem by itself.
const (
	OK      Severity = "ok"
	Unseen  Severity = "unseen"
	Warning Severity = "warning"
	Problem Severity = "problem"
)

// Finding is one thing that was looked at.
type Finding struct {
	// Check is its name in All.
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// What was found, a sentence.
	What string `json:"what"`
	// Why it matters; empty where all is well.
	Why string `json:"why,omitempty"`
	// Fix is the command that mends it, or what to do where no command can.
	Fix string `json:"fix,omitempty"`
}

// Check is one of the things that are looked at.
type Check struct {
	Name string
	// Looks is what at; Why why it matters.
	Looks, Why string
	// Needs are the parts without which there is nothing to judge.
	Needs []Part
	judge func(*Facts) []Finding
}

// Run judges the facts: every check gives at least one finding, in the order of All.
func Run(f *Facts) []Finding {
	var out []Finding
	for _, c := range All() {
		for _, x := range c.run(f) {
			x.Check = c.Name
			if (x.Severity == Warning || x.Severity == Problem) && x.Why == "" {
				x.Why = c.Why
			}
			out = append(out, x)
		}
	}
	return out
}

// run judges, or says what could not be seen.
func (c Check) run(f *Facts) []Finding {
	for _, p := range c.Needs {
		if g, gap := f.Gaps[p]; gap {
			return []Finding{unseen(g)}
		}
	}
	out := c.judge(f)
	if len(out) == 0 {
		out = []Finding{ok("not asked for by the configuration")}
	}
	// What is worst is read first.
	slices.SortStableFunc(out, func(a, b Finding) int { return rank(b.Severity) - rank(a.Severity) })
	return out
}

// Worst is the worst severity among findings, OK of none.
func Worst(all []Finding) Severity {
	worst := OK
	for _, f := range all {
		if rank(f.Severity) > rank(worst) {
			worst = f.Severity
		}
	}
	return worst
}

// Count is how many findings have the severity.
func Count(all []Finding, s Severity) int {
	n := 0
	for _, f := range all {
		if f.Severity == s {
			n++
		}
	}
	return n
}

func rank(s Severity) int { return slices.Index([]Severity{OK, Unseen, Warning, Problem}, s) }

func unseen(g Gap) Finding {
	if g.Moot {
		return ok("%s", g.Why)
	}
	return Finding{Severity: Unseen, What: "not seen: " + g.Why, Fix: g.Fix}
}

func ok(format string, args ...any) Finding { return found(OK, "", format, args...) }

func warning(fix, format string, args ...any) Finding { return found(Warning, fix, format, args...) }

func problem(fix, format string, args ...any) Finding { return found(Problem, fix, format, args...) }

func found(s Severity, fix, format string, args ...any) Finding {
	return Finding{Severity: s, What: fmt.Sprintf(format, args...), Fix: fix}
}

// list writes values for people: "a, b".
func list[T any](all []T) string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = fmt.Sprint(v)
	}
	return strings.Join(out, ", ")
}

// plural is "1 key" or "2 keys".
func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
