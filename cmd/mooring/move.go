package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/lb"
)

// cmdMove waits for the end of the move, so that a script can go on after it.
func cmdMove(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("move", "hands the API server's VIPs, or a Service's addresses, to another node; nothing is lost: "+
		"move [service NAMESPACE/NAME]")
	path := fs.String("config", defaultConfig, "the agent's configuration `FILE`")
	to := fs.String("to", "", "the `NODE` to move to; empty is the best one")
	if err := parse(fs, args, 2); err != nil {
		return err
	}
	query := url.Values{"to": {*to}}
	switch {
	case fs.NArg() == 2 && fs.Arg(0) == "service" && strings.Count(fs.Arg(1), "/") == 1:
		query.Set("service", fs.Arg(1))
	case fs.NArg() != 0:
		fmt.Fprintf(fs.Output(), "mooring move %s: what is that? Write mooring move --to NODE, or "+
			"mooring move service NAMESPACE/NAME --to NODE\n", strings.Join(fs.Args(), " "))
		return errUsage
	}
	body, err := ask(ctx, *path, http.MethodPost, "/move?"+query.Encode())
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, string(body))
	return err
}

// move hands over the API server's VIPs, or the addresses of the Service of a name.
func (n *node) move(ctx context.Context, key lb.ServiceKey, to string) (string, error) {
	switch {
	case key == "":
		return moveTo(ctx, n.agent, to)
	case n.services == nil:
		return "", errors.New(noServices)
	}
	all, pools, _ := n.services.snapshot()
	moves, err := n.services.telling(all, pools).moves(all, key, to)
	if err != nil {
		return "", err
	}
	// Together: each may take seconds when something is wrong.
	said, faults := make([]string, len(moves)), make([]error, len(moves))
	var wait sync.WaitGroup
	for i, m := range moves {
		wait.Go(func() {
			err := awaitServing(ctx, m.share.agent, to)
			text := ""
			if err == nil {
				text, err = moveTo(ctx, m.share.agent, to)
			}
			if said[i] = m.what + ": " + text; err != nil {
				faults[i] = fmt.Errorf("%s: %w", m.what, err)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(faults...); err != nil {
		return "", err
	}
	return strings.Join(said, "\n"), nil
}

// servingWait is how long a reload of the target's HAProxy is waited for.
const servingWait = 2 * time.Second

// awaitServing waits until a node says that it serves all of a group: the address would
// be there before its ports.
func awaitServing(ctx context.Context, a *agent.Agent, to string) error {
	for end := time.Now().Add(servingWait); ; {
		sick := func(p agent.PeerStatus) bool { return p.Node == to && p.Says != "" && !p.Healthy }
		switch {
		case !slices.ContainsFunc(a.Status().Peers, sick):
			return nil
		case time.Now().After(end):
			return fmt.Errorf("HAProxy on %s does not serve all of it yet: try again in some seconds, "+
				"or see mooring explain service there", to)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// groupMove is one group that a move is about.
type groupMove struct {
	share *share
	// what moves, for people.
	what string
}

// moves are the groups of a Service's addresses, which this node holds and the other
// one may hold.
func (t telling) moves(all []lb.Service, key lb.ServiceKey, to string) ([]groupMove, error) {
	i := slices.IndexFunc(all, func(v lb.Service) bool { return v.Key == key })
	switch {
	case i < 0:
		return nil, fmt.Errorf(notOurs, key)
	case len(all[i].Has) == 0:
		return nil, fmt.Errorf("it has no address yet: mooring explain service %s says why", key)
	}
	var out []groupMove
	for _, ip := range all[i].Has {
		g := t.groups[ip]
		if err := t.movable(g, t.address(&all[i], ip), to); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(m groupMove) bool { return m.share.name == g.Name }) {
			out = append(out, groupMove{t.shares[g.Name], t.named(g)})
		}
	}
	return out, nil
}

// movable says why an address cannot move from here to a node, "" for the best one.
func (t telling) movable(g lb.Group, a addressOn, to string) error {
	self := t.s.n.cfg.Node
	switch {
	case g.Name == "":
		return fmt.Errorf("%s is in no AddressPool, so nobody holds it", a.IP)
	case t.shares[g.Name] == nil || !a.here():
		return fmt.Errorf("%s does not hold %s: run this on %s", self, a.IP, orNone(a.Holder))
	case to == self:
		return fmt.Errorf("%s holds %s already", self, a.IP)
	case to == "" && !slices.ContainsFunc(a.Candidates, func(node string) bool { return node != self }):
		return fmt.Errorf("no other node may hold %s now", a.IP)
	case to == "":
		return nil
	}
	known := []string{}
	for _, m := range t.members {
		if m.Node == to {
			if why := barred(g, m); why != "" {
				return fmt.Errorf("%s may not hold %s: %s", to, a.IP, why)
			}
			return nil
		}
		known = append(known, m.Node)
	}
	slices.Sort(known)
	return fmt.Errorf("no agent runs on a node %q: known are %s", to, strings.Join(known, ", "))
}

// named is a group with its addresses and all Services that move with them.
func (t telling) named(g lb.Group) string {
	const most = 5
	var users []string
	for _, ip := range g.VIPs {
		for _, key := range t.users[ip] {
			users = append(users, fmt.Sprintf("%s of %s", ip, key))
		}
	}
	if len(users) > most {
		users = append(users[:most], fmt.Sprintf("%d more", len(users)-most))
	}
	return "group " + g.Name + " (" + strings.Join(users, ", ") + ")"
}

// moveTo asks for a planned move and waits until it is over.
func moveTo(ctx context.Context, a *agent.Agent, to string) (string, error) {
	if a == nil {
		return "", errors.New("this node has no VIP of the API server: run this where it is held")
	}
	before := a.Status()
	if before.HeldFor == 0 {
		return "", fmt.Errorf("%s does not hold the VIPs: run this on %s", before.Node, orNone(before.Holder))
	}
	asked := time.Now()
	a.Deliver(election.Ask{To: to, Cause: election.CauseMove})
	deadline := time.After(8 * time.Second)
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline:
			return "", errors.New("no end of the move within 8 s: see mooring status")
		case <-time.After(20 * time.Millisecond):
		}
		for _, m := range a.Status().Moves {
			if m.At.Before(asked) {
				break
			}
			switch m.Reason {
			case election.GaveUp:
				return fmt.Sprintf("moved to %s in %s", m.Node, m.Took.Round(time.Millisecond)), nil
			case election.MoveDropped, election.MoveUndone, election.NoCandidate:
				return "", fmt.Errorf("%s %s: %s", m.Reason, m.Node, orNone(m.Detail))
			default:
			}
		}
	}
}
