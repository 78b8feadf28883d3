package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"mooring.dev/mooring/internal/check"
)

// checkReport is what `mooring check -o json` prints.
type checkReport struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	// Agent says that an agent runs on this node.
	Agent bool           `json:"agent"`
	Worst check.Severity `json:"worst"`
	// Took is in seconds.
	Took     float64         `json:"tookSeconds"`
	Findings []check.Finding `json:"findings"`
}

func jsonCheck(out io.Writer, r checkReport) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // commands have & and >
	return enc.Encode(r)
}

// width is where lines are broken; commands never are, so that they can be copied.
const width = 110

// printCheck draws one line for what is well, three for what is not.
func printCheck(out io.Writer, r checkReport) error {
	agent := "no agent runs here"
	if r.Agent {
		agent = "an agent runs here"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "node %s, %s\n\n", r.Node, agent)
	printFindings(&b, r.Findings)
	count := func(s check.Severity) int { return check.Count(r.Findings, s) }
	fmt.Fprintf(&b, "\n%s, %s, %d not seen, %d ok, in %.1f s\n", counted(count(check.Problem), "problem"),
		counted(count(check.Warning), "warning"), count(check.Unseen), count(check.OK), r.Took)
	_, err := io.WriteString(out, b.String())
	return err
}

// indent is where the text of a finding begins.
const indent = 25

// printFindings draws the findings in their order, and at the end, together, what
// could not be seen for one reason.
func printFindings(b *strings.Builder, all []check.Finding) {
	marks := map[check.Severity]string{check.OK: "ok", check.Warning: "WARNING", check.Problem: "PROBLEM"}
	unseen := map[[2]string][]string{} // what and the way out → checks
	var order [][2]string
	last := ""
	for _, f := range all {
		if f.Severity == check.Unseen {
			key := [2]string{f.What, f.Fix}
			if unseen[key] == nil {
				order = append(order, key)
			}
			unseen[key] = append(unseen[key], f.Check)
			continue
		}
		name := f.Check
		if name == last {
			name = ""
		}
		last = f.Check
		printFinding(b, [2]string{marks[f.Severity], name}, f)
	}
	for i, key := range order {
		if i == 0 {
			b.WriteString("\n")
		}
		f := check.Finding{What: strings.Join(unseen[key], ", ") + ": " + strings.TrimPrefix(key[0], "not seen: "),
			Fix: key[1]}
		printFinding(b, [2]string{"?", "not seen"}, f)
	}
}

// printFinding draws one, with its mark and name.
func printFinding(b *strings.Builder, head [2]string, f check.Finding) {
	fmt.Fprintf(b, "%-7s  %-14s  %s\n", head[0], head[1], wrap(f.What, indent))
	pad := strings.Repeat(" ", indent)
	if f.Why != "" {
		fmt.Fprintf(b, "%swhy: %s\n", pad, wrap(f.Why, indent+5))
	}
	if f.Fix != "" {
		fmt.Fprintf(b, "%sdo:  %s\n", pad, f.Fix)
	}
}

// wrap breaks a text into lines, all but the first indented.
func wrap(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		size := len([]rune(word))
		switch {
		case i == 0:
		case at+1+size > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += size
	}
	return b.String()
}

// counted is "no problem", "1 problem" or "2 problems".
func counted(n int, word string) string {
	switch n {
	case 0:
		return "no " + word
	case 1:
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
