// Command bench measures Mooring beside keepalived and a plain API server, in
// one run on one lab, and prints medians and ratios: absolute times of a shared
// machine mean little.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
	"mooring.dev/mooring/e2e/stage"
)

const vip = lab.VIP4

func main() {
	runs := flag.Int("runs", 5, "counted runs of each figure")
	flag.Parse()
	os.Exit(stage.Run("bench", os.Exit, func(s *stage.Stage) { play(s, *runs) }))
}

// bench is one measurement under way.
type bench struct {
	*stage.Cluster
	runs   int
	agents map[string]*lab.Process
	peers  []*keepalived
	rows   []string
}

// play measures in the order of growing damage: rest, load, link cut, SIGTERM.
func play(s *stage.Stage, runs int) {
	b := &bench{Cluster: s.Build(), runs: runs, agents: map[string]*lab.Process{}}
	idle := b.apiRequests(30 * time.Second)
	for _, n := range b.All() {
		b.agents[n.Name()] = n.StartAgent(n.AgentConfig(vip))
	}
	b.Settle()
	time.Sleep(3 * time.Second)
	b.rest(idle)
	b.throughput()
	b.peers = []*keepalived{
		{name: "keepalived 1 s", vip: "10.99.0.201", router: 51, advert: "1", procs: map[string]*lab.Process{}},
		{name: "keepalived 0.1 s", vip: "10.99.0.202", router: 52, advert: "0.1", procs: map[string]*lab.Process{}},
	}
	for _, k := range b.peers {
		for i, n := range b.All() {
			k.start(b, n, 150-10*i)
		}
	}
	b.outages("link cut", func(n *lab.Node) { n.CutLink(lab.CarrierLoss) }, func(n *lab.Node) { n.HealLink() }, 14*time.Second)
	b.outages("SIGTERM", b.terminate, b.restart, 6*time.Second)
	b.Title(fmt.Sprintf("Results: medians (min-max) of %d runs", runs))
	for _, r := range b.rows {
		fmt.Println("  " + r)
	}
}

// row keeps one line of the results.
func (b *bench) row(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.rows = append(b.rows, text)
	b.Logf("%s", text)
}

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
	cpu := map[string]time.Duration{}
	for name, a := range b.agents {
		cpu[name] = a.CPU()
	}
	total := b.apiRequests(30 * time.Second)
	holder := b.Holder(vip).Name()
	for _, n := range b.All() {
		a, role := b.agents[n.Name()], "standby"
		if n.Name() == holder {
			role = "holder"
		}
		b.row("agent at rest, %-8s RSS %3d MiB, %4.1f %% of one core", role, a.RSS()>>20,
			100*(a.CPU()-cpu[n.Name()]).Seconds()/30)
	}
	b.row("API requests at rest    %.0f per minute by three agents (the cluster's own: %.0f); /readyz by three HAProxys: %.0f",
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
		b.row("%-25s VIP %s req/s, direct %s req/s, ratio %s", kind, spread(c, "%.0f"), spread(a, "%.0f"), spread(ratios, "%.2f"))
	}
}

// outages breaks the node that holds all VIPs at once and compares what their
// clients saw.
func (b *bench) outages(what string, breakIt, mend func(*lab.Node), wait time.Duration) {
	b.Title("Client-visible outage, " + what)
	lost := map[string][]float64{}
	first := b.Node(1)
	for i := range b.runs {
		b.gather(first)
		probes := map[string]*lab.Probe{"mooring": b.Client().Probe(vip+":6443", 5*time.Millisecond)}
		for _, k := range b.peers {
			probes[k.name] = b.Client().Probe(k.vip+":6443", 5*time.Millisecond)
		}
		time.Sleep(time.Second)
		breakIt(first)
		time.Sleep(wait)
		for name, p := range probes {
			lost[name] = append(lost[name], float64(p.Stop().Longest.Milliseconds()))
		}
		mend(first)
		b.Logf("run %d: mooring %.0f ms, keepalived 1 s %.0f ms, 0.1 s %.0f ms", i+1,
			lost["mooring"][i], lost["keepalived 1 s"][i], lost["keepalived 0.1 s"][i])
	}
	b.row("%-9s mooring           %s ms", what, spread(lost["mooring"], "%.0f"))
	for _, k := range b.peers {
		b.row("%-9s %-17s %s ms, mooring/keepalived %s", what, k.name, spread(lost[k.name], "%.0f"),
			ratio(median(lost["mooring"]), median(lost[k.name])))
	}
}

// gather puts all VIPs on one node.
func (b *bench) gather(n *lab.Node) {
	b.Settle()
	if h := b.Holder(vip); h.Name() != n.Name() {
		h.Exec(b.Bin, "move", "--to", n.Name(), "--config", b.Config(h))
	}
	for _, k := range b.peers {
		b.Eventually(20*time.Second, k.name+" is back on "+n.Name(), func() bool {
			h := b.Holders(k.vip)
			return len(h) == 1 && h[0].Name() == n.Name()
		})
	}
	time.Sleep(3 * time.Second)
}

// terminate ends the agent and its peers politely, all at once.
func (b *bench) terminate(n *lab.Node) {
	b.agents[n.Name()].Term()
	for _, k := range b.peers {
		k.procs[n.Name()].Term()
	}
}

// restart brings back what terminate ended, as a supervisor would.
func (b *bench) restart(n *lab.Node) {
	b.agents[n.Name()] = n.StartAgent(n.AgentConfig(vip))
	for _, k := range b.peers {
		k.start(b, n, 150)
	}
}

// spread prints median (min-max).
func spread(v []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+"-"+format+")", median(v), slices.Min(v), slices.Max(v))
}

// median takes the upper of two middles: never better than measured.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// ratio prints a/b; nothing lost beside nothing lost is 1.
func ratio(a, b float64) string {
	switch {
	case b == 0 && a == 0:
		return "1 (nothing lost by either)"
	case b == 0:
		return "infinite (the peer lost nothing)"
	default:
		return fmt.Sprintf("%.2f", a/b)
	}
}
