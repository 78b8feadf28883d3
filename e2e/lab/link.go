package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is one of a host's links, by its name inside the host.
type Link string

const (
	// VIPLink is every host's first link: clients and VIPs are there.
	VIPLink Link = "eth0"
	// APILink is a node's second link with TwoLinks: etcd and API servers.
	APILink Link = "eth1"
)

// Cut says how a link is cut.
type Cut int

const (
	// CarrierLoss is a pulled cable: the host's interface loses its carrier.
	CarrierLoss Cut = iota
	// SilentCut is a dead path inside the switch: frames vanish in both
	// directions and the host's interface notices nothing.
	SilentCut
	// Mute is half of a SilentCut: what the host sends vanishes, it hears all.
	Mute
	// Deaf is the other half: nothing reaches the host, all hear it.
	Deaf
)

// Bridge port states of the kernel, include/uapi/linux/if_bridge.h.
const (
	portDisabled   = 0
	portForwarding = 3
)

// TwoLinks gives the nodes a second link, eth1 at 10.98.0.11… and fd9a::11…, on a
// switch of its own: etcd and the API servers speak over it and are found there
// (EndpointSlice, Node addresses), so that either network can fail alone. Call it
// before Nodes.
func (l *Lab) TwoLinks() {
	if len(l.All()) > 0 {
		l.fatalf("TwoLinks must come before Nodes")
	}
	l.must(openSecondSwitch(l.sw))
	l.twoLinks = true
}

// cable is one link of a host and where it ends.
type cable struct {
	link         Link
	bridge, port string
	mac          net.HardwareAddr
}

// cables are the host's, the VIP's first.
func (h *Host) cables() []cable {
	out := []cable{{link: VIPLink, bridge: bridgeName, port: h.name, mac: h.mac}}
	if h.api4.IsValid() {
		mac := net.HardwareAddr{0x02, 0x00, 10, 98, 0, byte(h.octet)}
		out = append(out, cable{link: APILink, bridge: apiBridge, port: h.name + "-api", mac: mac})
	}
	return out
}

// apiIP is where the node's etcd and API server are reached.
func (h *Host) apiIP() netip.Addr {
	if h.api4.IsValid() {
		return h.api4
	}
	return h.ip4
}

func (h *Host) apiIP6() netip.Addr {
	if h.api6.IsValid() {
		return h.api6
	}
	return h.ip6
}

// CutLink cuts the named links in the given way, without names all of the
// host's, until HealLink.
func (h *Host) CutLink(how Cut, links ...Link) {
	h.eachLink(links, true, func(c cable) error {
		switch how {
		case CarrierLoss:
			return h.setCarrier(c, false)
		case SilentCut:
			return setPort(h.lab.sw, c.port, portDisabled)
		case Mute:
			return closePort(h.lab.sw, c.port, "ingress")
		case Deaf:
			return closePort(h.lab.sw, c.port, "egress")
		}
		return fmt.Errorf("there is no cut %d", how)
	})
}

// HealLink undoes CutLink of any kind.
func (h *Host) HealLink(links ...Link) {
	h.eachLink(links, false, func(c cable) error {
		// First open, then carrier: the host's kernel speaks as soon as it has one.
		err := openPort(h.lab.sw, c.port)
		if err == nil {
			err = h.setCarrier(c, true)
		}
		if err != nil {
			return err
		}
		return setPort(h.lab.sw, c.port, portForwarding)
	})
}

// eachLink applies f and records the result for balance: without its peers the
// host's control plane is about to spin.
func (h *Host) eachLink(links []Link, cut bool, f func(cable) error) {
	known := 0
	for _, c := range h.cables() {
		if len(links) > 0 && !hasLink(links, c.link) {
			continue
		}
		known++
		if err := f(c); err != nil {
			h.lab.fatalf("link %s of %s: %v", c.link, h.name, err)
		}
		h.mu.Lock()
		h.cut[c.link] = cut
		h.mu.Unlock()
	}
	if known == 0 || known < len(links) {
		h.lab.fatalf("%s has not all of the links %v (TwoLinks?)", h.name, links)
	}
	h.lab.balance()
}

func hasLink(links []Link, want Link) bool {
	for _, l := range links {
		if l == want {
			return true
		}
	}
	return false
}

// setCarrier works at the switch's end, as a pulled cable does: the host's own end
// stays up and keeps its addresses.
func (h *Host) setCarrier(c cable, on bool) error {
	return h.lab.sw.netlink(func(nh *netlink.Handle) error { return setUp(nh, c.port, on) })
}

// linked says that the host is on and all its cables are whole.
func (h *Host) linked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ns != nil && !h.cut[VIPLink] && !h.cut[APILink]
}

// peered says that the host is on and its etcd can speak with others.
func (h *Host) peered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.api4.IsValid() {
		return h.ns != nil && !h.cut[APILink]
	}
	return h.ns != nil && !h.cut[VIPLink]
}

// setPort opens or closes a port of the switch without touching its carrier.
// A detached port would not do: the switch's own stack would get its frames and
// answer for the gateway. The library has no call for this attribute.
func setPort(sw *space, port string, state uint8) error {
	index, err := linkIndex(sw, port)
	if err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	return sw.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
		msg.Index = int32(index)
		req.AddData(msg)
		info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
		info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
		req.AddData(info)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// closePort drops what comes in from (ingress) or goes out to (egress) a port, in
// nftables' netdev family: the switch's namespace stays without IP rules, which
// bridge-nf-call-iptables would apply to every frame.
func closePort(sw *space, port, hook string) error {
	return sw.nft(fmt.Sprintf("table netdev %s {\n chain cut {\n  type filter hook %s device %q priority 0; policy drop;\n }\n}\n",
		portTable(port), hook, port))
}

// openPort undoes closePort; a port that was open is no error.
func openPort(sw *space, port string) error {
	// To add a table that exists is no error, to delete one that does not is.
	table := portTable(port)
	return sw.nft(fmt.Sprintf("add table netdev %s\ndelete table netdev %s\n", table, table))
}

// portTable has no dash: nft would read a minus.
func portTable(port string) string { return "cut_" + strings.ReplaceAll(port, "-", "_") }

// nft runs a script inside the namespace.
func (s *space) nft(script string) error {
	if s == nil {
		return errGone
	}
	cmd := exec.Command("ip", "netns", "exec", s.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("nft on the switch: %w: %s", err, strings.TrimSpace(string(out))))
	}
	return nil
}
