package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/lb"
)

// statusServices prints a line for each Service.
func statusServices(ctx context.Context, path string, asJSON bool, out io.Writer) error {
	body, err := ask(ctx, path, http.MethodGet, "/services")
	if err != nil || asJSON {
		if err == nil {
			_, err = out.Write(body)
		}
		return err
	}
	var all []serviceReport
	if err := json.Unmarshal(body, &all); err != nil {
		return fmt.Errorf("the agent's answer is no list of Services (another version?): %v", err)
	}
	return printServices(out, all, time.Now())
}

// printServices draws the table of Services.
func printServices(out io.Writer, all []serviceReport, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tADDRESS\tHOLDER\tSINCE\tSTATE HERE\tPATH\tENDPOINTS\tNOTES")
	for _, r := range all {
		ready := 0
		for _, p := range r.Ports {
			ready = max(ready, len(p.Ready))
		}
		notes := "-"
		if n := r.notes(); n > 0 {
			notes = fmt.Sprintf("%d, see mooring explain service %s", n, r.Service)
		}
		if len(r.Addresses) == 0 {
			fmt.Fprintf(w, "%s\tnone yet\t-\t-\t-\t%s\t%d\t%s\n", r.Service, r.Path, ready, notes)
		}
		for _, a := range r.Addresses {
			since := "-"
			if !a.Since.IsZero() {
				since = ago(now, a.Since)
			}
			state := a.State
			if state == "" {
				state = "no candidate"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Service, a.IP, orNone(a.Holder), since, state, r.Path,
				ready, notes)
		}
	}
	return w.Flush()
}

// notes counts what somebody should look at.
func (r *serviceReport) notes() int {
	n := len(r.Issues)
	for _, p := range r.Ports {
		if p.Skipped != "" {
			n++
		}
	}
	return n
}

// notOurs is what to look at when a Service is not known.
const notOurs = "no Service %s of type LoadBalancer is ours: see its spec.type and spec.loadBalancerClass"

// cmdExplain says of one Service what it has and why.
func cmdExplain(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("explain", "says what a Service has and why, who serves it, how, and what its clients meet; best on the "+
		"node that holds it: explain service NAMESPACE/NAME")
	path := fs.String("config", defaultConfig, "the agent's configuration `FILE`")
	format := fs.String("o", "text", "output: text or json")
	if err := parse(fs, args, 2); err != nil {
		return err
	}
	if fs.NArg() != 2 || fs.Arg(0) != "service" || strings.Count(fs.Arg(1), "/") != 1 {
		fmt.Fprintln(fs.Output(), "mooring explain: write: mooring explain service NAMESPACE/NAME")
		return errUsage
	}
	if *format != "json" && *format != "text" {
		fmt.Fprintf(fs.Output(), "mooring explain: -o %s: write text or json\n", *format)
		return errUsage
	}
	body, err := ask(ctx, *path, http.MethodGet, "/services?name="+url.QueryEscape(fs.Arg(1)))
	if err != nil {
		return err
	}
	var all []serviceReport
	if err := json.Unmarshal(body, &all); err != nil {
		return fmt.Errorf("the agent's answer is no list of Services (another version?): %v", err)
	}
	if len(all) == 0 {
		return fmt.Errorf(notOurs, fs.Arg(1))
	}
	if *format == "json" {
		_, err = out.Write(body)
		return err
	}
	explain(out, all[0], time.Now())
	return nil
}

// explain tells it in sentences.
func explain(out io.Writer, r serviceReport, now time.Time) {
	fmt.Fprintf(out, "Service %s, asked on %s\n", r.Service, r.Node)
	switch {
	case len(r.Addresses) > 0:
	case r.Unread:
		fmt.Fprintln(out, "  has no address yet:", poolsUnread)
	default:
		fmt.Fprintln(out, "  has no address yet: its Events and the condition mooring.dev/AddressAssigned say why")
	}
	for _, a := range r.Addresses {
		explainAddress(out, a, now)
	}
	explainPath(out, r)
	for _, p := range r.Ports {
		explainPort(out, p)
	}
	for _, c := range r.Clients {
		line := fmt.Sprintf("  clients of %s port %d/%s: %s", c.IP, c.Port, c.Protocol, c.Meets)
		if c.Why != "" {
			line += " (" + c.Why + ")"
		}
		fmt.Fprintln(out, line)
	}
	for _, i := range r.Issues {
		fmt.Fprintf(out, "! %s: %s\n", i.Field, i.Problem)
	}
}

// explainAddress says where an address comes from and who holds it, why.
func explainAddress(out io.Writer, a addressOn, now time.Time) {
	line := fmt.Sprintf("  %s from pool %s", a.IP, orNone(a.Pool))
	if a.Asked != "" {
		line += ": " + a.Asked
	}
	fmt.Fprintln(out, line)
	if len(a.With) > 0 {
		fmt.Fprintln(out, "    is shared with", joinedKeys(a.With))
	}
	if a.Pool == "" {
		return // what its clients meet says it
	}
	line = "    is held by " + orNone(a.Holder)
	if !a.Since.IsZero() {
		line += fmt.Sprintf(" since %s", ago(now, a.Since))
	}
	if a.Cause != "" {
		line += fmt.Sprintf(" (%s)", a.Cause)
	}
	fmt.Fprintf(out, "%s, as Lease %s says\n", line, a.Group)
	line = "    may be held by " + orNone(strings.Join(a.Candidates, ", "))
	if a.Preferred != "" {
		line += "; at first by " + a.Preferred + ", so that the groups are spread evenly"
	}
	fmt.Fprintln(out, line)
	switch {
	case a.State == "":
		fmt.Fprintln(out, "    not by this node:", orNone(a.Barred))
	case a.Last == nil:
		fmt.Fprintln(out, "    this node is", a.State)
	default:
		line = fmt.Sprintf("    this node is %s; its last move: %s %s ago", a.State, a.Last.Reason, ago(now, a.Last.At))
		if a.Last.Cause != "" {
			line += fmt.Sprintf(" (%s)", a.Last.Cause)
		}
		if a.Last.Took != 0 {
			line += ", took " + a.Last.Took.Round(time.Millisecond).String()
		}
		fmt.Fprintln(out, line)
	}
}

// explainPath says who serves it and how.
func explainPath(out io.Writer, r serviceReport) {
	switch {
	case r.Path == lb.DataPathDirect && r.Local:
		fmt.Fprintln(out, "  kube-proxy serves it on its holder, from pods there alone, which see the clients' addresses")
	case r.Path == lb.DataPathDirect:
		fmt.Fprintln(out, "  kube-proxy serves it on its holder")
	default:
		fmt.Fprintln(out, "  HAProxy serves it on its holder:", frontText(r.Front))
		if !r.Proxied {
			fmt.Fprintln(out, "  HAProxy on this node does not serve:", orNone(r.Why))
		}
	}
}

// frontText says how HAProxy chooses and checks.
func frontText(f *lb.Front) string {
	if f == nil {
		return ""
	}
	balance := f.Balance
	if balance == "" {
		balance = lb.LeastConn
	}
	text := string(balance) + ", "
	switch c := f.Check; c.Kind {
	case "":
		text += "no check: readiness says who serves"
	case lb.CheckTCP:
		text += "check by connection"
	default:
		text += fmt.Sprintf("check by %s for %s", c.Kind, c.Path)
	}
	if f.Affinity > 0 {
		text += fmt.Sprintf(", a client stays with its pod for %s", f.Affinity)
	}
	if f.TLS != "" {
		text += ", ends TLS"
	}
	return text
}

// explainPort lists a port's endpoints, each as HAProxy sees it, and what HAProxy has
// besides.
func explainPort(out io.Writer, p portReport) {
	line := fmt.Sprintf("  port %d/%s: %d ready", p.Port, p.Protocol, len(p.Ready))
	if p.Behind != 0 {
		line += fmt.Sprintf(", redirected to HAProxy at port %d because the API server keeps no ipMode", p.Behind)
	}
	switch {
	case p.Skipped != "":
		line += "; HAProxy here leaves it out: " + p.Skipped
	case p.Pending:
		line += "; HAProxy here has it as it is now with its next reload, which comes by itself"
	}
	fmt.Fprintln(out, line)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	left := slices.Clone(p.Servers)
	list := func(what string, all []endpoint) {
		for _, e := range all {
			line := "    " + what + "\t" + e.Addr.String()
			if e.Node != "" {
				line += " on " + e.Node
			}
			name := haproxy.ServerName(e.Addr)
			i := slices.IndexFunc(left, func(s haproxy.ServerState) bool { return s.Name == name })
			switch {
			case i >= 0:
				line += "\tHAProxy: " + serverText(left[i])
				left = slices.Delete(left, i, i+1)
			case p.Asked:
				line += "\tHAProxy does not use it here"
			}
			fmt.Fprintln(w, line)
		}
	}
	list("ready", p.Ready)
	list("draining", p.Draining)
	for _, s := range left {
		fmt.Fprintf(w, "    gone\t%s\tHAProxy: %s\n", s.Name, serverText(s))
	}
	_ = w.Flush() // its error is out's, which the next write has too
}

// serverText is a server as HAProxy sees it.
func serverText(s haproxy.ServerState) string {
	text := s.Status
	if s.Check != "" {
		text += ", check " + s.Check
	}
	return fmt.Sprintf("%s, %d connections", text, s.Sessions)
}

// joinedKeys lists Services.
func joinedKeys(keys []lb.ServiceKey) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = string(k)
	}
	return strings.Join(out, ", ")
}
