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

	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// serveMetrics answers /metrics, /healthz and /readyz until ctx ends.
func (n *node) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(n.sources(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /metrics/services", n.serviceMetrics)
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

// noServices is the answer of a node that has none.
const noServices = "this node serves no Services: set services.enabled"

// serviceMetrics answers with those of the Services' HAProxy, which names its
// frontends after them.
func (n *node) serviceMetrics(w http.ResponseWriter, r *http.Request) {
	if n.services == nil {
		http.Error(w, noServices, http.StatusNotFound)
		return
	}
	n.services.proxy.ServeMetrics(w, r)
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
		_ = enc.Encode(n.report(n.agent))
	})
	mux.HandleFunc("GET /services", n.listServices)
	mux.HandleFunc("POST /move", func(w http.ResponseWriter, r *http.Request) {
		text, err := n.move(r.Context(), lb.ServiceKey(r.URL.Query().Get("service")), r.URL.Query().Get("to"))
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

// listServices answers GET /services, of one Service if the query has its name.
func (n *node) listServices(w http.ResponseWriter, r *http.Request) {
	if n.services == nil {
		http.Error(w, noServices, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(n.services.reports(r.Context(), lb.ServiceKey(r.URL.Query().Get("name"))))
}
