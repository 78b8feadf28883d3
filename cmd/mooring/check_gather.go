package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/internal/kube"
)

// gatherer finds one part of the facts. What it returns puts them in their place; it
// runs beside others, and so must not write to the exam itself.
type gatherer struct {
	part  check.Part
	limit time.Duration
	look  func(context.Context) (put func(), err error)
}

// found is what a gatherer came back with.
type found struct {
	part check.Part
	put  func()
	err  error
}

// moot is an error that says that there is nothing to be seen.
type moot string

// Error implements error.
func (m moot) Error() string { return string(m) }

// patience is when a person is told what is waited for.
const patience = 2 * time.Second

// gather runs a round. One that takes longer than its limit, or panics, leaves a gap
// and hides no other; it is not waited for.
func (x *exam) gather(ctx context.Context, round []gatherer, tell io.Writer) {
	back := make(chan found, len(round))
	pending := map[check.Part]bool{}
	for _, g := range round {
		pending[g.part] = true
		go func() { back <- g.within(ctx) }()
	}
	slow := time.NewTicker(patience)
	defer slow.Stop()
	for len(pending) > 0 {
		select {
		case f := <-back:
			delete(pending, f.part)
			if f.err != nil {
				x.facts.Gaps[f.part] = gapOf(f.err)
			} else {
				f.put()
			}
		case <-slow.C:
			fmt.Fprintf(tell, "mooring check: waiting for %s\n", names(pending))
		}
	}
}

// within looks, for no longer than the limit.
func (g gatherer) within(ctx context.Context) found {
	ctx, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	done := make(chan found, 1)
	go func() {
		f := found{part: g.part}
		defer func() {
			if p := recover(); p != nil {
				f.err = fmt.Errorf("this is a bug of mooring check: %v", p)
			}
			done <- f
		}()
		f.put, f.err = g.look(ctx)
	}()
	select {
	case f := <-done:
		if f.err != nil && ctx.Err() != nil {
			f.err = fmt.Errorf("no answer within %s", g.limit)
		}
		return f
	case <-ctx.Done():
		return found{part: g.part, err: fmt.Errorf("no answer within %s", g.limit)}
	}
}

// gapOf turns an error into what a person reads.
func gapOf(err error) check.Gap {
	var m moot
	var dial *net.OpError
	switch {
	case errors.As(err, &m):
		return check.Gap{Why: string(m), Moot: true}
	case errors.Is(err, errNoCredentials):
		return check.Gap{Why: err.Error(), Fix: "mooring check --kubeconfig /etc/kubernetes/admin.conf"}
	case kube.Forbidden(err):
		return check.Gap{Why: "the API server does not let these credentials see it",
			Fix: "mooring check --kubeconfig /etc/kubernetes/admin.conf" +
				"   # or let the agents: mooring manifest rbac-check | kubectl apply -f -"}
	case kube.Unanswered(err), errors.As(err, &dial) && dial.Op == "dial":
		return check.Gap{Why: "no API server answers"}
	case errors.Is(err, errAgentAway):
		return check.Gap{Why: err.Error(),
			Fix: "mooring agent --config FILE   # or kubectl -n kube-system get pods | grep mooring"}
	case errors.Is(err, errNotRoot):
		return check.Gap{Why: err.Error(),
			Fix: "sudo mooring check   # or in the agent's pod: kubectl -n kube-system exec POD -- mooring check"}
	}
	return check.Gap{Why: err.Error()}
}

var (
	errNoCredentials = errors.New("there are no credentials for an API server")
	errAgentAway     = errors.New("no agent answers on this node")
	errNotRoot       = errors.New("this command lacks the capability for it")
)

// names lists parts.
func names(parts map[check.Part]bool) string {
	var out []string
	for p := range parts {
		out = append(out, string(p))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// faultsOf takes the errors of a configuration apart, which are a line each.
func faultsOf(err error) []string {
	if errors.Is(err, fs.ErrNotExist) {
		first, _, _ := strings.Cut(err.Error(), ";")
		return []string{first} // what follows is a whole file
	}
	var out []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			out = append(out, line)
		}
	}
	return out
}
