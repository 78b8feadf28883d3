package scenarios

import (
	"bytes"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// dual gives the agents an IPv4 and an IPv6 VIP.
func dual(s string) string {
	return strings.Replace(s, `vips: ["`+vip+`"]`, `vips: ["`+vip+`", "`+vip6+`"]`, 1)
}

// TestOnTheWire: announcements byte for byte, both families, and both serve.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	w := bare(t)
	wire := w.Wire()
	for _, n := range w.All() {
		w.startAgent(n, dual)
	}
	holder := w.settle()
	w.Eventually(5*time.Second, "the IPv6 VIP is on the same node", func() bool { return holder.Has(vip6) })
	time.Sleep(2500 * time.Millisecond)
	mac, _ := net.ParseMAC(holder.MAC())

	garp := announcements(wire.Frames(vip), holder.MAC())
	if len(garp) < 5 {
		t.Fatalf("%d gratuitous ARPs in the first 2.5 s, at least 5 expected", len(garp))
	}
	for _, f := range garp {
		if !bytes.Equal(f.Raw[:42], wantGARP(mac, netip.MustParseAddr(vip))) {
			t.Errorf("gratuitous ARP:\n got %x\nwant %x", f.Raw, wantGARP(mac, netip.MustParseAddr(vip)))
		}
	}
	na := announcements(wire.Frames(vip6), holder.MAC())
	if len(na) < 5 {
		t.Fatalf("%d unsolicited NAs in the first 2.5 s, at least 5 expected", len(na))
	}
	for _, f := range na {
		checkNA(t, f, mac)
	}

	requests := w.Client().Requests("https://["+vip6+"]:6443/readyz", 20*time.Millisecond)
	time.Sleep(time.Second)
	r := requests.Stop()
	noneLost(t, "requests over IPv6", r)
	if len(r.ByServer) != 3 {
		t.Errorf("IPv6 not balanced: %v", r.ByServer)
	}
}

func announcements(frames []lab.Frame, mac string) []lab.Frame {
	var out []lab.Frame
	for _, f := range frames {
		if f.Kind == lab.Announcement && f.MAC.String() == mac {
			out = append(out, f)
		}
	}
	return out
}

// wantGARP is an ARP announcement in request form (RFC 5227 §3, RFC 826).
func wantGARP(mac net.HardwareAddr, ip netip.Addr) []byte {
	var b bytes.Buffer
	b.Write([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	b.Write(mac)
	b.Write([]byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1})
	b.Write(mac)
	b.Write(ip.AsSlice())
	b.Write(make([]byte, 6))
	b.Write(ip.AsSlice())
	return b.Bytes()
}

// checkNA checks an unsolicited neighbour advertisement (RFC 4861 §4.4, §7.2.6)
// byte for byte but for the source address and the checksum.
func checkNA(t *testing.T, f lab.Frame, mac net.HardwareAddr) {
	t.Helper()
	raw := f.Raw
	want := func(what string, got, want []byte) {
		if !bytes.Equal(got, want) {
			t.Errorf("NA %s: got %x, want %x", what, got, want)
		}
	}
	if len(raw) < 86 {
		t.Fatalf("NA of %d bytes: %x", len(raw), raw)
	}
	allNodes := netip.MustParseAddr("ff02::1")
	want("Ethernet destination", raw[0:6], []byte{0x33, 0x33, 0, 0, 0, 1})
	want("Ethernet source", raw[6:12], mac)
	want("EtherType", raw[12:14], []byte{0x86, 0xdd})
	want("next header and hop limit", raw[20:22], []byte{58, 255})
	want("IPv6 destination", raw[38:54], allNodes.AsSlice())
	want("type and code", raw[54:56], []byte{136, 0})
	if raw[58]&0x60 != 0x20 {
		t.Errorf("NA flags %08b: Override must be set, Solicited not", raw[58])
	}
	want("target", raw[62:78], netip.MustParseAddr(vip6).AsSlice())
	want("target link-layer address option", raw[78:86], append([]byte{2, 1}, mac...))
}

// TestForeignClaim: a foreign host that claims the VIP is reported with its MAC
// and defended against.
func TestForeignClaim(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	wire := w.Wire()
	stranger := w.Host("stranger")
	before := len(announcements(wire.Frames(vip), holder.MAC()))
	stranger.Exec("ip", "addr", "add", vip+"/32", "dev", "eth0")
	stranger.Exec("arping", "-c", "3", "-w", "3", "-A", "-I", "eth0", "-s", vip, vip)
	w.Eventually(time.Second, "the holder reports the stranger's MAC", func() bool {
		for _, m := range w.status(holder).Moves {
			if m.Reason == "ForeignClaim" && m.MAC == stranger.MAC() {
				return true
			}
		}
		return false
	})
	if after := len(announcements(wire.Frames(vip), holder.MAC())); after <= before {
		t.Error("the holder did not defend the VIP with an announcement")
	}
	w.stays(holder, 2*time.Second, "a stranger claims the VIP")
	events := w.Kubectl("get", "events", "-A")
	if !strings.Contains(events, "ForeignClaim") || !strings.Contains(events, stranger.MAC()) {
		t.Errorf("no Event names the stranger:\n%s", events)
	}
}

// TestStrangerFirst: a VIP that a stranger answers for is not claimed until the
// stranger is gone.
func TestStrangerFirst(t *testing.T) {
	t.Parallel()
	w := bare(t)
	stranger := w.Host("stranger")
	stranger.Exec("ip", "addr", "add", vip+"/32", "dev", "eth0")
	for _, n := range w.All() {
		w.startAgent(n)
	}
	w.Consistently(6*time.Second, "nobody takes an address in use", func() bool { return len(w.Holders(vip)) == 0 })
	found := false
	for _, n := range w.All() {
		found = found || strings.Contains(w.agent(n).Log(), "AddressInUse") && strings.Contains(w.agent(n).Log(), stranger.MAC())
	}
	if !found {
		t.Error("no agent says which MAC has the VIP")
	}
	stranger.Exec("ip", "addr", "del", vip+"/32", "dev", "eth0")
	w.settle()
}

// TestHandDeleted: a VIP deleted by hand is back within 100 ms.
func TestHandDeleted(t *testing.T) {
	w := boot(t)
	holder := w.Holder(vip)
	for range 5 {
		// One process does both, so that starting it does not count.
		out := holder.Exec("sh", "-c", "ip addr del "+vip+"/32 dev eth0; "+
			"for i in 1 2 3 4 5 6 7 8 9 10; do ip addr show dev eth0 | grep -q "+vip+" && echo back && break; sleep 0.01; done")
		if !strings.Contains(out, "back") {
			t.Errorf("the VIP is not back within 100 ms")
		}
		time.Sleep(200 * time.Millisecond)
	}
	if !w.said(holder, "AddressRestored") {
		t.Error("the agent does not say that it put the address back")
	}
	if _, err := exec.LookPath("arping"); err != nil {
		t.Fatal("arping is missing: run make setup")
	}
}
