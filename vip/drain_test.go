package vip

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// fwd is one forward until the instant, in seconds.
func fwd(ip, link, to string, until int) forwarded {
	return forwarded{IP: netip.MustParseAddr(ip), Link: link, To: netip.MustParseAddr(to), Until: lb.Instant(until) * second}
}

// wanted is the wish for it.
func (f forwarded) wanted() lb.Forward {
	return lb.Forward{VIP: f.vip(), To: f.To, Until: f.Until, MACs: f.MACs}
}

// TestPlainForwards: what a wish becomes, at second 100.
func TestPlainForwards(t *testing.T) {
	four, six := fwd("10.7.0.9", "eth0", "10.7.0.1", 200), fwd("fd07::9", "eth0", "fd07::1", 200)
	mapped := lb.Forward{VIP: lb.Address{IP: netip.MustParseAddr("::ffff:10.7.0.9"), Link: "eth0"},
		To: netip.MustParseAddr("::ffff:10.7.0.1"), Until: 200 * second}
	hour := 3700
	for _, c := range []struct {
		story string
		want  []lb.Forward
		got   []forwarded
		err   string
	}{
		{"in order", []lb.Forward{six.wanted(), four.wanted()}, []forwarded{four, six}, ""},
		{"mapped", []lb.Forward{mapped}, []forwarded{four}, ""},
		{"none", nil, nil, ""},
		{"over", []lb.Forward{fwd("10.7.0.9", "eth0", "10.7.0.1", 100).wanted()}, nil, ""},
		{"no end", []lb.Forward{fwd("10.7.0.9", "eth0", "10.7.0.1", 0).wanted()},
			[]forwarded{fwd("10.7.0.9", "eth0", "10.7.0.1", hour)}, ""},
		{"too long", []lb.Forward{fwd("10.7.0.9", "eth0", "10.7.0.1", 99999).wanted()},
			[]forwarded{fwd("10.7.0.9", "eth0", "10.7.0.1", hour)}, ""},
		{"two nodes", []lb.Forward{four.wanted(), fwd("10.7.0.9", "eth0", "10.7.0.2", 200).wanted()}, nil, "name one"},
		{"no node", []lb.Forward{{VIP: four.vip()}}, nil, "no node's address"},
		{"other family", []lb.Forward{fwd("10.7.0.9", "eth0", "fd07::1", 200).wanted()}, nil, "other family"},
		{"itself", []lb.Forward{fwd("10.7.0.9", "eth0", "10.7.0.9", 200).wanted()}, nil, "to itself"},
		{"zone", []lb.Forward{fwd("fd07::9", "eth0", "fe80::1%eth0", 200).wanted()}, nil, "zone"},
		{"no VIP", []lb.Forward{{To: four.To}}, nil, "no IP address"},
		{"no link", []lb.Forward{fwd("10.7.0.9", "", "10.7.0.1", 200).wanted()}, nil, "no link"},
		{"a rule in the link's name", []lb.Forward{fwd("10.7.0.9", "e\"; flush ruleset", "10.7.0.1", 200).wanted()}, nil, "rename the link"},
	} {
		got, err := plainForwards(c.want, 100*second)
		if c.err != "" {
			wantError(t, err, c.err)
			continue
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.got) {
			t.Errorf("%s: %v, %v, want %v", c.story, got, err, c.got)
		}
	}
}

// TestCompareForwards: only what must be is done.
func TestCompareForwards(t *testing.T) {
	a, b, c := fwd("10.7.0.7", "eth0", "10.7.0.1", 200), fwd("10.7.0.8", "eth0", "10.7.0.1", 200), fwd("10.7.0.9", "eth0", "10.7.0.1", 200)
	other, later, sameSecond, bond := a, a, a, a
	bond.MACs = "02:00:00:00:00:0b"
	other.To, later.Until = netip.MustParseAddr("10.7.0.2"), 300*second
	sameSecond.Until += second / 2
	for _, tt := range []struct {
		story string
		have  book
		want  []forwarded
		to    change
	}{
		{"nothing", book{}, nil, change{}},
		{"first", book{}, []forwarded{a}, change{arm: []forwarded{a}}},
		{"the same", book{Forwards: []forwarded{a, b}}, []forwarded{a, b}, change{}},
		{"one more", book{Forwards: []forwarded{a}}, []forwarded{a, b}, change{arm: []forwarded{b}}},
		{"one less", book{Forwards: []forwarded{a, b}}, []forwarded{b}, change{disarm: []forwarded{a}}},
		{"another node", book{Forwards: []forwarded{a, b}}, []forwarded{other, b}, change{aim: []forwarded{other}}},
		{"another MAC", book{Forwards: []forwarded{a}}, []forwarded{bond}, change{aim: []forwarded{bond}}},
		{"later", book{Forwards: []forwarded{a}}, []forwarded{later}, change{aim: []forwarded{later}}},
		{"half a second later", book{Forwards: []forwarded{a}}, []forwarded{sameSecond}, change{}},
		{"none", book{Forwards: []forwarded{a}, Loose: []forwarded{c}}, nil, change{disarm: []forwarded{a, c}}},
		{"what may be there is wanted", book{Loose: []forwarded{c}}, []forwarded{c}, change{arm: []forwarded{c}}},
	} {
		if got := compareForwards(tt.have, tt.want); fmt.Sprint(got) != fmt.Sprint(tt.to) {
			t.Errorf("%s: %v, want %v", tt.story, got, tt.to)
		}
	}
}

// TestPlainMACs: nothing but Ethernet addresses gets into a rule.
func TestPlainMACs(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "02:00:00:00:00:0B": "02:00:00:00:00:0b", "nonsense,": "",
		"02-00-00-00-00-0c, 02:00:00:00:00:0b,02:00:00:00:00:0b":      "02:00:00:00:00:0b,02:00:00:00:00:0c",
		"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01": "", "02:00:00:00:00:0b }; flush ruleset": "",
	} {
		if got := plainMACs(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestBook: what is due, what is next, whose copy it is.
func TestBook(t *testing.T) {
	v := addrs(t, "10.7.0.7 eth0, 10.7.0.8 eth0")
	b := book{
		Copies:   []copied{{IP: v[0].IP, Link: "eth0", Until: 10 * second}, {IP: v[1].IP, Link: "eth0", Until: 20 * second}},
		Forwards: []forwarded{fwd("10.7.0.9", "eth0", "10.7.0.1", 5)},
	}
	if at, some := b.next(); at != 5*second || !some {
		t.Errorf("next: %v, %v", at, some)
	}
	if _, some := (book{}).next(); some {
		t.Error("an empty book has something to come")
	}
	copies, forwards := b.due(10 * second)
	if len(copies) != 1 || copies[0].IP != v[0].IP || len(forwards) != 1 {
		t.Errorf("due: %v, %v", copies, forwards)
	}
	if !b.copyOf(v[0].IP, 9*second) || b.copyOf(v[0].IP, 10*second) || b.copyOf(netip.MustParseAddr("10.7.0.9"), 0) {
		t.Error("copyOf")
	}
	stay, gone := b.without(v[1:])
	if len(stay) != 1 || stay[0].IP != v[0].IP || len(gone) != 1 || gone[0].IP != v[1].IP {
		t.Errorf("without: %v, %v", stay, gone)
	}
	if !sameCopies(b.Copies, []copied{b.Copies[1], b.Copies[0]}) || sameCopies(b.Copies, b.Copies[:1]) {
		t.Error("sameCopies")
	}
}

// TestStateFile: what comes back from disk.
func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "mooring", "state.json")
	now := 100 * second
	if b, err := loadBook(path, now); err != nil || len(b.Copies) != 0 {
		t.Errorf("no file yet: %v, %v", b, err)
	}
	live, over := fwd("10.7.0.9", "eth0", "10.7.0.1", 200), fwd("fd07::9", "eth0", "fd07::1", 50)
	wild := fwd("10.7.0.8", "eth0", "10.7.0.1", 99999)
	kept := copied{IP: netip.MustParseAddr("10.7.0.7"), Link: "eth0", Own: netip.MustParseAddr("10.7.0.1"), Until: 300 * second}
	must(t, saveBook(path, book{
		Copies:   []copied{kept, {Link: "eth0"}, {IP: kept.IP, Link: "eth0\"; flush ruleset"}},
		Forwards: []forwarded{live, over, wild, {}},
	}))
	wild.Until = now + drainMax
	want := book{Copies: []copied{kept}, Forwards: []forwarded{live, wild}, Loose: []forwarded{over}}
	if b, err := loadBook(path, now); err != nil || fmt.Sprint(b) != fmt.Sprint(want) {
		t.Errorf("got  %v, %v\nwant %v", b, err, want)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(data), bootID(), "another boot", 1)), 0o600))
	if b, err := loadBook(path, now); err != nil || len(b.Copies)+len(b.Forwards)+len(b.Loose) != 0 {
		t.Errorf("of another boot: %v, %v", b, err)
	}
	for _, damaged := range []string{"", "{", "[]", `{"copies": 7}`, `{"copies": [{"ip": "nonsense"}]}`} {
		must(t, os.WriteFile(path, []byte(damaged), 0o600))
		if b, err := loadBook(path, now); err == nil || len(b.Copies) != 0 {
			t.Errorf("%q: %v, %v", damaged, b, err)
		} else {
			wantError(t, err, path)
		}
		New(Options{Now: boottime, State: path}) // goes on
	}
	must(t, saveBook("", book{}))
	wantError(t, saveBook("/proc/nothing/state.json", book{}), "make /proc/nothing writable")
}

// FuzzState: no file upsets an agent's start.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"boot":"` + bootID() + `","copies":[{"ip":"10.7.0.9","link":"eth0","until":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state.json")
		must(t, os.WriteFile(path, data, 0o600))
		b, _ := loadBook(path, 0)
		for _, c := range b.Copies {
			if !c.IP.IsValid() || c.Until > drainMax {
				t.Errorf("%v", c)
			}
		}
	})
}
