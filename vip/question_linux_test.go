package vip

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/internal/lb"
)

// TestBootingWitnessKeepsItsAddress: a host that is just proving its address
// unique is asked for it again and again and yet gets it.
func TestBootingWitnessKeepsItsAddress(t *testing.T) {
	lab := newLab(t)
	booting := lab.peers[0]
	booting.in(func() error { return writeSysctl("net/ipv6/conf/eth0/accept_dad", "1") })
	booting.sh("ip addr add fd07::77/64 dev eth0")
	state := func() string { return booting.sh("ip -o addr show dev eth0 to fd07::77") }
	if !strings.Contains(state(), "tentative") {
		t.Fatalf("proved at once, so this shows nothing: %s", state())
	}
	l := New(Options{Now: boottime})
	l.Watch(lab.vips())
	eventually(t, 10*time.Second, "the address is proved", func() bool {
		_, err := l.Probe(t.Context(), addrs(t, "fd07::77 "+lab.link))
		must(t, err)
		return !strings.Contains(state(), "tentative") || strings.Contains(state(), "dadfailed")
	})
	if strings.Contains(state(), "dadfailed") {
		t.Errorf("we made it give up: %s", state())
	}
	if got, _ := lab.probe(addrs(t, "fd07::77 "+lab.link)...); len(got) != 1 {
		t.Errorf("answers %q", got)
	}
}

// TestInWhoseNameItAsks: for watched addresses in nobody's, for others in the
// link's own and never in a virtual IP's.
func TestInWhoseNameItAsks(t *testing.T) {
	lab := newLab(t)
	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	eventually(t, 10*time.Second, "our link-local address is proved", func() bool {
		from, err := sources()
		must(t, err)
		return source(from, link.Attrs().Index, netip.MustParseAddr("fd07::2"), nil).IsLinkLocalUnicast()
	})
	l := New(Options{Now: boottime})
	set(t, l, wish(60*second, addrs(t, "10.7.0.8 "+lab.link+", fd07::8 "+lab.link)...))
	l.Watch(lab.vips())
	wire := lab.peers[1].overhear(testMAC())
	witnesses := addrs(t, "10.7.0.2 "+lab.link+", fd07::2 "+lab.link)
	ask := func(story string, all []lb.Address, answers int, has, lacks string) {
		t.Helper()
		wire.heard()
		got, err := l.Probe(t.Context(), all)
		must(t, err)
		if len(got) != answers {
			t.Errorf("%s: answers %v, want %d", story, got, answers)
		}
		time.Sleep(20 * time.Millisecond)
		heard := wire.heard() + ", "
		for part := range strings.SplitSeq(has, "|") {
			if !strings.Contains(heard, part) {
				t.Errorf("%s: %q is missing from %q", story, part, heard)
			}
		}
		for part := range strings.SplitSeq(lacks, "|") {
			if strings.Contains(heard, part) {
				t.Errorf("%s: %q is in %q", story, part, heard)
			}
		}
	}
	ask("watched", lab.vips(), 0, "ARP 0.0.0.0, |ND ::, ", "ARP 10|ND f")
	ask("witnesses", witnesses, 2, "ARP 10.7.0.1, |ND fe80::", "ARP 0.0.0.0|ND ::,|7.0.8|fd07::8")
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range all {
		if ones, bits := a.Mask.Size(); ones < bits {
			must(t, netlink.AddrDel(link, &a))
		}
	}
	l = New(Options{Now: boottime}) // what it may speak from is kept with its sockets
	ask("no address of its own", witnesses, 1, "ARP 0.0.0.0, ", "ND |7.0.8")
	must(t, netlink.AddrAdd(link, nodad(t, "fd07::1/64")), netlink.AddrAdd(link, nodad(t, "10.9.0.1/24")))
	ask("addresses again", witnesses, 2, "ARP 10.9.0.1, |ND fd07::1, ", "ARP 0.0.0.0|ND ::,")
}

// TestSource: the link's best address for a target.
func TestSource(t *testing.T) {
	var from []ifAddr
	for _, cidr := range strings.Fields("10.7.0.5/32 10.8.0.1/24 10.7.0.1/24 fd08::1/64 fe80::1/64 fd07::9/128") {
		p := netip.MustParsePrefix(cidr)
		from = append(from, ifAddr{index: 3, ip: p.Addr(), bits: p.Bits()})
	}
	one := func(cidr string) []ifAddr {
		p := netip.MustParsePrefix(cidr)
		return []ifAddr{{index: 3, ip: p.Addr(), bits: p.Bits()}}
	}
	watched := addrs(t, "10.7.0.9 eth0, fd07::9 eth0")
	for _, c := range []struct {
		story, target, want string
		from                []ifAddr
		index               int
	}{
		{"its subnet's", "10.7.0.2", "10.7.0.1", from, 3},
		{"another's", "10.6.0.2", "10.8.0.1", from, 3},
		{"the target itself is none", "10.7.0.1", "10.8.0.1", from, 3},
		{"link-local", "fd08::2", "fe80::1", from, 3},
		{"of another link", "fd08::2", "", from, 4},
		{"global", "fd08::2", "fd08::1", one("fd08::1/64"), 3},
		{"single", "10.7.0.2", "10.7.0.5", one("10.7.0.5/32"), 3},
		{"watched", "10.7.0.2", "", one("10.7.0.9/24"), 3},
		{"the other family's", "10.7.0.2", "", one("fe80::1/64"), 3},
	} {
		got := source(c.from, c.index, netip.MustParseAddr(c.target), watched)
		if got.IsValid() != (c.want != "") || got.IsValid() && got.String() != c.want {
			t.Errorf("%s: %v, want %q", c.story, got, c.want)
		}
	}
}
