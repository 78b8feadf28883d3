package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	observerMAC = hostMAC(observerOctet)
	t0          = time.Unix(2000, 0)
)

// answersOf builds a report from one string per question: each character is a
// node's answer, 1 ms apart and 1 ms after the question.
func answersOf(questions ...string) AnswerReport {
	r := AnswerReport{
		IP: netip.MustParseAddr(VIP4), Every: askEvery, observer: observerMAC.String(),
		names: map[string]string{hostMAC(11).String(): "n1", hostMAC(12).String(): "n2"},
		End:   t0.Add(time.Duration(len(questions)) * askEvery),
	}
	for i, q := range questions {
		at := t0.Add(time.Duration(i) * askEvery)
		r.Asked = append(r.Asked, at)
		for j, c := range q {
			mac := hostMAC(10 + int(c-'0'))
			r.Frames = append(r.Frames, Frame{At: at.Add(time.Duration(j+1) * time.Millisecond),
				Kind: Reply, IP: r.IP, MAC: mac, Dst: observerMAC})
		}
	}
	return r
}

func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		questions []string
		two       int    // hundreds of ms
		silence   int    // hundreds of ms
		holders   string // host and from–to in hundreds of ms
	}{
		{},
		{questions: []string{"1", "1", "1"}, holders: "n1 0-3"},
		{questions: []string{"1", "", "", "2"}, silence: 2, holders: "n1 0-1 n2 3-4"},
		{questions: []string{"1", "12", "21", "2"}, two: 2, holders: "n1 0-1 n2 3-4"},
		{questions: []string{"1", "2", "1"}, holders: "n1 0-1 n2 1-2 n1 2-3"},
		{questions: []string{"11", "111"}, holders: "n1 0-2"},
		{questions: []string{"", "", "1", ""}, silence: 2, holders: "n1 2-3"},
		{questions: []string{"1", "", "", ""}, silence: 3, holders: "n1 0-1"},
		{questions: []string{"1", "", "1"}, silence: 1, holders: "n1 0-1 n1 2-3"},
		{questions: []string{"12", "12", ""}, two: 2, silence: 1},
	} {
		r := answersOf(tc.questions...)
		if got := r.TwoHolders(0); got != time.Duration(tc.two)*askEvery {
			t.Errorf("%q: two holders %s", tc.questions, got)
		}
		if got := r.Silence(); got != time.Duration(tc.silence)*askEvery {
			t.Errorf("%q: silence %s", tc.questions, got)
		}
		var parts []string
		for _, h := range r.Holders() {
			parts = append(parts, fmt.Sprintf("%s %d-%d", h.Name, h.From.Sub(t0)/askEvery, h.To.Sub(t0)/askEvery))
		}
		if got := strings.Join(parts, " "); got != tc.holders {
			t.Errorf("%q: holders %q, want %q", tc.questions, got, tc.holders)
		}
	}
}

func TestAnswersThatDoNotCount(t *testing.T) {
	r := answersOf("1", "1")
	stranger := Frame{At: t0.Add(2 * time.Millisecond), Kind: Reply, IP: r.IP, MAC: hostMAC(12), Dst: hostMAC(100)}
	announced := stranger
	announced.Kind, announced.Dst = Announcement, observerMAC
	early := Frame{At: t0.Add(-time.Millisecond), Kind: Reply, IP: r.IP, MAC: hostMAC(12), Dst: observerMAC}
	r.Frames = append(r.Frames, stranger, announced, early)
	if r.TwoHolders(0) != 0 || len(r.Announcements("")) != 1 || len(r.Announcements(hostMAC(11).String())) != 0 {
		t.Errorf("an answer to another, an announcement and an old answer count: %s", r)
	}
	late := Frame{At: t0.Add(60 * time.Millisecond), Kind: Reply, IP: r.IP, MAC: hostMAC(12), Dst: observerMAC}
	r.Frames = append(r.Frames, late)
	if r.TwoHolders(0) != askEvery || r.TwoHolders(50*time.Millisecond) != 0 {
		t.Errorf("an answer after 60 ms: any time %s, within 50 ms %s", r.TwoHolders(0), r.TwoHolders(50*time.Millisecond))
	}
	for _, want := range []string{"asked 2 times", "two holders 100ms", "1 announcements"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q does not say %q", r, want)
		}
	}
}

func TestParseOwnQuestions(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	for who, raw := range map[string][]byte{
		VIP4: arpRequest(mac, netip.MustParseAddr("10.99.0.99"), netip.MustParseAddr(VIP4)),
		VIP6: neighborSolicitation(mac, netip.MustParseAddr("fd99::99"), netip.MustParseAddr(VIP6)),
	} {
		f, ok := parseFrame(raw)
		if !ok || f.Kind != Request || f.IP.String() != who || f.MAC.String() != mac.String() || !f.From.IsValid() {
			t.Errorf("question about %s: %v %t", who, f, ok)
		}
	}
}

// arpFrame is an ARP frame as a host would send it.
func arpFrame(op byte, dst, sender net.HardwareAddr, from, about string) []byte {
	b := arpRequest(sender, netip.MustParseAddr(from), netip.MustParseAddr(about))
	copy(b, dst)
	b[21] = op
	return b
}

// advert is a neighbour advertisement with those flags.
func advert(flags byte, about string, mac net.HardwareAddr) []byte {
	who := netip.MustParseAddr(about)
	b := neighborSolicitation(mac, who, who)
	icmp := b[14+40:]
	icmp[0], icmp[4], icmp[24] = advertisement, flags, optTarget
	return b
}

func TestParseFrame(t *testing.T) {
	all, one := net.HardwareAddr{255, 255, 255, 255, 255, 255}, hostMAC(11)
	noSource := neighborSolicitation(one, netip.IPv6Unspecified(), netip.MustParseAddr(VIP6))
	question := neighborSolicitation(one, netip.MustParseAddr("fd99::1"), netip.MustParseAddr(VIP6))
	noOption := advert(0x60, VIP6, hostMAC(12))[:14+40+24]
	for name, tc := range map[string]struct {
		raw  []byte
		kind Kind // 0: not a frame of ours
		ip   string
	}{
		"request":                   {arpFrame(1, all, one, "10.99.0.11", VIP4), Request, VIP4},
		"probe":                     {arpFrame(1, all, one, "0.0.0.0", VIP4), Probing, VIP4},
		"gratuitous request":        {arpFrame(1, all, one, VIP4, VIP4), Announcement, VIP4},
		"gratuitous reply":          {arpFrame(2, all, one, VIP4, VIP4), Announcement, VIP4},
		"reply to everybody":        {arpFrame(2, all, one, VIP4, "10.99.0.1"), Announcement, VIP4},
		"reply":                     {arpFrame(2, hostMAC(99), one, VIP4, "10.99.0.99"), Reply, VIP4},
		"reverse ARP":               {arpFrame(3, all, one, VIP4, VIP4), 0, ""},
		"short ARP":                 {arpFrame(1, all, one, VIP4, VIP4)[:41], 0, ""},
		"solicitation":              {question, Request, VIP6},
		"duplicate detection":       {noSource, Probing, VIP6},
		"answer":                    {advert(0x60, VIP6, one), Reply, VIP6},
		"unsolicited":               {advert(0x20, VIP6, one), Announcement, VIP6},
		"without link-layer option": {noOption, Reply, VIP6},
		"nothing":                   {nil, 0, ""},
	} {
		f, ok := parseFrame(tc.raw)
		if ok != (tc.kind != 0) || f.Kind != tc.kind || ok && f.IP.String() != tc.ip {
			t.Errorf("%s: read as %v %t", name, f, ok)
		}
	}
	if f, _ := parseFrame(advert(0x40, VIP6, one)); f.Override {
		t.Error("override is read where it is not set")
	}
	// The Ethernet source may be a bridge's; the option says whose claim it is.
	raw := advert(0x60, VIP6, one)
	copy(raw[6:12], hostMAC(50))
	if f, _ := parseFrame(raw); f.MAC.String() != one.String() {
		t.Errorf("the claim is %s's, read as %s's", one, f.MAC)
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(arpFrame(2, hostMAC(99), hostMAC(11), VIP4, "10.99.0.99"))
	f.Add(advert(0x60, VIP6, hostMAC(11)))
	f.Add(append(advert(0x60, VIP6, hostMAC(11)), 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(append(advert(0x60, VIP6, hostMAC(11))[:14+40+24], 9, 200, 0, 0, 0, 0, 0, 0))
	bare := advert(0x60, VIP6, hostMAC(11))[:14+40+24]
	f.Add(append(bare[:len(bare):len(bare)], optTarget, 1, 2, 0))             // cut short
	f.Add(append(bare[:len(bare):len(bare)], optSource, 0, 0, 0, 0, 0, 0, 0)) // of no length: would never end
	f.Fuzz(func(t *testing.T, raw []byte) {
		fr, ok := parseFrame(raw)
		if !ok {
			return
		}
		if fr.Kind < Request || fr.Kind > Announcement || !fr.IP.IsValid() || len(fr.MAC) != 6 || len(fr.Dst) != 6 {
			t.Errorf("accepted %x as %v", raw, fr)
		}
		if fr.Kind == Probing == fr.From.IsValid() {
			t.Errorf("only a probe has no sender address: %v", fr)
		}
	})
}

// TestContested: neighbouring questions make one time, TwoHolders is their sum.
func TestContested(t *testing.T) {
	r := answersOf("1", "12", "21", "2", "", "12")
	got := r.Contested(0)
	if len(got) != 2 {
		t.Fatalf("two times, not %v", got)
	}
	for i, want := range [][2]time.Duration{{1, 3}, {5, 6}} {
		if got[i].From != t0.Add(want[0]*askEvery) || got[i].To != t0.Add(want[1]*askEvery) {
			t.Errorf("contested %s-%s, want %v", got[i].From.Sub(t0), got[i].To.Sub(t0), want)
		}
	}
	if sum := got[0].Duration() + got[1].Duration(); sum != r.TwoHolders(0) {
		t.Errorf("the sum is %s, TwoHolders %s", sum, r.TwoHolders(0))
	}
}
