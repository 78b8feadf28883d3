package scenarios

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

const (
	server6 = "[" + vip6 + "]:6443"
	readyz6 = "https://" + server6 + "/readyz"
)

// linkLocalRouter makes a host's link-local address the nodes' only default
// router, as router advertisements do on nearly every site (RFC 4861 §6.3.4).
func linkLocalRouter(w *world) {
	router := w.Host("router")
	out := router.Exec("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
	f := strings.Fields(out)
	address := ""
	for i, word := range f {
		if word == "inet6" && i+1 < len(f) {
			address, _, _ = strings.Cut(f[i+1], "/")
		}
	}
	if address == "" {
		w.t.Fatalf("the router has no link-local address: %s", out)
	}
	for _, n := range w.All() {
		n.Exec("ip", "-6", "route", "replace", "default", "via", address, "dev", "eth0")
	}
}

// TestDualStack: both VIPs are claimed with a link-local router as witness,
// always move together, and a planned move loses nothing of either family.
func TestDualStack(t *testing.T) {
	w := bare(t)
	linkLocalRouter(w)
	for _, n := range w.All() {
		w.startAgent(n, dual)
	}
	first := w.settle()
	w.Eventually(5*time.Second, "the IPv6 VIP is on the same node", func() bool { return first.Has(vip6) })

	second := w.other(first)
	wire := w.Wire()
	four, six := wire.Answers(vip), wire.Answers(vip6)
	probes := map[string]*lab.Probe{
		"connections over IPv4": w.Client().Probe(server, 10*time.Millisecond),
		"connections over IPv6": w.Client().Probe(server6, 10*time.Millisecond),
		"requests over IPv4":    w.Client().Requests(readyz, 40*time.Millisecond),
		"requests over IPv6":    w.Client().Requests(readyz6, 40*time.Millisecond),
	}
	time.Sleep(500 * time.Millisecond)
	t.Log(first.Exec(lab.Mooring(t), "move", "--to", second.Name(), "--config", filepath.Join(first.Dir(), "agent.yaml")))
	w.Eventually(2*time.Second, "both VIPs are on the target alone", func() bool {
		return second.Has(vip) && second.Has(vip6) && !first.Has(vip) && !first.Has(vip6)
	})
	time.Sleep(time.Second)
	for what, p := range probes {
		noneLost(t, what, p.Stop())
	}
	one(t, four.Stop(), 700*time.Millisecond)
	one(t, six.Stop(), 700*time.Millisecond)

	t.Log("the holder's agent dies for good: the kernel removes both VIPs, then another node has both")
	w.agent(second).Kill()
	w.Eventually(4500*time.Millisecond, "the kernel has removed both", func() bool {
		return !second.Has(vip) && !second.Has(vip6)
	})
	w.Eventually(3*time.Second, "another node has both", func() bool {
		h := w.Holder(vip)
		return h != nil && h.Name() != second.Name() && h.Has(vip6)
	})
}

// TestReloadAddsVIP: a VIP that the configuration gains comes beside the one
// that is held; one that a stranger has is refused while the old file stays in
// force.
func TestReloadAddsVIP(t *testing.T) {
	t.Parallel()
	w := boot(t)
	holder := w.Holder(vip)
	probe := w.Client().Probe(server, 10*time.Millisecond)
	write := func(n *lab.Node, text string) {
		if err := os.WriteFile(filepath.Join(n.Dir(), "agent.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	t.Log("a stranger has the address")
	stranger := w.Host("stranger")
	stranger.Exec("ip", "addr", "add", "10.99.0.201/32", "dev", "eth0")
	write(holder, strings.Replace(holder.AgentConfig(vip), "]", `, "10.99.0.201"]`, 1))
	w.Eventually(4*time.Second, "status says that the file is not in force, and whose the address is", func() bool {
		for _, c := range w.status(holder).Complaints {
			if strings.Contains(c, "10.99.0.201") && strings.Contains(c, stranger.MAC()) {
				return true
			}
		}
		return false
	})
	w.stays(holder, time.Second, "a refused VIP")
	if holder.Has("10.99.0.201") {
		t.Error("the stranger's address was taken")
	}

	t.Log("a free one")
	for _, n := range w.All() {
		write(n, dual(n.AgentConfig(vip)))
	}
	w.Eventually(6*time.Second, "the new VIP is beside the old one", func() bool { return holder.Has(vip6) })
	w.stays(holder, 3*time.Second, "a VIP added")
	noneLost(t, "connections", probe.Stop())
	if c := w.status(holder).Complaints; len(c) > 0 {
		t.Errorf("a good file, and status complains: %q", c)
	}

	t.Log("and gone again")
	for _, n := range w.All() {
		write(n, n.AgentConfig(vip))
	}
	w.Eventually(6*time.Second, "the VIP that left the file has left the link", func() bool { return !holder.Has(vip6) })
	w.stays(holder, time.Second, "a VIP removed")
}
