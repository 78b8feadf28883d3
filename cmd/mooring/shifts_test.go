package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// table is what the kernel was told, in order.
type table struct {
	told  []string
	last  string
	fault error
}

func (k *table) Set(_ context.Context, list []lb.Redirect) error {
	if k.fault != nil {
		return k.fault
	}
	var out []string
	for _, r := range list {
		out = append(out, fmt.Sprintf("%s:%d>%d", r.VIP, r.From, r.To))
	}
	slices.Sort(out)
	if text := cmp.Or(strings.Join(out, " "), "none"); text != k.last {
		k.told, k.last = append(k.told, text), text
	}
	return nil
}

func (k *table) Run(context.Context) error { return nil }

// took is what was told since, steps separated by |.
func (k *table) took() string {
	out := strings.Join(k.told, " | ")
	k.told = nil
	return out
}

// shifted is a frontend of VIP 192.0.2.1 whose port leads to another.
func shifted(name string, from, to uint16) lb.Frontend {
	return lb.Frontend{Name: name, Redirects: []lb.Redirect{{VIP: netip.MustParseAddr("192.0.2.1"), From: from, To: to}}}
}

// TestShiftsFollowHAProxy: a redirect comes after HAProxy listens where it leads, and
// goes before that changes.
func TestShiftsFollowHAProxy(t *testing.T) {
	k := &table{}
	s := newShifts(k)
	serves := lb.ProxyState{Serving: true}
	waits := func(names ...string) lb.ProxyState { return lb.ProxyState{Serving: true, Pending: names} }
	step := func(what string, fronts []lb.Frontend, before, after lb.ProxyState, want string) {
		t.Helper()
		complaint := s.want(fronts)
		if (complaint != "") != (len(fronts) > 0) {
			t.Errorf("%s: complaint %q", what, complaint)
		}
		must(t, s.before(t.Context(), before))
		must(t, s.after(t.Context(), after))
		if got := k.took(); got != want {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	a, b := shifted("a", 80, 61080), shifted("b", 4069, 61081)
	one, two := "192.0.2.1:80>61080", "192.0.2.1:4069>61081"
	step("a predecessor's HAProxy waits for its reload", []lb.Frontend{a}, lb.ProxyState{}, waits("a"), "")
	step("and has it", []lb.Frontend{a}, waits("a"), serves, one)
	step("another port waits", []lb.Frontend{a, b}, serves, waits("b"), "")
	step("and is listened for while the first one waits", []lb.Frontend{a, b}, waits("b"), waits("a"), two+" "+one)
	step("a change waits, it is served as before", []lb.Frontend{a, b}, serves, waits("a"), "")
	step("one port leads elsewhere now", []lb.Frontend{shifted("a", 80, 61081), shifted("b", 4069, 61082)}, serves, serves,
		"none | 192.0.2.1:4069>61082 192.0.2.1:80>61081")
	skips := lb.ProxyState{Serving: true, Skipped: map[string]string{"b": "taken"}}
	step("one is left out", []lb.Frontend{a, b}, serves, skips, "none | "+one)
	step("HAProxy ended", []lb.Frontend{a, b}, lb.ProxyState{}, lb.ProxyState{}, "none")
	step("and is back", []lb.Frontend{a, b}, lb.ProxyState{}, serves, two+" "+one)
	step("the API server learned the mode", nil, serves, serves, "none")
	if !s.wanted.Load() {
		t.Error("nobody looks at what stands")
	}
	s.want(nil)
	if s.wanted.Load() {
		t.Error("somebody looks though there is nothing")
	}
}

// TestShiftsWithoutHAProxy: what a predecessor left is taken away when there is no
// HAProxy to serve it, and at most once asked for without need.
func TestShiftsWithoutHAProxy(t *testing.T) {
	k := &table{}
	s := newShifts(k)
	s.want([]lb.Frontend{shifted("a", 80, 61080)})
	must(t, s.before(t.Context(), lb.ProxyState{}))
	if len(k.told) != 0 {
		t.Error("told before anything is known")
	}
	must(t, s.after(t.Context(), lb.ProxyState{}))
	if len(k.told) != 1 || k.told[0] != "none" {
		t.Errorf("told %q", k.told)
	}
}

// TestShiftsRefused: an error is said, and what stood counts as standing.
func TestShiftsRefused(t *testing.T) {
	k := &table{}
	s := newShifts(k)
	serves := lb.ProxyState{Serving: true}
	s.want([]lb.Frontend{shifted("a", 80, 61080)})
	must(t, s.after(t.Context(), serves))
	k.fault = errors.New("no nft")
	s.want(nil)
	if err := s.before(t.Context(), serves); err == nil || !strings.Contains(err.Error(), "no nft") {
		t.Errorf("error: %v", err)
	}
	if len(s.stand) != 1 {
		t.Errorf("stand: %v", s.stand)
	}
	k.fault = nil
	must(t, s.before(t.Context(), serves))
	if len(s.stand) != 0 {
		t.Errorf("stand: %v", s.stand)
	}
}

// TestExplainShift: where HAProxy listens is told.
func TestExplainShift(t *testing.T) {
	s, _ := shopServices(t)
	v := *s.known["shop/web"]
	v.Modeless = true
	s.onService("shop/web", &v)
	r := s.reports(t.Context(), "shop/web")
	var b strings.Builder
	explain(&b, r[0], time.Now())
	if r[0].Ports[0].Behind != 61080 || !strings.Contains(b.String(), "redirected to HAProxy at port 61080") {
		t.Errorf("%+v: %s", r[0].Ports, &b)
	}
}
