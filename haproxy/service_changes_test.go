package haproxy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

const statesHead = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port\n"

func TestParseStandings(t *testing.T) {
	const text = "\n" + statesHead +
		"3 be_a 77 s-1 10.0.0.1 2 0 1 1 80\n3 be_a 78 s-2 10.0.0.2 2 8 1 1 80\n" +
		"3 be_a 79 s-3 10.0.0.3 0 1 1 1 80\n3 be_a 80 s-4 10.0.0.4 2 0 0 0 80\n\n" +
		statesHead + "4 be_b 77 s-1 10.0.0.1 0 32 1 1 80\n\n"
	have := standings{}
	if err := parseStandings(text, have); err != nil {
		t.Fatal(err)
	}
	want := standings{
		"be_a": {{name: "s-1"}, {name: "s-2", drain: true}, {name: "s-3", maint: true}, {name: "s-4", drain: true}},
		"be_b": {{name: "s-1", maint: true}},
	}
	if d := cmp.Diff(want, have, cmp.AllowUnexported(standing{})); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "Can't find backend.\n", "1\n", "# be_name x\n1 2 3 4 5 6 7 8 9\n",
		strings.Replace(statesHead, "srv_admin_state", "other", 1) + "3 be_a 77 s-1 10.0.0.1 2 0 1 1 80\n",
		statesHead + "3 be_a 77 s-1 10.0.0.1 2 x 1 1 80\n"} {
		if err := parseStandings(bad, standings{}); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	// A backend without servers has a header alone.
	if err := parseStandings(statesHead, have); err != nil {
		t.Error(err)
	}
}

func TestServiceChanges(t *testing.T) {
	make1 := func(check lb.CheckKind, list ...lb.Backend) []*block {
		f := service("a", "192.0.2.1:80", func(f *lb.Front) { f.Check.Kind = check })
		f.Backends = list
		return compile(Config{Name: "x", Dir: "/run/x", Frontends: []lb.Frontend{f}}, nil).blocks
	}
	one, two, drained := at("10.0.0.1:80"), at("10.0.0.2:80"), at("10.0.0.2:80")
	drained.Drain = true
	const s1, s2 = "be_a/s-10-0-0-1-80", "be_a/s-10-0-0-2-80"
	for _, c := range []struct {
		name string
		have []standing
		want []*block
		out  []string
		done bool
	}{
		{"nothing", []standing{{name: "s-10-0-0-1-80"}}, make1("", one), nil, true},
		{"a new one", []standing{{name: "s-10-0-0-1-80"}}, make1("", one, two), []string{"add " + s2, "ready " + s2}, false},
		{"a new one that drains", nil, make1("", drained), []string{"add " + s2, "drain " + s2}, false},
		{"it drains", []standing{{name: "s-10-0-0-2-80"}}, make1("", drained), []string{"drain " + s2}, false},
		{"it drains already", []standing{{name: "s-10-0-0-2-80", drain: true}}, make1("", drained), nil, true},
		{"no more", []standing{{name: "s-10-0-0-2-80", drain: true}}, make1("", two), []string{"ready " + s2}, false},
		{"back from maintenance", []standing{{name: "s-10-0-0-2-80", maint: true}}, make1("", two), []string{"ready " + s2},
			false},
		{"back to drain", []standing{{name: "s-10-0-0-2-80", maint: true, drain: true}}, make1("", drained),
			[]string{"drain " + s2}, false},
		{"gone", []standing{{name: "s-10-0-0-1-80"}, {name: "s-10-0-0-2-80"}}, make1("", one),
			[]string{"disable " + s2, "delete " + s2}, false},
		{"gone, with connections", []standing{{name: "s-10-0-0-1-80", maint: true}}, make1(""), []string{"delete " + s1},
			true},
		{"first in, then out", []standing{{name: "s-10-0-0-1-80"}}, make1("", drained),
			[]string{"add " + s2, "drain " + s2, "disable " + s1, "delete " + s1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := serviceChanges(standings{"be_a": c.have}, c.want)
			var out []string
			for _, ch := range got {
				out = append(out, string(ch.action)+" "+ch.backend+"/"+ch.server)
				if err := ch.check(); err != nil {
					t.Error(err)
				}
			}
			if d := cmp.Diff(c.out, out); d != "" || settled(got) != c.done {
				t.Error(d, settled(got))
			}
		})
	}
	// With a check there is the fallback too, and the check is switched on.
	var all []string
	for _, ch := range serviceChanges(standings{}, make1(lb.CheckTCP, one)) {
		all = append(all, ch.commands())
	}
	text := strings.Join(all, "\n")
	for _, part := range []string{"add server be_a/", "add server all_a/",
		"enable health " + s1 + ";set server " + s1 + " state ready"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	if strings.Contains(text, "enable health all_a") || strings.Count(text, " check inter ") != 1 {
		t.Errorf("the fallback has a check:\n%s", text)
	}
}

func TestLines(t *testing.T) {
	var commands []string
	for range 1000 {
		commands = append(commands, "del server be_a/"+strings.Repeat("x", 50))
	}
	got := lines(commands)
	for _, l := range got {
		if len(l) > maxLine {
			t.Errorf("a line of %d bytes", len(l))
		}
	}
	if back := strings.Split(strings.Join(got, ";"), ";"); !slices.Equal(back, commands) || len(got) > 10 {
		t.Errorf("%d commands in %d lines", len(back), len(got))
	}
	if lines(nil) != nil {
		t.Error("nothing has lines")
	}
	if long := lines([]string{"a", strings.Repeat("b", 2*maxLine), "c"}); len(long) != 3 {
		t.Errorf("%d lines", len(long))
	}
}

func TestRefusals(t *testing.T) {
	const text = "\nNew server registered.\n\n\nServer deleted.\nServer still has connections attached to it, cannot remove it.\n" +
		"No such server.\n"
	if got := refusals(text); !slices.Equal(got, []string{"No such server."}) {
		t.Errorf("%q", got)
	}
}

// Texts of HAProxy 2.6.12.
func TestTablesReady(t *testing.T) {
	const line = "0x56: [22/Nov/2026:23:00:00] id=mooring disabled=0 flags=0x%s resync_timeout=<NEVER> task_calls=5\n"
	for flags, want := range map[string]bool{"10013": true, "3": true, "10011": false, "0": false, "2": false,
		"zz": false} {
		if got := tablesReady("\n" + strings.Replace(line, "%s", flags, 1) + "  0x57: id=a(local) flags=0x3\n"); got != want {
			t.Errorf("%s: %v", flags, got)
		}
	}
	if !tablesReady("\n") {
		t.Error("without peers there is something to wait for")
	}
}

func TestTablesThere(t *testing.T) {
	rates := "# table: fe_s-1-80, type: ipv6, size:102400, used:1\n"
	for text, want := range map[string]bool{
		"": false, rates: false, rates + "# table: be_s-1-80, type: ipv6, size:102400, used:0\n": true,
	} {
		if got := tablesThere(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func TestDescription(t *testing.T) {
	if id, err := description("Name: HAProxy\ndescription: mooring-x-1 \nother: 1\n"); id != "mooring-x-1" || err != nil {
		t.Errorf("%q %v", id, err)
	}
	if _, err := description("Unknown command"); err == nil {
		t.Error("nonsense was read")
	}
}

func TestStretch(t *testing.T) {
	for old, want := range map[int]time.Duration{
		0: time.Second, 7: time.Second, 8: 2 * time.Second, 9: 4 * time.Second, 14: mostGap, 1000: mostGap,
	} {
		if got := stretch(time.Second, old); got != want {
			t.Errorf("%d old workers: %v", old, got)
		}
	}
	if stretch(0, 100) != 0 {
		t.Error("no gap became one")
	}
	const head = "#<PID> <type> <reloads>\n100  master  3 [failed: 0]  0d  2.6\n# workers\n105  worker  0  0d  2.6\n"
	for text, want := range map[string]int{
		"": 0, head + "# programs\n": 0,
		head + "# old workers\n101  worker  1  0d  2.6\n102  worker  2  0d  2.6\n# programs\n\n": 2,
	} {
		if got := oldWorkers(text); got != want {
			t.Errorf("%d of %q", got, text)
		}
	}
}
