package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// chains is the answer to `nft -j list chains` (libnftables-json(5)).
type chains struct {
	Nftables []struct {
		Chain *chain `json:"chain"`
	} `json:"nftables"`
}

type chain struct {
	Family, Table, Name, Type, Hook, Policy string
}

// lookRules has the kernel judge rules like the agent's, and reads others'.
func (x *exam) lookRules(ctx context.Context) (func(), error) {
	if !capable(unix.CAP_NET_ADMIN) {
		return nil, errNotRoot
	}
	var r check.Rules
	if err := x.tryRules(ctx); err != nil {
		r.Fault = err.Error()
	}
	text, err := vip.Ruleset(ctx, "-j", "list", "chains")
	if err != nil {
		// Without nft there is a fault; other rules cannot be seen then.
		return func() { x.facts.Rules = r }, nil
	}
	var all chains
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("the answer of nft: %w", err)
	}
	r.Opened = map[uint16]bool{}
	for _, n := range all.Nftables {
		if n.Chain == nil {
			continue
		}
		c := *n.Chain
		r.Mode = max(r.Mode, c.kubeProxy())
		if c.Type == "filter" && c.Hook == "input" && c.Policy == "drop" && c.Family != "arp" {
			r.Drops = append(r.Drops, strings.Join([]string{c.Family, c.Table, c.Name}, " "))
			if err := x.opened(ctx, c, r.Opened); err != nil {
				return nil, err
			}
		}
	}
	if _, err := net.InterfaceByName("kube-ipvs0"); err == nil && r.Mode == "iptables" {
		r.Mode = "ipvs" // which has a few rules of iptables besides
	}
	return func() { x.facts.Rules = r }, nil
}

// kubeProxy is the mode in which kube-proxy makes such a chain, "" if it makes none.
func (c chain) kubeProxy() string {
	switch {
	case c.Table == "kube-proxy":
		return "nftables"
	case c.Table == "nat" && c.Name == "KUBE-SERVICES":
		return "iptables"
	}
	return ""
}

// tryRules tries the redirect and what hand-overs need, on a VIP's link or on lo.
func (x *exam) tryRules(ctx context.Context) error {
	link := "lo"
	if places := x.site.cfg.APIServer.VIPs; x.cfg.Interface != "" {
		link = x.cfg.Interface
	} else if len(places) > 0 {
		if l, err := vip.LinkFor(places[0]); err == nil {
			link = l
		}
	}
	if _, err := net.InterfaceByName(link); err != nil {
		link = "lo" // the link itself is judged elsewhere
	}
	redirects, err := haproxy.RenderRedirects([]lb.Redirect{
		{VIP: netip.MustParseAddr("192.0.2.1"), From: x.cfg.APIServer.Port, To: x.cfg.APIServer.ProxyPort},
		{VIP: netip.MustParseAddr("2001:db8::1"), From: x.cfg.APIServer.Port, To: x.cfg.APIServer.ProxyPort},
	})
	if err != nil {
		return err
	}
	return vip.TryRules(ctx, link, redirects)
}

// opened notes which of the agents' ports a table accepts by number.
func (x *exam) opened(ctx context.Context, c chain, out map[uint16]bool) error {
	text, err := vip.Ruleset(ctx, "-n", "list", "table", c.Family, c.Table)
	if err != nil {
		return err
	}
	for _, port := range []uint16{x.cfg.Hello.Port, x.cfg.APIServer.ProxyPort, x.cfg.Services.PeersPort} {
		accepts := regexp.MustCompile(fmt.Sprintf(`(?m)^.*dport.*\b%d\b.*accept`, port))
		out[port] = out[port] || accepts.MatchString(text)
	}
	return nil
}

// lookPorts finds who listens where the agent or its HAProxy will.
func (x *exam) lookPorts(context.Context) (func(), error) {
	c := x.cfg
	all := []check.Port{{Use: check.UseMetrics, Number: c.Metrics.Bind.Port()}, {Use: check.UseHello, Protocol: "UDP",
		Number: c.Hello.Port}}
	if len(c.APIServer.VIPs) > 0 {
		all = append(all, check.Port{Use: check.UseAPIServer, Number: c.APIServer.Port})
		if x.facts.Site.Balance {
			all = append(all, check.Port{Use: check.UseProxy, Number: c.APIServer.ProxyPort})
		}
	}
	if c.Services.Enabled {
		all = append(all, check.Port{Use: check.UsePeers, Number: c.Services.PeersPort})
	}
	for i := range all {
		p := &all[i]
		udp := p.Protocol == "UDP"
		if !udp {
			p.Protocol = "TCP"
		}
		for _, l := range haproxy.Listeners(udp, p.Number) {
			p.By = append(p.By, check.Listener{At: l.At, PID: l.PID, Command: l.Command, Ours: x.ours(l.PID)})
		}
	}
	return func() { x.facts.Ports = all }, nil
}

// ours says whether a process belongs to an agent with this configuration: the
// agent, its child that speaks the hellos, a HAProxy of its run directory. What is not
// visible is taken for its own while an agent answers.
func (x *exam) ours(pid int) bool {
	switch {
	case pid == 0:
		return x.agent != nil
	case pid == x.pid || x.pid != 0 && parent(pid) == x.pid:
		return true
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && strings.Contains(string(line), x.runFile("haproxy-"))
}

// parent is a process's (proc_pid_status(5), PPid).
func parent(pid int) int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value)) // the kernel writes a number
			return n
		}
	}
	return 0
}

// lookHAProxy asks the program what it is, and computes what fits.
func (x *exam) lookHAProxy(ctx context.Context) (func(), error) {
	api := len(x.cfg.APIServer.VIPs) > 0 && x.facts.Site.Balance
	if !api && !x.cfg.Services.Enabled {
		return nil, moot("the configuration needs no HAProxy")
	}
	var h check.HAProxy
	if _, err := exec.LookPath("haproxy"); err != nil {
		h.Missing = "haproxy is not in PATH"
	} else if p, err := haproxy.Installed(ctx, ""); err != nil {
		h.Missing = err.Error()
	} else {
		h.Version, h.Major, h.Minor, h.Status, h.Lacks = p.Version, p.Major, p.Minor, p.Status, p.Lacks
	}
	who := "self"
	if x.pid != 0 {
		who = strconv.Itoa(x.pid)
	}
	nofile := openFiles(who)
	if api {
		h.Budgets = append(h.Budgets, budget("the API server", "apiServer.maxConnections", x.cfg.APIServer.MaxConnections,
			nofile))
	}
	if x.cfg.Services.Enabled {
		h.Budgets = append(h.Budgets, budget("Services", "services.maxConnections", x.cfg.Services.MaxConnections, nofile))
	}
	return func() { x.facts.HAProxy = h }, nil
}

// budget is what fits into a limit of open files.
func budget(what, setting string, wanted int, nofile uint64) check.Budget {
	b := check.Budget{For: what, Setting: setting, Wanted: wanted}
	c := haproxy.Config{Name: group, MaxConn: wanted, Threads: haproxy.DefaultThreads}
	if wanted == 0 {
		c.MaxConn = haproxy.DefaultMaxConn
	}
	var err error
	if b.Most, err = haproxy.FitMaxConn(c, nofile); err != nil {
		b.Fault = strings.TrimPrefix(err.Error(), "haproxy: ")
	}
	return b
}

// rivals are the names of processes that hold addresses too.
var rivals = []string{"keepalived", "kube-vip", "ucarp"}

// lookPrograms finds other programs that hold addresses.
func (x *exam) lookPrograms(context.Context) (func(), error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []check.Program
	for _, dir := range dirs {
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		command := strings.TrimSpace(string(name))
		if err != nil || !slices.Contains(rivals, command) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir)) // digits, as the pattern wants
		// Its children have the same name, and say nothing new.
		if !slices.ContainsFunc(out, func(p check.Program) bool { return p.Command == command }) {
			out = append(out, check.Program{PID: pid, Command: command})
		}
	}
	return func() { x.facts.Programs = out }, nil
}
