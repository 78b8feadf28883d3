package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

// noon is when the tables below are drawn.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// holding is a holder's report with all there is; the stories change it.
func holding() report {
	return report{
		Status: agent.Status{
			Node: "n1", Group: "apiserver", VIPs: []string{"192.0.2.10"}, State: "Holding", Confirmed: true, Holder: "n1",
			Term: 7, HeldFor: 3600, Fence: 3.25,
			Proxy: lb.ProxyState{Serving: true, Up: []string{"s-10-0-0-11-6443", "s-10-0-0-12-6443"}},
			Members: []election.Member{
				{Node: "n1", Live: true}, {Node: "n3", Live: true}, {Node: "n2"},
			},
			Peers: []agent.PeerStatus{
				{Node: "n2", State: "unknown"},
				{Node: "n3", State: "up", Says: "Standby", Term: 7, Healthy: true, Heard: 600},
			},
			Moves: []agent.Move{{At: noon().Add(-time.Minute), Reason: election.Sure, Took: time.Second}},
			Last: &agent.Move{
				At: noon().Add(-time.Hour), Reason: election.Became, Cause: election.CauseMove, Took: 83456 * time.Microsecond,
			},
		},
		Hello:      helloReport{Precedence: true, Interval: "50ms"},
		HeldSince:  noon().Add(-90 * time.Minute),
		APIServers: []kube.ServerState{{Addr: "127.0.0.1:6443"}, {Addr: "10.0.0.12:6443", Suspect: true, Why: "refused"}},
	}
}

// TestPrintStatus: what `mooring status` shows, in full.
func TestPrintStatus(t *testing.T) {
	const head = "VIP         HOLDER  SINCE  STATE HERE           LAST MOVE  CAUSE  TOOK\n"
	const tail = "\nload balancer: serving, API servers up: s-10-0-0-11-6443 s-10-0-0-12-6443\n" +
		"this agent asks: 127.0.0.1:6443, 10.0.0.12:6443 (refused)\ncandidates, best first: n1, n3, n2 (not live)\n" +
		"\nhellos: every 50ms, with the highest priority\n" +
		"PEER  HELLOS   SAYS             SINCE\nn2    unknown  -                -\nn3    up       Standby, term 7  10m\n"
	stories := []struct {
		name   string
		change func(*report)
		want   string
	}{
		{"a holder", func(*report) {},
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" + tail},
		{"a holder of two VIPs", func(r *report) { r.VIPs = []string{"192.0.2.10", "2001:db8::10"} },
			"VIP           HOLDER  SINCE  STATE HERE           LAST MOVE  CAUSE  TOOK\n" +
				"192.0.2.10    n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				"2001:db8::10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" + tail},
		{"no API server confirms", func(r *report) { r.Confirmed = false },
			"VIP         HOLDER  SINCE  STATE HERE                                    LAST MOVE  CAUSE  TOOK\n" +
				"192.0.2.10  n1      90m    Holding (no API server confirms), fence 3.2s  60m ago    move   83ms\n" + tail},
		{"a standby whose last move was to be fenced", func(r *report) {
			r.Holder, r.State, r.HeldFor, r.Fence = "n3", "Standby", 0, 0
			r.Last = &agent.Move{At: noon().Add(-2 * time.Hour), Reason: election.Fenced, Cause: election.CauseFenced}
		}, "VIP         HOLDER  SINCE  STATE HERE  LAST MOVE  CAUSE   TOOK\n" +
			"192.0.2.10  n3      90m    Standby     2h ago     fenced  -\n" + tail},
		{"one that knows nothing yet", func(r *report) {
			*r = report{Status: agent.Status{VIPs: r.VIPs, State: "Standby", Plan: lb.NoBackends}}
		}, "VIP         HOLDER   SINCE  STATE HERE  LAST MOVE  CAUSE  TOOK\n" +
			"192.0.2.10  unknown  -      Standby     -          -      -\n" +
			"\nload balancer: NOT serving (NoAPIServersKnown), the holder's own API server answers\n" +
			"this agent asks: none\ncandidates, best first: none\n"},
		{"balancing is off", func(r *report) { r.Plan, r.Proxy = lb.NotAsked, lb.ProxyState{} },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				strings.Replace(tail, "serving, API servers up: s-10-0-0-11-6443 s-10-0-0-12-6443",
					"off, the holder's own API server answers", 1)},
		{"HAProxy is down", func(r *report) { r.Plan, r.Proxy = lb.ProxyIsDown, lb.ProxyState{Why: "port 7443 is taken"} },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				strings.Replace(tail, "serving, API servers up: s-10-0-0-11-6443 s-10-0-0-12-6443",
					"NOT serving (port 7443 is taken), the holder's own API server answers", 1)},
		{"no API server passes its check", func(r *report) { r.Proxy.Up = nil },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				strings.Replace(tail, "s-10-0-0-11-6443 s-10-0-0-12-6443", "none", 1)},
		{"claimed without an API server", func(r *report) { r.Confirmed, r.Provisional = false, true },
			"VIP         HOLDER  SINCE  STATE HERE                                                 LAST MOVE  CAUSE  TOOK\n" +
				"192.0.2.10  n1      90m    Holding (claimed while no API server answers), fence 3.2s  60m ago    move   83ms\n" + tail},
		{"a node is drained", func(r *report) { r.Members[2].Drain = true },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				strings.Replace(tail, "n2 (not live)", "n2 (drained)", 1)},
		{"connections outlive a move", func(r *report) { r.Forwards = "n3" },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" +
				strings.Replace(tail, "\nhellos", "connections made before the last move go on through n3\n\nhellos", 1)},
		{"hellos without priority, some refused, and a peer that is ill", func(r *report) {
			r.Hello = helloReport{Interval: "300ms", Refused: map[string]map[string]uint64{
				"strangers": {"ttl": 3}, "n3": {"mac": 12, "key": 1},
			}}
			r.Peers = r.Peers[1:]
			r.Peers[0] = agent.PeerStatus{Node: "n3", State: "down", Says: "Draining", Term: 6, Heard: 4.4}
		}, head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" + tail[:strings.Index(tail, "hellos")] +
			"hellos: every 300ms, without a higher priority, so a dead holder is noticed later; " +
			"refused of n3: key 1, n3: mac 12, strangers: ttl 3\n" +
			"PEER  HELLOS  SAYS                           SINCE\nn3    down    Draining, term 6, not serving  4s\n"},
		{"alone", func(r *report) { r.Peers = nil },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" + tail[:strings.Index(tail, "PEER")]},
		{"complaints", func(r *report) { r.Complaints = []string{"one thing is wrong", "another too"} },
			head + "192.0.2.10  n1      90m    Holding, fence 3.2s  60m ago    move   83ms\n" + tail +
				"! one thing is wrong\n! another too\n"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			r := holding()
			s.change(&r)
			var b bytes.Buffer
			must(t, printStatus(&b, r, noon()))
			if got := b.String(); got != s.want {
				t.Errorf("got\n%s\nwant\n%s", got, s.want)
			}
		})
	}
}

// TestAgo: as kubectl prints ages.
func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1999 * time.Millisecond: "1s", 119 * time.Second: "119s", 2 * time.Minute: "2m",
		119*time.Minute + 59*time.Second: "119m", 2 * time.Hour: "2h", 47*time.Hour + 59*time.Minute: "47h",
		48 * time.Hour: "2d", 1000 * time.Hour: "41d",
		// Clocks of two nodes differ: never "-3s".
		-3 * time.Second: "0s",
	} {
		if got := ago(noon(), noon().Add(-d)); got != want {
			t.Errorf("%v ago is %s, want %s", d, got, want)
		}
	}
}

// answering is a socket that answers like an agent; it gives the configuration
// that leads there.
func answering(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	dir := t.TempDir()
	must(t, writeSite(dir, authority(t), ""), os.Mkdir(filepath.Join(dir, "run"), 0o755))
	l, err := net.Listen("unix", filepath.Join(dir, "run", socketName))
	must(t, err)
	s := http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return filepath.Join(dir, "agent.yaml")
}

// TestStatusCommand: the way over the socket, as a table and as JSON.
func TestStatusCommand(t *testing.T) {
	path := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method+" "+r.URL.Path != "GET /status" {
			http.Error(w, "asked for "+r.URL.Path, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(holding())
	})
	var table, machine bytes.Buffer
	must(t, cmdStatus(t.Context(), []string{"--config", path}, &table),
		cmdStatus(t.Context(), []string{"--config", path, "-o", "json"}, &machine))
	if !strings.Contains(table.String(), "Holding, fence 3.2s") {
		t.Errorf("table:\n%s", table.String())
	}
	var r report
	must(t, json.Unmarshal(machine.Bytes(), &r))
	if r.Holder != "n1" || !r.HeldSince.Equal(holding().HeldSince) || len(r.Members) != 3 || r.Last.Took == 0 {
		t.Errorf("JSON: %s", machine.String())
	}
}

// TestStatusOfSomethingElse: another version, or another program, on the socket.
func TestStatusOfSomethingElse(t *testing.T) {
	for body, want := range map[string]string{
		"hello": "not a status", `["a list"]`: "not a status",
	} {
		path := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
		err := cmdStatus(t.Context(), []string{"--config", path}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}

// TestMoveCommand: the target goes over as it was written, the outcome comes
// back as text or as the error.
func TestMoveCommand(t *testing.T) {
	path := answering(t, func(w http.ResponseWriter, r *http.Request) {
		switch to := r.URL.Query().Get("to"); {
		case r.Method+" "+r.URL.Path != "POST /move":
			http.Error(w, "asked for "+r.URL.Path, http.StatusNotFound)
		case to == "a b&c":
			_, _ = w.Write([]byte("moved to a b&c in 80ms\n"))
		default:
			http.Error(w, "MoveDropped "+to, http.StatusConflict)
		}
	})
	var out bytes.Buffer
	must(t, cmdMove(t.Context(), []string{"--config", path, "--to", "a b&c"}, &out))
	if out.String() != "moved to a b&c in 80ms\n" {
		t.Errorf("out %q", out.String())
	}
	err := cmdMove(t.Context(), []string{"--config", path, "--to", "n9"}, &out)
	if err == nil || err.Error() != "MoveDropped n9" {
		t.Errorf("error %v, want what the agent said and no more", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cmdMove(ctx, []string{"--config", path}, &out); !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("interrupted: %v", err)
	}
}
