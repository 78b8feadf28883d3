package vip

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

// writeSysctl writes a file under /proc/sys of our namespace.
func writeSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

func TestAnnouncementsOnTheWire(t *testing.T) {
	lab := newLab(t)
	v4, v6 := lab.peers[0].capture(unix.ETH_P_ARP), lab.peers[1].capture(unix.ETH_P_IPV6)
	l := New(Options{Now: boottime})
	begun := time.Now()
	set(t, l, wish(9*time.Second, lab.vips()...))
	t.Logf("Set took %v", time.Since(begun))
	run(t, l)
	eventuallyCount(t, v4, 3)
	eventuallyCount(t, v6, 3)
	took := time.Since(begun)
	if took < 150*time.Millisecond || took > 2*time.Second {
		t.Errorf("three announcements after %v, want 150ms", took)
	}
	garp, na := string(bytesOf(t, goldenGARP)), string(bytesOf(t, fmt.Sprintf(goldenNA, "5a74", "20")))
	for i := range 3 {
		if got := v4.all()[i]; got != garp {
			t.Errorf("ARP %d: %x", i, got)
		}
		if got := v6.all()[i]; got != na {
			t.Errorf("NA %d: %x", i, got)
		}
	}
}

func TestRouterFlagIsTheForwardingState(t *testing.T) {
	lab := newLab(t)
	must(t, writeSysctl("net/ipv6/conf/"+lab.link+"/forwarding", "1"))
	tap := lab.peers[0].capture(unix.ETH_P_IPV6)
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()[1]))
	eventuallyCount(t, tap, 1)
	if want := string(bytesOf(t, fmt.Sprintf(goldenNA, "da73", "a0"))); !slices.Contains(tap.all(), want) {
		t.Errorf("got %x", tap.all())
	}
}

// TestNeighboursBelieveIt: a client that talked to another host a moment ago
// (its entry is younger than locktime) goes to us after one announcement.
func TestNeighboursBelieveIt(t *testing.T) {
	lab := newLab(t)
	client := lab.peers[0]
	link, err := client.nl.LinkByName("eth0")
	must(t, err)
	for _, a := range lab.vips() {
		must(t, client.nl.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_REACHABLE,
			IP: a.IP.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x66}}))
	}
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()...))
	for _, a := range lab.vips() {
		took := eventually(t, time.Second, "the client knows our MAC for "+a.IP.String(), func() bool {
			all, err := client.nl.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
			must(t, err)
			return slices.ContainsFunc(all, func(n netlink.Neigh) bool {
				return n.IP.Equal(a.IP.AsSlice()) && slices.Equal(n.HardwareAddr, testMAC())
			})
		})
		t.Logf("%s: %v", a.IP, took)
	}
}

func TestAnnounceDefends(t *testing.T) {
	lab := newLab(t)
	l := New(Options{Now: boottime})
	set(t, l, wish(9*time.Second, lab.vips()[0]))
	time.Sleep(20 * time.Millisecond)
	tap := lab.peers[0].capture(unix.ETH_P_ARP, unix.ETH_P_IPV6)
	for range 3 {
		must(t, l.Announce(t.Context(), lab.vips()))
	}
	eventuallyCount(t, tap, 1)
	time.Sleep(30 * time.Millisecond)
	if got := tap.all(); len(got) != 1 || got[0] != string(bytesOf(t, goldenGARP)) {
		t.Errorf("%d frames for one address held, one not held, thrice: %x", len(got), got)
	}
}

// probe calls Probe and fails on an error.
func (l *lab) probe(all ...lb.Address) ([]string, time.Duration) {
	l.t.Helper()
	begun := time.Now()
	answers, err := New(Options{Now: boottime}).Probe(l.t.Context(), all)
	took := time.Since(begun)
	must(l.t, err)
	var got []string
	for _, a := range answers {
		got = append(got, a.IP.String()+" "+a.MAC.String())
	}
	return got, took
}

func TestProbe(t *testing.T) {
	lab := newLab(t)
	a, b := lab.peers[0], lab.peers[1]
	got, took := lab.probe(lab.vips()...)
	if len(got) != 0 || took < 60*time.Millisecond || took > 400*time.Millisecond {
		t.Errorf("silence: %v after %v, want nothing after 60ms", got, took)
	}
	a.add("10.7.0.9/32")
	a.add("fd07::9/128")
	got, took = lab.probe(lab.vips()...)
	want := []string{"10.7.0.9 " + a.mac().String(), "fd07::9 " + a.mac().String()}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if took > 55*time.Millisecond {
		t.Logf("both answered, but it took %v", took) // a busy machine may need a second round
	}
	b.add("10.7.0.8/32")
	six := lb.Address{IP: netip.MustParseAddr("10.7.0.8"), Link: lab.link}
	silent := lb.Address{IP: netip.MustParseAddr("10.7.0.7"), Link: lab.link}
	got, took = lab.probe(six, silent)
	if !slices.Equal(got, []string{"10.7.0.8 " + b.mac().String()}) || took < 60*time.Millisecond {
		t.Errorf("one of two silent: %q after %v", got, took)
	}
}

func TestProbeHearsEachAnswererOnce(t *testing.T) {
	lab := newLab(t)
	for _, p := range lab.peers {
		p.add("10.7.0.9/32")
		p.add("fd07::9/128")
	}
	silent := lb.Address{IP: netip.MustParseAddr("10.7.0.7"), Link: lab.link}
	got, _ := lab.probe(append(lab.vips(), silent)...)
	var want []string
	for _, ip := range []string{"10.7.0.9 ", "fd07::9 "} {
		pair := []string{ip + lab.peers[0].mac().String(), ip + lab.peers[1].mac().String()}
		slices.Sort(pair)
		want = append(want, pair...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProbeIsNotAnsweredByOurselvesOrAnotherProbe(t *testing.T) {
	lab := newLab(t)
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()...))
	rival, stop := make(chan struct{}), make(chan struct{})
	arpFrame, err := arpProbe(lab.peers[0].mac(), netip.MustParseAddr("10.7.0.7"))
	must(t, err)
	nsFrame, err := nsProbe(lab.peers[0].mac(), netip.MustParseAddr("fd07::7"))
	must(t, err)
	// Our own claim as a bridge or a bond may send it back.
	echo := claimFrame(t, testMAC().String(), netip.MustParseAddr("10.7.0.7"))
	copy(echo[6:], lab.peers[0].mac())
	go func() {
		defer close(rival)
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				lab.peers[0].send(arpFrame, nsFrame, echo)
			}
		}
	}()
	got, _ := lab.probe(append(lab.vips(), lb.Address{IP: netip.MustParseAddr("10.7.0.7"), Link: lab.link},
		lb.Address{IP: netip.MustParseAddr("fd07::7"), Link: lab.link})...)
	close(stop)
	<-rival
	if len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// TestHeldAddressesAnswerProbes: the kernel answers an ARP probe and, for an
// address without duplicate address detection, a solicitation from :: at
// once, so there is nothing for us to do.
func TestHeldAddressesAnswerProbes(t *testing.T) {
	lab := newLab(t)
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()...))
	want := []string{"10.7.0.9 " + testMAC().String(), "fd07::9 " + testMAC().String()}
	lab.peers[0].in(func() error {
		asked := lab.vips()
		for i := range asked {
			asked[i].Link = "eth0"
		}
		l := New(Options{Now: boottime})
		l.Watch(asked) // else it asks as an ordinary neighbour
		got, err := l.Probe(t.Context(), asked)
		var printed []string
		for _, a := range got {
			printed = append(printed, a.IP.String()+" "+a.MAC.String())
		}
		if !slices.Equal(printed, want) {
			t.Errorf("got %q, want %q", printed, want)
		}
		return err
	})
}

func TestProbeErrors(t *testing.T) {
	lab := newLab(t)
	lab.peers[0].add("10.7.0.9/32")
	l := New(Options{Now: boottime})
	lost := lb.Address{IP: netip.MustParseAddr("10.7.0.9"), Link: "nosuch0"}
	got, err := l.Probe(t.Context(), []lb.Address{lost, lab.vips()[0]})
	wantError(t, err, `probe [10.7.0.9]: link "nosuch0" does not exist`)
	if len(got) != 1 {
		t.Errorf("the other link's answer: %v", got)
	}
	_, err = l.Probe(t.Context(), []lb.Address{{Link: lab.link}})
	wantError(t, err, "no IP address is given")
	_, err = l.Probe(t.Context(), []lb.Address{{IP: netip.MustParseAddr("10.7.0.9"), Link: "lo"}})
	wantError(t, err, `link "lo" (device) has no Ethernet address`)
	link, err := netlink.LinkByName(lab.link)
	must(t, err, netlink.LinkSetDown(link))
	_, err = l.Probe(t.Context(), lab.vips())
	wantError(t, err, "network is down")
}

func TestMACsCheckAndLinkForOnRealLinks(t *testing.T) {
	lab := newLab(t)
	mac, err := MACs(lab.link)
	if err != nil || !slices.Equal(mac, testMAC()) {
		t.Errorf("%v, %v", mac, err)
	}
	if mac, err = MACs("lo"); mac != nil {
		t.Errorf("lo has %v", mac)
	}
	wantError(t, err, "has no Ethernet address")
	_, err = MACs("nosuch0")
	wantError(t, err, "set `interface` to one of lo, "+lab.link)

	must(t, Check(lab.vips(), false))
	set(t, New(Options{Now: boottime}), wish(9*time.Second, lab.vips()...))
	must(t, Check(lab.vips(), false)) // ours does not count as the node's own
	wantError(t, Check(addrs(t, "10.7.0.1 "+lab.link), false), "an address of this node itself")
	wantError(t, Check(addrs(t, "10.8.0.1 "+lab.link), false), "in no subnet of "+lab.link)
	link, err := LinkFor(netip.MustParseAddr("10.7.0.9"))
	if link != lab.link || err != nil {
		t.Errorf("%q, %v", link, err)
	}
	link, err = LinkFor(netip.MustParseAddr("fd07::9"))
	if link != lab.link || err != nil {
		t.Errorf("%q, %v", link, err)
	}
}

// FuzzNAOptions: nothing that passes the filter may upset the parser.
func FuzzNAOptions(f *testing.F) {
	na := &ndp.NeighborAdvertisement{TargetAddress: netip.MustParseAddr("fd07::9")}
	body, err := ndp.MarshalMessage(na)
	must(f, err)
	f.Add(body[4:])
	f.Fuzz(func(t *testing.T, rest []byte) {
		if len(rest) > 1400 {
			return
		}
		frame := bytesOf(t, "333300000001 02000000000a 86dd 60000000 0000 3a ff"+
			"fd070000000000000000000000000009 ff020000000000000000000000000001 88 00 0000")
		frame = append(frame, rest...)
		size := len(frame) - etherLen - ipv6Len
		frame[18], frame[19] = byte(size>>8), byte(size)
		if ip, mac, ok := naClaim(frame); ok && (!ip.Is6() || len(mac) != 6) {
			t.Errorf("claim of %s by %s", ip, mac)
		}
	})
}
