package vip

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// second is one second of lb.Instant; this file must not know a clock.
const second lb.Instant = 1_000_000_000

// form is how a virtual IP was found on its link.
type form uint8

const (
	// absent: the link does not have the IP, or, for IPv4, has it only with
	// another prefix length: /24 and /32 of one IP live side by side.
	absent form = iota
	// hostForm: there as /32 or /128, whoever put it there.
	hostForm
	// otherForm: an IPv6 address with another prefix length. The kernel knows
	// an IPv6 address once per link, so ours cannot be put beside it.
	otherForm
)

// verb is what is to be done with one address.
type verb uint8

const (
	remove verb = iota
	refresh
	replace // remove in the found form, then create
	create
)

// step is one write to the kernel.
type step struct {
	do   verb
	addr lb.Address
}

// String prints a step for tests and logs, for example "refresh 10.0.0.9 dev eth0".
func (s step) String() string {
	return [...]string{"remove", "refresh", "replace", "create"}[s.do] + " " + s.addr.String()
}

// diff answers how to come from the addresses held to those wanted. What is
// no longer wanted goes first, since another node may wait for it to fall
// silent; then the refreshes, since their lifetimes run out; new ones last.
// found is asked only about wanted addresses that are not held.
func diff(held map[lb.Address]bool, want []lb.Address, found func(lb.Address) form) []step {
	var steps []step
	wanted := make(map[lb.Address]bool, len(want))
	for _, a := range want {
		wanted[a] = true
	}
	for a := range held {
		if !wanted[a] {
			steps = append(steps, step{remove, a})
		}
	}
	for a := range wanted {
		steps = append(steps, step{verbFor(held[a], a, found), a})
	}
	slices.SortFunc(steps, func(x, y step) int {
		return cmp.Or(cmp.Compare(x.do, y.do), compareAddresses(x.addr, y.addr))
	})
	return steps
}

// verbFor picks the write for one wanted address. An address of ours that a
// dead predecessor left, or that somebody put there in the same form, is
// adopted by a refresh: the kernel then counts our lifetime.
func verbFor(held bool, a lb.Address, found func(lb.Address) form) verb {
	if held {
		return refresh
	}
	switch found(a) {
	case hostForm:
		return refresh
	case otherForm:
		return replace
	default:
		return create
	}
}

// compareAddresses orders by link, then by IP, so that writes and reports are
// the same in every run.
func compareAddresses(x, y lb.Address) int {
	return cmp.Or(cmp.Compare(x.Link, y.Link), x.IP.Compare(y.IP))
}

// union lists every address of both once, in order.
func union(held map[lb.Address]bool, want []lb.Address) []lb.Address {
	all := maps.Clone(held)
	if all == nil {
		all = map[lb.Address]bool{}
	}
	for _, a := range want {
		all[a] = true
	}
	return slices.SortedFunc(maps.Keys(all), compareAddresses)
}

// plain brings a wish into the one form in which addresses are compared: IPv4
// never mapped into IPv6, each address once, in order, and a lifetime in whole
// seconds, which is all the kernel counts (struct ifa_cacheinfo).
func plain(want lb.Holding) (lb.Holding, error) {
	if len(want.Addresses) > 0 && want.ValidLft < second {
		return want, fmt.Errorf("lifetime %v of the addresses: give at least 1s, the kernel counts whole seconds",
			want.ValidLft)
	}
	want.ValidLft -= want.ValidLft % second
	all := map[lb.Address]bool{}
	for _, a := range plainAll(want.Addresses) {
		if err := placeable(a.IP); err != nil {
			return want, fmt.Errorf("%s: %w", a, err)
		}
		all[a] = true
	}
	want.Addresses = slices.SortedFunc(maps.Keys(all), compareAddresses)
	want.Copies = plainAll(want.Copies)
	want.CopyFor -= want.CopyFor % second
	return want, nil
}

// plainAll is the unmapped form of the addresses, in their order.
func plainAll(addrs []lb.Address) []lb.Address {
	out := make([]lb.Address, len(addrs))
	for i, a := range addrs {
		out[i] = lb.Address{IP: a.IP.Unmap(), Link: a.Link}
	}
	return out
}

// hostBits is the prefix length of a single address of the family, 32 or 128.
func hostBits(ip netip.Addr) int { return ip.BitLen() }
