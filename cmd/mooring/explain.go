package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// serviceReport is what the agent's socket says of one Service.
type serviceReport struct {
	Service   lb.ServiceKey `json:"service"`
	Addresses []addressOn   `json:"addresses"`
	Path      lb.DataPath   `json:"dataPath"`
	Local     bool          `json:"local,omitempty"`
	Ports     []portReport  `json:"ports"`
	Issues    []lb.Issue    `json:"issues,omitempty"`
	// Proxied says whether this node's HAProxy runs with what is wanted, Why why not.
	Proxied bool   `json:"proxied,omitempty"`
	Why     string `json:"why,omitempty"`
}

// addressOn is one of a Service's addresses.
type addressOn struct {
	IP    netip.Addr `json:"ip"`
	Pool  string     `json:"pool,omitempty"`
	Group string     `json:"group,omitempty"`
	// Holder as this node's agent knows it, State what this node is to the group;
	// both are "" where it is no candidate.
	Holder string `json:"holder,omitempty"`
	State  string `json:"state,omitempty"`
}

// portReport is one port with its endpoints.
type portReport struct {
	Protocol lb.Protocol `json:"protocol"`
	Port     uint16      `json:"port"`
	// Behind is where HAProxy listens for it, if that is another port.
	Behind uint16   `json:"behind,omitempty"`
	Ready  []string `json:"ready,omitempty"`
	// Draining keep the connections that they have.
	Draining []string `json:"draining,omitempty"`
}

// reports describes the Services, or the one of a name, in order.
func (s *services) reports(only lb.ServiceKey) []serviceReport {
	all, pools, _ := s.snapshot()
	groups := map[netip.Addr]lb.Group{}
	for _, g := range lb.Groups(all, pools) {
		for _, ip := range g.VIPs {
			groups[ip] = g
		}
	}
	shares := map[string]*share{}
	for _, sh := range *s.open.Load() {
		shares[sh.name] = sh
	}
	state := s.proxy.State()
	behind := map[string]uint16{}
	for _, f := range lb.Frontends(all, pools, s.n.cfg.Node) {
		for _, r := range f.Redirects {
			behind[f.Name] = r.To
		}
	}
	out := []serviceReport{}
	for i := range all {
		v := &all[i]
		if only != "" && v.Key != only {
			continue
		}
		r := serviceReport{Service: v.Key, Path: v.DataPath, Local: v.Local, Issues: v.Issues, Ports: portsOf(v)}
		if v.DataPath == lb.DataPathProxy {
			r.Proxied, r.Why = state.Serving, state.Why
			for j, p := range r.Ports {
				r.Ports[j].Behind = behind[lb.FrontendName(v.Key, p.Port)]
			}
		}
		for _, ip := range v.Has {
			a := addressOn{IP: ip, Pool: groups[ip].Pool, Group: groups[ip].Name}
			if sh := shares[a.Group]; sh != nil {
				st := sh.agent.Status()
				a.Holder, a.State = st.Holder, st.State
			}
			r.Addresses = append(r.Addresses, a)
		}
		out = append(out, r)
	}
	return out
}

// portsOf lists a Service's endpoints by port.
func portsOf(v *lb.Service) []portReport {
	var out []portReport
	for _, p := range v.Ports {
		r := portReport{Protocol: p.Protocol, Port: p.Port}
		for _, e := range p.Endpoints {
			where := e.Addr.String()
			if e.Node != "" {
				where += " on " + e.Node
			}
			switch {
			case e.Ready:
				r.Ready = append(r.Ready, where)
			case e.Serving && e.Terminating:
				r.Draining = append(r.Draining, where)
			}
		}
		slices.Sort(r.Ready)
		slices.Sort(r.Draining)
		out = append(out, r)
	}
	return out
}

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
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tADDRESS\tHOLDER\tSTATE HERE\tPATH\tENDPOINTS\tNOTES")
	for _, r := range all {
		ready := 0
		for _, p := range r.Ports {
			ready = max(ready, len(p.Ready))
		}
		notes := "-"
		if len(r.Issues) > 0 {
			notes = fmt.Sprintf("%d, see mooring explain service %s", len(r.Issues), r.Service)
		}
		if len(r.Addresses) == 0 {
			fmt.Fprintf(w, "%s\tnone yet\t-\t-\t%s\t%d\t%s\n", r.Service, r.Path, ready, notes)
		}
		for _, a := range r.Addresses {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Service, a.IP, orNone(a.Holder), orNone(a.State), r.Path, ready, notes)
		}
	}
	return w.Flush()
}

// cmdExplain says of one Service what it has and why.
func cmdExplain(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("explain", "says what a Service has, who serves it and what is wrong: explain service NAMESPACE/NAME")
	path := fs.String("config", defaultConfig, "the agent's configuration `FILE`")
	if err := parse(fs, args, 2); err != nil {
		return err
	}
	if fs.NArg() != 2 || fs.Arg(0) != "service" || strings.Count(fs.Arg(1), "/") != 1 {
		fmt.Fprintln(fs.Output(), "mooring explain: write: mooring explain service NAMESPACE/NAME")
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
		return fmt.Errorf("no Service %s of type LoadBalancer is ours: see its spec.type and spec.loadBalancerClass", fs.Arg(1))
	}
	explain(out, all[0])
	return nil
}

// explain tells it in sentences.
func explain(out io.Writer, r serviceReport) {
	fmt.Fprintf(out, "Service %s\n", r.Service)
	if len(r.Addresses) == 0 {
		fmt.Fprintln(out, "  has no address yet: its Events and the condition mooring.dev/AddressAssigned say why")
	}
	for _, a := range r.Addresses {
		fmt.Fprintf(out, "  %s from pool %s\n", a.IP, orNone(a.Pool))
		switch {
		case a.Pool == "":
			fmt.Fprintln(out, "    is in no pool: nobody announces it")
		case a.Holder == "" && a.State == "":
			fmt.Fprintln(out, "    this node is no candidate for it: no link in its subnet, or no endpoint of a Local Service")
		case a.State == election.Holding.String():
			fmt.Fprintf(out, "    is held here, in group %s\n", a.Group)
		default:
			fmt.Fprintf(out, "    is held by %s, this node is %s, in group %s\n", orNone(a.Holder), a.State, a.Group)
		}
	}
	switch {
	case r.Path == lb.DataPathDirect:
		fmt.Fprintln(out, "  kube-proxy serves it on its holder; clients' addresses are kept")
	case r.Proxied:
		fmt.Fprintln(out, "  HAProxy serves it on its holder, and runs here")
	default:
		fmt.Fprintln(out, "  HAProxy serves it on its holder; here it does not:", orNone(r.Why))
	}
	for _, p := range r.Ports {
		behind := ""
		if p.Behind != 0 {
			behind = fmt.Sprintf(", redirected to HAProxy at port %d because the API server keeps no ipMode", p.Behind)
		}
		fmt.Fprintf(out, "  port %d/%s: %d ready%s\n", p.Port, p.Protocol, len(p.Ready), behind)
		for _, e := range p.Ready {
			fmt.Fprintln(out, "    ready   ", e)
		}
		for _, e := range p.Draining {
			fmt.Fprintln(out, "    draining", e)
		}
		if len(p.Ready)+len(p.Draining) == 0 {
			fmt.Fprintln(out, "    clients are refused: look at the pods' readiness and at the Service's selector")
		}
	}
	for _, i := range r.Issues {
		fmt.Fprintf(out, "! %s: %s\n", i.Field, i.Problem)
	}
}
