package scenarios

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

func wantError(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("got error %v, want one that says %q", err, says)
	}
}

// TestBadReload: a bad file leaves the running configuration in force, a good
// one is taken over without losing the VIP.
func TestBadReload(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	file := filepath.Join(holder.Dir(), "agent.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	probe := w.Client().Probe(server, 10*time.Millisecond)
	write(string(good) + "aplServer: {}\n")
	w.Eventually(3*time.Second, "the agent refuses the file with file, line and field", func() bool {
		log := w.agent(holder).Log()
		return strings.Contains(log, "agent.yaml:") && strings.Contains(log, "aplServer")
	})
	w.stays(holder, 5*time.Second, "bad configuration")
	if m := metric(holder, "mooring_config_good"); m != "0" {
		t.Errorf("mooring_config_good is %q with a bad file", m)
	}

	write(strings.Replace(string(good), "vips:", "maxConnections: 1234, vips:", 1))
	w.Eventually(10*time.Second, "HAProxy has the new limit", func() bool {
		out, _ := holder.Try("sh", "-c", "cat "+holder.RunDir()+"/haproxy-apiserver/*.cfg")
		return strings.Contains(out, "maxconn 1234")
	})
	w.stays(holder, 5*time.Second, "good configuration")
	noneLost(t, "connections", probe.Stop())

	// Another port has a moment in which the redirect leads to the old one.
	probe = w.Client().Probe(server, 10*time.Millisecond)
	write(strings.Replace(string(good), "vips:", "proxyPort: 7555, vips:", 1))
	if err := syscall.Kill(w.agent(holder).PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.Eventually(10*time.Second, "HAProxy listens on the new port", func() bool {
		out, _ := holder.Try("sh", "-c", "nft list ruleset | grep -c 7555")
		return strings.TrimSpace(out) != "0" && strings.TrimSpace(out) != ""
	})
	w.stays(holder, 5*time.Second, "good configuration")
	if m := metric(holder, "mooring_config_good"); m != "1" {
		t.Errorf("mooring_config_good is %q with a good file", m)
	}
	if r := probe.Stop(); r.Longest > time.Second {
		t.Errorf("a change of proxyPort cost %s: %s", r.Longest, r)
	}
}

// metric reads one value from the agent's /metrics.
func metric(n *lab.Node, name string) string {
	resp, err := n.HTTP(2 * time.Second).Get("http://127.0.0.1:9441/metrics")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	buf := make([]byte, 64<<10)
	for {
		k, err := resp.Body.Read(buf)
		b.Write(buf[:k])
		if err != nil {
			break
		}
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], name) {
			return f[1]
		}
	}
	return "missing"
}

// TestRefusedBeforeAnythingIsTouched: mistakes that would harm the network.
func TestRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	w := bare(t)
	n := w.Node(1)
	for _, c := range []struct{ name, vip, iface, says string }{
		{"a node's own address", n.IP(), "eth0", n.IP()},
		{"outside every subnet", "10.77.0.1", "eth0", "subnet"},
		{"interface missing", vip, "eth7", "eth7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := strings.Replace(n.AgentConfig(c.vip), "interface: eth0", "interface: "+c.iface, 1)
			a := n.StartAgent(cfg)
			w.within(10*time.Second, a)
			if !strings.Contains(a.Log(), c.says) {
				t.Errorf("the error does not say %q:\n%s", c.says, a.Log())
			}
			if n.Has(vip) {
				t.Error("the VIP was added all the same")
			}
		})
	}
}

// TestVIPNotInCertificate: clients would refuse the VIP; the agent says so.
func TestVIPNotInCertificate(t *testing.T) {
	t.Parallel()
	w := &world{Lab: lab.New(t), t: t, agents: map[string]*lab.Process{}}
	w.WithoutVIPInCertificate()
	w.Nodes(1)
	w.Start()
	w.Install()
	n := w.Node(1)
	w.startAgent(n)
	w.Eventually(20*time.Second, "mooring status names the VIP that is missing", func() bool {
		for _, c := range w.status(n).Complaints {
			if strings.Contains(c, vip) && strings.Contains(c, "certSANs") {
				return true
			}
		}
		return false
	})
}

// TestHealth: /healthz and /readyz say what is.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := boot(t)
	n := w.Holder(vip)
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := n.HTTP(2 * time.Second).Get("http://127.0.0.1:9441" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s of the holder: %s", path, resp.Status)
		}
	}
	if m := metric(n, "mooring_holding"); m != "1" {
		t.Errorf("mooring_holding of the holder is %s", m)
	}
	if m := metric(w.other(n), "mooring_holding"); m != "0" {
		t.Errorf("mooring_holding of a standby is %s", m)
	}
	out := n.Exec(lab.Mooring(t), "status", "--config", filepath.Join(n.Dir(), "agent.yaml"))
	t.Log("\n" + out)
	for _, want := range []string{vip, n.Name(), "Holding", "load balancer: serving"} {
		if !strings.Contains(out, want) {
			t.Errorf("mooring status does not show %q", want)
		}
	}

	t.Log("a second agent of the same node refuses to start")
	second := n.Spawn("second", lab.Mooring(t), "agent", "--config", filepath.Join(n.Dir(), "agent.yaml"))
	w.within(5*time.Second, second)
	if !strings.Contains(second.Log(), "another agent runs") {
		t.Errorf("second agent: %s", second.Log())
	}
}
