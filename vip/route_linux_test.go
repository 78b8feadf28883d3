package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/internal/lb"
)

// sorted prints addresses in order.
func sorted(all []netip.Addr) string {
	all = slices.Clone(all)
	slices.SortFunc(all, netip.Addr.Compare)
	return fmt.Sprint(all)
}

// route adds a route over the link; to "" is the default one.
func route(t *testing.T, link, to, via string, metric int) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: netip.MustParseAddr(via).AsSlice(), Priority: metric}
	if to != "" {
		r.Dst, err = netlink.ParseIPNet(to)
		must(t, err)
	}
	must(t, netlink.RouteAdd(r))
}

// TestGateways: the default routers of this link, of both families; the other
// link's and those of single networks are none.
func TestGateways(t *testing.T) {
	lab := newLab(t)
	other := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "gwother"}, PeerName: "gwpeer"}
	must(t, netlink.LinkAdd(other))
	t.Cleanup(func() { must(t, netlink.LinkDel(other)) })
	peer, err := netlink.LinkByName("gwpeer")
	must(t, err, netlink.LinkSetUp(peer), netlink.LinkSetUp(other), netlink.AddrAdd(other, nodad(t, "10.8.0.1/24")))

	if got, err := Gateways(lab.link); err != nil || len(got) != 0 {
		t.Errorf("without a default route: %v, %v", got, err)
	}
	route(t, lab.link, "", "10.7.0.254", 100)
	route(t, lab.link, "", "10.7.0.253", 200)
	route(t, lab.link, "", "fd07::fe", 100)
	route(t, lab.link, "", "fe80::1", 200)
	route(t, lab.link, "10.9.0.0/16", "10.7.0.77", 0)
	route(t, lab.link, "fd09::/64", "fd07::77", 0)
	route(t, "gwother", "", "10.8.0.254", 50)
	got, err := Gateways(lab.link)
	must(t, err)
	if want := "[10.7.0.253 10.7.0.254 fd07::fe fe80::1]"; sorted(got) != want {
		t.Errorf("got %s, want %s", sorted(got), want)
	}
	got, err = Gateways("gwother")
	must(t, err)
	if sorted(got) != "[10.8.0.254]" {
		t.Errorf("the other link: %s", sorted(got))
	}
	for _, ip := range got {
		if ip.Is4In6() {
			t.Errorf("%s is in IPv6 form: nothing would compare equal to it", ip)
		}
	}
	_, err = Gateways("gone0")
	wantError(t, err, "gone0")
}

// TestOwnAddrs: what a node may be reached at by its own name. A virtual IP is
// nobody's own, whoever put it there; an address by DHCP is the node's own
// although its lifetime is finite.
func TestOwnAddrs(t *testing.T) {
	lab := newLab(t)
	own := func() string {
		t.Helper()
		got, err := OwnAddrs(lab.link)
		must(t, err)
		return sorted(got)
	}
	const mine = "[10.7.0.1 fd07::1]"
	if got := own(); got != mine {
		t.Errorf("at rest: %s, want %s (no link-local address)", got, mine)
	}
	links := New(Options{Now: boottime})
	set(t, links, wish(30*time.Second, lab.vips()...))
	if got := own(); got != mine {
		t.Errorf("with virtual IPs: %s, want %s", got, mine)
	}
	set(t, links, lb.Holding{})

	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	for _, a := range []struct {
		cidr             string
		valid, preferred int
	}{
		{"10.7.0.50/24", 3600, 1800}, {"fd07::50/64", 3600, 1800}, // DHCP, router advertisements
		{"10.7.0.51/32", 4, 0}, {"fd07::51/128", 4, 0}, // another program's virtual IP
	} {
		addr := nodad(t, a.cidr)
		addr.ValidLft, addr.PreferedLft = a.valid, a.preferred
		must(t, netlink.AddrAdd(link, addr))
	}
	if got, want := own(), "[10.7.0.1 10.7.0.50 fd07::1 fd07::50]"; got != want {
		t.Errorf("with leased addresses: %s, want %s", got, want)
	}
	_, err = OwnAddrs("gone0")
	wantError(t, err, "gone0")
}

// TestSettle: when Set is back an IPv6 address can be reached, again and again,
// though the kernel does that part in a task of its own.
func TestSettle(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	v := lab.vips()[1]
	var many []lb.Address
	for i := range 20 {
		many = append(many, lb.Address{IP: netip.MustParseAddr(fmt.Sprintf("fd07::a%02x", i)), Link: lab.link})
	}
	if taken(v.IP) {
		t.Error("taken before it is there")
	}
	for round := range 20 {
		set(t, l, wish(30*second, append(many, v)...))
		for _, a := range append(many, v) {
			if !taken(a.IP) {
				t.Fatalf("round %d: %s is not reachable yet", round, a)
			}
		}
		set(t, l, lb.Holding{})
	}
}
