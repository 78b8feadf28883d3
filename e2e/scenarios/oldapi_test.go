package scenarios

import (
	"encoding/csv"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// oldAPI takes ipMode away from what is written, and the API server then defaults it to
// VIP: for kube-proxy, which takes connections itself, as for whoever reads it back,
// this is an API server from before 1.30.
const oldAPI = `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: old-api}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [services, services/status]}
  matchConditions:
  - name: has-mode
    expression: >-
      has(object.status) && has(object.status.loadBalancer) && has(object.status.loadBalancer.ingress) &&
      object.status.loadBalancer.ingress.exists(i, has(i.ipMode))
  mutations:
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: "remove", path: "/status/loadBalancer/ingress/0/ipMode"}]'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: old-api}
spec: {policyName: old-api}
`

// openOld is a shop whose API servers keep no ipMode, with one Service, its address
// and port.
func openOld(t *testing.T, mode string) (s *shop, addr string) {
	t.Helper()
	s = openWith(t, mode, withServices)
	s.Apply([]byte(oldAPI))
	// Not one of ours; with it each API server is asked whether it has the policy.
	s.Apply([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: asked}\n" +
		"spec: {type: LoadBalancer, loadBalancerClass: example.com/none, ports: [{port: 80}]}\n"))
	for _, n := range s.All() {
		s.Eventually(20*time.Second, "the API server of "+n.Name()+" keeps no ipMode", func() bool {
			out, err := s.TryKubectl(nil, "--server=https://"+n.IP()+":6443", "patch", "svc", "asked", "--subresource=status",
				"--dry-run=server", "-o", "jsonpath={.status.loadBalancer.ingress[0].ipMode}", "--type=merge",
				"-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"10.99.0.199","ipMode":"Proxy"}]}}}`)
			return err == nil && out == "VIP"
		})
	}
	s.settle()
	// With its settings from the first: an edit is a reload, during which kube-proxy serves.
	s.Apply([]byte(`apiVersion: v1
kind: Service
metadata:
  name: shop
  annotations: {mooring.dev/check: http, mooring.dev/check-path: /, mooring.dev/check-interval: 200ms, mooring.dev/check-fall: "2"}
spec: {type: LoadBalancer, ipFamilies: [IPv4], ports: [{port: 80, targetPort: 8080}]}
`))
	s.endpoints("shop", s.pods...)
	addr = s.address("shop")
	if got := s.ingress("shop"); len(got) != 1 || got[0].IPMode != "VIP" {
		t.Fatalf("the policy keeps no ipMode away: %+v", got)
	}
	for _, n := range s.All() {
		s.Eventually(10*time.Second, "kube-proxy of "+n.Name()+" has taken the address", func() bool {
			list := []string{"nft", "list", "table", "ip", "kube-proxy"}
			if mode == "iptables" {
				list = []string{"iptables-save", "-t", "nat"}
			}
			out, err := n.Try(list...)
			return err == nil && strings.Contains(out, addr)
		})
		s.Eventually(20*time.Second, n.Name()+" redirects", func() bool { return s.redirects(n, addr) })
	}
	return s, addr
}

// redirects says whether the node has redirects for the address.
func (s *shop) redirects(n *lab.Node, addr string) bool {
	out, err := n.Try("nft", "list", "table", "inet", "mooring-services")
	return err == nil && strings.Contains(out, addr+" . 80 : "+addr+" . 61080")
}

// sessions is how many connections a node's HAProxy has taken for Services so far.
func (s *shop) sessions(n *lab.Node) int {
	s.t.Helper()
	c, err := net.DialTimeout("unix", filepath.Join(n.RunDir(), "haproxy-services", "stats.sock"), time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "show stat -1 1 -1\n"); err != nil {
		s.t.Fatal(err)
	}
	rows, err := csv.NewReader(c).ReadAll()
	if err != nil || len(rows) == 0 {
		s.t.Fatalf("%s: show stat: %v", n.Name(), err)
	}
	at, total := slices.Index(rows[0], "stot"), 0
	for _, row := range rows[1:] {
		if strings.HasPrefix(row[0], "fe_default_") {
			count, _ := strconv.Atoi(row[at])
			total += count
		}
	}
	return total
}

// balanced sends requests from a host and counts those that the HAProxy of the node
// has served, all of them.
func (s *shop) balanced(what string, from *lab.Host, addr string, by *lab.Node) {
	s.t.Helper()
	before := s.sessions(by)
	r := probeFor(from, addr, time.Second)
	s.t.Logf("%s: %s", what, r)
	if took := s.sessions(by) - before; r.Failed > 0 || took < r.Sent {
		s.t.Errorf("%s: HAProxy of %s has %d of %d connections, %d failed", what, by.Name(), took, r.Sent, r.Failed)
	}
	if len(r.ByServer) < 2 {
		s.t.Errorf("%s: not balanced: %v", what, r.ByServer)
	}
}

func probeFor(from *lab.Host, addr string, d time.Duration) lab.Report {
	p := from.Requests("http://"+addr+"/", 20*time.Millisecond)
	time.Sleep(d)
	return p.Stop()
}

// TestOldAPIServer: where the API server keeps no ipMode, kube-proxy takes the address
// on every node, and connections reach HAProxy all the same, wherever they begin; a
// dead pod that is still listed gets none; planned moves and restarts lose none; and
// after the API server's upgrade all is as it should be.
func TestOldAPIServer(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) { oldAPIServer(t, mode) })
	}
}

func oldAPIServer(t *testing.T, mode string) {
	s, addr := openOld(t, mode)
	holder := s.onOne(addr)
	on := slices.IndexFunc(s.All(), func(n *lab.Node) bool { return n.Name() == holder.Name() })
	other := (on + 1) % len(s.pods)
	for what, from := range map[string]*lab.Host{
		"from outside": s.Client(), "from the holder itself": holder.Host, "from a pod on the holder": s.pods[on],
		"from another node": s.All()[other].Host, "from a pod on another node": s.pods[other],
	} {
		s.balanced(mode+" "+what, from, addr, holder)
	}
	if _, _, err := s.get(addr + ":61080"); err == nil {
		t.Error("the port behind answers clients")
	}

	// The slice goes on to list it: only a health check notices.
	s.webs[other].Kill()
	time.Sleep(time.Second)
	noneLost(t, mode+": requests with a dead pod", probeFor(s.Client(), addr, time.Second))
	s.webs[other].Start()

	time.Sleep(2 * time.Second)
	requests := s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	s.agent(holder).Term()
	s.Eventually(5*time.Second, "another node holds", func() bool {
		h := s.Holders(addr)
		return len(h) == 1 && h[0].Name() != holder.Name()
	})
	time.Sleep(time.Second)
	noneLost(t, mode+": requests through a planned move", requests.Stop())
	next := s.onOne(addr)
	s.balanced(mode+" at the new holder", s.Client(), addr, next)

	requests = s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	s.startAgent(holder, withServices)
	s.agent(next).Kill()
	time.Sleep(time.Second)
	s.startAgent(next, withServices)
	time.Sleep(3 * time.Second)
	noneLost(t, mode+": requests while agents restart", requests.Stop())
	s.balanced(mode+" after the restarts", s.Client(), addr, s.onOne(addr))
	if mode == "nftables" {
		s.upgrade(addr)
	}
}

// upgrade lets the API servers keep ipMode, and waits until all is as it should be.
func (s *shop) upgrade(addr string) {
	s.t.Helper()
	requests := s.Client().Requests("http://"+addr+"/", 50*time.Millisecond)
	s.Kubectl("delete", "mutatingadmissionpolicybinding", "old-api")
	took := s.Eventually(90*time.Second, "the status says Proxy", func() bool { return s.ingress("shop")[0].IPMode == "Proxy" })
	s.t.Logf("asked again after %s", took)
	for _, n := range s.All() {
		s.Eventually(10*time.Second, n.Name()+" redirects no more", func() bool { return !s.redirects(n, addr) })
	}
	time.Sleep(2 * time.Second)
	noneLost(s.t, "requests through the upgrade", requests.Stop())
	s.balanced("after the upgrade", s.Client(), addr, s.onOne(addr))
}
