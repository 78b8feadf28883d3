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

// settle waits until one node holds, HAProxy is ready on all and clients are
// served.
func (w *world) settle() *lab.Node {
	w.t.Helper()
	w.Eventually(20*time.Second, "one node holds the VIP", func() bool { return len(w.Holders(vip)) == 1 })
	c := w.Client().HTTP(time.Second)
	w.Eventually(20*time.Second, "the VIP serves", func() bool {
		resp, err := c.Get(readyz)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	w.Eventually(20*time.Second, "every node balances over three API servers", func() bool {
		return !slices.ContainsFunc(w.All(), func(n *lab.Node) bool {
			s := w.status(n)
			return !s.Proxy.Serving || len(s.Proxy.Up) != 3 || len(s.Members) != 3
		})
	})
	return w.Holder(vip)
}

// agent is the agent of a node.
func (w *world) agent(n *lab.Node) *lab.Process { return w.agents[n.Name()] }

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
	Moves      []struct{ Reason, Cause, MAC, Node, Detail string }
	Complaints []string
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
