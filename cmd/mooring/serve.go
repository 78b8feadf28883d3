package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// serveMetrics answers /metrics, /healthz and /readyz until ctx ends.
func (n *node) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(n.sources(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", verdict(n.healthy))
	mux.HandleFunc("GET /readyz", verdict(n.ready))
	l, err := net.Listen("tcp", n.cfg.Metrics.Bind.String())
	if err != nil {
		return fmt.Errorf("metrics.bind: %v (another process has the port? choose a free one)", err)
	}
	return serve(ctx, l, mux)
}

// agents are those of all groups of this node.
func (n *node) agents() []*agent.Agent {
	var out []*agent.Agent
	if n.agent != nil {
		out = append(out, n.agent)
	}
	if n.services != nil {
		for _, sh := range *n.services.open.Load() {
			out = append(out, sh.agent)
		}
	}
	return out
}

// sources are the metrics of this process and of all groups.
func (n *node) sources() prometheus.Gatherers {
	out := prometheus.Gatherers{n.registry}
	for _, a := range n.agents() {
		out = append(out, a.Registry())
	}
	return out
}

// healthy says whether every group's loop runs and what is held is really held.
func (n *node) healthy() error {
	for _, a := range n.agents() {
		if err := a.Healthy(); err != nil {
			return fmt.Errorf("%s: %w", a.Status().Group, err)
		}
	}
	return nil
}

// ready says whether the API server's VIP can be served, where this node has it.
func (n *node) ready() error {
	if n.agent == nil {
		return n.healthy()
	}
	return n.agent.Ready()
}

// serveSocket answers `mooring status` and `mooring move` until ctx ends. Only
// root reaches it.
func (n *node) serveSocket(ctx context.Context) error {
	a := n.agent
	path := filepath.Join(n.cfg.RunDir, socketName)
	_ = os.Remove(path) // of a dead agent: the lock file proves that it is dead
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("runDir: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(n.report(a))
	})
	mux.HandleFunc("GET /services", func(w http.ResponseWriter, r *http.Request) {
		if n.services == nil {
			http.Error(w, "this node serves no Services: set services.enabled", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(n.services.reports(lb.ServiceKey(r.URL.Query().Get("name"))))
	})
	mux.HandleFunc("POST /move", func(w http.ResponseWriter, r *http.Request) {
		text, err := moveTo(r.Context(), a, r.URL.Query().Get("to"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, text)
	})
	return serve(ctx, l, mux)
}

// serve answers until ctx ends; open requests are cut, for a reload must not wait
// for a client that reads slowly.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// verdict turns a check into a probe's answer: 200, or 503 and why.
func verdict(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// moveTo asks for a planned move and waits until it is over.
func moveTo(ctx context.Context, a *agent.Agent, to string) (string, error) {
	if a == nil {
		return "", errors.New("this node has no VIP of the API server: run this where it is held")
	}
	before := a.Status()
	if before.HeldFor == 0 {
		return "", fmt.Errorf("%s does not hold the VIPs: run this on %s", before.Node, orNone(before.Holder))
	}
	asked := time.Now()
	a.Deliver(election.Ask{To: to, Cause: election.CauseMove})
	deadline := time.After(8 * time.Second)
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline:
			return "", errors.New("no end of the move within 8 s: see mooring status")
		case <-time.After(20 * time.Millisecond):
		}
		for _, m := range a.Status().Moves {
			if m.At.Before(asked) {
				break
			}
			switch m.Reason {
			case election.GaveUp:
				return fmt.Sprintf("moved to %s in %s", m.Node, m.Took.Round(time.Millisecond)), nil
			case election.MoveDropped, election.MoveUndone, election.NoCandidate:
				return "", fmt.Errorf("%s %s: %s", m.Reason, m.Node, orNone(m.Detail))
			default:
			}
		}
	}
}
