package vip

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// drainMax is the longest that a copy or a forward stands.
const drainMax lb.Instant = 3600 * second

// copied is a virtual IP that a hand-over gave to another node and that stays,
// mute, on lo.
type copied struct {
	IP   netip.Addr `json:"ip"`
	Link string     `json:"link"` // the one it was taken from
	// Own is the node's own IPv4 address there, named in its ARP questions in
	// place of the VIP; the zero Addr where it has none.
	Own   netip.Addr `json:"own"`
	Until lb.Instant `json:"until"`
}

// forwarded is a forward that stands, as lb.Forward.
type forwarded struct {
	IP    netip.Addr `json:"ip"`
	Link  string     `json:"link"`
	To    netip.Addr `json:"to"`
	Until lb.Instant `json:"until"`
	MACs  string     `json:"macs,omitempty"`
	// Owner is the Share that wants it.
	Owner string `json:"owner,omitempty"`
}

// book is what hand-overs have left on this node. It is kept on disk, so that a
// restarted agent knows what stands in the kernel.
type book struct {
	Copies   []copied    `json:"copies,omitempty"`
	Forwards []forwarded `json:"forwards,omitempty"`
	// Loose are forwards whose chains may stand and must go: a change was begun
	// and its end not seen, or they expired while no agent ran.
	Loose []forwarded `json:"loose,omitempty"`
}

// vip is the address on the link that it was taken from.
func (c copied) vip() lb.Address { return lb.Address{IP: c.IP, Link: c.Link} }

// vip is the address whose frames are forwarded.
func (f forwarded) vip() lb.Address { return lb.Address{IP: f.IP, Link: f.Link} }

// clone copies the book, so that the copy may change.
func (b book) clone() book {
	return book{slices.Clone(b.Copies), slices.Clone(b.Forwards), slices.Clone(b.Loose)}
}

// copyOf says whether lo has a copy of the IP at this instant.
func (b book) copyOf(ip netip.Addr, now lb.Instant) bool {
	return slices.ContainsFunc(b.Copies, func(c copied) bool { return c.IP == ip && c.Until > now })
}

// names says whether a forward of the VIP stands or may stand.
func (b book) names(a lb.Address) bool {
	is := func(f forwarded) bool { return f.vip() == a }
	return slices.ContainsFunc(b.Forwards, is) || slices.ContainsFunc(b.Loose, is)
}

// without is the copies whose IPs are not among the addresses, and the others.
func (b book) without(addrs []lb.Address) (stay, gone []copied) {
	for _, c := range b.Copies {
		if slices.ContainsFunc(addrs, func(a lb.Address) bool { return a.IP == c.IP }) {
			gone = append(gone, c)
			continue
		}
		stay = append(stay, c)
	}
	return stay, gone
}

// due is the copies and forwards that have come to their end.
func (b book) due(now lb.Instant) (copies []copied, forwards []forwarded) {
	for _, c := range b.Copies {
		if c.Until <= now {
			copies = append(copies, c)
		}
	}
	for _, f := range b.Forwards {
		if f.Until <= now {
			forwards = append(forwards, f)
		}
	}
	return copies, forwards
}

// next is when the first of all that stands comes to its end; false when
// nothing stands.
func (b book) next() (at lb.Instant, some bool) {
	for _, c := range b.Copies {
		if !some || c.Until < at {
			at, some = c.Until, true
		}
	}
	for _, f := range b.Forwards {
		if !some || f.Until < at {
			at, some = f.Until, true
		}
	}
	return at, some
}

// settle brings a book from disk into order: what is no sound entry is dropped,
// expired forwards become loose.
func (b book) settle(now lb.Instant) book {
	var out book
	for _, c := range b.Copies {
		if c.IP.IsValid() && nameable(c.Link) == nil {
			c.Until = min(c.Until, now+drainMax)
			out.Copies = append(out.Copies, c)
		}
	}
	for i, f := range slices.Concat(b.Forwards, b.Loose) {
		switch {
		case !f.IP.IsValid() || nameable(f.Link) != nil:
		case i >= len(b.Forwards) || f.Until <= now || !f.To.IsValid():
			out.Loose = append(out.Loose, f)
		default:
			f.Until, f.MACs = min(f.Until, now+drainMax), plainMACs(f.MACs)
			out.Forwards = append(out.Forwards, f)
		}
	}
	return out
}

// plainForwards brings a wish for forwards into the form in which they are kept:
// unmapped, in order, without those that have come to their end. Each VIP has
// one at most.
func plainForwards(want []lb.Forward, now lb.Instant) ([]forwarded, error) {
	var out []forwarded
	for _, w := range want {
		f := forwarded{IP: w.VIP.IP.Unmap(), Link: w.VIP.Link, To: w.To.Unmap(), Until: w.Until, MACs: plainMACs(w.MACs)}
		if err := forwardable(f); err != nil {
			return nil, fmt.Errorf("forward %s to %s: %w", w.VIP, w.To, err)
		}
		if f.Until == 0 || f.Until > now+drainMax {
			f.Until = now + drainMax
		}
		if f.Until > now {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(x, y forwarded) int { return compareAddresses(x.vip(), y.vip()) })
	for i := 1; i < len(out); i++ {
		if out[i].vip() == out[i-1].vip() {
			return nil, fmt.Errorf("forward %s: it is wanted to two nodes, %s and %s: name one",
				out[i].vip(), out[i-1].To, out[i].To)
		}
	}
	return out, nil
}

// beside is the wish of one owner together with what stands for others, in order.
// A VIP that another owner forwards becomes the later one's.
func (b book) beside(owner string, want []forwarded) []forwarded {
	out := slices.Clone(want)
	for i := range out {
		out[i].Owner = owner
	}
	for _, f := range b.Forwards {
		taken := slices.ContainsFunc(want, func(w forwarded) bool { return w.vip() == f.vip() })
		if f.Owner != owner && !taken {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(x, y forwarded) int { return compareAddresses(x.vip(), y.vip()) })
	return out
}

// forwardable refuses what nft could not be told.
func forwardable(f forwarded) error {
	if err := placeable(f.IP); err != nil {
		return err
	}
	switch {
	case !f.To.IsValid():
		return errors.New("no node's address is given: name the old holder's own address on the link")
	case f.To.Is4() != f.IP.Is4():
		return errors.New("the node's address is of the other family: name one of the virtual IP's family")
	case f.To == f.IP:
		return errors.New("it would be forwarded to itself: name the old holder's own address on the link")
	case f.To.Zone() != "":
		return errors.New("the node's address has a zone: name it without, the link is known")
	}
	return nameable(f.Link)
}

// plainMACs is the Ethernet addresses of a comma-separated list in order, each
// once. They come from another node's Lease: what is none is left out.
func plainMACs(list string) string {
	var out []string
	for text := range strings.SplitSeq(list, ",") {
		if mac, err := net.ParseMAC(strings.TrimSpace(text)); err == nil && len(mac) == 6 {
			out = append(out, mac.String())
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

// nameable refuses link names that would not stay one word in nft's language.
// The kernel takes nearly any byte in them (dev_valid_name).
func nameable(link string) error {
	for _, r := range link {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case r == '.', r == '-', r == '_', r == '@', r == ':', r == '+':
		default:
			return fmt.Errorf("link name %q cannot be given to nft: rename the link", link)
		}
	}
	if link == "" {
		return errors.New("no link is given")
	}
	return nil
}

// change is how to come from the forwards that stand to those wanted.
type change struct {
	arm    []forwarded // chain and set are new
	aim    []forwarded // the chain is, its set stays
	disarm []forwarded // both go
}

// empty says that nothing is to be done.
func (c change) empty() bool { return len(c.arm)+len(c.aim)+len(c.disarm) == 0 }

// compareForwards finds the change. What differs by less than a second in its
// end only is the same, since the wish comes again and again.
func compareForwards(b book, want []forwarded) change {
	var c change
	for _, w := range want {
		i := slices.IndexFunc(b.Forwards, func(f forwarded) bool { return f.vip() == w.vip() })
		switch {
		case i < 0:
			c.arm = append(c.arm, w)
		case b.Forwards[i].To != w.To || b.Forwards[i].MACs != w.MACs || (b.Forwards[i].Until-w.Until).Abs() >= second:
			c.aim = append(c.aim, w)
		}
	}
	wanted := func(f forwarded) bool {
		return slices.ContainsFunc(want, func(w forwarded) bool { return w.vip() == f.vip() })
	}
	for _, f := range slices.Concat(b.Forwards, b.Loose) {
		if !wanted(f) {
			c.disarm = append(c.disarm, f)
		}
	}
	return c
}

// sameCopies says whether the mute rules of both are the same.
func sameCopies(x, y []copied) bool {
	order := func(a, b copied) int {
		return cmp.Or(compareAddresses(a.vip(), b.vip()), cmp.Compare(a.Until, b.Until))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(x), order), slices.SortedFunc(slices.Values(y), order))
}
