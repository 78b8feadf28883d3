package haproxy

import (
	"cmp"
	"context"
	"slices"
)

// ServerState is a server of a frontend as HAProxy sees it.
type ServerState struct {
	// Name is ServerName of the backend's address.
	Name string `json:"name"`
	// Status is UP, DOWN, DRAIN, MAINT, "no check" and so on, Check the last check's
	// result (L4OK, L7STS …) or "" without a check (management.txt §9.1).
	Status string `json:"status"`
	Check  string `json:"check,omitempty"`
	// Sessions are the connections that it has now.
	Sessions int `json:"sessions"`
}

// Servers asks HAProxy for the servers of one frontend, sorted by name, for people
// and for what explains a Service. A frontend that HAProxy does not have is an
// error.
func (p *Proxy) Servers(ctx context.Context, frontend string) ([]ServerState, error) {
	if !reFrontend.MatchString(frontend) {
		return nil, fieldErr("frontend", frontend, "use the name of a frontend")
	}
	c := Config{Dir: p.dir}
	text, err := ask(ctx, c.file(fileStats), "show stat "+backendName(frontend)+" 4 -1")
	if err != nil {
		return nil, err
	}
	w, err := parseStatus(text)
	if err != nil {
		return nil, fieldErr("frontend", frontend, "HAProxy has no such frontend")
	}
	var out []ServerState
	for _, s := range w.servers[backendName(frontend)] {
		out = append(out, ServerState{Name: s.name, Status: s.status, Check: s.check, Sessions: s.sessions})
	}
	slices.SortFunc(out, func(a, b ServerState) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}
