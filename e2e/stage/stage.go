// Package stage runs a lab outside tests: it prints progress, and cleans up
// whatever happens.
package stage

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// Stage is a lab's host; it implements lab.T.
type Stage struct {
	name     string
	begin    time.Time
	mu       sync.Mutex
	cleanups []func()
	failed   bool
}

var _ lab.T = (*Stage)(nil)

// Run plays on a new stage and returns the exit code: 0, or 1 failed. An
// interrupt cleans up too, and calls exit with 130.
func Run(name string, exit func(code int), play func(*Stage)) (code int) {
	s := &Stage{name: name, begin: time.Now()}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-stop:
			fmt.Println("\ncleaning up")
			s.end()
			exit(130)
		case <-over:
		}
	}()
	defer func() {
		defer s.end()
		switch r := recover().(type) {
		case nil:
		case failure:
			fmt.Println("\nfailed:", r.text)
			code = 1
		default:
			s.failed = true
			s.end()
			panic(r)
		}
	}()
	play(s)
	return 0
}

// Name names the lab.
func (s *Stage) Name() string { return s.name }

// Cleanup registers what ends the lab, last first.
func (s *Stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// Logf prints progress.
func (s *Stage) Logf(format string, args ...any) {
	fmt.Printf("  %5.1fs  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, args...))
}

// failure is what Fatalf unwinds with.
type failure struct{ text string }

// Fatalf ends the play; everything is cleaned up.
func (s *Stage) Fatalf(format string, args ...any) {
	s.failed = true
	panic(failure{fmt.Sprintf(format, args...)})
}

// Failed keeps the logs of a play that went wrong.
func (s *Stage) Failed() bool { return s.failed }

func (s *Stage) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
	s.cleanups = nil
}

// Title prints a heading.
func (s *Stage) Title(text string) { fmt.Printf("\n\033[1m%s\033[0m\n", text) }

// Cluster is a lab with Mooring's manifests applied, and the binary.
type Cluster struct {
	*Stage
	*lab.Lab
	Bin string
}

// Build builds the binary and starts three control-plane nodes; before changes
// the lab while it is still empty.
func (s *Stage) Build(before ...func(*lab.Lab)) *Cluster {
	s.Title("Building (the first time takes some minutes: a whole Kubernetes is compiled)")
	c := &Cluster{Stage: s, Bin: lab.Mooring(s)}
	s.Logf("mooring built")
	s.Title("Three control-plane nodes: etcd, kube-apiserver, Mooring, each in a namespace of its own")
	c.Lab = lab.New(s)
	for _, f := range before {
		f(c.Lab)
	}
	c.Nodes(3)
	c.Start()
	c.Install()
	return c
}

// Config is the file of a node's agent.
func (c *Cluster) Config(n *lab.Node) string { return filepath.Join(n.Dir(), "agent.yaml") }

// Status is the part of `mooring status -o json` that Settle asks for.
type Status struct {
	State     string
	Confirmed bool
	Proxy     struct{ Up []string }
	Members   []struct{ Node string }
	Peers     []struct{ Node, State string }
}

// whole says whether the agent balances over that many API servers, and knows
// and hears the agents of all other nodes.
func (s Status) whole(nodes int) bool {
	up := 0
	for _, p := range s.Peers {
		if p.State == "up" {
			up++
		}
	}
	return len(s.Proxy.Up) == nodes && len(s.Members) == nodes && up == nodes-1
}

// Status asks the node's agent.
func (c *Cluster) Status(n *lab.Node) (s Status, err error) {
	out, err := n.Try(c.Bin, "status", "-o", "json", "--config", c.Config(n))
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// Settle waits until one node holds, confirmed by an API server, every node's
// HAProxy balances over all API servers and every agent hears the others.
func (c *Cluster) Settle() {
	c.Eventually(40*time.Second, "one holder, confirmed; every agent balances over all API servers and hears the others", func() bool {
		confirmed := 0
		for _, n := range c.All() {
			s, err := c.Status(n)
			if err != nil || !s.whole(len(c.All())) {
				return false
			}
			if s.State == "Holding" && s.Confirmed {
				confirmed++
			}
		}
		return confirmed == 1 && len(c.Holders(lab.VIP4)) == 1
	})
}
