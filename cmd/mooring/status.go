package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
)

const (
	defaultConfig = "/etc/mooring/mooring.yaml"
	socketName    = "agent.sock"
)

// report is what the agent's socket answers to GET /status.
type report struct {
	agent.Status
	Version    string             `json:"version"`
	HeldSince  time.Time          `json:"heldSince"`
	APIServers []kube.ServerState `json:"apiServers"`
	// Hello is how this node hears the other candidates.
	Hello helloReport `json:"hello"`
	// Credentials are what this agent shows to API servers.
	Credentials credentialsReport `json:"credentials"`
	// Complaints are conditions that somebody should look at.
	Complaints []string `json:"complaints,omitempty"`
}

// cmdStatus asks the agent and not the API server, which may be what is broken.
func cmdStatus(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("status", "asks this node's agent, of its VIPs or, with the word services, of Services; works while the API server is down")
	path := fs.String("config", defaultConfig, "the agent's configuration `FILE`")
	asJSON := fs.String("o", "table", "output: table or json")
	if err := parse(fs, args, 1); err != nil {
		return err
	}
	if fs.NArg() == 1 && fs.Arg(0) != "services" {
		fmt.Fprintf(fs.Output(), "mooring status %s: write mooring status, or mooring status services\n", fs.Arg(0))
		return errUsage
	}
	if *asJSON != "json" && *asJSON != "table" {
		fmt.Fprintf(fs.Output(), "mooring status: -o %s: write table or json\n", *asJSON)
		return errUsage
	}
	if fs.NArg() == 1 {
		return statusServices(ctx, *path, *asJSON == "json", out)
	}
	if *asJSON == "json" {
		// As it came: an agent of another version may say more than is known here.
		body, err := ask(ctx, *path, http.MethodGet, "/status")
		if err != nil {
			return err
		}
		_, err = out.Write(body)
		return err
	}
	r, err := statusOf(ctx, *path)
	if err != nil {
		return err
	}
	return printStatus(out, r, time.Now())
}

// statusOf asks this node's agent.
func statusOf(ctx context.Context, path string) (report, error) {
	var r report
	body, err := ask(ctx, path, http.MethodGet, "/status")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("the agent's answer is not a status (another version?): %v", err)
	}
	return r, nil
}

// ask sends one request to the agent's socket.
func ask(ctx context.Context, path, method, target string) ([]byte, error) {
	dir, err := runDirOf(path)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, socketName)
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+target, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no agent answers on %s: is it running on this node, with this configuration? (%v)", socket, err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", strings.TrimSpace(b.String()))
	}
	return b.Bytes(), nil
}

// runDirOf finds the agent's run directory also in a file that is otherwise
// broken: a broken file is when somebody asks for the status.
func runDirOf(path string) (string, error) {
	cfg, err := config.Load(path)
	if err == nil {
		return cfg.RunDir, nil
	}
	text, unreadable := os.ReadFile(path)
	if unreadable != nil {
		return "", err
	}
	dir := "/run/mooring"
	if m := regexp.MustCompile(`(?m)^runDir:\s*"?(/[^\s"]+)`).FindSubmatch(text); m != nil {
		dir = string(m[1])
	}
	return dir, nil
}

// printStatus draws the table, then what is wrong.
func printStatus(out io.Writer, r report, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "VIP\tHOLDER\tSINCE\tSTATE HERE\tLAST MOVE\tCAUSE\tTOOK")
	last, cause, took := "-", "-", "-"
	if m := r.Last; m != nil {
		last, cause = ago(now, m.At)+" ago", string(m.Cause)
		if m.Took != 0 {
			took = m.Took.Round(time.Millisecond).String()
		}
	}
	since := "-"
	if !r.HeldSince.IsZero() {
		since = ago(now, r.HeldSince)
	}
	holder := r.Holder
	if holder == "" {
		holder = "unknown"
	}
	for _, vip := range r.VIPs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", vip, holder, since, stateHere(r), last, cause, took)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printPlane(out, r)
	if line := r.Credentials.line(now); line != "" {
		fmt.Fprintln(out, line)
	}
	if err := printPeers(out, r, now); err != nil {
		return err
	}
	for _, c := range r.Complaints {
		fmt.Fprintln(out, "!", c)
	}
	return nil
}

// stateHere is the state with what a holder should know of it.
func stateHere(r report) string {
	switch {
	case r.HeldFor == 0:
		return r.State
	case r.Provisional:
		return fmt.Sprintf("%s (claimed while no API server answers), fence %.1fs", r.State, r.Fence)
	case !r.Confirmed:
		return fmt.Sprintf("%s (no API server confirms), fence %.1fs", r.State, r.Fence)
	default:
		return fmt.Sprintf("%s, fence %.1fs", r.State, r.Fence)
	}
}

// printPlane tells the load balancer and the API servers in a line each.
func printPlane(out io.Writer, r report) {
	switch {
	case r.Plan == "BalanceOff":
		fmt.Fprintln(out, "\nload balancer: off, the holder's own API server answers")
	case r.Proxy.Serving:
		fmt.Fprintf(out, "\nload balancer: serving, API servers up: %s\n", orNone(strings.Join(r.Proxy.Up, " ")))
	default:
		why := r.Proxy.Why
		if why == "" {
			why = string(r.Plan)
		}
		fmt.Fprintf(out, "\nload balancer: NOT serving (%s), the holder's own API server answers\n", orNone(why))
	}
	var servers []string
	for _, s := range r.APIServers {
		text := s.Addr
		if s.Suspect {
			text += " (" + s.Why + ")"
		}
		servers = append(servers, text)
	}
	fmt.Fprintf(out, "this agent asks: %s\n", orNone(strings.Join(servers, ", ")))
	var nodes []string
	for _, m := range r.Members {
		name := m.Node
		switch {
		case m.Drain:
			name += " (drained)"
		case !m.Live:
			name += " (not live)"
		}
		nodes = append(nodes, name)
	}
	fmt.Fprintf(out, "candidates, best first: %s\n", orNone(strings.Join(nodes, ", ")))
}

// printPeers tells how the hellos go, a line for each peer.
func printPeers(out io.Writer, r report, now time.Time) error {
	if r.Forwards != "" {
		fmt.Fprintf(out, "connections made before the last move go on through %s\n", r.Forwards)
	}
	if r.Hello.Interval == "" && len(r.Peers) == 0 {
		return nil // an agent that knows no hellos
	}
	pace := "with the highest priority"
	if !r.Hello.Precedence {
		pace = "without a higher priority, so a dead holder is noticed later"
	}
	fmt.Fprintf(out, "\nhellos: every %s, %s%s\n", r.Hello.Interval, pace, refusals(r.Hello))
	if len(r.Peers) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PEER\tHELLOS\tSAYS\tSINCE")
	for _, p := range r.Peers {
		since := "-"
		if p.Heard != 0 {
			since = ago(now, now.Add(-time.Duration(p.Heard*float64(time.Second))))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Node, p.State, says(p), since)
	}
	return w.Flush()
}

// says is what a peer's last hello told.
func says(p agent.PeerStatus) string {
	if p.Says == "" {
		return "-"
	}
	text := fmt.Sprintf("%s, term %d", p.Says, p.Term)
	if !p.Healthy {
		text += ", not serving"
	}
	return text
}

// refusals counts the datagrams that were not believed, by whom they said they
// came from and why.
func refusals(h helloReport) string {
	var out []string
	for _, from := range slices.Sorted(maps.Keys(h.Refused)) {
		for _, why := range slices.Sorted(maps.Keys(h.Refused[from])) {
			out = append(out, fmt.Sprintf("%s: %s %d", from, why, h.Refused[from][why]))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; refused of " + strings.Join(out, ", ")
}

// orNone keeps a sentence readable when a list is empty.
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// ago prints a past instant as kubectl does: 12s, 5m, 3h.
func ago(now, then time.Time) string {
	d := max(now.Sub(then), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
