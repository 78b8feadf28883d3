package haproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// healTime is the pace at which Redirects.Run looks at the kernel's rules. A
// firewall that is loaded anew flushes the tables of all others.
const healTime = 10 * time.Second

// RedirectOptions are what Redirects needs.
type RedirectOptions struct {
	// Binary is nft's file or its name in PATH, by default "nft".
	Binary string
	// Log takes what an operator wants to know; by default it is discarded.
	Log *slog.Logger
	// Services makes it the table of Services, ShiftTable; by default it is that of
	// the API servers, RedirectTable.
	Services bool
}

// Redirects is the table of redirects in the kernel. The rules outlive it.
type Redirects struct {
	binary string
	log    *slog.Logger
	table  string
	// render writes nft's input for a list.
	render func([]lb.Redirect) (string, error)
	// turn serialises what follows; a channel, so that waiting for it ends with
	// a context.
	turn chan struct{}
	// want is nft's input for what is wanted, "" before the first Set.
	want string
	// applied says that the kernel has taken want.
	applied bool
	// listing is the kernel's own print of want, for comparison; "" when want is
	// that there is no table.
	listing string
}

// NewRedirects returns a sink for redirects. It changes nothing.
func NewRedirects(o RedirectOptions) *Redirects {
	if o.Binary == "" {
		o.Binary = "nft"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Redirects{binary: o.Binary, table: RedirectTable, render: RenderRedirects, turn: make(chan struct{}, 1)}
	if o.Services {
		r.table, r.render = ShiftTable, RenderShifts
	}
	r.log = o.Log.With("table", r.table)
	return r
}

// Set makes the kernel redirect exactly as list says; an empty list removes
// the table. It is idempotent: nft runs only when the list is another than
// before, and at the first call, which thereby sweeps what a predecessor
// left. On an error the kernel still has what it had before, and Run tries
// again.
//
// Connections that are established go on as they are, except that after the
// table is gone the kernel translates only as long as someone else (kube-proxy)
// has a nat chain. So keep a redirect while HAProxy has connections: on a
// node that does not have the address it does nothing.
func (r *Redirects) Set(ctx context.Context, list []lb.Redirect) error {
	text, err := r.render(list)
	if err != nil {
		return err
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if text == r.want && r.applied {
		return nil
	}
	r.want, r.applied = text, false
	return r.replace(ctx)
}

// Run looks every ten seconds whether the kernel still has what Set applied,
// and applies it again if not, until ctx ends; then it returns nil.
func (r *Redirects) Run(ctx context.Context) error {
	tick := time.NewTicker(healTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := r.heal(ctx); err != nil && ctx.Err() == nil {
				r.log.Error("redirects cannot be kept", "err", err)
			}
		}
	}
}

// heal compares the kernel's rules with what they were after the last change.
func (r *Redirects) heal(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.want == "" || (r.applied && r.listing == "") {
		return nil
	}
	if r.applied {
		if now, err := r.list(ctx); err == nil && now == r.listing {
			return nil
		}
		r.log.Warn("redirects were changed by someone else and are set again")
	}
	return r.replace(ctx)
}

// replace applies what is wanted in one transaction.
func (r *Redirects) replace(ctx context.Context) error {
	r.applied, r.listing = false, ""
	empty, _ := r.render(nil)
	if r.want == empty && errors.Is(r.installed(), exec.ErrNotFound) {
		// Without nft there never was a table of ours.
		r.applied = true
		return nil
	}
	if _, err := r.nft(ctx, r.want, "-f", "-"); err != nil {
		return err
	}
	if r.want != empty {
		listing, err := r.list(ctx)
		if err != nil {
			return err
		}
		r.listing = listing
	}
	r.applied = true
	return nil
}

// list prints the table without counters.
func (r *Redirects) list(ctx context.Context) (string, error) {
	return r.nft(ctx, "", "-s", "list", "table", "inet", r.table)
}

func (r *Redirects) installed() error {
	_, err := exec.LookPath(r.binary)
	return err
}

// nft runs nft with some input and returns what it prints.
func (r *Redirects) nft(ctx context.Context, input string, args ...string) (string, error) {
	if err := r.installed(); err != nil {
		return "", fmt.Errorf("haproxy: redirects need %q, install the package nftables: %w", r.binary, err)
	}
	ctx, cancel := context.WithTimeout(ctx, execTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binary, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	var out, problem strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("haproxy: nft took too long: %w", ctx.Err())
	}
	if err == nil {
		return out.String(), nil
	}
	text := strings.TrimSpace(problem.String())
	if strings.Contains(text, "Operation not permitted") {
		return "", errors.New("haproxy: nft may not change rules, the agent needs the capability NET_ADMIN")
	}
	first, _, _ := strings.Cut(text, "\n")
	return "", fmt.Errorf("haproxy: nft failed (%w): %s", err, first)
}
