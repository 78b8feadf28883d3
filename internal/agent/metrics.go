package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// Metrics are the agent's own; the registry is not the global one.
type Metrics struct {
	Registry *prometheus.Registry

	holding     prometheus.Gauge
	confirmed   prometheus.Gauge
	term        prometheus.Gauge
	fence       prometheus.Gauge
	decisions   *prometheus.CounterVec
	took        *prometheus.HistogramVec
	serving     prometheus.Gauge
	up          prometheus.Gauge
	known       prometheus.Gauge
	proxyErrors prometheus.Counter
	dropped     prometheus.Counter
	peerUp      *prometheus.GaugeVec
	provisional prometheus.Gauge
}

// newMetrics registers everything at once, so that a scrape before the first
// event shows zeros and not gaps.
func newMetrics(group string) *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry()}
	label := prometheus.Labels{"group": group}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: label})
		m.Registry.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: label})
		m.Registry.MustRegister(c)
		return c
	}
	m.holding = gauge("mooring_holding", "Actual: 1 while this node answers for the group's VIPs.")
	m.provisional = gauge("mooring_provisional", "Actual: 1 while this node holds without an API server's word.")
	m.peerUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mooring_peer_up", Help: "Actual: 1 while the other candidate's hellos come.", ConstLabels: label,
	}, []string{"node"})
	m.Registry.MustRegister(m.peerUp)
	m.confirmed = gauge("mooring_confirmed", "Actual: 1 while an API server confirms that this node holds.")
	m.term = gauge("mooring_lease_transitions", "Actual: the term of the group's Lease as last seen.")
	m.fence = gauge("mooring_fence_seconds", "Actual: how long the kernel keeps the VIPs without this agent.")
	m.serving = gauge("mooring_haproxy_serving", "Actual: 1 while HAProxy serves the wanted configuration.")
	m.up = gauge("mooring_apiservers_up", "Actual: API servers that pass their health check.")
	m.known = gauge("mooring_apiservers_known", "Desired: API servers that HAProxy balances over.")
	m.proxyErrors = counter("mooring_data_plane_errors_total", "Changes of HAProxy or its redirects that failed.")
	m.dropped = counter("mooring_events_dropped_total", "Events dropped because the state loop was stuck.")
	m.decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mooring_decisions_total", Help: "Decisions of the ownership machine by reason.", ConstLabels: label,
	}, []string{"reason"})
	m.took = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mooring_move_seconds", ConstLabels: label,
		Help:    "How long a change of hands took, from its trigger to the announced address.",
		Buckets: []float64{.02, .05, .1, .2, .5, 1, 2, 5, 10, 20},
	}, []string{"cause"})
	m.Registry.MustRegister(m.decisions, m.took)
	return m
}

// note counts a decision.
func (m *Metrics) note(n election.Note) {
	m.decisions.WithLabelValues(string(n.Reason)).Inc()
	if n.Reason == election.Became {
		m.took.WithLabelValues(string(n.Cause)).Observe(n.Took.Seconds())
	}
}

// publish shows the machine's state.
func (m *Metrics) publish(ms election.Status, s Status) {
	m.holding.Set(flag(ms.Phase == election.Holding || ms.Phase == election.Draining))
	m.confirmed.Set(flag(ms.Confirmed))
	m.provisional.Set(flag(ms.Provisional))
	for _, p := range s.Peers {
		m.peerUp.WithLabelValues(p.Node).Set(flag(p.State == election.PeerUp.String() || p.State == election.PeerLate.String()))
	}
	m.term.Set(float64(s.Term))
	m.fence.Set(s.Fence)
}

// plane shows what is balanced over, beside what is wanted.
func (m *Metrics) plane(p lb.Snapshot) {
	m.serving.Set(flag(p.Proxy.Serving))
	m.up.Set(float64(len(p.Proxy.Up)))
	known := len(p.Backends)
	if known == 0 {
		known = len(p.Seeds)
	}
	if !p.Balance {
		known = 0 // HAProxy balances over none
	}
	m.known.Set(float64(known))
}

// flag is a gauge's yes or no.
func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Registry is what /metrics serves.
func (a *Agent) Registry() *prometheus.Registry { return a.metrics.Registry }
