package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

const (
	// keySecret holds the hellos' key when no file does.
	keySecret = "mooring-hello"
	// maxPeers bounds whom this node speaks with: the best-ranked candidates; with
	// Services, which any node may hold, more. 64 cost some 4 % of a core.
	maxPeers        = 16
	maxServicePeers = 64
	// unheardAfter is when a live candidate that was never heard is complained of.
	unheardAfter = 15 * time.Second
)

// helloHelper is the word by which the agent starts itself anew to send its
// hellos, with precedence for all threads: Go's scheduler can hold up a single one.
const helloHelper = "hello-helper"

// serveHellos is that process: it ends with the agent.
func serveHellos() int {
	if err := hello.Serve(boottime); err != nil {
		fmt.Fprintln(os.Stderr, "mooring", helloHelper+":", err)
		return 1
	}
	return 0
}

// hellos are the agent's word to the other candidates.
type hellos struct{ *hello.Loop }

// Say passes on what can be said; what cannot stands in the loop's status.
func (h hellos) Say(groups map[string]election.Say) { _ = h.Loop.Say(groups) }

// connectPeers prepares everything by which candidates agree without an API
// server.
func (n *node) connectPeers() error {
	c := n.cfg.Hello
	n.hello = hello.New(hello.Options{
		Node: n.cfg.Node, Interval: c.Interval, Multiplier: c.Multiplier, Port: c.Port,
		Now: boottime, Log: n.log, Changed: n.onHello, Helper: helperCommand,
	})
	n.voices = newVoices(hellos{n.hello})
	api := n.servers.RESTConfig(0)
	var err error
	if n.taints, err = kube.NewNodes(api, kube.NodesOptions{
		Changed: n.onTaints, Self: n.cfg.Node, Labels: n.onLabels, Log: n.log,
	}); err != nil {
		return err
	}
	if c.KeyFile != "" {
		return inKeyFile(n.readKeys(c.KeyFile))
	}
	// The key of the last run, for a start without an API server.
	if err := n.readKeys(n.keysFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("kept hello key not read", "err", err)
	}
	n.keys, err = kube.NewKeys(api, kube.KeysOptions{
		Namespace: n.cfg.Namespace, Name: keySecret, Changed: n.onKeys, Log: n.log,
	})
	return err
}

// helperCommand starts this very program again; a test is another program.
var helperCommand = []string{"/proc/self/exe", helloHelper}

func (n *node) keysFile() string { return filepath.Join(n.cfg.StateDir, "hello.keys") }

// readKeys takes the keys of a file.
func (n *node) readKeys(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	keys, err := hello.ParseKeys(string(text))
	if err != nil {
		return fmt.Errorf("%s: %v", path, err)
	}
	n.hello.SetKeys(keys)
	return nil
}

// inKeyFile says which setting an error is about.
func inKeyFile(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("hello.keyFile: %w", err)
}

// followKeys takes new keys from the Secret, or from the file as it changes.
func (n *node) followKeys(ctx context.Context) error {
	if n.keys != nil {
		return n.keys.Run(ctx)
	}
	path := n.cfg.Hello.KeyFile
	for stamp := stampOf(path); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Second):
		}
		if now := stampOf(path); now != stamp {
			stamp = now
			text := ""
			if err := inKeyFile(n.readKeys(path)); err != nil {
				text = err.Error() + "; the keys read before stay in force"
				n.log.Error("hello keys not taken over", "err", err)
			}
			n.complain("keys", text)
		}
	}
}

// onKeys takes the Secret's keys and keeps them for a start without an API
// server.
func (n *node) onKeys(text string) {
	keys, err := hello.ParseKeys(text)
	if err != nil {
		n.complain("keys", fmt.Sprintf("Secret %s/%s: %v", n.cfg.Namespace, keySecret, err))
		return
	}
	n.complain("keys", "")
	n.hello.SetKeys(keys)
	if err := write(n.keysFile(), []byte(text)); err != nil {
		n.log.Warn("hello key not kept on disk: a restart during an API outage will be without hellos", "err", err)
	}
}

// onHello takes a peer's word; it is called from the hellos' own thread.
func (n *node) onHello(c hello.Change) {
	if c.State == election.PeerUp {
		n.complain("hello-"+c.Node, "")
	}
	if n.agent != nil {
		n.agent.Deliver(election.Peer{Node: c.Node, State: c.State, Say: c.Groups[group], Heard: c.Heard})
	}
	if n.services != nil {
		n.services.onPeer(c)
	}
}

func (n *node) onTaints(u kube.Unfit) {
	n.deliver(election.Taints{Out: u.Out, Leave: u.Off})
	if n.services != nil {
		// Pods leave a node that is not ready, and who cannot be told to leave it should
		// not be the way to the others. The API servers' VIP stays: theirs do not leave.
		n.services.deliver(election.Taints{Out: u.Out, Leave: append(u.Off, u.NotReady...)})
	}
}

// onLabels takes the labels of this node, which choose what it may hold of Services.
func (n *node) onLabels(labels map[string]string, listed bool) {
	if n.services != nil {
		n.services.onLabels(labels, listed)
	}
}

func (n *node) onRival(c lb.Claim) { n.deliverTo(c.IP, election.Rival{MAC: c.MAC.String()}) }

// family is an address of the family that hellos prefer.
func (n *node) family() netip.Addr {
	if len(n.vips) > 0 {
		return n.vips[0].IP
	}
	return netip.IPv4Unspecified()
}

// speakWith makes the best-ranked members the hellos' peers, over the first
// announcing link: the first VIP's family if they have an address of it.
func (n *node) speakWith(members []election.Member) {
	ranked := election.Ranked(group, members)
	// Whose Lease is old may be gone for good, and its address another's; it may
	// also be a holder that drains without an API server.
	slices.SortStableFunc(ranked, func(a, b election.Member) int {
		switch {
		case a.Live == b.Live:
			return 0
		case a.Live:
			return -1
		}
		return 1
	})
	limit := maxPeers
	if n.services != nil {
		limit = maxServicePeers
	}
	var targets []hello.Target
	for _, m := range ranked {
		ip, ok := addressOf(m, n.family())
		taken := slices.ContainsFunc(targets, func(t hello.Target) bool { return t.Addr == ip })
		if ok && !taken && m.Node != n.cfg.Node && len(targets) < limit {
			t := hello.Target{Node: m.Node, Addr: ip, Link: n.announcing()[0]}
			t.SetAlso(addressesOf(m))
			targets = append(targets, t)
		}
	}
	n.hello.SetPeers(targets)
}

// addressOf picks a member's own address, of a VIP's family if there is one.
func addressOf(m election.Member, like netip.Addr) (netip.Addr, bool) {
	var found netip.Addr
	for _, ip := range addressesOf(m) {
		if ip.Is4() == like.Is4() {
			return ip, true
		}
		if !found.IsValid() {
			found = ip
		}
	}
	return found, found.IsValid()
}

// addressesOf are a member's addresses that make sense.
func addressesOf(m election.Member) []netip.Addr {
	var all []netip.Addr
	for _, text := range m.Addrs {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" && ip.IsGlobalUnicast() {
			all = append(all, ip)
		}
	}
	return all
}

// candidates are the members of the last run and those of the configuration,
// known before the cluster can be asked.
func (n *node) candidates() []election.Member {
	var all []election.Member
	if err := recall(n.membersFile(), &all); err != nil {
		n.log.Warn("kept members not read", "err", err)
	}
	for _, p := range n.cfg.Peers {
		known := slices.ContainsFunc(all, func(m election.Member) bool { return m.Node == p.Node })
		m := election.Member{Node: p.Node, Addrs: []string{p.Addr.String()}, Live: true, Priority: 100}
		if !known && p.Node != n.cfg.Node {
			if p.MAC != "" {
				m.MACs = []string{p.MAC}
			}
			all = append(all, m)
		}
	}
	return all
}

// watchHealth tells the machine whether this node's own API server serves, where
// no HAProxy does.
func (n *node) watchHealth(ctx context.Context) error {
	if n.agent == nil || n.cfg.APIServer.Balance != config.BalanceOff {
		return nil
	}
	for {
		ok, err := n.servers.LocalReady(ctx)
		n.complain("health", complaintOf(err))
		// Refused is no word about the API server, and missing credentials are none.
		if !errors.Is(err, kube.ErrRefused) && !n.servers.Absent() {
			n.agent.Deliver(election.Health{OK: ok})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// complaintOf is an error's text, "" for none.
func complaintOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// helloComplaints are what stands in the way of a quick takeover.
func (n *node) helloComplaints(s hello.Status) []string {
	var out []string
	if s.Why != "" {
		out = append(out, "hellos: "+s.Why)
	}
	for _, p := range s.Peers {
		if p.State == election.PeerUnknown && boottime()-n.born > unheardAfter && n.liveMember(p.Node) {
			out = append(out, fmt.Sprintf("hellos of %s (%s) never came: "+
				"open UDP port %d between the nodes on %s, and give them one key%s",
				p.Node, p.Addr, n.cfg.Hello.Port, p.Link, because(p.Why)))
		}
	}
	return out
}

// helloReport is what `mooring status` says of the hellos.
type helloReport struct {
	// Precedence says that the kernel gives them precedence.
	Precedence bool   `json:"precedence"`
	Interval   string `json:"interval"`
	// Stalls counts how often this node could not send or hear for an interval.
	Stalls uint64 `json:"stalls"`
	// Refused counts datagrams that were not believed, by peer or "strangers",
	// then by reason.
	Refused map[string]map[string]uint64 `json:"refused,omitempty"`
}

// reportOf leaves out what the agent's own view of the peers says.
func reportOf(s hello.Status) helloReport {
	r := helloReport{
		Precedence: s.Precedence, Interval: s.Interval.String(), Stalls: s.Stalls,
		Refused: map[string]map[string]uint64{},
	}
	if len(s.Rejected) > 0 {
		r.Refused["strangers"] = s.Rejected
	}
	for _, p := range s.Peers {
		if len(p.Rejected) > 0 {
			r.Refused[p.Node] = p.Rejected
		}
	}
	return r
}

// because appends a reason, if there is one.
func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func (n *node) liveMember(name string) bool {
	return slices.ContainsFunc(n.members(), func(m election.Member) bool { return m.Node == name && m.Live })
}

// forwarding names the node to which an earlier run of this agent forwards.
func (n *node) forwarding(members []election.Member) (string, lb.Instant) {
	for _, f := range n.links.Forwards() {
		for _, m := range members {
			if slices.Contains(m.Addrs, f.To.String()) {
				return m.Node, f.Until
			}
		}
	}
	return "", 0
}
