package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sameAddr lets cmp compare values of netip, which have no exported fields.
var sameAddr = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

// minimalConfig is what minimal.yaml says, on a host named n1.
func minimalConfig() Config {
	c := defaults()
	c.Kubeconfig = "/etc/kubernetes/mooring.conf"
	c.Node = "n1"
	c.APIServer.VIPs = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
	return c
}

func TestMinimal(t *testing.T) {
	got, err := parse("minimal.yaml", []byte(Minimal()), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(minimalConfig(), got, sameAddr); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(Minimal(), "\n"); n != 5 {
		t.Errorf("minimal.yaml has %d lines, want 5", n)
	}
}

// TestReferenceIsTheDefaults holds the documentation to the program: but for
// the fields without default, reference.yaml says what is true without it.
func TestReferenceIsTheDefaults(t *testing.T) {
	got, err := parse("reference.yaml", []byte(Reference()), "n1")
	if err != nil {
		t.Fatal(err)
	}
	want := minimalConfig()
	want.Interface = "eth0"
	want.APIServer.VIPs = append(want.APIServer.VIPs, netip.MustParseAddr("2001:db8::10"))
	for _, s := range []string{"10.0.0.11:6443", "10.0.0.12:6443", "10.0.0.13:6443"} {
		want.APIServer.Servers = append(want.APIServer.Servers, netip.MustParseAddrPort(s))
	}
	want.Witnesses = []netip.Addr{netip.MustParseAddr("10.0.0.250")}
	want.Services.AcceptedClasses = []string{"example.com/lb"}
	want.Peers = []Peer{
		{Node: "n2", Addr: netip.MustParseAddr("10.0.0.12"), MAC: "52:54:00:00:00:12"},
		{Node: "n3", Addr: netip.MustParseAddr("10.0.0.13")},
	}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Error(diff)
	}
}

// TestReferenceMentionsEveryField reads reference.yaml as text: each field
// stands there at its place, below a comment.
func TestReferenceMentionsEveryField(t *testing.T) {
	found := make(map[string]bool)
	commented := false
	var parents []string
	line := regexp.MustCompile(`^( *)([A-Za-z]+):`)
	for l := range strings.SplitSeq(Reference(), "\n") {
		if strings.HasPrefix(strings.TrimSpace(l), "#") {
			commented = true
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			commented = false
			continue
		}
		depth := len(m[1]) / 2
		parents = append(parents[:depth], m[2])
		found[strings.Join(parents, ".")] = commented
		commented = false
	}
	for _, path := range paths(reflect.TypeFor[raw](), "") {
		if commented, ok := found[path]; !ok {
			t.Errorf("reference.yaml does not mention %s", path)
		} else if !commented {
			t.Errorf("reference.yaml does not explain %s", path)
		}
	}
}

// TestTypedAndRawFieldsAgree: every name in the file leads to a typed field.
func TestTypedAndRawFieldsAgree(t *testing.T) {
	written := paths(reflect.TypeFor[raw](), "")
	typed := append([]string{"apiVersion", "kind"}, paths(reflect.TypeFor[Config](), "")...)
	if diff := cmp.Diff(written, typed); diff != "" {
		t.Error(diff)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mooring.yaml")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "vips: [") {
		t.Errorf("Load of no file: %v; want ErrNotExist and an example", err)
	}
	if err := os.WriteFile(path, []byte(Minimal()+"node: n7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || c.Node != "n7" {
		t.Errorf("Load: node %q, %v", c.Node, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#", maxFile+10)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Load of a huge file: %v", err)
	}
}

func TestChanged(t *testing.T) {
	stories := []struct {
		name             string
		change           func(*Config)
		changed, restart []string
	}{
		{"nothing", func(*Config) {}, nil, nil},
		{"no servers and an empty list of servers", func(c *Config) {
			c.APIServer.Servers = []netip.AddrPort{}
		}, nil, nil},
		{"times apply to the running agent", func(c *Config) {
			c.Lease.Duration, c.Fence.ValidLifetime = 9*time.Second, 3*time.Second
		}, []string{"lease.duration", "fence.validLifetime"}, nil},
		{"vips and the check apply too", func(c *Config) {
			c.APIServer.VIPs = []netip.Addr{netip.MustParseAddr("192.0.2.11")}
			c.APIServer.Check.Path = "/livez"
		}, []string{"apiServer.vips", "apiServer.check.path"}, nil},
		{"what concerns the other nodes too", func(c *Config) {
			c.Hello.Port, c.Hello.KeyFile, c.Moves.Preempt, c.Priority = 7445, "/k", true, 7
			c.Witnesses, c.Peers = []netip.Addr{}, []Peer{{Node: "n2"}}
		}, []string{"hello.port", "hello.keyFile", "moves.preempt", "priority", "peers"}, nil},
		{"identity needs a restart", func(c *Config) {
			c.Node, c.Namespace, c.Kubeconfig = "n9", "x", "/k"
			c.RunDir, c.StateDir = "/run/x", "/var/x"
			c.Log.Level = "debug"
			c.Metrics.Bind = netip.MustParseAddrPort("127.0.0.1:1")
		}, []string{"kubeconfig", "node", "namespace", "runDir", "stateDir", "log.level", "metrics.bind"},
			[]string{"kubeconfig", "node", "namespace", "runDir", "stateDir", "metrics.bind"}},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			old, c := minimalConfig(), minimalConfig()
			s.change(&c)
			if diff := cmp.Diff(s.changed, c.Changed(old), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("Changed: %s", diff)
			}
			if diff := cmp.Diff(s.restart, c.NeedsRestart(old), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("NeedsRestart: %s", diff)
			}
		})
	}
	for _, f := range restartFields() {
		if all := paths(reflect.TypeFor[Config](), ""); !strings.Contains(strings.Join(all, " "), f) {
			t.Errorf("restartFields names %s, which is no field", f)
		}
	}
}
