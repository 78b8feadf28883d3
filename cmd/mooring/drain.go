package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

const (
	// markWait bounds the write of the mark, over all API servers.
	markWait = 10 * time.Second
	// lookEvery is the pace at which the agent is asked whether it is over.
	lookEvery = 50 * time.Millisecond
	// agentWait is how long no agent may answer: one that takes over a new
	// configuration is away for less.
	agentWait = 3 * time.Second
)

// cmdDrain marks a node, here or elsewhere, and waits until it holds nothing, so
// that a script can shut it down after that.
func cmdDrain(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("drain", "NODE: hands its VIPs to the best other node, and keeps them off it; "+
		"new connections are not lost")
	path := fs.String("config", defaultConfig, "the configuration `FILE` of this node's agent")
	undo := fs.Bool("undo", false, "let NODE hold VIPs again")
	timeout := fs.Duration("timeout", time.Minute, "how long to wait until NODE holds none; 0 only marks it")
	if err := parse(fs, args, 1); err != nil {
		return err
	}
	if fs.Arg(0) == "" || *timeout < 0 {
		fmt.Fprintln(fs.Output(), "mooring drain: write the name of the NODE, as \"kubectl get nodes\" prints it, "+
			"and no negative timeout")
		fs.Usage()
		return errUsage
	}
	cfg, err := config.Load(*path)
	if err != nil {
		return err
	}
	d := drain{
		node: fs.Arg(0), timeout: *timeout, linger: cfg.Moves.DrainTimeout, fence: cfg.Fence.ValidLifetime, out: out,
		mark: func(ctx context.Context, on bool) error { return markDrained(ctx, cfg, fs.Arg(0), on) },
		look: func(ctx context.Context) (report, error) { return statusOf(ctx, *path) },
	}
	if *undo {
		return d.undo(ctx)
	}
	return d.run(ctx)
}

// markDrained writes the mark with the agent's own credentials, over all the API
// servers that the agent knows.
func markDrained(ctx context.Context, cfg config.Config, node string, on bool) error {
	// What the way there has to say stands in the error.
	log := slog.New(slog.DiscardHandler)
	servers, err := kube.NewServers(kube.ServersOptions{
		Kubeconfig: kubeconfigOf(cfg), Never: cfg.APIServer.VIPs, Log: log, Now: boottime,
	})
	if err != nil {
		return err
	}
	servers.Set(addrsOf(seedsOf(cfg, log)))
	return election.SetDrain(ctx, servers.RESTConfig(hedge), cfg.Namespace, node, on)
}

// seedsOf are the API servers that the agent of this configuration starts with.
func seedsOf(cfg config.Config, log *slog.Logger) []lb.Backend {
	return (&node{cfg: cfg, log: log}).seeds()
}

// drain is one run of the command.
type drain struct {
	node    string
	timeout time.Duration
	// linger is how long connections outlive a move, fence how long the kernel
	// keeps a VIP without an agent.
	linger, fence time.Duration
	out           io.Writer
	// mark sets or clears the mark, look asks this node's agent.
	mark func(ctx context.Context, on bool) error
	look func(context.Context) (report, error)
}

// undo clears the mark.
func (d drain) undo(ctx context.Context) error {
	if err := d.write(ctx, false); err != nil {
		return err
	}
	_, err := fmt.Fprintf(d.out, "%s may hold VIPs again\n", d.node)
	return err
}

// write sets or clears the mark, or says why that cannot be.
func (d drain) write(ctx context.Context, on bool) error {
	short, cancel := context.WithTimeout(ctx, markWait)
	defer cancel()
	err := d.mark(short, on)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case on && kube.Unanswered(err):
		return fmt.Errorf("no API server answers, so %[1]s cannot be marked and nothing was changed (%[2]v): "+
			"run this again when one does; if %[1]s must go now, stop its agent, and another node takes over "+
			"once the kernel has let go of the VIPs, after %[3]s", d.node, err, d.fence)
	case kube.Unanswered(err):
		return fmt.Errorf("no API server answers, so the mark of %s stays (%v): run this again when one does", d.node, err)
	default:
		return err
	}
}

// run marks the node and waits until it holds nothing.
func (d drain) run(ctx context.Context) error {
	before, _ := d.look(ctx) // without an agent here the mark still counts
	begun := time.Now()      // before the mark: its node may be quicker than the answer
	if err := d.write(ctx, true); err != nil {
		return err
	}
	vips := strings.Join(before.VIPs, ", ")
	fmt.Fprintf(d.out, "%s is marked: it takes no VIPs until mooring drain %s --undo\n", d.node, d.node)
	if before.Holder == d.node {
		fmt.Fprintf(d.out, "%s holds %s ...\n", d.node, vips)
	}
	if d.timeout == 0 {
		return nil
	}
	after, err := d.wait(ctx, begun)
	if err != nil {
		return err
	}
	if before.Holder != d.node {
		_, err := fmt.Fprintf(d.out, "%s does not hold %s, %s does\n", d.node, strings.Join(after.VIPs, ", "), after.Holder)
		return err
	}
	fmt.Fprintf(d.out, "handed to %s in %s\n", after.Holder, d.took(after, begun))
	if d.linger > 0 {
		_, err = fmt.Fprintf(d.out, "connections made before go on through %s for up to %s: shut it down after that\n",
			d.node, d.linger)
	}
	return err
}

// wait looks until another node holds, and returns what it saw.
func (d drain) wait(user context.Context, begun time.Time) (report, error) {
	ctx, cancel := context.WithTimeout(user, d.timeout)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last report
	seen := begun
	for {
		r, err := d.look(ctx)
		switch {
		case err == nil && d.empty(r):
			return r, nil
		case err == nil:
			last, seen = r, time.Now()
		case ctx.Err() == nil && time.Since(seen) > agentWait:
			return r, fmt.Errorf("%s stays marked, but nobody here can tell whether it is empty: %w; "+
				"ask mooring status on another node", d.node, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return r, d.unfinished(user, last, begun)
		}
	}
}

// empty says whether the node holds nothing any more: another does, and on the
// node itself the agent has let go too.
func (d drain) empty(r report) bool {
	return r.Holder != "" && r.Holder != d.node && (r.Node != d.node || r.HeldFor == 0)
}

// took is how long the hand-over was, as the node itself says, else as seen from
// here.
func (d drain) took(r report, begun time.Time) time.Duration {
	took := time.Since(begun)
	for _, m := range r.Moves {
		if r.Node == d.node && m.Reason == election.GaveUp && m.Took > 0 && m.At.After(begun) {
			took = m.Took
			break // the newest is first
		}
	}
	return took.Round(time.Millisecond)
}

// unfinished says how far it came, and why not further.
func (d drain) unfinished(user context.Context, r report, begun time.Time) error {
	if user.Err() != nil {
		return fmt.Errorf("interrupted: %s stays marked and hands over when it can; undo it with mooring drain %s --undo",
			d.node, d.node)
	}
	holds := "still holds " + strings.Join(r.VIPs, ", ")
	if r.Holder == "" {
		holds = "may still hold: this agent does not know who does"
	}
	return fmt.Errorf("%[1]s %[2]s after %[3]s: %[4]s; it stays marked and hands over when it can; "+
		"undo it with mooring drain %[1]s --undo", d.node, holds, d.timeout, d.obstacle(r, begun))
}

// obstacle guesses what is in the way.
func (d drain) obstacle(r report, begun time.Time) string {
	var others []string
	for _, m := range r.Members {
		if m.Node != d.node && m.Live {
			return d.dropped(r, begun)
		}
		if m.Node != d.node {
			others = append(others, m.Node)
		}
	}
	if len(others) == 0 {
		return "there is no other candidate; start an agent on another node"
	}
	return fmt.Sprintf("no other candidate is live; look after the agent on %s", strings.Join(others, ", "))
}

// dropped is what the node itself said since of a move that came to nothing.
func (d drain) dropped(r report, begun time.Time) string {
	for _, m := range r.Moves {
		switch m.Reason {
		case election.MoveDropped, election.MoveUndone, election.NoCandidate:
			if r.Node == d.node && m.At.After(begun) {
				return strings.TrimSpace(fmt.Sprintf("%s %s", m.Reason, m.Detail))
			}
		default:
		}
	}
	return fmt.Sprintf("mooring status on %s says more", d.node)
}
