package main

import (
	"net/http"
	"net/netip"
	"testing"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/lb"
)

// TestOfGroup: the Leases of all groups that there may be are told from the others'.
func TestOfGroup(t *testing.T) {
	const leases = "https://x/apis/coordination.k8s.io/v1/namespaces/mooring-system/leases/"
	ask := func(url string) bool {
		r, err := http.NewRequest(http.MethodGet, url, nil)
		must(t, err)
		return ofGroup(r)
	}
	pools := []lb.Pool{{Name: "lan.example", Shards: 2, Ranges: []lb.Range{
		{From: netip.MustParseAddr("192.0.2.1"), To: netip.MustParseAddr("192.0.2.9")}}}}
	service := lb.Service{Key: "shop/web", Has: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	local := service
	local.Key, local.Local, local.Has = "shop/dns", true, []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	groups := lb.Groups([]lb.Service{service, local}, pools)
	if len(groups) != 2 {
		t.Fatalf("%+v", groups)
	}
	for _, g := range groups {
		if !ask(leases + g.Name) {
			t.Errorf("%s is not taken for a group", g.Name)
		}
	}
	for _, url := range []string{leases + group, leases + "node-n1", leases + election.ControllerLease, leases,
		"https://x/api/v1/namespaces/default/services/pool-1"} {
		if ask(url) {
			t.Errorf("%s is taken for a group", url)
		}
	}
}
