// Command scale measures Mooring with many Services on a real control plane: how
// soon a node serves them, how soon it follows their endpoints, what they cost at
// rest, and what clients see of a rollout and of a holder's death. It writes a table
// with targets (services.md).
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mooring.dev/mooring/e2e/lab"
	"mooring.dev/mooring/e2e/stage"
)

// options are the command line.
type options struct {
	runs     int
	services int      // of the rows that need many
	large    int      // of the row large
	only     []string // rows, all if empty
	out      string   // directory of the results
	logs     bool     // the agents' logs go there too
}

// row is one measurement; it adds figures, and says itself which Services and
// agents it needs.
type row struct {
	name string
	run  func(*scale)
}

// rows are in the order of their runs: each leaves the next what it can use.
func rows() []row {
	return []row{
		{"start", (*scale).start}, {"endpoint", (*scale).endpoint}, {"create", (*scale).create},
		{"rollout", (*scale).rollout}, {"rest", (*scale).rest}, {"death", (*scale).death}, {"large", (*scale).largeStart},
		{"local", (*scale).local},
	}
}

func names() []string {
	var out []string
	for _, r := range rows() {
		out = append(out, r.name)
	}
	return out
}

func main() {
	if lab.Serves() {
		os.Exit(1)
	}
	var o options
	var only string
	flag.IntVar(&o.runs, "runs", 1, "counted runs of each row")
	flag.IntVar(&o.services, "services", 1000, "Services, with ten endpoints each")
	flag.IntVar(&o.large, "large", 5000, "Services of the row large")
	flag.StringVar(&only, "only", "", "rows to run, separated by commas: "+strings.Join(names(), ", "))
	flag.StringVar(&o.out, "out", "results", "directory for services.md")
	flag.BoolVar(&o.logs, "logs", false, "keep the agents' logs there too")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	if err := o.check(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(2)
	}
	os.Exit(stage.Run("scale", os.Exit, func(s *stage.Stage) { play(s, o) }))
}

// check finds typing errors before a cluster is built.
func (o options) check() error {
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("there is no row %q; there are: %s", name, strings.Join(names(), ", "))
		}
	}
	if o.runs < 1 || o.services < rolling || o.large < o.services || o.large > mostServices {
		return fmt.Errorf("-runs must be positive, -services at least %d, -large from -services to %d", rolling, mostServices)
	}
	return os.MkdirAll(o.out, 0o755)
}

// wants says whether a row was asked for.
func (o options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }

// play measures row after row on one cluster.
func play(s *stage.Stage, o options) {
	widenNeighbourTable(s)
	b := open(s, o)
	for _, r := range rows() {
		if o.wants(r.name) {
			b.measure(r)
		}
	}
	s.Title("Results, also in " + filepath.Join(o.out, file))
	fmt.Println(markdown(b.figures))
}

// measure runs one row; an interrupted one has its figures and logs too.
func (b *scale) measure(r row) {
	defer b.write()
	r.run(b)
}

// file is the table's name.
const file = "services.md"

// write replaces the results on disk.
func (b *scale) write() {
	if err := os.WriteFile(filepath.Join(b.out, file), []byte(markdown(b.figures)), 0o644); err != nil {
		b.Fatalf("%v", err)
	}
	for name, a := range b.agents {
		if !b.logs {
			break
		}
		if err := os.WriteFile(filepath.Join(b.out, name+".log"), []byte(a.Log()), 0o644); err != nil {
			b.Fatalf("%v", err)
		}
	}
}
