package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"mooring.dev/mooring/internal/lb"
)

// diary notes what a Links reports.
type diary struct {
	mu     sync.Mutex
	claims []string
	links  []string
}

func (d *diary) claimed(c lb.Claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claims = append(d.claims, fmt.Sprint(c.IP, " ", c.Link, " ", c.MAC))
}

func (d *diary) linkChanged(c lb.LinkChange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links = append(d.links, fmt.Sprint(c.Link, " ", c.Up))
}

// read gives both lists.
func (d *diary) read() (claims, links []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.claims), slices.Clone(d.links)
}

// watching starts a Links that watches the addresses and waits until it
// listens: a claim from a MAC of its own is heard by nobody else.
func watching(t *testing.T, lab *lab, all ...lb.Address) (*Links, *diary) {
	t.Helper()
	d := &diary{}
	l := New(Options{Now: boottime, Claimed: d.claimed, LinkChanged: d.linkChanged})
	l.Watch(all)
	run(t, l)
	d.awaitListening(t, lab, all)
	return l, d
}

// awaitListening sends claims of each address by another MAC each time until
// one is reported, then forgets them.
func (d *diary) awaitListening(t *testing.T, lab *lab, all []lb.Address) {
	t.Helper()
	for i, a := range all {
		mac := fmt.Sprintf("02:00:00:00:ee:%02x", i)
		eventually(t, 2*time.Second, "listening for "+a.String(), func() bool {
			lab.peers[1].send(claimFrame(t, mac, a.IP))
			claims, _ := d.read()
			return slices.ContainsFunc(claims, func(s string) bool { return strings.HasSuffix(s, mac) })
		})
	}
	time.Sleep(20 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.claims = nil
}

// claimFrame is an announcement of the IP by the MAC.
func claimFrame(t *testing.T, mac string, ip netip.Addr) []byte {
	t.Helper()
	hw := bytesOf(t, strings.ReplaceAll(mac, ":", ""))
	frame, err := arpAnnouncement(hw, ip)
	if ip.Is6() {
		frame, err = naAnnouncement(hw, ip, false)
	}
	must(t, err)
	return frame
}

func TestClaimedByAnotherHost(t *testing.T) {
	lab := newLab(t)
	l, d := watching(t, lab, lab.vips()...)
	set(t, l, wish(30*time.Second, lab.vips()...))
	thief := lab.peers[0]
	for _, a := range lab.vips() {
		begun := time.Now()
		thief.send(claimFrame(t, thief.mac().String(), a.IP))
		want := fmt.Sprint(a.IP, " ", lab.link, " ", thief.mac())
		eventually(t, time.Second, "claim of "+a.IP.String(), func() bool {
			claims, _ := d.read()
			return slices.Contains(claims, want)
		})
		t.Logf("%s reported after %v", a.IP, time.Since(begun))
	}
	if claims, _ := d.read(); len(claims) != 2 {
		t.Errorf("reported %q", claims)
	}
}

func TestWhatIsNoClaim(t *testing.T) {
	lab := newLab(t)
	_, d := watching(t, lab, lab.vips()...)
	other := lab.peers[0]
	v4, v6 := lab.vips()[0].IP, lab.vips()[1].IP
	arpFrame, err := arpProbe(other.mac(), v4)
	must(t, err)
	nsFrame, err := nsProbe(other.mac(), v6)
	must(t, err)
	plainARP := claimFrame(t, other.mac().String(), v4)
	tagged := slices.Concat(plainARP[:12], []byte{0x81, 0, 0, 42}, plainARP[12:])
	for story, frame := range map[string][]byte{
		"an ARP probe":              arpFrame,
		"a solicitation from ::":    nsFrame,
		"our own MAC, sent back":    claimFrame(t, testMAC().String(), v4),
		"our own MAC, IPv6":         claimFrame(t, testMAC().String(), v6),
		"an address not watched":    claimFrame(t, other.mac().String(), netip.MustParseAddr("10.7.0.77")),
		"the same last 32 bits":     claimFrame(t, other.mac().String(), netip.MustParseAddr("fd08::9")),
		"another VLAN of this link": tagged,
	} {
		other.send(frame)
		time.Sleep(15 * time.Millisecond)
		if claims, _ := d.read(); len(claims) != 0 {
			t.Errorf("%s is reported as %q", story, claims)
		}
	}
	// And still it hears.
	other.send(claimFrame(t, other.mac().String(), v4))
	eventually(t, time.Second, "a claim", func() bool {
		claims, _ := d.read()
		return len(claims) == 1
	})
}

func TestManyClaimsBecomeFewReports(t *testing.T) {
	lab := newLab(t)
	_, d := watching(t, lab, lab.vips()...)
	thief := lab.peers[0]
	frame := claimFrame(t, thief.mac().String(), lab.vips()[0].IP)
	begun := time.Now()
	for range 3 {
		thief.send(slices.Repeat([][]byte{frame}, 50)...)
		time.Sleep(110 * time.Millisecond)
	}
	claims, _ := d.read()
	if limit := int(time.Since(begun)/(100*time.Millisecond)) + 1; len(claims) < 3 || len(claims) > limit {
		t.Errorf("%d reports of 150 frames in %v, want 3 to %d", len(claims), time.Since(begun), limit)
	}
}

func TestWatchMayChange(t *testing.T) {
	lab := newLab(t)
	l, d := watching(t, lab, lab.vips()[0])
	other := lab.peers[0]
	next := lb.Address{IP: netip.MustParseAddr("10.7.0.8"), Link: lab.link}
	l.Watch([]lb.Address{next})
	d.awaitListening(t, lab, []lb.Address{next})
	other.send(claimFrame(t, other.mac().String(), lab.vips()[0].IP))
	time.Sleep(30 * time.Millisecond)
	if claims, _ := d.read(); len(claims) != 0 {
		t.Errorf("reported %q, which is watched no more", claims)
	}
	l.Watch(nil)
	time.Sleep(30 * time.Millisecond)
	other.send(claimFrame(t, other.mac().String(), next.IP))
	time.Sleep(30 * time.Millisecond)
	if claims, _ := d.read(); len(claims) != 0 {
		t.Errorf("reported %q while nothing is watched", claims)
	}
}

func TestListeningOutlivesTheLink(t *testing.T) {
	lab := newLab(t)
	_, d := watching(t, lab, lab.vips()[0])
	link, err := netlink.LinkByName(lab.link)
	must(t, err, netlink.LinkSetDown(link))
	time.Sleep(30 * time.Millisecond)
	must(t, netlink.LinkSetUp(link))
	d.awaitListening(t, lab, lab.vips()[:1])
	must(t, netlink.LinkDel(link))
	lab.plug(lab.link, nil)
	link, err = netlink.LinkByName(lab.link)
	must(t, err, netlink.LinkSetUp(link))
	d.awaitListening(t, lab, lab.vips()[:1])
}

func TestLinkChanges(t *testing.T) {
	lab := newLab(t)
	l, d := watching(t, lab, lab.vips()...)
	link, err := netlink.LinkByName(lab.link)
	must(t, err)
	await := func(want string) {
		t.Helper()
		took := eventually(t, time.Second, want, func() bool {
			_, links := d.read()
			return strings.Join(links, ", ") == want
		})
		t.Logf("%s after %v", want, took)
	}
	up, down := lab.link+" true", lab.link+" false"
	await(up)
	must(t, netlink.LinkSetDown(link))
	await(up + ", " + down)
	must(t, netlink.LinkSetUp(link))
	await(strings.Join([]string{up, down, up}, ", "))
	// The switch's end goes: no carrier.
	ports, err := lab.sw.nl.LinkList()
	must(t, err)
	at := slices.IndexFunc(ports, func(p netlink.Link) bool { return p.Attrs().Index == link.Attrs().ParentIndex })
	must(t, lab.sw.nl.LinkSetDown(ports[at]))
	await(strings.Join([]string{up, down, up, down}, ", "))
	must(t, netlink.LinkDel(link))
	l.Watch(append(lab.vips(), lb.Address{IP: lab.vips()[0].IP, Link: "nosuch0"}))
	await(strings.Join([]string{up, down, up, down, "nosuch0 false"}, ", "))
}
