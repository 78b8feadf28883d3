package kube

import (
	"fmt"
	"regexp"

	"mooring.dev/mooring/internal/lb"
)

const (
	// maxIssues bounds what one object can make others say about it.
	maxIssues = 32
	// maxProblem bounds a complaint, in bytes.
	maxProblem = 300
	// maxField bounds the name of a field, in bytes.
	maxField = 128
)

// rePlain is a field's name that needs no quotes.
var rePlain = regexp.MustCompile(`^[A-Za-z0-9./_\[\]-]{1,128}$`)

// issues collects complaints about one object.
type issues struct {
	list []lb.Issue
	// more were not taken down.
	more int
}

// add complains about a field. A fatal complaint is never left out.
func (i *issues) add(field, problem string, fatal bool) {
	if len(i.list) >= maxIssues && !fatal {
		i.more++
		return
	}
	if !rePlain.MatchString(field) {
		field = clip(quoted(field), maxField)
	}
	i.list = append(i.list, lb.Issue{Field: field, Problem: clip(problem, maxProblem), Fatal: fatal})
}

// fatal complains about what leaves a Service without address.
func (i *issues) fatal(field, problem string) { i.add(field, problem, true) }

// all returns the complaints in the order in which they were made.
func (i *issues) all() []lb.Issue {
	if i.more == 0 {
		return i.list
	}
	return append(i.list, lb.Issue{Field: "metadata", Problem: fmt.Sprintf("%d more values cannot be used", i.more)})
}

// nearest is the known annotation whose name takes the fewest edits to become.
func nearest(name string) string {
	const longest = 40 // longer ones are like none
	name = clip(name, longest)
	best, least := "", -1
	for _, a := range annotations {
		if d := lb.EditDistance(name, a.name); least < 0 || d < least {
			best, least = a.name, d
		}
	}
	return best
}
