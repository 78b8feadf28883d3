package main

import (
	"fmt"
	"time"

	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/e2e/lab"
)

const (
	// rolling is how many Services are rolled out at a time.
	rolling = 100
	// ending is how long a pod serves after it was said to end.
	ending = time.Second
)

// rollout replaces every pod of many Services, one after the other, under load: a new
// pod is ready, an old one ends, is taken out and dies.
func (b *scale) rollout() {
	b.Title(fmt.Sprintf("Rolling replacement of all endpoints of %d Services", rolling))
	b.whole(population{n: b.services})
	for range b.runs {
		before := b.reloads()
		var probes []*lab.Probe
		for i := range rolling {
			probes = append(probes, b.Client().Requests("http://"+b.addrs[b.there.name(i)]+"/", 500*time.Millisecond))
			time.Sleep(500 * time.Millisecond / rolling)
		}
		for i := range endpointsEach {
			b.replace(i)
		}
		time.Sleep(time.Second)
		sent, failed := 0, 0
		for _, p := range probes {
			r := p.Stop()
			sent, failed = sent+r.Sent, failed+r.Failed
			if r.Failed > 0 {
				b.Logf("%s", r)
			}
		}
		b.add(figure{What: fmt.Sprintf("rollout of %d Services: failed requests", rolling), Target: "0", Format: "%.0f"},
			float64(failed))
		b.add(figure{What: "requests meanwhile", Format: "%.0f"}, float64(sent))
		b.add(figure{What: "reloads meanwhile, all nodes", Target: "≤ 1 each", Format: "%.0f"}, float64(b.reloads()-before))
		b.restore()
	}
}

// replace takes pod i of the first half out and puts its successor in.
func (b *scale) replace(i int) {
	set := func(ends bool) {
		b.each(rolling, func(k int) error {
			return b.setEndpoints(b.there.name(k), b.during(i, ends))
		})
	}
	set(true)
	time.Sleep(ending)
	b.servers[i].Kill()
	set(false)
}

// during are a Service's endpoints while pod i is replaced, or after it.
func (b *scale) during(i int, ends bool) []discovery.Endpoint {
	out := b.endpoints(b.pods[endpointsEach : endpointsEach+i+1])
	if ends {
		out = append(out, b.endpointOf(b.pods[i], false))
	}
	return append(out, b.endpoints(b.pods[i+1:endpointsEach])...)
}

// restore puts the first half of the pods back.
func (b *scale) restore() {
	for _, p := range b.servers[:endpointsEach] {
		p.Start()
	}
	time.Sleep(time.Second)
	b.each(rolling, func(k int) error {
		return b.setEndpoints(b.there.name(k), b.endpoints(b.pods[:endpointsEach]))
	})
	time.Sleep(2 * time.Second)
}
