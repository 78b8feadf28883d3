package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"mooring.dev/mooring/e2e/lab"
)

// patchNode edits a Node by a merge patch; where is "" or "status".
func (s *shop) patchNode(name, text string, where ...string) {
	s.t.Helper()
	_, err := s.kube.CoreV1().Nodes().Patch(s.t.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{},
		where...)
	if err != nil {
		s.t.Fatalf("patch of Node %s: %v", name, err)
	}
}

// label sets a Node's label, or with "" removes it.
func (s *shop) label(node, key, value string) {
	s.t.Helper()
	var v any = value
	if value == "" {
		v = nil
	}
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{key: v}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.patchNode(node, string(text))
}

// TestServicesOnNodes: labels, taints and conditions of Nodes and a pool's selector say
// which nodes hold Services; moves for their sake lose nothing, nor do pods that come
// and go.
func TestServicesOnNodes(t *testing.T) {
	s := open(t, "nftables")
	s.publish("shop", v4, web80, s.pods...)
	addr := s.address("shop")
	s.serves(addr + ":80")
	s.onOne(addr)
	s.endPods(addr + ":80")
	requests := s.requests(addr + ":80")
	for _, part := range []struct {
		what string
		do   func(addr string)
	}{
		{"exclude label", s.excludeHolder}, {"NotReady", s.unreadyHolder}, {"shutdown taint", s.shutHolder},
		{"cordon", s.cordonHolder},
		{"k3s' enablelb", s.enableNodes}, {"a pool's nodeSelector", s.selectNodes},
	} {
		begun := time.Now()
		part.do(addr)
		r := requests.Snapshot()
		t.Logf("%s: %s", part.what, time.Since(begun).Round(time.Millisecond))
		if r.Failed > 0 {
			t.Errorf("%s: %s", part.what, r)
		}
	}
	noneLost(t, "requests through all of it", requests.Stop())
	s.poolOfNodes()
	s.healthPorts()
	s.datagramsMove()
}

// excludeHolder: the label moves Services off a node, and the API server's VIP not.
func (s *shop) excludeHolder(addr string) {
	const key = "node.kubernetes.io/exclude-from-external-load-balancers"
	holder, api := s.onOne(addr), s.Holder(vip)
	s.label(holder.Name(), key, "true")
	s.onOneOf(addr, s.but(holder.Name())...)
	s.label(api.Name(), key, "true")
	time.Sleep(time.Second)
	if !api.Has(vip) {
		s.t.Errorf("the label moved the API server's VIP off %s", api.Name())
	}
	s.label(holder.Name(), key, "")
	s.label(api.Name(), key, "")
	s.onOne(addr)
}

// but are the names of the nodes without these.
func (s *shop) but(names ...string) []string {
	var out []string
	for _, n := range s.All() {
		if !slices.Contains(names, n.Name()) {
			out = append(out, n.Name())
		}
	}
	return out
}

// readiness writes a Node's condition, as the controller of nodes does.
func (s *shop) readiness(node string, is corev1.ConditionStatus) {
	s.t.Helper()
	s.patchNode(node, fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q,"reason":"Lab"}]}}`, is), "status")
}

// unreadyHolder: Services leave a node that is not ready, until nobody is.
func (s *shop) unreadyHolder(addr string) {
	holder := s.onOne(addr)
	s.readiness(holder.Name(), corev1.ConditionUnknown)
	next := s.onOneOf(addr, s.but(holder.Name())...)
	last := s.but(holder.Name(), next.Name())[0]
	s.readiness(last, corev1.ConditionFalse)
	s.readiness(next.Name(), corev1.ConditionFalse)
	s.Consistently(time.Second, "when nobody is ready nothing moves", func() bool { return next.Has(addr) })
	for _, n := range s.All() {
		s.readiness(n.Name(), corev1.ConditionTrue)
	}
}

// shutHolder: Services leave a node that is shut down.
func (s *shop) shutHolder(addr string) {
	holder := s.onOne(addr)
	s.patchNode(holder.Name(),
		`{"spec":{"taints":[{"key":"node.cloudprovider.kubernetes.io/shutdown","effect":"NoSchedule"}]}}`)
	s.onOneOf(addr, s.but(holder.Name())...)
	s.patchNode(holder.Name(), `{"spec":{"taints":null}}`)
}

// cordonHolder: a cordon keeps new pods off a node, and no Services.
func (s *shop) cordonHolder(addr string) {
	holder := s.onOne(addr)
	s.patchNode(holder.Name(), `{"spec":{"unschedulable":true}}`)
	s.Consistently(time.Second, "a cordon moves nothing", func() bool { return holder.Has(addr) })
	s.patchNode(holder.Name(), `{"spec":{"unschedulable":null}}`)
}

// enableNodes: while a Node has k3s' label, only such Nodes hold.
func (s *shop) enableNodes(addr string) {
	const key = "svccontroller.k3s.cattle.io/enablelb"
	s.label("n2", key, "true")
	s.onOneOf(addr, "n2")
	s.label("n3", key, "true")
	s.label("n2", key, "")
	s.onOneOf(addr, "n3")
	s.label("n3", key, "")
	time.Sleep(500 * time.Millisecond)
	if h := s.onOne(addr); h.Name() != "n3" {
		s.t.Errorf("without the label it moved to %s", h.Name())
	}
}

// selectNodes: a pool's nodeSelector chooses the holders.
func (s *shop) selectNodes(addr string) {
	s.label("n1", "lab/rack", "a")
	s.Kubectl("patch", "addresspool", "lan", "--type=merge", "-p",
		`{"spec":{"announce":{"l2":{"nodeSelector":{"matchLabels":{"lab/rack":"a"}}}}}}`)
	s.onOneOf(addr, "n1")
	s.label("n2", "lab/rack", "a")
	s.label("n1", "lab/rack", "b")
	s.onOneOf(addr, "n2")
	s.Kubectl("patch", "addresspool", "lan", "--type=merge", "-p", `{"spec":{"announce":{"l2":{"nodeSelector":null}}}}`)
}

// poolOfNodes: a Service with k3s' label lbpool goes to the listed Nodes of that pool,
// those without to all that are listed.
func (s *shop) poolOfNodes() {
	const enable, lbpool = "svccontroller.k3s.cattle.io/enablelb", "svccontroller.k3s.cattle.io/lbpool"
	for node, of := range map[string]string{"n1": "blue", "n2": "green"} {
		s.label(node, lbpool, of)
		s.label(node, enable, "true")
	}
	s.publish("green", v4, web80, s.pods...)
	s.patch("green", `{"metadata":{"labels":{"`+lbpool+`":"green"}}}`)
	addr := s.address("green")
	s.onOneOf(addr, "n2")
	s.onOneOf(s.address("shop"), "n1", "n2")
	s.patch("green", `{"metadata":{"labels":{"`+lbpool+`":"blue"}}}`)
	s.onOneOf(addr, "n1")
	s.serves(addr + ":80")
	for _, node := range []string{"n1", "n2"} {
		s.label(node, enable, "")
		s.label(node, lbpool, "")
	}
	s.Kubectl("delete", "svc", "green")
}

// healthPorts: with externalTrafficPolicy Local kube-proxy says on each node whether it
// has endpoints, and the address is on one that has.
func (s *shop) healthPorts() {
	s.publish("local", v4+", externalTrafficPolicy: Local", "{name: web, port: 80, targetPort: 8080}", s.pods[0], s.pods[2])
	addr := s.address("local")
	port := s.service("local").Spec.HealthCheckNodePort
	ask := func(n *lab.Node) int {
		resp, err := s.Client().HTTP(time.Second).Get(fmt.Sprintf("http://%s:%d/", n.IP(), port))
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	want := []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusOK}
	var got []int
	s.Eventually(10*time.Second, fmt.Sprintf("healthCheckNodePort %d answers %v", port, want), func() bool {
		got = nil
		for _, n := range s.All() {
			got = append(got, ask(n))
		}
		return slices.Equal(got, want)
	})
	s.onOneOf(addr, "n1", "n3")
	s.serves(addr + ":80")
	s.Kubectl("delete", "svc", "local")
}

// datagramsMove: a flow of datagrams that lives when its address moves, or its holder
// dies, goes on at the new holder and is answered.
func (s *shop) datagramsMove() {
	s.publish("dns", v4, "{name: udp, port: 53, targetPort: 8080, protocol: UDP}", s.pods...)
	addr := s.address("dns")
	s.Eventually(10*time.Second, "datagrams are answered", func() bool {
		_, _, err := s.datagram(addr + ":53")
		return err == nil
	})
	holder := s.onOne(addr)
	time.Sleep(2 * time.Second)
	flow := s.Client().Datagrams(addr+":53", 10*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	s.agent(holder).Term()
	next := s.onOneOf(addr, s.but(holder.Name())...)
	time.Sleep(500 * time.Millisecond)
	r := flow.Stop()
	s.t.Logf("one flow of datagrams through a planned end: %s", r)
	if r.Longest > 200*time.Millisecond {
		s.t.Errorf("the flow was not answered for %s: %s", r.Longest, r)
	}
	s.startAgent(holder, withServices)
	s.settle()

	// The pod of the node that dies is out of reach too: somebody else finds that out.
	var left []*lab.Host
	for _, pod := range s.pods {
		if pod.Name() != "web-"+next.Name() {
			left = append(left, pod)
		}
	}
	s.endpoints("dns", left...)
	time.Sleep(1500 * time.Millisecond) // until kube-proxy has heard
	flow = s.Client().Datagrams(addr+":53", 10*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	next.CutLink(lab.CarrierLoss)
	s.onOneOfBut(addr, next)
	time.Sleep(time.Second)
	r = flow.Stop()
	s.t.Logf("one flow of datagrams through the holder's death: %s", r)
	if r.Longest > time.Second || len(r.Outages) > 0 && r.Outages[len(r.Outages)-1].Open {
		s.t.Errorf("the flow is not answered by the new holder: %s", r)
	}
	next.HealLink()
}

// onOneOfBut waits until a node other than that one has the address.
func (s *shop) onOneOfBut(addr string, not *lab.Node) {
	s.t.Helper()
	s.Eventually(5*time.Second, "another node holds "+addr, func() bool {
		return slices.ContainsFunc(s.Holders(addr), func(n *lab.Node) bool { return n.Name() != not.Name() })
	})
}
