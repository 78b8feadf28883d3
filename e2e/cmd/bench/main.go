// Command bench measures Mooring beside keepalived and a plain API server, in
// one run on one lab: each fault of the table in the design at least ten times,
// with clients that probe every 5 ms and an observer on the switch. It writes a
// table (results.md) and a picture of who answered when (timeline.svg), and
// ratios: absolute times of a shared machine mean little.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
	"mooring.dev/mooring/e2e/stage"
)

const vip = lab.VIP4

// options are the command line.
type options struct {
	runs   int
	outage time.Duration // how long API servers are away
	size   int64         // of the download through planned moves
	only   []string      // rows, all if empty
	out    string        // directory of the results
}

func main() {
	if lab.Serves() {
		os.Exit(1)
	}
	var o options
	var only string
	flag.IntVar(&o.runs, "runs", 10, "counted runs of each row")
	flag.DurationVar(&o.outage, "outage", 20*time.Second, "how long API servers are away")
	flag.Int64Var(&o.size, "download", 1<<30, "bytes of the download that must outlive planned moves")
	flag.StringVar(&only, "only", "", "rows to run, separated by commas: "+strings.Join(names(), ", "))
	flag.StringVar(&o.out, "out", "results", "directory for results.md and timeline.svg")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	os.Exit(stage.Run("bench", os.Exit, func(s *stage.Stage) { play(s, o) }))
}

// check finds typing errors before a cluster is built.
func (o options) check() error {
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("there is no row %q; there are: %s", name, strings.Join(names(), ", "))
		}
	}
	if o.runs < 1 || o.outage <= 0 || o.size <= 0 {
		return fmt.Errorf("-runs, -outage and -download must be positive")
	}
	return os.MkdirAll(o.out, 0o755)
}

// wants says whether a row was asked for.
func (o options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }

// names are all rows in the order of the runs: those of rest first.
func names() []string {
	out := []string{"rest", "throughput"}
	for _, r := range rows() {
		out = append(out, r.name)
	}
	return out
}

// bench is one measurement under way.
type bench struct {
	*stage.Cluster
	options
	agents  map[string]*lab.Process
	edit    func(string) string // changes the agents' configuration, nil for none
	peers   []*keepalived
	wire    *lab.Wire
	figures []string // of rest and throughput
	results []result
}

// play measures rest and load, then fault after fault on the same cluster.
func play(s *stage.Stage, o options) {
	b := &bench{Cluster: s.Build((*lab.Lab).TwoLinks), options: o, agents: map[string]*lab.Process{}}
	var idle requests
	if o.wants("rest") {
		idle = b.apiRequests(30 * time.Second)
	}
	for _, n := range b.All() {
		b.startAgent(n)
	}
	b.Settle()
	time.Sleep(3 * time.Second)
	if o.wants("rest") {
		b.rest(idle)
	}
	if o.wants("throughput") {
		b.throughput()
	}
	b.startPeers()
	b.wire = b.Wire()
	for _, r := range rows() {
		if o.wants(r.name) {
			b.measure(r)
			b.write() // an interrupted bench has what it measured
		}
	}
	b.write()
	s.Title("Results, also in " + filepath.Join(o.out, "results.md"))
	fmt.Println(markdown(b.figures, b.results))
}

// startAgent runs the agent of a node, as its supervisor does.
func (b *bench) startAgent(n *lab.Node) {
	cfg := n.AgentConfig(vip)
	if b.edit != nil {
		cfg = b.edit(cfg)
	}
	b.agents[n.Name()] = n.StartAgent(cfg)
}

// write replaces the results on disk.
func (b *bench) write() {
	for name, text := range map[string]string{
		"results.md":   markdown(b.figures, b.results),
		"timeline.svg": timeline(groups(b.results)),
	} {
		if err := os.WriteFile(filepath.Join(b.out, name), []byte(text), 0o644); err != nil {
			b.Fatalf("%v", err)
		}
	}
}

// figure keeps one line about rest or throughput.
func (b *bench) figure(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.figures = append(b.figures, text)
	b.Logf("%s", text)
}
