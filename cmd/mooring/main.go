// Command mooring keeps a Kubernetes cluster's addresses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "dev"

const usage = `mooring keeps a Kubernetes cluster's addresses.

  mooring agent --config FILE         run on this node (static pod or systemd)
  mooring status [services]           who holds the VIPs, since when and why
  mooring explain service NS/NAME     what a Service has and why, and what its clients meet
  mooring move --to NODE              planned move; run it on the holder
  mooring move service NS/NAME --to NODE   the same of a Service's addresses
  mooring drain NODE [--undo]         hands its VIPs over and keeps them off it
  mooring check [-o json]             this node and its cluster: what would keep an agent from working, and the way out
  mooring credentials                 makes or renews this node's kubeconfig for its agent, from the cluster's CA
  mooring config check|minimal|reference [FILE]
  mooring manifest list|all|crds|monitoring|kustomize|static-pod|rbac|mooring.service
  mooring version

Every command takes --help.
`

// errUsage is a command line that was not understood; it was explained already.
var errUsage = errors.New("see mooring --help")

// command is one sub-command.
type command func(ctx context.Context, args []string, out io.Writer) error

// commands are the words that may follow mooring.
func commands() map[string]command {
	return map[string]command{
		"agent": cmdAgent, "status": cmdStatus, "explain": cmdExplain, "move": cmdMove, "drain": cmdDrain, "config": cmdConfig, "manifest": cmdManifest,
		"check":       cmdCheck,
		"credentials": cmdCredentials,
		"version": func(_ context.Context, _ []string, out io.Writer) error {
			_, err := fmt.Fprintln(out, "mooring", version)
			return err
		},
	}
}

// main is the only place that ends the process.
func main() { os.Exit(run()) }

// run parses, serves once and returns the exit code: 0 done, 1 failed, 2 usage.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// The first signal asks, the second one ends at once.
	context.AfterFunc(ctx, stop)
	if len(os.Args) < 2 || os.Args[1] == "help" || os.Args[1] == "--help" || os.Args[1] == "-h" {
		fmt.Print(usage)
		return 0
	}
	if os.Args[1] == helloHelper {
		return serveHellos()
	}
	cmd, ok := commands()[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "mooring: unknown command %q\n\n%s", os.Args[1], usage)
		return 2
	}
	switch err := cmd(ctx, os.Args[2:], os.Stdout); {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintln(os.Stderr, "mooring:", err)
		return 1
	}
}

// flags makes a flag set that explains itself.
func flags(name, about string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "mooring %s: %s\n", name, about)
		fs.PrintDefaults()
	}
	return fs
}

// parse parses args: flags, before or behind at most words other words. The
// error was printed. A word too many is one: "mooring move n2" must not move to
// the best node.
func parse(fs *flag.FlagSet, args []string, words int) error {
	var rest []string
	for len(args) > 0 {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			return err
		} else if err != nil {
			return errUsage
		}
		if args = fs.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	if len(rest) > words {
		fmt.Fprintf(fs.Output(), "mooring %s: what is %q for?\n", fs.Name(), rest[words])
		fs.Usage()
		return errUsage
	}
	return fs.Parse(append([]string{"--"}, rest...))
}
