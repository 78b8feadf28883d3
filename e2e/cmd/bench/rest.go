package main

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// helper is the agent's word for its hello process.
const helper = "hello-helper"

// requests are rates per minute over all API servers: of resources, and of
// health checks.
type requests struct{ resources, checks float64 }

// apiRequests counts what the API servers answered in a time.
func (b *bench) apiRequests(d time.Duration) requests {
	before := b.requestTotal()
	time.Sleep(d)
	after := b.requestTotal()
	return requests{(after.resources - before.resources) / d.Minutes(), (after.checks - before.checks) / d.Minutes()}
}

// requestTotal sums apiserver_request_total over the API servers.
func (b *bench) requestTotal() (sum requests) {
	for _, n := range b.All() {
		r := count(b.Kubectl("--kubeconfig", n.AdminKubeconfig(), "get", "--raw", "/metrics"))
		sum.resources += r.resources
		sum.checks += r.checks
	}
	return sum
}

// count sums one server's metrics (Prometheus text format): requests without a
// resource are health checks and the like.
func count(metrics string) (sum requests) {
	for _, line := range strings.Split(metrics, "\n") {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(f[0], "apiserver_request_total{") {
			continue
		}
		v, err := strconv.ParseFloat(f[1], 64)
		switch {
		case err != nil:
		case strings.Contains(f[0], `,resource=""`):
			sum.checks += v
		default:
			sum.resources += v
		}
	}
	return sum
}

// rest measures agents that have nothing to do.
func (b *bench) rest(idle requests) {
	b.Title("At rest, 30 s")
	agent, hellos := map[string]time.Duration{}, map[string]time.Duration{}
	for name, a := range b.agents {
		agent[name] = a.CPU()
		_, hellos[name] = a.Child(helper)
	}
	total := b.apiRequests(30 * time.Second)
	holder := b.Holder(vip).Name()
	for _, n := range b.All() {
		a, role := b.agents[n.Name()], "standby"
		if n.Name() == holder {
			role = "holder"
		}
		rss, cpu := a.Child(helper)
		share := func(now, before time.Duration) float64 { return 100 * (now - before).Seconds() / 30 }
		b.figure("at rest, %s: agent RSS %d MiB, %.1f %% of one core; its hello process %d MiB, %.1f %%", role,
			a.RSS()>>20, share(a.CPU(), agent[n.Name()]), rss>>20, share(cpu, hellos[n.Name()]))
	}
	b.figure("API requests at rest: %.0f per minute by three agents (the cluster's own: %.0f); "+
		"/readyz by three HAProxys: %.0f",
		total.resources-idle.resources, idle.resources, total.checks-idle.checks)
}

// throughput compares new connections and keep-alive requests through the VIP
// with those to one API server, in turns.
func (b *bench) throughput() {
	b.Title("Requests through VIP + HAProxy beside a direct API server")
	direct := "https://" + b.Node(1).IP() + ":6443/version"
	through := "https://" + vip + ":6443/version"
	for _, keep := range []bool{true, false} {
		var ratios, a, c []float64
		for range b.runs {
			d := load(b.Client(), direct, keep, 3*time.Second)
			v := load(b.Client(), through, keep, 3*time.Second)
			a, c, ratios = append(a, d), append(c, v), append(ratios, v/max(d, 1))
		}
		kind := "a connection per request"
		if keep {
			kind = "keep-alive"
		}
		b.figure("%s: VIP %s req/s, direct %s req/s, ratio %s", kind,
			spread(c, "%.0f"), spread(a, "%.0f"), spread(ratios, "%.2f"))
	}
}

// load sends requests from sixteen workers for a time and returns those
// answered with 200 per second.
func load(h *lab.Host, url string, keep bool, d time.Duration) float64 {
	c := h.HTTP(2 * time.Second)
	if t, ok := c.Transport.(*http.Transport); ok {
		t.DisableKeepAlives = !keep
		t.MaxIdleConnsPerHost = 16
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var good atomic.Int64
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for ctx.Err() == nil {
				if get(ctx, c, url) {
					good.Add(1)
				}
			}
		})
	}
	workers.Wait()
	c.CloseIdleConnections()
	return float64(good.Load()) / d.Seconds()
}

// get counts an answer only when its whole body came.
func get(ctx context.Context, c *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := c.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
