package haproxy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

func TestRenderRedirects(t *testing.T) {
	list := []lb.Redirect{
		{VIP: netip.MustParseAddr("2001:db8::10"), From: 6443, To: 7443},
		{VIP: netip.MustParseAddr("::ffff:192.0.2.10"), From: 6443, To: 7443},
		{VIP: netip.MustParseAddr("192.0.2.11"), From: 443, To: 7443},
	}
	got, err := RenderRedirects(list)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "redirects.nft", got)
	list[0], list[2] = list[2], list[0]
	again, err := RenderRedirects(list)
	if err != nil || again != got {
		t.Errorf("another order, another text: %v\n%s", err, again)
	}
	none, err := RenderRedirects(nil)
	if err != nil || strings.Contains(none, "chain") || !strings.Contains(none, "delete table inet mooring-api") {
		t.Errorf("nothing: %v\n%s", err, none)
	}
}

func TestRedirectsRefused(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.10")
	for _, c := range []struct {
		name  string
		field string
		list  []lb.Redirect
	}{
		{"no address", "Redirects[0].From", []lb.Redirect{{From: 1, To: 2}}},
		{"no port", "Redirects[0].From", []lb.Redirect{{VIP: vip, To: 2}}},
		{"no other port", "Redirects[0].To", []lb.Redirect{{VIP: vip, From: 2}}},
		{"wildcard", "Redirects[0].From", []lb.Redirect{{VIP: netip.IPv4Unspecified(), From: 1, To: 2}}},
		{"zone", "Redirects[0].From", []lb.Redirect{{VIP: netip.MustParseAddr("fe80::1%eth0;drop"), From: 1, To: 2}}},
		{"multicast", "Redirects[0].From", []lb.Redirect{{VIP: netip.MustParseAddr("ff02::1"), From: 1, To: 2}}},
		{"to itself", "Redirects[0].From", []lb.Redirect{{VIP: vip, From: 2, To: 2}}},
		{"twice", "Redirects[1].From", []lb.Redirect{{VIP: vip, From: 1, To: 2}, {VIP: vip, From: 1, To: 3}}},
		{"twice, mapped", "Redirects[1].From",
			[]lb.Redirect{{VIP: vip, From: 1, To: 2}, {VIP: netip.MustParseAddr("::ffff:192.0.2.10"), From: 1, To: 3}}},
		{"chain", "Redirects[1].From", []lb.Redirect{{VIP: vip, From: 1, To: 2}, {VIP: vip, From: 2, To: 3}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := RenderRedirects(c.list)
			var field *FieldError
			if !errors.As(err, &field) || field.Field != c.field {
				t.Errorf("error: %v", err)
			}
		})
	}
}
