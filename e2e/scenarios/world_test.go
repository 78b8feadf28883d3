// Package scenarios tells what users were promised as stories on a real
// control plane: real etcd, kube-apiserver, HAProxy and kernel. Stories that
// measure milliseconds run alone, those that mostly wait run beside each other.
package scenarios

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

const (
	vip    = lab.VIP4
	vip6   = lab.VIP6
	server = vip + ":6443"
	readyz = "https://" + vip + ":6443/readyz"
)

// world is a lab with an agent on every node.
type world struct {
	*lab.Lab
	t      *testing.T
	agents map[string]*lab.Process
}

// boot starts three control-plane nodes with an agent each and waits until the
// VIP serves. edit changes each node's configuration.
func boot(t *testing.T, edit ...func(string) string) *world {
	t.Helper()
	w := bare(t)
	for _, n := range w.All() {
		w.startAgent(n, edit...)
	}
	w.settle()
	return w
}

// bare is the control plane with our RBAC and no agent.
func bare(t *testing.T) *world {
	t.Helper()
	w := &world{Lab: lab.New(t), t: t, agents: map[string]*lab.Process{}}
	w.Nodes(3)
	w.Start()
	w.Install()
	return w
}

func (w *world) startAgent(n *lab.Node, edit ...func(string) string) {
	cfg := n.AgentConfig(vip)
	for _, e := range edit {
		cfg = e(cfg)
	}
	w.agents[n.Name()] = n.StartAgent(cfg)
}

// settle waits until one node holds, every agent hears the others, HAProxy is
// ready on all and clients are served.
func (w *world) settle() *lab.Node {
	w.t.Helper()
	return w.settleWithin(20 * time.Second)
}

// settleWithin is settle with another limit for each of its parts.
func (w *world) settleWithin(limit time.Duration) *lab.Node {
	w.t.Helper()
	w.Eventually(limit, "one node holds the VIP", func() bool { return len(w.Holders(vip)) == 1 })
	c := w.Client().HTTP(time.Second)
	w.Eventually(limit, "the VIP serves", func() bool {
		resp, err := c.Get(readyz)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	w.Eventually(limit, "every node balances over three API servers and hears two agents", func() bool {
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool {
			s := w.status(n)
			return !s.Proxy.Serving || len(s.Proxy.Up) != 3 || len(s.Members) != 3 || !s.hears(2)
		})
	})
	return w.Holder(vip)
}

// agent is the agent of a node.
func (w *world) agent(n *lab.Node) *lab.Process { return w.agents[n.Name()] }

// mooring runs a sub-command of the binary on the node.
func (w *world) mooring(n *lab.Node, verb string, args ...string) {
	w.t.Helper()
	args = append(args, "--config", filepath.Join(n.Dir(), "agent.yaml"))
	w.t.Logf("%s: mooring %s %s: %s", n.Name(), verb, args[0],
		strings.TrimSpace(n.Exec(append([]string{lab.Mooring(w.t), verb}, args...)...)))
}

// move has the holder hand over to a node and waits until it alone holds.
func (w *world) move(to *lab.Node) {
	w.t.Helper()
	if from := w.Holder(vip); from.Name() != to.Name() {
		w.mooring(from, "move", "--to", to.Name())
	}
	w.alone(to, 2*time.Second)
}

// alone waits until the node and no other holds.
func (w *world) alone(n *lab.Node, limit time.Duration) time.Duration {
	w.t.Helper()
	return w.Eventually(limit, n.Name()+" alone holds", func() bool {
		h := w.Holders(vip)
		return len(h) == 1 && h[0].Name() == n.Name()
	})
}

// elsewhere waits until a node other than old holds.
func (w *world) elsewhere(old *lab.Node, limit time.Duration) time.Duration {
	w.t.Helper()
	return w.Eventually(limit, "a node other than "+old.Name()+" holds", func() bool {
		return slices.ContainsFunc(w.Holders(vip), func(n *lab.Node) bool { return n.Name() != old.Name() })
	})
}

// other is a node that is not n.
func (w *world) other(n *lab.Node) *lab.Node {
	for _, o := range w.All() {
		if o.Name() != n.Name() {
			return o
		}
	}
	return nil
}

// status is the part of `mooring status -o json` that stories ask about.
type status struct {
	State     string
	Confirmed bool
	Holder    string
	Term      int64
	Proxy     struct {
		Serving bool
		Up      []string
		Why     string
	}
	Members    []struct{ Node string }
	Peers      []struct{ Node, State string }
	Moves      []struct{ Reason, Cause, MAC, Node, Detail string }
	Complaints []string
}

// hears says whether hellos of that many nodes come.
func (s status) hears(nodes int) bool {
	up := 0
	for _, p := range s.Peers {
		if p.State == "up" {
			up++
		}
	}
	return up == nodes
}

func (w *world) status(n *lab.Node) status {
	var s status
	out, err := n.Try(lab.Mooring(w.t), "status", "-o", "json", "--config", filepath.Join(n.Dir(), "agent.yaml"))
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil {
		s.State = "unknown: " + err.Error()
	}
	return s
}

// said reports whether the node's agent made a decision with the reason.
func (w *world) said(n *lab.Node, reason string) bool {
	return strings.Contains(w.agent(n).Log(), "msg="+reason+" ")
}

// complains reports whether the node's status has a complaint with these words.
func (w *world) complains(n *lab.Node, words string) bool {
	return slices.ContainsFunc(w.status(n).Complaints, func(c string) bool { return strings.Contains(c, words) })
}

// within waits for a process to end.
func (w *world) within(d time.Duration, p *lab.Process) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := p.Wait(ctx); p.Alive() {
		w.t.Fatalf("%s did not end within %s: %v\n%s", p.Name(), d, err, p.Log())
	}
}

// stays fails the test if the VIP leaves the node or another node gets it.
func (w *world) stays(n *lab.Node, d time.Duration, what string) {
	w.t.Helper()
	w.Consistently(d, what+": the VIP stays on "+n.Name(), func() bool {
		h := w.Holders(vip)
		return len(h) == 1 && h[0].Name() == n.Name()
	})
}

// sight is what clients and the wire see of a story.
type sight struct {
	t        *testing.T
	udp, tcp *lab.Probe
	answers  *lab.Answers
}

// look begins to watch: a datagram every 5 ms, a connection every 10 ms.
func (w *world) look() *sight {
	s := &sight{t: w.t, answers: w.Wire().Answers(vip), udp: w.Client().UDPProbe(vip, 5*time.Millisecond),
		tcp: w.Client().Probe(server, 10*time.Millisecond)}
	time.Sleep(300 * time.Millisecond) // what is broken next was whole
	return s
}

// end allows clients one outage each of at most that long, the wire that much
// time with two answering MACs; zero is zero.
func (s *sight) end(outage, two time.Duration) {
	s.t.Helper()
	for _, p := range []struct {
		what string
		of   *lab.Probe
	}{{"datagrams", s.udp}, {"connections", s.tcp}} {
		r := p.of.Stop()
		s.t.Logf("%s: %s", p.what, r)
		switch {
		case outage == 0 && r.Failed > 0:
			s.t.Errorf("%s: %d of %d failed: %s", p.what, r.Failed, r.Sent, r)
		case r.Longest > outage:
			s.t.Errorf("%s: clients waited %s, at most %s allowed: %s", p.what, r.Longest, outage, r)
		}
	}
	one(s.t, s.answers.Stop(), two)
}

// streams are the connections that a planned move must not break.
type streams struct {
	t   *testing.T
	all []*lab.Stream
}

// connect opens a watch, an upgraded stream and a download that lasts so long.
func (w *world) connect(over time.Duration) *streams {
	c := w.Client()
	return &streams{t: w.t, all: []*lab.Stream{c.Watch(server), c.Upgraded(server),
		c.Download(server, int64(over.Seconds())<<20, over)}}
}

// end fails the test if one broke, or was silent for a second.
func (s *streams) end(limit time.Duration) {
	s.t.Helper()
	select {
	case <-s.all[2].Done():
	case <-time.After(limit):
		s.t.Errorf("the download has not ended after %s", limit)
	}
	for i, stream := range s.all {
		r := stream.Stop()
		s.t.Log(r)
		if len(r.Breaks)+r.Failed > 0 || r.Silence > time.Second || i == 2 && !r.Complete {
			s.t.Errorf("a connection made before the moves did not outlive them: %s", r)
		}
	}
}

// noneLost fails the test unless every attempt succeeded.
func noneLost(t *testing.T, what string, r lab.Report) {
	t.Helper()
	t.Logf("%s: %s", what, r)
	if r.Failed != 0 {
		t.Errorf("%s: %d of %d failed: %s", what, r.Failed, r.Sent, r)
	}
}

// one fails the test when two MACs answered for longer than limit.
func one(t *testing.T, r lab.AnswerReport, limit time.Duration) {
	t.Helper()
	t.Log(r)
	if two := r.TwoHolders(0); two > limit {
		t.Errorf("two MACs answered for %s, at most %s allowed: %s", two, limit, r)
	}
}
