package config

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"time"
)

const (
	maxWitnesses = 8
	maxPeers     = 16
	// firstUserPort is the first port that no privilege guards, and so the first
	// that no well-known service has (RFC 6335 §6).
	firstUserPort = 1024
	// examplePeer is one entry of peers.
	examplePeer = "{node: n2, address: 10.0.0.12}"
	// notAsked is why a host name is no address here.
	notAsked = "no name server is asked when the network may be what is broken"
)

// others checks what concerns the other nodes: how they are heard, who they
// are, and who holds rather.
func (r raw) others(p *problems, c *Config) {
	h, out := r.Hello, &c.Hello
	out.Interval = duration(p, h.Interval, out.Interval, span{10 * time.Millisecond, time.Second, 0})
	out.Multiplier = number(p, h.Multiplier, out.Multiplier, limits{2, 10})
	// It may be the number of a TCP port: hellos are UDP.
	out.Port = uint16(number(p, h.Port, int(out.Port), limits{firstUserPort, 65535}))
	if h.KeyFile.value != "" {
		out.KeyFile = absolute(p, h.KeyFile, "")
	}
	r.moves(p, c)
	r.services(p, c)
	c.Priority = number(p, r.Priority, c.Priority, limits{0, 255})
	c.Witnesses = witnesses(p, r.Witnesses, c.APIServer.VIPs)
	c.Peers = peers(p, r.Peers, c.APIServer.VIPs, c.Node)
}

// moves checks the section of the same name.
func (r raw) moves(p *problems, c *Config) {
	m, out := r.Moves, &c.Moves
	out.Preempt = truth(p, m.Preempt, out.Preempt)
	out.PreemptDelay = duration(p, m.PreemptDelay, out.PreemptDelay, span{0, time.Hour, 0})
	// The kernel's lifetimes of addresses are in seconds.
	out.DrainTimeout = duration(p, m.DrainTimeout, out.DrainTimeout, span{0, time.Hour, time.Second})
}

// maxClasses is how many foreign classes may be served.
const maxClasses = 8

// services checks the section of the same name.
func (r raw) services(p *problems, c *Config) {
	v, out := r.Services, &c.Services
	out.Enabled = truth(p, v.Enabled, out.Enabled)
	out.Class = Class(choice(p, v.Class, string(out.Class), string(ClassDefault), string(ClassOnly)))
	out.MaxConnections = number(p, v.MaxConnections, out.MaxConnections, limits{0, 1_000_000})
	out.PeersPort = uint16(number(p, v.PeersPort, int(out.PeersPort), limits{firstUserPort, 65535}))
	if len(v.AcceptedClasses.items) > maxClasses {
		p.add(v.AcceptedClasses.line, v.AcceptedClasses.path, "has %d classes, at most %d are possible",
			len(v.AcceptedClasses.items), maxClasses)
	}
	// A label's key (core/v1 ServiceSpec).
	labelKey := regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	for _, t := range v.AcceptedClasses.items {
		if !labelKey.MatchString(t.value) || len(t.value) > 317 {
			p.at(t, "%q is no loadBalancerClass; write a label key such as example.com/lb", t.value)
			continue
		}
		out.AcceptedClasses = append(out.AcceptedClasses, t.value)
	}
}

// witnesses checks the list of hosts whose answer proves that this node is not
// cut off.
func witnesses(p *problems, list texts, never []netip.Addr) []netip.Addr {
	if len(list.items) > maxWitnesses {
		p.add(list.line, list.path, "has %d addresses, at most %d are possible", len(list.items), maxWitnesses)
	}
	var out []netip.Addr
	for _, t := range list.items {
		a, ok := neighbour(p, t, never)
		switch {
		case !ok:
		case slices.Contains(out, a):
			p.at(t, "%s is in the list twice; remove one", t.value)
		default:
			out = append(out, a)
		}
	}
	return out
}

// neighbour checks the address of another host on a VIP's link.
func neighbour(p *problems, t text, never []netip.Addr) (netip.Addr, bool) {
	a, ok := address(p, t, notAsked, "write the address of a host of the VIP's subnet")
	// A node that holds a VIP would hear itself.
	if ok && slices.Contains(never, a) {
		p.at(t, "%s is a virtual IP; write the host's own address", a)
		ok = false
	}
	return a, ok
}

// peers checks the list of candidates. self is this node, which the list may
// name.
func peers(p *problems, list rawPeers, never []netip.Addr, self string) []Peer {
	if len(list.items) > maxPeers {
		p.add(list.line, list.path, "has %d nodes, at most %d are possible", len(list.items), maxPeers)
	}
	var out []Peer
	for _, r := range list.items {
		peer, ok := r.peer(p, never)
		if !ok {
			continue
		}
		// Two nodes with one name or one address would be taken for each other.
		if i := slices.IndexFunc(out, peer.clashes); i >= 0 {
			p.add(r.line, r.path, "is %s at %s, but the list has %s at %s already; keep one of them",
				peer.Node, peer.Addr, out[i].Node, out[i].Addr)
			continue
		}
		out = append(out, peer)
	}
	return slices.DeleteFunc(out, func(o Peer) bool { return o.Node == self })
}

// clashes says that two entries cannot both be right.
func (o Peer) clashes(q Peer) bool {
	return o.Node == q.Node || o.Addr == q.Addr || o.MAC != "" && o.MAC == q.MAC
}

// peer checks one entry; false says that a problem was noted.
func (r rawPeer) peer(p *problems, never []netip.Addr) (Peer, bool) {
	before := len(p.list)
	var out Peer
	if r.Node.given() {
		out.Node = node(p, r.Node, "")
	} else {
		p.add(r.line, r.path+".node", "is missing; write the node's name, as \"kubectl get nodes\" prints it")
	}
	if r.Address.given() {
		out.Addr, _ = neighbour(p, r.Address, never)
	} else {
		p.add(r.line, r.path+".address", "is missing; write the node's own address in the VIP's subnet")
	}
	out.MAC = mac(p, r.MAC)
	return out, len(p.list) == before
}

// mac checks a hardware address and gives it in the kernel's spelling, "" if
// there is none.
func mac(p *problems, t text) string {
	if t.value == "" {
		return ""
	}
	a, err := net.ParseMAC(t.value)
	// The lowest bit of the first byte marks a group (IEEE 802-2014 §8.2.2).
	if err != nil || len(a) != 6 || a[0]&1 != 0 || a.String() == "00:00:00:00:00:00" {
		p.at(t, "%q is not the hardware address of one host; write it as \"ip link\" does, "+
			"for example 52:54:00:12:34:56, or leave it out", t.value)
		return ""
	}
	return a.String()
}
