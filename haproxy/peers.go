package haproxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Peer is one node of a HAProxy peers section (configuration manual §3.5).
type Peer struct {
	// Name is the node's: a-z, 0-9, "." and "-", at most 253 bytes.
	Name string
	// Addr is where its HAProxy takes connections of peers; the local one binds it.
	Addr netip.AddrPort
}

// peersName is the name of the peers section.
const peersName = "mooring"

// maxPeers bounds the nodes that tell each other: each talks to each.
const maxPeers = 256

var rePeer = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// validatePeers checks names, addresses and that this node is one of them.
func (c Config) validatePeers() error {
	if len(c.Peers) > maxPeers {
		return fieldErr("Peers", fmt.Sprint(len(c.Peers)), fmt.Sprintf("use at most %d", maxPeers))
	}
	names, addrs := map[string]bool{}, map[netip.AddrPort]bool{}
	for i, p := range c.Peers {
		at := fmt.Sprintf("Peers[%d]", i)
		if !rePeer.MatchString(p.Name) {
			return fieldErr(at+".Name", p.Name, "use a node's name, 1 to 253 of a-z, 0-9, . and -")
		}
		if err := checkAddr(at+".Addr", p.Addr); err != nil {
			return err
		}
		if names[p.Name] {
			return fieldErr(at+".Name", p.Name, "is used by another peer too")
		}
		if addrs[unmap(p.Addr)] {
			return fieldErr(at+".Addr", p.Addr.String(), "is used by another peer too")
		}
		names[p.Name], addrs[unmap(p.Addr)] = true, true
	}
	if len(c.Peers) > 0 && !names[c.Local] {
		return fieldErr("Local", c.Local, "must be the name of one of Peers")
	}
	if len(c.Peers) == 0 && c.Local != "" {
		return fieldErr("Local", c.Local, "must be empty without Peers")
	}
	return nil
}

// meshed says that there is a peers section: always when there are peers, also
// without any table yet. A worker that is the first to have one waits 10 s for
// lessons that nobody gives, and as long as it waits it teaches nothing to its
// successor, so that tables would not outlive the next reload.
func (c Config) meshed() bool { return c.service && len(c.Peers) > 0 }

// renderPeers writes the peers section. The local peer matters even alone: a
// reloaded worker gets the tables from its predecessor through it.
func renderPeers(b *strings.Builder, list []Peer) {
	fmt.Fprintf(b, "\npeers %s\n", peersName)
	for _, p := range list {
		fmt.Fprintf(b, "  peer %s %s\n", p.Name, p.Addr)
	}
}

// extraBinds are the addresses bound besides those of frontends.
func (c Config) extraBinds() []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range c.Peers {
		if c.meshed() && p.Name == c.Local {
			out = append(out, p.Addr)
		}
	}
	return out
}
