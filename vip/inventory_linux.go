package vip

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/internal/lb"
)

// linkNamed finds the link or says which ones there are.
func linkNamed(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case err == nil:
		return link, nil
	case !errors.As(err, &missing):
		return nil, fmt.Errorf("look up link %q: %v", name, err)
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %v", err)
	}
	gone := linkMissing{name: name}
	for _, l := range all {
		gone.there = append(gone.there, l.Attrs().Name)
	}
	return nil, gone
}

// ownMACs is the set of the hardware addresses of all links of the node.
func ownMACs() (map[string]bool, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %v", err)
	}
	own := make(map[string]bool, len(links))
	for _, l := range links {
		own[string(l.Attrs().HardwareAddr)] = true
	}
	return own, nil
}

// MACs gives the hardware address of the link. A missing link is an error
// that lists the links there are; so is one without an Ethernet address.
func MACs(link string) (net.HardwareAddr, error) {
	l, err := linkNamed(link)
	if err != nil {
		return nil, err
	}
	if err := wantEthernet(l); err != nil {
		return nil, err
	}
	return l.Attrs().HardwareAddr, nil
}

// wantEthernet refuses links on which no frame of ours can be sent.
func wantEthernet(l netlink.Link) error {
	if len(l.Attrs().HardwareAddr) == 6 && l.Attrs().Flags&net.FlagLoopback == 0 {
		return nil
	}
	return fmt.Errorf("link %q (%s) has no Ethernet address: set `interface` to an Ethernet, VLAN, bond or bridge link",
		l.Attrs().Name, l.Type())
}

// notOurs lists this node's addresses that are none of our VIPs.
func notOurs() ([]ifAddr, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	all, err := k.dump()
	if err != nil {
		return nil, err
	}
	known := marks(all)
	return slices.DeleteFunc(all, func(a ifAddr) bool { return a.ours(known) }), nil
}

// inventory lists the links of this node with their state and addresses, as
// Check and LinkFor judge them.
func inventory() ([]nodeLink, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %v", err)
	}
	all, err := notOurs()
	if err != nil {
		return nil, err
	}
	out := make([]nodeLink, len(links))
	for i, l := range links {
		out[i] = nodeLink{name: l.Attrs().Name, loopback: l.Attrs().Flags&net.FlagLoopback != 0}
		for _, a := range all {
			if a.index == l.Attrs().Index {
				out[i].own = append(out[i].own, a.prefix())
			}
		}
	}
	return out, nil
}

// present lists every single address (/32, /128) on every link and whether it
// carries our mark.
func present() (map[lb.Address]bool, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %v", err)
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	all, err := k.dump()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	known := marks(all)
	there := map[lb.Address]bool{}
	for _, a := range all {
		if name := names[a.index]; name != "" && a.bits == hostBits(a.ip) {
			there[lb.Address{IP: a.ip, Link: name}] = a.ours(known)
		}
	}
	return there, nil
}
