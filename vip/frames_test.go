package vip

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// testMAC is the MAC in all golden frames.
func testMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a} }

// The frames as they must stand on the wire, for testMAC.
const (
	goldenGARP = "ffffffffffff 02000000000a 0806" + // broadcast, we, ARP
		"0001 0800 06 04 0001" + // Ethernet, IPv4, request
		"02000000000a 0a070009 000000000000 0a070009" + // sender = target = 10.7.0.9
		"000000000000000000000000000000000000" // padding to 60 bytes
	goldenProbe = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001" +
		"02000000000a 00000000 000000000000 0a070009" + // sender 0.0.0.0
		"000000000000000000000000000000000000"
	goldenNA = "333300000001 02000000000a 86dd" + // all nodes, we, IPv6
		"60000000 0020 3a ff" + // 32 bytes of ICMPv6, hop limit 255
		"fd070000000000000000000000000009 ff020000000000000000000000000001" +
		"88 00 %s %s000000" + // advertisement, checksum, flags
		"fd070000000000000000000000000009 02 01 02000000000a" // target and its link-layer address
	goldenNS = "3333ff000009 02000000000a 86dd 60000000 0018 3a ff" +
		"00000000000000000000000000000000 ff0200000000000000000001ff000009" +
		"87 00 7d8e 00000000 fd070000000000000000000000000009"
)

// bytesOf reads hexadecimal digits, blanks ignored.
func bytesOf(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// icmpSum folds the ICMPv6 message and its pseudo-header (RFC 8200 §8.1); a
// right checksum gives 0xffff.
func icmpSum(frame []byte) uint16 {
	ip := frame[etherLen:]
	sum := uint32(binary.BigEndian.Uint16(ip[4:])) + unix.IPPROTO_ICMPV6
	for rest := ip[8:]; len(rest) >= 2; rest = rest[2:] {
		sum += uint32(binary.BigEndian.Uint16(rest))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestFrames(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("fd07::9")
	tests := []struct {
		story string
		build func() ([]byte, error)
		want  string
	}{
		{"gratuitous ARP, request form", func() ([]byte, error) { return arpAnnouncement(testMAC(), v4) }, goldenGARP},
		{"ARP probe", func() ([]byte, error) { return arpProbe(testMAC(), v4) }, goldenProbe},
		{"unsolicited NA of a host", func() ([]byte, error) { return naAnnouncement(testMAC(), v6, false) },
			fmt.Sprintf(goldenNA, "5a74", "20")},
		{"unsolicited NA of a router", func() ([]byte, error) { return naAnnouncement(testMAC(), v6, true) },
			fmt.Sprintf(goldenNA, "da73", "a0")},
		{"duplicate address detection", func() ([]byte, error) { return nsProbe(testMAC(), v6) }, goldenNS},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			got, err := tt.build()
			if err != nil {
				t.Fatal(err)
			}
			if want := bytesOf(t, tt.want); string(got) != string(want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			if binary.BigEndian.Uint16(got[12:]) == unix.ETH_P_IPV6 && icmpSum(got) != 0xffff {
				t.Errorf("checksum folds to %#x", icmpSum(got))
			}
		})
	}
}

func TestFramesRefuseWhatIsNotEthernet(t *testing.T) {
	if _, err := arpAnnouncement(net.HardwareAddr{1, 2}, netip.MustParseAddr("10.0.0.9")); err == nil {
		t.Error("a 2-byte MAC made an ARP frame")
	}
	if _, err := arpAnnouncement(testMAC(), netip.MustParseAddr("fd00::9")); err == nil {
		t.Error("an IPv6 address made an ARP frame")
	}
	if _, err := nsProbe(testMAC(), netip.MustParseAddr("10.0.0.9")); err == nil {
		t.Error("an IPv4 address made a neighbour solicitation")
	}
}

func TestClaimsInFrames(t *testing.T) {
	na := fmt.Sprintf(goldenNA, "0000", "20")
	reply := strings.Replace(goldenGARP, "06 04 0001", "06 04 0002", 1)
	cut := func(s string, n int) string { return s[:len(s)-n] }
	tests := []struct {
		story string
		read  func([]byte) (netip.Addr, net.HardwareAddr, bool)
		frame string
		want  string // "IP MAC", "" when it is no claim
	}{
		{"gratuitous request", arpClaim, goldenGARP, "10.7.0.9 02:00:00:00:00:0a"},
		{"reply", arpClaim, reply, "10.7.0.9 02:00:00:00:00:0a"},
		{"the sender's MAC counts, not the frame's", arpClaim,
			strings.Replace(goldenGARP, "02000000000a 0806", "020000000001 0806", 1), "10.7.0.9 02:00:00:00:00:0a"},
		{"probe", arpClaim, goldenProbe, ""},
		{"other hardware", arpClaim, strings.Replace(goldenGARP, "0001 0800", "0006 0800", 1), ""},
		{"other protocol", arpClaim, strings.Replace(goldenGARP, "0001 0800", "0001 86dd", 1), ""},
		{"other frame type", arpClaim, strings.Replace(goldenGARP, "0806", "0800", 1), ""},
		{"cut off", arpClaim, strings.SplitAfter(goldenGARP, "0a070009 ")[0], ""},
		{"advertisement", naClaim, na, "fd07::9 02:00:00:00:00:0a"},
		{"advertisement without the option: the frame's MAC", naClaim,
			strings.NewReplacer("0020", "0018", "02000000000a 86dd", "02000000000b 86dd").Replace(cut(na, 19)),
			"fd07::9 02:00:00:00:00:0b"},
		{"came through a router", naClaim, strings.Replace(na, "3a ff", "3a fe", 1), ""},
		{"not ICMPv6", naClaim, strings.Replace(na, "3a ff", "11 ff", 1), ""},
		{"code not 0", naClaim, strings.Replace(na, "88 00", "88 01", 1), ""},
		{"a solicitation", naClaim, goldenNS, ""},
		{"target is a group", naClaim, strings.Replace(na, "000000fd07", "000000ff07", 1), ""},
		{"longer than the frame", naClaim, strings.Replace(na, "0020", "0040", 1), ""},
		{"cut off", naClaim, strings.SplitAfter(na, "3a ff")[0], ""},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			ip, mac, ok := tt.read(bytesOf(t, tt.frame))
			got := ""
			if ok {
				got = ip.String() + " " + mac.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// runFilter runs a filter without its first three instructions: the virtual
// machine of the bpf package does not know packet types. The whole filters run in
// the kernel in the other tests.
func runFilter(t *testing.T, raw []bpf.RawInstruction, frame []byte) bool {
	t.Helper()
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter does not disassemble")
	}
	vm, err := bpf.NewVM(prog[len(forUs()):])
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestFilters(t *testing.T) {
	ips := func(all ...string) (out []netip.Addr) {
		for _, s := range all {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	na := fmt.Sprintf(goldenNA, "0000", "20")
	tests := []struct {
		story string
		build func([]netip.Addr) ([]bpf.RawInstruction, error)
		ips   []netip.Addr
		frame string
		want  bool
	}{
		{"claimed", arpFilter, ips("10.7.0.8", "10.7.0.9"), goldenGARP, true},
		{"another's", arpFilter, ips("10.7.0.8"), goldenGARP, false},
		{"probe", arpFilter, ips("10.7.0.8", "10.7.0.9"), goldenProbe, true},
		{"another's probe", arpFilter, ips("10.7.0.8"), goldenProbe, false},
		{"a question of a client", arpFilter, ips("10.7.0.9"), clientsARP, false},
		{"advertised", naFilter, ips("fd07::8", "fd07::9"), na, true},
		{"another's advertised", naFilter, ips("fd07::8"), na, false},
		{"solicited from ::", naFilter, ips("fd07::8", "fd07::9"), goldenNS, true},
		{"another's solicited from ::", naFilter, ips("fd07::8"), goldenNS, false},
		{"a solicitation of a client", naFilter, ips("fd07::9"), clientsNS(), false},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			raw, err := tt.build(tt.ips)
			if err != nil {
				t.Fatal(err)
			}
			if got := runFilter(t, raw, bytesOf(t, tt.frame)); got != tt.want {
				t.Errorf("passes: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFilterOfMany(t *testing.T) {
	many := func(n int) []netip.Addr {
		all := []netip.Addr{}
		for i := range n {
			all = append(all, netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}))
		}
		return all
	}
	full, err := arpFilter(many(filterMax))
	if err != nil || len(full) > 4096 {
		t.Fatalf("%d instructions, %v; the kernel takes 4096", len(full), err)
	}
	if runFilter(t, full, bytesOf(t, goldenGARP)) {
		t.Error("a foreign address passes the full filter")
	}
	over, err := arpFilter(many(filterMax + 1))
	if err != nil {
		t.Fatal(err)
	}
	if !runFilter(t, over, bytesOf(t, goldenGARP)) {
		t.Error("with too many addresses all frames should pass and be compared in Go")
	}
}

// clientsARP is an ARP request of 10.7.0.2 for 10.7.0.9.
const clientsARP = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a 0a070002 000000000000 0a070009" +
	"000000000000000000000000000000000000"

// clientsNS is the golden solicitation, but from fd07::2.
func clientsNS() string {
	plain := strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(goldenNS)
	return plain[:2*ipv6Src] + "fd070000000000000000000000000002" + plain[2*(ipv6Src+16):]
}

// TestAsksInFrames: who wants to take an address, and who only looks for it.
func TestAsksInFrames(t *testing.T) {
	cut := func(s string) string { return strings.NewReplacer(" ", "").Replace(s)[:60] }
	for _, tt := range []struct {
		story, frame string
		want         string
	}{
		{"probe", goldenProbe, "10.7.0.9"},
		{"announcement", goldenGARP, ""},
		{"a client's question", clientsARP, ""},
		{"cut short", cut(goldenProbe), ""},
		{"solicitation from ::", goldenNS, "fd07::9"},
		{"a client's solicitation", clientsNS(), ""},
		{"advertisement", fmt.Sprintf(goldenNA, "0000", "20"), ""},
		{"cut short, IPv6", cut(goldenNS), ""},
	} {
		frame := bytesOf(t, tt.frame)
		ip, mac, ok := arpAsks(frame)
		if !ok {
			ip, mac, ok = nsAsks(frame)
		}
		got := ""
		if ok {
			got = ip.String()
		}
		if got != tt.want || ok && mac.String() != testMAC().String() {
			t.Errorf("%s: %q by %s, want %q", tt.story, got, mac, tt.want)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, s := range []string{goldenGARP, goldenProbe, fmt.Sprintf(goldenNA, "0000", "20"), goldenNS} {
		f.Add(bytesOf(f, s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if ip, mac, ok := arpClaim(frame); ok && (!ip.Is4() || ip.IsUnspecified() || len(mac) != 6) {
			t.Errorf("ARP claim of %s by %s", ip, mac)
		}
		if ip, mac, ok := naClaim(frame); ok && (!ip.Is6() || len(mac) != 6) {
			t.Errorf("claim of %s by %s", ip, mac)
		}
		if ip, mac, ok := arpAsks(frame); ok && (!ip.Is4() || len(mac) != 6) {
			t.Errorf("ARP probe for %s by %s", ip, mac)
		}
		if ip, mac, ok := nsAsks(frame); ok && (!ip.Is6() || len(mac) != 6) {
			t.Errorf("solicitation from :: for %s by %s", ip, mac)
		}
	})
}

// ifaMessage is RTM_NEWADDR for 10.7.0.9/32 on link 3 as a 6.18 kernel gives
// it on a little-endian machine.
const ifaMessage = "02 20 00 00 03000000" + // AF_INET, /32, no flags, scope global, link 3
	"0800 0100 0a070009 0800 0200 0a070009" + // IFA_ADDRESS, IFA_LOCAL
	"0500 0b00 6d000000" + // IFA_PROTO
	"1400 0600 00000000 04000000 11111111 22222222" // IFA_CACHEINFO: preferred 0, valid 4 s

func TestParseIfAddr(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the golden message is little-endian")
	}
	want := ifAddr{index: 3, ip: netip.MustParseAddr("10.7.0.9"), bits: 32, proto: 0x6d, valid: 4}
	got, ok := parseIfAddr(bytesOf(t, ifaMessage))
	if !ok || got != want {
		t.Errorf("got %+v %v, want %+v", got, ok, want)
	}
	peer, ok := parseIfAddr(bytesOf(t, strings.Replace(ifaMessage, "0100 0a070009", "0100 0a070001", 1)))
	if !ok || peer.ip != want.ip {
		t.Errorf("with a peer: %+v %v, want the local end", peer, ok)
	}
	forever, ok := parseIfAddr(bytesOf(t, strings.SplitAfter(ifaMessage, "6d000000")[0]))
	if !ok || forever.valid != 1<<32-1 {
		t.Errorf("without a lifetime: %+v %v", forever, ok)
	}
	for story, bad := range map[string]string{
		"too short":            "0220",
		"no address":           "02 20 00 00 03000000",
		"attribute too long":   "02 20 00 00 03000000 ff00 0100 0a070009",
		"attribute too short":  "02 20 00 00 03000000 0200 0100 0a070009",
		"prefix of 33 bits":    strings.Replace(ifaMessage, "02 20", "02 21", 1),
		"address of two bytes": "02 20 00 00 03000000 0600 0200 0a070000",
	} {
		if a, ok := parseIfAddr(bytesOf(t, bad)); ok {
			t.Errorf("%s: %+v", story, a)
		}
	}
}

func TestOurs(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("fd07::9")
	for _, tt := range []struct {
		story        string
		a            ifAddr
		marks, plain bool // ours, on kernels with and without IFA_PROTO
	}{
		{"ours", ifAddr{ip: v4, bits: 32, proto: ourProto, valid: 4}, true, true},
		{"ours, IPv6", ifAddr{ip: v6, bits: 128, proto: ourProto, valid: 4}, true, true},
		{"the same form, unmarked", ifAddr{ip: v4, bits: 32, valid: 4}, false, true},
		{"for ever", ifAddr{ip: v4, bits: 32, valid: 1<<32 - 1}, false, false},
		{"a source address", ifAddr{ip: v4, bits: 32, valid: 4, preferred: 4}, false, false},
		{"of a subnet", ifAddr{ip: v4, bits: 24, proto: ourProto, valid: 4}, false, false},
		{"the kernel's", ifAddr{ip: v6, bits: 128, proto: 3, valid: 1<<32 - 1, preferred: 1<<32 - 1}, false, false},
	} {
		if got := tt.a.ours(true); got != tt.marks {
			t.Errorf("%s: %v with marks", tt.story, got)
		}
		if got := tt.a.ours(false); got != tt.plain {
			t.Errorf("%s: %v without marks", tt.story, got)
		}
	}
}

func FuzzParseIfAddr(f *testing.F) {
	f.Add(bytesOf(f, ifaMessage))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseIfAddr(b); ok && (!a.ip.IsValid() || a.bits > a.ip.BitLen()) {
			t.Errorf("%+v", a)
		}
	})
}
