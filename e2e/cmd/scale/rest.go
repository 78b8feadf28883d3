package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	// few is how many Services the rates of many are compared with.
	few = 10
	// restTime is how long a rate is counted: some rounds of every period of an agent.
	restTime = 40 * time.Second
)

// rest counts what agents that have nothing to do write, and what they use.
func (b *scale) rest() { b.fewAndMany(false) }

// local is the same with Services each of which is a group of its own.
func (b *scale) local() { b.fewAndMany(true) }

func (b *scale) fewAndMany(local bool) {
	for range b.runs {
		b.run(nil)
		b.Title("At rest without agents")
		before := b.written()
		time.Sleep(restTime)
		idle := b.written().since(before)
		for _, n := range []int{few, b.services} {
			b.atRest(population{n: n, local: local}, idle)
		}
	}
}

// atRest measures one population.
func (b *scale) atRest(p population, idle writes) {
	policy := "Cluster"
	if p.local {
		policy = "Local"
	}
	b.Title(fmt.Sprintf("At rest with %d Services, externalTrafficPolicy %s", p.n, policy))
	b.run(nil) // so that making them is not what is measured
	b.populate(p)
	b.whole(p)
	b.quiet()
	cpu := map[string]time.Duration{}
	for name, a := range b.agents {
		cpu[name] = a.CPU()
	}
	before := b.written()
	time.Sleep(restTime)
	now := b.written().since(before)
	of := fmt.Sprintf("at rest, %d Services, %s: ", p.n, policy)
	b.add(figure{What: of + "writes of Leases by three agents", Target: "no more than with 10", Format: "%.0f/min"},
		now.leases-idle.leases)
	b.add(figure{What: of + "other writes", Format: "%.0f/min"}, now.others-idle.others)
	for _, n := range b.All() {
		a := b.agents[n.Name()]
		child, _ := a.Child("hello-helper")
		b.add(figure{What: of + "CPU of an agent", Format: "%.1f %% of a core"},
			100*(a.CPU()-cpu[n.Name()]).Seconds()/restTime.Seconds())
		b.add(figure{What: of + "RSS of an agent", Format: "%.0f MiB"}, float64(a.RSS()+child)/(1<<20))
	}
}

// quiet waits until nothing but renewals is written any more.
func (b *scale) quiet() {
	const enough = 20 // in 3 s
	last := b.written()
	for range 40 {
		time.Sleep(3 * time.Second)
		now := b.written()
		if sum := now.leases + now.others - last.leases - last.others; sum < enough {
			return
		}
		last = now
	}
	b.Logf("writes do not end")
}

// writes are counted, or per minute: of Leases, and of all else.
type writes struct {
	at             time.Time
	leases, others float64
}

// written sums what all API servers have been asked to write.
func (b *scale) written() writes {
	w := writes{at: time.Now()}
	for _, n := range b.All() {
		leases, others := countWrites(b.Kubectl("--kubeconfig", n.AdminKubeconfig(), "get", "--raw", "/metrics"))
		w.leases += leases
		w.others += others
	}
	return w
}

// since is the rate from before on.
func (w writes) since(before writes) writes {
	d := w.at.Sub(before.at).Minutes()
	return writes{at: w.at, leases: (w.leases - before.leases) / d, others: (w.others - before.others) / d}
}

// countWrites reads one server's metrics (Prometheus text format). PURE.
func countWrites(metrics string) (leases, others float64) {
	for _, line := range strings.Split(metrics, "\n") {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.HasPrefix(f[0], "apiserver_request_total{") || !writing(f[0]) {
			continue
		}
		v, err := strconv.ParseFloat(f[1], 64)
		switch {
		case err != nil:
		case strings.Contains(f[0], `resource="leases"`):
			leases += v
		default:
			others += v
		}
	}
	return leases, others
}

// writing says whether a series counts requests that change something.
func writing(series string) bool {
	for _, verb := range []string{"POST", "PUT", "PATCH", "DELETE", "APPLY"} {
		if strings.Contains(series, `verb="`+verb+`"`) {
			return true
		}
	}
	return false
}
