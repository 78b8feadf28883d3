package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// start is one node that begins with everything there.
func (b *scale) start() {
	b.Title(fmt.Sprintf("Cold start of one node, %d Services", b.services))
	b.populate(population{n: b.services})
	b.run(nil, b.Node(1))
	first := b.awaitAddresses(2 * time.Minute)
	b.awaitAnswers(time.Minute)
	b.add(figure{What: fmt.Sprintf("first start, %d Services without addresses: all have one", b.services), Format: "%.1f s"},
		first.Seconds())
	b.colds(b.runs, "10 s", 150)
}

// largeStart is the same of many more.
func (b *scale) largeStart() {
	b.Title(fmt.Sprintf("Cold start of one node, %d Services", b.large))
	b.populate(population{n: b.large})
	b.run(nil, b.Node(1))
	first := b.awaitAddresses(3 * time.Minute)
	b.awaitAnswers(time.Minute)
	b.add(figure{What: fmt.Sprintf("first start, %d Services without addresses: all have one", b.large), Format: "%.1f s"},
		first.Seconds())
	b.colds(b.runs, "60 s", 600)
}

// colds switches the one node's agent off and on.
func (b *scale) colds(runs int, target string, most int) {
	n := b.Node(1)
	for range runs {
		b.off(n)
		time.Sleep(time.Second)
		b.run(nil, n)
		took := b.awaitAnswers(2 * time.Minute)
		b.add(figure{What: fmt.Sprintf("cold start, %d Services: all answer", b.there.n), Target: "≤ " + target,
			Format: "%.1f s"}, took.Seconds())
		time.Sleep(3 * time.Second)
		b.memory(n, most)
	}
}

// memory tells the resident memory of a node's processes, in MiB.
func (b *scale) memory(n *lab.Node, most int) {
	const mib = 1 << 20
	agent := b.agents[n.Name()]
	child, _ := agent.Child("hello-helper")
	b.add(figure{What: fmt.Sprintf("RSS of the agent with its hello process, %d Services", b.there.n),
		Target: fmt.Sprintf("≤ %d MB", most), Format: "%.0f MiB"}, float64(agent.RSS()+child)/mib)
	b.add(figure{What: fmt.Sprintf("RSS of HAProxy, %d Services", b.there.n), Format: "%.0f MiB"},
		float64(n.RSS("haproxy"))/mib)
}

// endpoint is how soon HAProxy has one change of one EndpointSlice.
func (b *scale) endpoint() {
	const changes = 200
	b.Title("One endpoint changes")
	n := b.Node(1)
	b.populate(population{n: b.services})
	b.run(nil, n)
	b.awaitAddresses(2 * time.Minute)
	b.awaitAnswers(time.Minute)
	time.Sleep(5 * time.Second)
	whole, other := b.endpoints(b.pods[:endpointsEach]), b.endpoints(b.pods[1:endpointsEach+1])
	for range b.runs {
		before := b.reloads()
		var took []time.Duration
		for i := range changes {
			name := b.there.name(i * 7 % b.there.n)
			took = append(took, b.change(n, name, func() error { return b.setEndpoints(name, other) }))
			if err := b.setEndpoints(name, whole); err != nil {
				b.Fatalf("%v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		for _, p := range []struct {
			of     float64
			target string
		}{{50, "≤ 50 ms"}, {99, "≤ 250 ms"}} {
			b.add(figure{What: fmt.Sprintf("endpoint changed among %d Services: from the request to HAProxy, p%.0f of %d",
				b.there.n, p.of, changes), Target: p.target, Format: "%.0f ms"}, percentile(millis(took), p.of))
		}
		b.add(figure{What: "reloads meanwhile", Target: "0", Format: "%.0f"}, float64(b.reloads()-before))
	}
}

// change carries a change out and returns when the node's HAProxy has the server
// that it adds, counted from the request to the API server.
func (b *scale) change(n *lab.Node, name string, f func() error) time.Duration {
	added := " " + b.pods[endpointsEach].IP() + " "
	begun := time.Now()
	if err := f(); err != nil {
		b.Fatalf("%v", err)
	}
	for {
		text, err := servers(n, name)
		if err == nil && strings.Contains(text, added) {
			return time.Since(begun)
		}
		if time.Since(begun) > 10*time.Second {
			b.Fatalf("HAProxy of %s does not get the new endpoint of %s (%v):\n%s", n.Name(), name, err, text)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// servers asks the node's HAProxy for those of a Service.
func servers(n *lab.Node, name string) (string, error) {
	sum := sha256.Sum256([]byte(namespace + "/" + name))
	conn, err := net.DialTimeout("unix", filepath.Join(n.RunDir(), "haproxy-services", "stats.sock"), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "show servers state be_s-%s-80\n", hex.EncodeToString(sum[:])[:16]); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	return string(text), err
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
