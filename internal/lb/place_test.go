package lb

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestSamePlace: what is said to be in the same place is in the same groups, and
// changes of endpoints alone are said to be.
func TestSamePlace(t *testing.T) {
	base, local := service("a", "192.0.2.1").on(true, "n1", "n2"), service("a", "192.0.2.1").on(true, "n1", "n2").local()
	for _, c := range []struct {
		name string
		a, b Service
		same bool
	}{
		{"no change", base, base, true},
		{"endpoints", base, service("a", "192.0.2.1").on(true, "n3"), true},
		{"ports", base, func() Service { s := base; s.Ports = nil; return s }(), true},
		{"another pod on the same node", local, service("a", "192.0.2.1").on(true, "n2", "n1", "n1").local(), true},
		{"another node", local, service("a", "192.0.2.1").on(true, "n2").local(), false},
		{"an endpoint ends", local, service("a", "192.0.2.1").on(true, "n1").on(false, "n2").local(), false},
		{"address", base, service("a", "192.0.2.2"), false},
		{"no address", base, service("a"), false},
		{"policy", base, local, false},
		{"name", base, service("b", "192.0.2.1"), false},
		{"nodes asked for", base, func() Service {
			s := base
			s.NodeSelector = map[string]string{"x": "y"}
			return s
		}(), false},
		{"data path", base, func() Service { s := base; s.DataPath = "another"; return s }(), false},
		{"certificate", base, func() Service { s := base; s.TLSSecret = "tls"; return s }(), false},
	} {
		if got := SamePlace(&c.a, &c.b); got != c.same {
			t.Errorf("%s: %t", c.name, got)
		}
		pools := []Pool{lan(4)}
		alike := reflect.DeepEqual(Groups([]Service{c.a}, pools), Groups([]Service{c.b}, pools))
		if c.same && !alike {
			t.Errorf("%s: said to be the same, and the groups differ", c.name)
		}
	}
	before := slices.Clone(local.Ports[0].Endpoints)
	SamePlace(&local, &base)
	if !slices.Equal(before, local.Ports[0].Endpoints) || netip.MustParseAddr("192.0.2.1") != local.Has[0] {
		t.Error("it changed what it compared")
	}
}
