package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// nodeLink is what the pre-flight knows of one link.
type nodeLink struct {
	name     string
	loopback bool
	// own are the link's addresses with their subnets, without those that
	// carry our mark.
	own []netip.Prefix
}

// linkMissing says that a link is not there, and which ones are.
type linkMissing struct {
	name  string
	there []string
}

// Error implements error.
func (e linkMissing) Error() string {
	slices.Sort(e.there)
	return fmt.Sprintf("link %q does not exist: create it, or set `interface` to one of %s",
		e.name, strings.Join(e.there, ", "))
}

// check judges the wanted addresses against the links; every fault is in the
// joined error, with its way out.
func check(addrs []lb.Address, links []nodeLink, allowOutside bool) error {
	var faults []error
	for _, a := range addrs {
		if err := checkOne(a, links, allowOutside); err != nil {
			faults = append(faults, fmt.Errorf("virtual IP %s: %w", a.IP, err))
		}
	}
	return errors.Join(faults...)
}

// checkOne judges one address: first the address alone, then the link, then
// both together.
func checkOne(a lb.Address, links []nodeLink, allowOutside bool) error {
	if err := placeable(a.IP); err != nil {
		return err
	}
	at := slices.IndexFunc(links, func(l nodeLink) bool { return l.name == a.Link })
	if at < 0 {
		gone := linkMissing{name: a.Link}
		for _, l := range links {
			gone.there = append(gone.there, l.name)
		}
		return gone
	}
	if links[at].loopback {
		return fmt.Errorf("link %q is the loopback: set `interface` to a link that the clients can reach", a.Link)
	}
	for _, l := range links {
		for _, p := range l.own {
			if p.Addr() == a.IP {
				return fmt.Errorf("it is an address of this node itself (%s on %s): "+
					"choose an address that no host has", p, l.name)
			}
		}
	}
	return checkSubnet(a, links[at], allowOutside)
}

// checkSubnet wants the address to be a host of one of the link's subnets.
func checkSubnet(a lb.Address, link nodeLink, allowOutside bool) error {
	for _, p := range link.own {
		if !p.Contains(a.IP) {
			continue
		}
		if edge := edgeOf(p, a.IP); edge != "" {
			return fmt.Errorf("it is the %s of %s on %s: choose a host address", edge, p.Masked(), link.name)
		}
		return nil
	}
	if allowOutside {
		return nil
	}
	return fmt.Errorf("it is in no subnet of %s (%s), so that no neighbour would ask for it: choose one in it, "+
		"set another `interface`, or allow addresses outside the subnet where a router has a route to it",
		link.name, subnets(link))
}

// placeable refuses addresses that cannot be anybody's virtual IP.
func placeable(ip netip.Addr) error {
	ip = ip.Unmap()
	switch {
	case !ip.IsValid():
		return errors.New("no IP address is given")
	case ip.IsUnspecified():
		return errors.New("it means \"any address\": choose a host address")
	case ip.IsLoopback():
		return errors.New("it is a loopback address, which never leaves the node: choose one of the link's subnet")
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("it is a multicast or broadcast address: choose a host address")
	case ip.Is6() && ip.IsLinkLocalUnicast(), ip.Zone() != "":
		return errors.New("it is a link-local address, valid on one link only: choose a global or unique local one")
	}
	return nil
}

// edgeOf names an IPv4 address that no host of the subnet may have (RFC 1122
// §3.2.1.3; RFC 3021 lifts it for /31), or "".
func edgeOf(subnet netip.Prefix, ip netip.Addr) string {
	if !ip.Is4() || subnet.Bits() > 30 {
		return ""
	}
	four := ip.As4()
	host := binary.BigEndian.Uint32(four[:]) & (1<<(32-subnet.Bits()) - 1)
	switch host {
	case 0:
		return "network address"
	case 1<<(32-subnet.Bits()) - 1:
		return "broadcast address"
	}
	return ""
}

// subnets lists a link's subnets for people.
func subnets(link nodeLink) string {
	var all []string
	for _, p := range link.own {
		if !p.Addr().IsLinkLocalUnicast() {
			all = append(all, p.Masked().String())
		}
	}
	if len(all) == 0 {
		return "it has none"
	}
	return strings.Join(all, ", ")
}

// linkFor picks the link whose subnet holds the IP, the longest prefix where
// subnets overlap.
func linkFor(ip netip.Addr, links []nodeLink) (string, error) {
	best, found := -1, []string(nil)
	for _, l := range links {
		if l.loopback {
			continue
		}
		for _, p := range l.own {
			if !p.Contains(ip) || p.Bits() < best {
				continue
			}
			if p.Bits() > best {
				best, found = p.Bits(), nil
			}
			if !slices.Contains(found, l.name) {
				found = append(found, l.name)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("virtual IP %s: no link has a subnet with it: set `interface`", ip)
	default:
		slices.Sort(found)
		return "", fmt.Errorf("virtual IP %s: the links %s are all in its subnet: set `interface` to one of them",
			ip, strings.Join(found, ", "))
	}
}

// Check says, touching nothing, whether the addresses can be put on their
// links: the link exists and is no loopback, the IP is a host address of one
// of its subnets (unless allowOutside) and no link of this node has it
// otherwise than by us. All faults are joined, each says the way out.
func Check(addrs []lb.Address, allowOutside bool) error {
	links, err := inventory()
	if err != nil {
		return err
	}
	return check(plainAll(addrs), links, allowOutside)
}

// Inventory is this node's links and their subnets, as they were at one moment.
type Inventory struct{ links []nodeLink }

// Look takes the inventory.
func Look() (Inventory, error) {
	links, err := inventory()
	return Inventory{links}, err
}

// LinkFor names the link one of whose subnets holds the IP, the longest
// prefix first, for configurations that name none. No such link, and several
// with the same prefix length, are errors that list what there is.
func (i Inventory) LinkFor(ip netip.Addr) (string, error) { return linkFor(ip.Unmap(), i.links) }

// Has says whether there is a link of the name that can announce addresses.
func (i Inventory) Has(name string) bool {
	return slices.ContainsFunc(i.links, func(l nodeLink) bool { return l.name == name && !l.loopback })
}

// Covers says whether the IP is in a subnet of the link.
func (i Inventory) Covers(name string, ip netip.Addr) bool {
	return slices.ContainsFunc(i.links, func(l nodeLink) bool {
		return l.name == name && slices.ContainsFunc(l.own, func(p netip.Prefix) bool { return p.Contains(ip.Unmap()) })
	})
}

// LinkFor is Inventory.LinkFor for the links as they are now.
func LinkFor(ip netip.Addr) (string, error) {
	i, err := Look()
	if err != nil {
		return "", err
	}
	return i.LinkFor(ip)
}
