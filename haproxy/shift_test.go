package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

func TestRenderShifts(t *testing.T) {
	at := netip.MustParseAddr
	list := []lb.Redirect{
		{VIP: at("2001:db8::10"), From: 80, To: 61080, Elsewhere: true},
		{VIP: at("::ffff:192.0.2.10"), From: 80, To: 61080, Elsewhere: true},
		{VIP: at("192.0.2.11"), From: 443, To: 61443},
	}
	got, err := RenderShifts(list)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "shifts.nft", got)
	list[0], list[2] = list[2], list[0]
	if again, err := RenderShifts(list); err != nil || again != got {
		t.Errorf("another order, another text: %v\n%s", err, again)
	}
	none, err := RenderShifts(nil)
	if err != nil || strings.Contains(none, "chain") || !strings.Contains(none, "delete table inet mooring-services") {
		t.Errorf("nothing: %v\n%s", err, none)
	}
	if four, err := RenderShifts(list[:1]); err != nil || strings.Contains(four, "ip6") {
		t.Errorf("of IPv4 alone: %v\n%s", err, four)
	}
}

// TestShiftRules: what a connection is compared with does not grow with the Services.
func TestShiftRules(t *testing.T) {
	var list []lb.Redirect
	for i := range 2000 {
		vip := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		list = append(list, lb.Redirect{VIP: vip, From: 80, To: 61080, Elsewhere: true})
	}
	few, err := RenderShifts(list[:2])
	if err != nil {
		t.Fatal(err)
	}
	many, err := RenderShifts(list)
	if err != nil {
		t.Fatal(err)
	}
	chains := func(text string) string { return text[strings.Index(text, "\tchain"):] }
	if chains(few) != chains(many) {
		t.Errorf("rules of many:\n%s", chains(many))
	}
}

func TestShiftsRefused(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.10")
	for _, c := range []struct {
		name string
		list []lb.Redirect
	}{
		{"zone", []lb.Redirect{{VIP: netip.MustParseAddr("fe80::1%eth0 }; drop"), From: 80, To: 61080}}},
		{"no port", []lb.Redirect{{VIP: vip, From: 80}}},
		{"twice", []lb.Redirect{{VIP: vip, From: 80, To: 61080}, {VIP: vip, From: 80, To: 61081}}},
		{"chain", []lb.Redirect{{VIP: vip, From: 80, To: 61080}, {VIP: vip, From: 61080, To: 61081}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var field *FieldError
			if _, err := RenderShifts(c.list); !errors.As(err, &field) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// TestShiftedPortTaken: the error says why HAProxy wants a port that nobody asked for.
func TestShiftedPortTaken(t *testing.T) {
	f := lb.Frontend{Redirects: []lb.Redirect{{VIP: netip.MustParseAddr("192.0.2.10"), From: 80, To: 61080}}}
	taken := &PortTakenError{Addr: netip.MustParseAddrPort("192.0.2.10:61080")}
	if err := shifted(f, taken.Addr, taken); !errors.Is(err, taken) || !strings.Contains(err.Error(), "for port 80,") {
		t.Errorf("of the shifted port: %v", err)
	}
	if err := shifted(f, netip.MustParseAddrPort("192.0.2.10:80"), taken); fmt.Sprint(err) != taken.Error() {
		t.Errorf("of the port itself: %v", err)
	}
}
