package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

// deliver passes an elector's event on; the agent exists before it runs. Members
// are kept on disk: without them an agent that restarts in an API outage would
// take every candidate for a stranger.
func (n *node) deliver(ev election.Event) {
	if n.agent != nil {
		n.agent.Deliver(ev)
	}
	if m, ok := ev.(election.Members); ok {
		n.all.Store(&m.All)
		n.speakWith(m.All)
		if n.services != nil {
			knock(n.services.wake)
		}
		if err := keep(n.membersFile(), m.All); err != nil {
			n.log.Warn("members not kept on disk", "err", err)
		}
	}
}

// members are all as last told, or as kept from the last run.
func (n *node) members() []election.Member {
	if n.agent != nil {
		return n.agent.Status().Members
	}
	if all := n.all.Load(); all != nil {
		return *all
	}
	return nil
}

// keep writes a value to a file, atomically, as JSON.
func keep(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return write(path, data)
}

// write replaces a file, which its reader sees whole.
func write(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err // the old file stays
	}
	return os.Rename(next, path)
}

// recall reads what keep wrote; a file that is missing leaves v as it is.
func recall(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// rememberMembers gives the agent the members of the last run, until the
// cluster has spoken.
func (n *node) rememberMembers() {
	if all := n.candidates(); len(all) > 0 {
		n.all.Store(&all)
		if n.agent != nil {
			n.agent.Deliver(election.Members{All: all})
		}
		n.speakWith(all)
	}
}

// What the adapters call from their own goroutines. None of these blocks: they
// enqueue an event, and the loop decides.

func (n *node) onClaim(c lb.Claim)      { n.deliverTo(c.IP, election.Claimed{MAC: c.MAC.String()}) }
func (n *node) onGone()                 { n.deliverAll(election.AddressGone{}) }
func (n *node) onProxy(s lb.ProxyState) { n.agent.SetProxy(s) }

// Files that outlive the agent are in stateDir, those of this boot in runDir.

func (n *node) serversFile() string     { return filepath.Join(n.cfg.StateDir, "apiservers.json") }
func (n *node) membersFile() string     { return filepath.Join(n.cfg.StateDir, "members.json") }
func (n *node) file(name string) string { return filepath.Join(n.cfg.RunDir, name) }

// refuse says why the configuration on disk is not the one in force.
func (n *node) refuse(why string) { n.complain("config", why) }

// onBackends takes the cluster's own list of API servers and keeps it on disk,
// so that a cold site knows where to ask.
func (n *node) onBackends(b []lb.Backend) {
	addrs := addrsOf(b)
	n.servers.Set(addrs)
	if n.agent != nil {
		n.agent.SetBackends(b)
	}
	if err := keep(n.serversFile(), addrs); err != nil {
		n.log.Warn("API servers not kept on disk", "err", err)
	}
}

// onLink tells each group of its own links together: one that is down is enough to
// be cut off from some address's clients. Another group's link says nothing.
func (n *node) onLink(c lb.LinkChange) {
	n.mu.Lock()
	if c.Up {
		delete(n.down, c.Link)
	} else {
		n.down[c.Link] = true
	}
	down := maps.Clone(n.down)
	n.mu.Unlock()
	if n.agent != nil {
		n.agent.Deliver(carrierOf(n.vips, down))
	}
	if n.services != nil {
		n.services.onLinksDown(down)
	}
}

// carrierOf is what a group of these addresses hears while the links are down.
func carrierOf(vips []lb.Address, down map[string]bool) election.Carrier {
	return election.Carrier{Up: !slices.ContainsFunc(vips, func(a lb.Address) bool { return down[a.Link] })}
}

// deliverAll passes on what concerns every group, deliverTo what concerns an address.
func (n *node) deliverAll(ev election.Event) {
	if n.agent != nil {
		n.agent.Deliver(ev)
	}
	if n.services != nil {
		n.services.deliver(ev)
	}
}

func (n *node) deliverTo(ip netip.Addr, ev election.Event) {
	if (n.services == nil || !n.services.claimed(ip, ev)) && n.agent != nil {
		n.agent.Deliver(ev)
	}
}

// seeds are the API servers of the configuration and of the last run.
func (n *node) seeds() []lb.Backend {
	addrs := slices.Clone(n.cfg.APIServer.Servers)
	var kept []netip.AddrPort
	if err := recall(n.serversFile(), &kept); err != nil {
		n.log.Warn("kept API servers not read", "err", err)
	}
	for _, a := range kept {
		if a.IsValid() && !slices.Contains(addrs, a) && !slices.Contains(n.cfg.APIServer.VIPs, a.Addr()) {
			addrs = append(addrs, a)
		}
	}
	var out []lb.Backend
	for _, a := range addrs {
		out = append(out, lb.BackendAt(a))
	}
	return out
}

// checkFiles writes what HAProxy's health check needs to the run directory.
func (n *node) checkFiles(withClient bool) (lb.Check, error) {
	c := lb.Check{Path: n.cfg.APIServer.Check.Path, ServerName: serverName, CAFile: n.file(caFile)}
	if n.servers.Absent() {
		_, err := os.Stat(n.file(clientFile))
		always := n.cfg.APIServer.Check.ClientCertificate == config.CertificateAlways
		if withClient || err == nil && always { // as the last run left both
			c.ClientPEM = n.file(clientFile)
		}
		return c, nil
	}
	if err := os.WriteFile(c.CAFile, n.servers.CAPEM(), 0o600); err != nil {
		return c, fmt.Errorf("runDir: %v", err)
	}
	always := n.cfg.APIServer.Check.ClientCertificate == config.CertificateAlways
	if pem := n.servers.ClientPEM(); len(pem) > 0 && (withClient || always) {
		c.ClientPEM = n.file(clientFile)
		if err := os.WriteFile(c.ClientPEM, pem, 0o600); err != nil {
			return c, fmt.Errorf("runDir: %v", err)
		}
	}
	return c, nil
}

// watchCertificate asks the API server, until it has answered, whether health
// checks need a client certificate, and every ten minutes whether the VIPs are
// in its serving certificate.
func (n *node) watchCertificate(ctx context.Context) error {
	if n.agent == nil {
		return nil
	}
	settled, refusals := n.cfg.APIServer.Check.ClientCertificate != config.CertificateAuto, 0
	for {
		pause := 10 * time.Minute
		if !settled {
			settled = n.settleCheck(ctx, &refusals)
		}
		if !n.compareCertificate(ctx) || !settled {
			pause = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// clientFile is there while health checks need a client certificate, caFile is the
// cluster's authority.
const (
	clientFile = "client.pem"
	caFile     = "ca.pem"
)

// settleCheck gives HAProxy the client certificate when anonymous access is off:
// when it is refused three times, for an API server that is starting refuses
// everybody for a second or two.
func (n *node) settleCheck(ctx context.Context, refusals *int) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	open, err := n.servers.AnonymousReadyz(ctx)
	if err != nil {
		return false
	}
	if open {
		if os.Remove(n.file(clientFile)) == nil {
			check, err := n.checkFiles(false)
			n.agent.SetCheck(check)
			return err == nil
		}
		return true
	}
	if *refusals++; *refusals < 3 {
		return false
	}
	check, err := n.checkFiles(true)
	if err != nil {
		n.log.Error("health check without client certificate", "err", err)
		return false
	}
	n.log.Info("anonymous access is off: HAProxy's health check presents the agent's certificate")
	n.agent.SetCheck(check)
	return true
}

// compareCertificate says which VIPs a client would refuse.
func (n *node) compareCertificate(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, ips, err := n.servers.CertificateNames(ctx)
	if err != nil {
		return false
	}
	var missing []string
	for _, ip := range n.cfg.APIServer.VIPs {
		if !slices.Contains(ips, ip) {
			missing = append(missing, ip.String())
		}
	}
	text := ""
	if len(missing) > 0 {
		list := strings.Join(missing, ", ")
		text = "the API server's certificate does not name " + list + ": clients will refuse it; add it to the " +
			"certificate's SANs (kubeadm: apiServer.certSANs, then kubeadm init phase certs apiserver; k3s: --tls-san; k0s: api.sans)"
	}
	if n.complain("certificate", text) && text != "" {
		n.log.Warn(text)
		n.reporter.Report(kube.Note{Type: kube.Warning, Reason: "VIPNotInCertificate", Message: text})
	}
	return true
}

// complain sets or, with "", clears a standing complaint; true if it changed.
func (n *node) complain(key, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.complaints[key]
	n.complaints[key] = text
	return old != text
}

// tellEvent writes an Event about a decision; of names the VIPs or the group.
func (n *node) tellEvent(of string, note election.Note) {
	kind := kube.Normal
	if agent.Warns(note.Reason) {
		kind = kube.Warning
	}
	text := fmt.Sprintf("%s: %s", of, note.Reason)
	for _, kv := range [][2]string{
		{"cause", string(note.Cause)}, {"node", note.Node}, {"MAC", note.MAC}, {"", note.Detail},
	} {
		switch {
		case kv[1] == "":
		case kv[0] == "":
			text += ": " + kv[1]
		default:
			text += ", " + kv[0] + " " + kv[1]
		}
	}
	if note.Took != 0 {
		text += fmt.Sprintf(", took %s", note.Took.Round(time.Millisecond))
	}
	n.reporter.Report(kube.Note{Type: kind, Reason: string(note.Reason), Message: text})
}

// onNote turns a decision into a Kubernetes Event on the node.
func (n *node) onNote(note election.Note) {
	n.tellEvent(strings.Join(n.vipNames(), ", "), note)
	switch note.Reason {
	case election.Stranger, election.Foreign:
		n.mu.Lock()
		n.foreign = time.Now()
		n.mu.Unlock()
		n.complain("foreign", fmt.Sprintf("a host that is no candidate says it has a VIP: MAC %s; "+
			"find it and take the address from it", note.MAC))
	case election.Became, election.Adopted:
		n.complain("address", "")
	case election.HelloBlocked:
		n.complain("hello-"+note.Node, "hellos of "+note.Node+": "+note.Detail)
	case election.AddressFailed:
		n.complain("address", "the kernel refuses the address: "+note.Detail)
	default:
	}
}

// vipNames are the VIPs as people write them.
func (n *node) vipNames() []string {
	var out []string
	for _, v := range n.vips {
		out = append(out, v.IP.String())
	}
	return out
}

// report is what `mooring status` shows.
func (n *node) report(a *agent.Agent) report {
	r := report{Version: version, APIServers: n.servers.State()}
	if a != nil {
		r.Status = a.Status()
	} else {
		r.Status = agent.Status{Node: n.cfg.Node, Members: n.members()}
	}
	if t, ok := n.elector.Acquired(); ok {
		r.HeldSince = t
	}
	said := n.hello.Status()
	r.Hello, r.Complaints = reportOf(said), n.helloComplaints(said)
	n.mu.Lock()
	defer n.mu.Unlock()
	r.Credentials = n.credentialsStatus()
	for key, text := range n.complaints {
		// A stranger that has been silent for a minute is gone.
		if text != "" && (key != "foreign" || time.Since(n.foreign) < time.Minute) {
			r.Complaints = append(r.Complaints, text)
		}
	}
	slices.Sort(r.Complaints)
	return r
}
