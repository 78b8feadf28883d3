package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// forwardTo wants one forward on the link, for a minute.
func forwardTo(vip, link, to string) lb.Forward {
	return lb.Forward{VIP: lb.Address{IP: netip.MustParseAddr(vip), Link: link}, To: netip.MustParseAddr(to),
		Until: boottime() + 60*second}
}

// hasTable says whether the kernel has our table.
func hasTable(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables", "netdev").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list tables: %v: %s", err, out)
	}
	return strings.Contains(string(out), forwardTable)
}

// cleanTable removes the table whatever the test did.
func cleanTable(t *testing.T) {
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "netdev", forwardTable).Run() })
}

// fakeNFT puts a program named nft before all others; it notes its input in the
// file that is returned, then runs the script.
func fakeNFT(t *testing.T, script string) (calls func() int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	text := "#!/bin/sh\necho call >>" + log + "\n" + script + "\n"
	must(t, os.WriteFile(filepath.Join(dir, "nft"), []byte(text), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Count(string(data), "call")
	}
}

// TestForwardRunsNFTOnlyForAChange: the wish comes with every refresh, once a
// second.
func TestForwardRunsNFTOnlyForAChange(t *testing.T) {
	calls := fakeNFT(t, "cat >/dev/null")
	f := New(Options{Now: boottime})
	one, two := forwardTo("192.0.2.10", "eth0", "192.0.2.1"), forwardTo("192.0.2.10", "eth0", "192.0.2.2")
	more := forwardTo("192.0.2.11", "eth0", "192.0.2.1")
	must(t, f.Forward(t.Context(), nil)) // a first one may sweep
	for _, story := range []struct {
		name string
		want []lb.Forward
		runs int
	}{
		{"first", []lb.Forward{one}, 1}, {"the same again", []lb.Forward{one}, 0}, {"another node", []lb.Forward{two}, 1},
		{"both", []lb.Forward{two, more}, 1}, {"none", nil, 1}, {"none again", nil, 0}, {"empty is none", []lb.Forward{}, 0},
		{"first again", []lb.Forward{one}, 1},
	} {
		before := calls()
		must(t, f.Forward(t.Context(), story.want))
		if got := calls() - before; got != story.runs {
			t.Errorf("%s: nft ran %d times, want %d", story.name, got, story.runs)
		}
	}
}

// TestForwardKeepsItsCallersSlice: a caller may change the slice afterwards.
func TestForwardKeepsItsCallersSlice(t *testing.T) {
	calls := fakeNFT(t, "cat >/dev/null")
	f := New(Options{Now: boottime})
	want := []lb.Forward{forwardTo("192.0.2.10", "eth0", "192.0.2.1")}
	must(t, f.Forward(t.Context(), want))
	want[0].To = netip.MustParseAddr("192.0.2.2")
	before := calls()
	must(t, f.Forward(t.Context(), want))
	if calls() == before {
		t.Error("the change in the caller's slice was taken for what the kernel has")
	}
}

// TestForwardErrors: each says what nft said and what to install, and the wish
// is tried again although it did not change.
func TestForwardErrors(t *testing.T) {
	want := []lb.Forward{forwardTo("192.0.2.10", "eth0", "192.0.2.1")}
	t.Run("refused", func(t *testing.T) {
		calls := fakeNFT(t, "cat >/dev/null; echo 'Could not process rule: Operation not supported' >&2; exit 1")
		f := New(Options{Now: boottime})
		for range 2 {
			err := f.Forward(t.Context(), want)
			for _, part := range []string{"Operation not supported", "nftables", "CONFIG_NFT_FWD_NETDEV"} {
				wantError(t, err, part)
			}
		}
		if got := calls(); got != 2 {
			t.Errorf("nft ran %d times for two failed wishes", got)
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		f := New(Options{Now: boottime})
		wantError(t, f.Forward(t.Context(), want), "nftables")
		// Without nft there is no table of ours: nothing to say once a second.
		idle := New(Options{Now: boottime})
		must(t, idle.Forward(t.Context(), nil))
	})
	t.Run("hung", func(t *testing.T) {
		fakeNFT(t, "exec sleep 20")
		f := New(Options{Now: boottime})
		begun := time.Now()
		wantError(t, f.Forward(t.Context(), want), "nft")
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("a hung nft held the address sink for %v", took)
		}
	})
	t.Run("no such link", func(t *testing.T) {
		cleanTable(t)
		newLab(t)
		f := New(Options{Now: boottime})
		wantError(t, f.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", "gone0", "10.7.0.2")}), "gone0")
		if hasTable(t) {
			t.Error("a refused table is there in part")
		}
	})
}

// rulesOf lists our table of forwards in our namespace.
func rulesOf(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "table", "netdev", forwardTable).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestForwardSweeps: a table that a killed agent left, and that no state
// explains, would send established connections away for ever.
func TestForwardSweeps(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	must(t, New(Options{Now: boottime}).Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", lab.link, "10.7.0.2")}))
	if !hasTable(t) {
		t.Fatal("no table to sweep")
	}
	next := New(Options{Now: boottime})
	must(t, next.Forward(t.Context(), nil))
	if hasTable(t) {
		t.Error("the table of a dead predecessor is still there")
	}
	// The kernel's rules are replaced, not added to.
	for _, to := range []string{"10.7.0.2", "10.7.0.3"} {
		must(t, next.Forward(t.Context(), []lb.Forward{forwardTo("10.7.0.9", lab.link, to)}))
	}
	if out := rulesOf(t); strings.Count(out, "fwd ip to") != 1 || !strings.Contains(out, "fwd ip to 10.7.0.3") {
		t.Errorf("the kernel has\n%s", out)
	}
}

// TestForwardKeepsKnownFlows: a change costs no flow that was known before, in a
// new agent's life either; only what is not wanted any more goes.
func TestForwardKeepsKnownFlows(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	state := filepath.Join(t.TempDir(), "state.json")
	l := New(Options{Now: boottime, State: state})
	a, b := forwardTo("10.7.0.8", lab.link, "10.7.0.2"), forwardTo("fd07::9", lab.link, "fd07::2")
	must(t, l.Forward(t.Context(), []lb.Forward{a, b}))
	const known = "fd07::3 . 1234 . fd07::9 . 6443"
	must(t, exec.Command("nft", "add", "element", "netdev", forwardTable, "mine-fd07--9-"+lab.link, "{", known, "}").Run())
	wantKnown := func(what string, forwards int) {
		t.Helper()
		out := rulesOf(t)
		if !strings.Contains(out, known) || strings.Count(out, "fwd ") != forwards {
			t.Errorf("%s: want %d forwards and the flow:\n%s", what, forwards, out)
		}
	}
	b.To = netip.MustParseAddr("fd07::3")
	must(t, l.Forward(t.Context(), []lb.Forward{a, b}))
	wantKnown("another node", 2)
	b.Until += 100 * second
	must(t, l.Forward(t.Context(), []lb.Forward{a, b}))
	wantKnown("later", 2)

	l = New(Options{Now: boottime, State: state})
	if got := l.Forwards(); fmt.Sprint(got) != fmt.Sprint([]lb.Forward{a, b}) {
		t.Errorf("a new agent finds %v", got)
	}
	calls := fakeNFT(t, "exit 1")
	must(t, l.Forward(t.Context(), []lb.Forward{b, a}))
	if calls() != 0 {
		t.Error("a new agent's same wish ran nft")
	}
	t.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	wantKnown("adopted", 2)
	must(t, l.Forward(t.Context(), []lb.Forward{b}))
	wantKnown("one less", 1)
	if out := rulesOf(t); strings.Contains(out, "10.7.0.8") {
		t.Errorf("left:\n%s", out)
	}
	must(t, l.Forward(t.Context(), nil))
	if hasTable(t) || len(l.Forwards()) != 0 {
		t.Errorf("left at the end: %v", l.Forwards())
	}
}

// TestForwardBesideALinkThatIsGone: a forward can be ended, and armed again on a
// link that was made anew.
func TestForwardBesideALinkThatIsGone(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	l := New(Options{Now: boottime})
	make := func() {
		must(t, exec.Command("ip", "link", "add", "gone0", "type", "veth").Run())
	}
	make()
	gone, other := forwardTo("10.7.0.8", "gone0", "10.7.0.2"), forwardTo("10.7.0.9", lab.link, "10.7.0.2")
	must(t, l.Forward(t.Context(), []lb.Forward{gone, other}))
	must(t, exec.Command("ip", "link", "del", "gone0").Run())
	must(t, l.Forward(t.Context(), []lb.Forward{other}))
	make()
	must(t, l.Forward(t.Context(), []lb.Forward{gone, other}))
	gone.To = netip.MustParseAddr("10.7.0.3")
	must(t, exec.Command("ip", "link", "del", "gone0").Run())
	wantError(t, l.Forward(t.Context(), []lb.Forward{gone, other}), "gone0")
	make()
	must(t, l.Forward(t.Context(), []lb.Forward{gone, other}))
	if out := rulesOf(t); strings.Count(out, "fwd ip to") != 2 {
		t.Errorf("the kernel has\n%s", out)
	}
	must(t, exec.Command("ip", "link", "del", "gone0").Run())
}

// TestForwardInAFlood: when the set is full a new connection goes to the old
// holder and lives there; those that are known stay.
func TestForwardInAFlood(t *testing.T) {
	eachFamily(t, func(t *testing.T, lab *lab, v lb.Address) {
		client := lab.peers[0]
		at := netip.AddrPortFrom(v.IP, 7000).String()
		a, b := lab.agent("a"), lab.agent("b")
		b.kill()
		b.env = []string{nodeSizeEnv + "=4"}
		b.start()
		serveAs(t, a.host, "a", at)
		serveAs(t, b.host, "b", at)
		a.hold(v)
		old := client.chat(at, "a")
		move(a, b, nil, v)
		known := client.chat(at, "b")
		for range 8 {
			lab.peers[0].in(func() error {
				conn, err := net.DialTimeout("tcp", at, 2*time.Second)
				if err == nil {
					defer conn.Close()
				}
				return err
			})
		}
		late := client.chat(at, "a")
		for what, k := range map[string]*chat{"old": old, "known": known, "late": late} {
			k.goesOn(t, what)
		}
	})
}

// TestForwardErrorLeavesWhatStands: a wish that the kernel refuses changes
// nothing, and nothing of it comes back after a restart.
func TestForwardErrorLeavesWhatStands(t *testing.T) {
	lab := newLab(t)
	cleanTable(t)
	state := filepath.Join(t.TempDir(), "state.json")
	l := New(Options{Now: boottime, State: state})
	one, bad := forwardTo("10.7.0.9", lab.link, "10.7.0.2"), forwardTo("10.7.0.8", "nosuch0", "10.7.0.2")
	must(t, l.Forward(t.Context(), []lb.Forward{one}))
	wantError(t, l.Forward(t.Context(), []lb.Forward{one, bad}), "nosuch0")
	for what, l := range map[string]*Links{"the same": l, "a new agent": New(Options{Now: boottime, State: state})} {
		if got := l.Forwards(); fmt.Sprint(got) != fmt.Sprint([]lb.Forward{one}) {
			t.Errorf("%s has %v", what, got)
		}
		must(t, l.Forward(t.Context(), []lb.Forward{one}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Forward(ctx, nil); !errors.Is(err, context.Canceled) && err == nil {
		t.Errorf("a context that has ended: %v", err)
	}
}
