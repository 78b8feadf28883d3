package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

// goodKey is long enough for a hello key; no node has it.
const goodKey = "0123456789abcdef of the tests"

// TestAddressOf: the VIP's family first, then the other; what no hello can be
// sent to is passed over.
func TestAddressOf(t *testing.T) {
	for _, s := range []struct {
		name, vip string
		addrs     []string
		want      string
	}{
		{"the only one", "192.0.2.10", []string{"192.0.2.2"}, "192.0.2.2"},
		{"of two families", "192.0.2.10", []string{"2001:db8::2", "192.0.2.2"}, "192.0.2.2"},
		{"of two families, IPv6", "2001:db8::10", []string{"192.0.2.2", "2001:db8::2"}, "2001:db8::2"},
		{"the first of its family", "192.0.2.10", []string{"192.0.2.3", "192.0.2.2"}, "192.0.2.3"},
		{"the first of another", "192.0.2.10", []string{"2001:db8::3", "2001:db8::2"}, "2001:db8::3"},
		{"behind garbage", "192.0.2.10", []string{"", "n2", "192.0.2.2/24", "127.0.0.1", "169.254.0.2", "fe80::2",
			"2001:db8::2%eth0", "ff02::1", "0.0.0.0", "192.0.2.2"}, "192.0.2.2"},
		{"none", "192.0.2.10", nil, ""},
		{"garbage alone", "192.0.2.10", []string{"n2", "::1"}, ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			got, ok := addressOf(election.Member{Addrs: s.addrs}, netip.MustParseAddr(s.vip))
			if text := map[bool]string{true: got.String()}[ok]; text != s.want {
				t.Errorf("got %q, want %q", text, s.want)
			}
		})
	}
}

// TestCandidates: whom a cold site knows: the members of the last run, and those
// of the configuration that are not among them, but for this node.
func TestCandidates(t *testing.T) {
	peers := []config.Peer{
		{Node: "n1", Addr: netip.MustParseAddr("192.0.2.1")},
		{Node: "n2", Addr: netip.MustParseAddr("192.0.2.2"), MAC: "02:00:00:00:00:02"},
		{Node: "n3", Addr: netip.MustParseAddr("2001:db8::3")},
	}
	kept := election.Member{
		Node: "n2", MACs: []string{"02:00:00:00:00:99"}, Addrs: []string{"192.0.2.22"},
		Live: true, Priority: 7,
	}
	file := func(v any) string {
		data, err := json.Marshal(v)
		must(t, err)
		return string(data)
	}
	const two, three = "n2 [02:00:00:00:00:02] [192.0.2.2] true", "n3 [] [2001:db8::3] true"
	for _, s := range []struct {
		name, file string
		peers      []config.Peer
		want       []string
	}{
		{"nobody", "", nil, nil},
		{"the configuration's", "", peers, []string{two, three}},
		{"those of the last run", file([]election.Member{kept}), nil, []string{"n2 [02:00:00:00:00:99] [192.0.2.22] true"}},
		{"both: the cluster knew better", file([]election.Member{kept}), peers,
			[]string{"n2 [02:00:00:00:00:99] [192.0.2.22] true", three}},
		{"this node was kept", file([]election.Member{{Node: "n1", Live: true}}), peers, []string{"n1 [] [] true", two, three}},
		{"garbage on disk", `[{"node":`, peers, []string{two, three}},
	} {
		t.Run(s.name, func(t *testing.T) {
			n := &node{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			n.cfg.Node, n.cfg.StateDir, n.cfg.Peers = "n1", t.TempDir(), s.peers
			if s.file != "" {
				must(t, os.WriteFile(n.membersFile(), []byte(s.file), 0o600))
			}
			var got []string
			for _, m := range n.candidates() {
				got = append(got, fmt.Sprint(m.Node, " ", m.MACs, " ", m.Addrs, " ", m.Live))
			}
			if !slices.Equal(got, s.want) {
				t.Errorf("got  %q\nwant %q", got, s.want)
			}
		})
	}
}

// speaking runs the node's hellos until the test ends.
func (n *node) speaking(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.hello.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		must(t, <-ended)
	})
	eventually(t, 5*time.Second, "the hellos run", func() bool { return n.hello.Status().Why != "not running" })
}

// keyless says whether the hellos lack a key.
func (n *node) keyless() bool { return strings.Contains(n.hello.Status().Why, "no hello key") }

// TestOnKeys: a key of the Secret comes into force and is kept, for nobody else
// to read; what is none is said, and changes nothing.
func TestOnKeys(t *testing.T) {
	n := composed(t, "")
	n.speaking(t)
	if !n.keyless() {
		t.Fatalf("hellos before there is a key: %q", n.hello.Status().Why)
	}
	for _, bad := range []string{"", "# a comment", "too short"} {
		n.onKeys(bad)
		if got := strings.Join(n.complained(), "\n"); !strings.Contains(got, "Secret "+n.cfg.Namespace+"/mooring-hello: ") ||
			strings.Contains(got, "too short") {
			t.Errorf("after %q it complains %q", bad, got)
		}
		if _, err := os.Stat(n.keysFile()); err == nil {
			t.Errorf("%q was kept", bad)
		}
	}
	n.onKeys(goodKey + "\nanother key, twenty bytes")
	eventually(t, 5*time.Second, "the key is in force", func() bool { return !n.keyless() })
	if got := strings.Join(n.complained(), "\n"); strings.Contains(got, "Secret") {
		t.Errorf("after a good key it complains %q", got)
	}
	st, err := os.Stat(n.keysFile())
	must(t, err)
	text, err := os.ReadFile(n.keysFile())
	must(t, err)
	if st.Mode().Perm() != 0o600 || string(text) != goodKey+"\nanother key, twenty bytes" {
		t.Errorf("mode %v, content %q", st.Mode(), text)
	}
	n.onKeys("too short")
	if now, err := os.ReadFile(n.keysFile()); err != nil || string(now) != string(text) || n.keyless() {
		t.Errorf("after a bad key: kept %q, %v, without a key %t", now, err, n.keyless())
	}
	n.cfg.StateDir = filepath.Join(n.cfg.StateDir, "gone")
	n.onKeys(goodKey) // a disk that is full is said and nothing else
	if got := strings.Join(n.complained(), "\n"); strings.Contains(got, "Secret") {
		t.Errorf("without a disk it complains %q", got)
	}
}

// TestKeptKeys: an agent that starts without an API server has the key of its
// last run; a kept file that is damaged is no reason not to start.
func TestKeptKeys(t *testing.T) {
	for name, keyless := range map[string]bool{"good": false, "bad": true} {
		t.Run(name, func(t *testing.T) {
			text := map[bool]string{false: goodKey, true: "short"}[keyless]
			n := composed(t, "")
			must(t, os.WriteFile(n.keysFile(), []byte(text), 0o600))
			again, err := newNode(n.cfg, &supervisor{
				log: slog.New(slog.NewTextHandler(t.Output(), nil)), registry: prometheus.NewRegistry(),
			})
			must(t, err)
			again.speaking(t)
			if again.keyless() != keyless {
				t.Errorf("without a key: %t, want %t", again.keyless(), keyless)
			}
		})
	}
}

// TestKeyFile: a file that was asked for must be there and hold keys; the error
// names the setting and the file, and no key.
func TestKeyFile(t *testing.T) {
	n := composed(t, "")
	path := filepath.Join(t.TempDir(), "hello.key")
	n.cfg.Hello.KeyFile, n.keys = path, nil
	if err := n.connectPeers(); err == nil || !strings.Contains(err.Error(), "hello.keyFile: ") ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("missing: %v", err)
	}
	must(t, os.WriteFile(path, []byte("secret"), 0o600))
	if err := n.connectPeers(); err == nil || !strings.Contains(err.Error(), "hello.keyFile: "+path+": line 1") ||
		strings.Contains(err.Error(), "secret") {
		t.Errorf("too short: %v", err)
	}
	must(t, os.WriteFile(path, []byte(goodKey), 0o600), n.connectPeers())
	if n.keys != nil {
		t.Error("the Secret is followed too")
	}
	n.speaking(t)
	if n.keyless() {
		t.Error("no key after reading one")
	}
}

// TestKeyFileIsFollowed: a new key needs no restart, a bad one is said until it is
// put right.
func TestKeyFileIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{log: slog.New(slog.NewTextHandler(t.Output(), nil)), complaints: map[string]string{}}
		n.cfg.Hello.KeyFile = filepath.Join(t.TempDir(), "hello.key")
		n.hello = hello.New(hello.Options{Node: "n1", Now: boottime})
		must(t, os.WriteFile(n.cfg.Hello.KeyFile, []byte(goodKey), 0o600))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.followKeys(ctx) }()
		complaint := func() string {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.complaints["keys"]
		}
		for _, s := range []struct{ text, complaint string }{
			{goodKey, ""},
			{"short", "line 1: the hello key is 5 bytes"},
			{"short again", "the keys read before stay in force"},
			{goodKey + "\n" + goodKey + " too", ""},
		} {
			time.Sleep(time.Second)
			must(t, os.WriteFile(n.cfg.Hello.KeyFile, []byte(s.text), 0o600))
			time.Sleep(6 * time.Second)
			got := complaint()
			if (got == "") != (s.complaint == "") || !strings.Contains(got, s.complaint) {
				t.Errorf("with %q it complains %q, want %q", s.text, got, s.complaint)
			}
		}
		must(t, os.Remove(n.cfg.Hello.KeyFile))
		time.Sleep(6 * time.Second)
		if got := complaint(); !strings.Contains(got, "hello.keyFile: ") || !strings.Contains(got, "no such file") {
			t.Errorf("without the file it complains %q", got)
		}
		stop()
		must(t, <-ended)
	})
}

// TestSpeakWith: the best-ranked members, at most sixteen, on the first VIP's
// link; never this node, nor one that has no address.
func TestSpeakWith(t *testing.T) {
	n := composed(t, "")
	n.speaking(t)
	all := []election.Member{{Node: "n1", Addrs: []string{"10.9.0.1"}}, {Node: "lost", Addrs: []string{"garbage"}}}
	for i := range 30 {
		all = append(all, election.Member{Node: fmt.Sprintf("m%d", i), Addrs: []string{fmt.Sprintf("10.9.0.%d", 50+i)}})
	}
	// Two live ones are among them whatever their rank; one has the address of a
	// node that is gone for good.
	want := []string{}
	for _, m := range election.Ranked(group, []election.Member{
		{Node: "live1", Addrs: []string{"10.9.0.50"}, Live: true}, {Node: "live2", Addrs: []string{"10.9.0.40"}, Live: true}}) {
		all, want = append(all, m), append(want, m.Node+" "+m.Addrs[0]+" node0")
	}
	for _, m := range election.Ranked(group, all) {
		if m.Node[0] == 'm' && m.Node != "m0" && len(want) < 16 {
			want = append(want, m.Node+" "+m.Addrs[0]+" node0")
		}
	}
	n.deliver(election.Members{All: all})
	var got []string
	eventually(t, 5*time.Second, "the peers are known", func() bool {
		got = nil
		for _, p := range n.hello.Status().Peers {
			got = append(got, fmt.Sprint(p.Node, " ", p.Addr, " ", p.Link))
		}
		return len(got) > 0
	})
	if !slices.Equal(got, want) {
		t.Errorf("it speaks with\n%q, want\n%q", got, want)
	}
}

// TestOnHello: a peer's word reaches the machine, and ends the complaint that it
// is not heard.
func TestOnHello(t *testing.T) {
	inStand(t, false, func(t *testing.T, s *stand) {
		n := &node{agent: s.agent, complaints: map[string]string{"hello-n2": "blocked", "hello-n3": "blocked"}}
		say := election.Say{Phase: election.Holding, Transitions: 7, Healthy: true}
		n.onHello(hello.Change{Node: "n2", State: election.PeerUp, Heard: s.now(),
			Groups: map[string]election.Say{group: say, "other": {}}})
		n.onHello(hello.Change{Node: "n3", State: election.PeerDown})
		synctest.Wait()
		want := []agent.PeerStatus{
			{Node: "n2", State: "up", Says: "Holding", Term: 7, Healthy: true}, {Node: "n3", State: "down"},
		}
		if got := s.agent.Status().Peers; !slices.Equal(got, want) {
			t.Errorf("peers %+v, want %+v", got, want)
		}
		if n.complaints["hello-n2"] != "" || n.complaints["hello-n3"] == "" {
			t.Errorf("complaints %q", n.complaints)
		}
		n.onTaints(kube.Unfit{Out: []string{"n2"}})
		n.onRival(lb.Claim{MAC: []byte{2, 0, 0, 0, 0, 9}})
		synctest.Wait() // the machine takes them
	})
}

// TestHelloComplaints: what keeps a takeover slow, with the way out; a node that
// was just started, or that is not there, is no case.
func TestHelloComplaints(t *testing.T) {
	inStand(t, false, func(t *testing.T, s *stand) {
		n := &node{agent: s.agent}
		n.cfg.Hello.Port = 7444
		silent := func(node, why string) hello.PeerStatus {
			return hello.PeerStatus{Node: node, Addr: netip.MustParseAddr("192.0.2.2"), Link: "eth0", Why: why}
		}
		up := silent("n2", "")
		up.State = election.PeerUp
		const never = "hellos of n2 (192.0.2.2) never came: open UDP port 7444 between the nodes on eth0, and give them one key"
		for _, st := range []struct {
			name string
			age  time.Duration
			said hello.Status
			want []string
		}{
			{"nothing wrong", time.Hour, hello.Status{Peers: []hello.PeerStatus{up}}, nil},
			{"no key", 0, hello.Status{Why: "silent and deaf"}, []string{"hellos: silent and deaf"}},
			{"never heard", time.Hour, hello.Status{Peers: []hello.PeerStatus{silent("n2", "")}}, []string{never}},
			{"refused", time.Hour, hello.Status{Peers: []hello.PeerStatus{silent("n2", "another key")}},
				[]string{never + " (another key)"}},
			{"just started", unheardAfter - time.Second, hello.Status{Peers: []hello.PeerStatus{silent("n2", "")}}, nil},
			{"not live", time.Hour, hello.Status{Peers: []hello.PeerStatus{silent("n3", "")}}, nil},
			{"no member", time.Hour, hello.Status{Peers: []hello.PeerStatus{silent("n9", "")}}, nil},
		} {
			n.born = boottime() - st.age
			if got := n.helloComplaints(st.said); !slices.Equal(got, st.want) {
				t.Errorf("%s: %q, want %q", st.name, got, st.want)
			}
		}
	})
}

// TestForwarding: an earlier run's forwards are known by the node that they lead
// to, if it is known.
func TestForwarding(t *testing.T) {
	n := composed(t, "")
	if node, until := n.forwarding(n.candidates()); node != "" || until != 0 {
		t.Errorf("nothing stands: %q until %v", node, until)
	}
	end := boottime() + time.Minute
	must(t, keep(n.file("drain.json"), map[string]any{"boot": agent.BootID(), "forwards": []any{
		map[string]any{"ip": "10.9.0.10", "link": "node0", "to": "10.9.0.2", "until": end},
	}}))
	must(t, keep(n.membersFile(), []election.Member{
		{Node: "n3", Addrs: []string{"10.9.0.3"}}, {Node: "n2", Addrs: []string{"2001:db8::2", "10.9.0.2"}},
	}))
	again, err := newNode(n.cfg, &supervisor{
		log: slog.New(slog.NewTextHandler(t.Output(), nil)), registry: prometheus.NewRegistry(),
	})
	must(t, err)
	if node, until := again.forwarding(again.candidates()); node != "n2" || until != end {
		t.Errorf("%q until %v, want n2 until %v", node, until, end)
	}
	if node, _ := again.forwarding([]election.Member{{Node: "n3", Addrs: []string{"10.9.0.3"}}}); node != "" {
		t.Errorf("to a node that is not known: %q", node)
	}
}

// TestReportOf: the counts of refused datagrams by whom they came from.
func TestReportOf(t *testing.T) {
	mac := map[string]uint64{"mac": 3}
	got, err := json.Marshal(reportOf(hello.Status{
		Precedence: true, Interval: 50 * time.Millisecond, Stalls: 2, Rejected: map[string]uint64{"ttl": 1},
		Peers: []hello.PeerStatus{{Node: "n2", Rejected: mac}, {Node: "n3", Rejected: map[string]uint64{}}},
	}))
	must(t, err)
	want := `{"precedence":true,"interval":"50ms","stalls":2,"refused":{"n2":{"mac":3},"strangers":{"ttl":1}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, err = json.Marshal(reportOf(hello.Status{Interval: 300 * time.Millisecond})); err != nil ||
		string(got) != `{"precedence":false,"interval":"300ms","stalls":0}` {
		t.Errorf("with nothing refused: %s, %v", got, err)
	}
}

// TestWatchHealth: without HAProxy it is this node's API server that must serve.
func TestWatchHealth(t *testing.T) {
	n := composed(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	must(t, n.watchHealth(ctx))
	if got := strings.Join(n.complained(), "\n"); !strings.Contains(got, "this node's API server 127.0.0.1:6443") {
		t.Errorf("it complains %q", got)
	}
	n.complain("health", "")
	n.cfg.APIServer.Balance = config.BalanceHAProxy
	must(t, n.watchHealth(t.Context())) // at once
	if got := n.complained(); len(got) > 0 {
		t.Errorf("with HAProxy it complains %q", got)
	}
}

// TestUnfit: a node that is not ready shall hold no Services; the API servers' VIP
// does not care.
func TestUnfit(t *testing.T) {
	inStand(t, false, func(t *testing.T, s *stand) {
		n := &node{agent: s.agent, services: &services{}}
		n.services.open.Store(&[]*share{})
		n.onTaints(kube.Unfit{Out: []string{"n1"}, Off: []string{"n2"}, NotReady: []string{"n3"}})
		want := election.Taints{Out: []string{"n1"}, Leave: []string{"n2", "n3"}}
		if !reflect.DeepEqual(n.services.taints, want) {
			t.Errorf("groups of Services are told %+v, want %+v", n.services.taints, want)
		}
		synctest.Wait()
	})
}
