package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// taintedNode makes a Node as large as real ones.
func taintedNode(name string, taints ...string) *corev1.Node {
	n := &corev1.Node{}
	n.Name = name
	n.Annotations = map[string]string{"long": strings.Repeat("x", 10_000)}
	n.Status.Images = []corev1.ContainerImage{{Names: []string{strings.Repeat("x", 10_000)}}}
	n.Spec.PodCIDR = "10.1.0.0/24"
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t, Effect: corev1.TaintEffectNoExecute,
			Value: "nodeshutdown"})
	}
	return n
}

// TestNodes follows taints through an outage.
func TestNodes(t *testing.T) {
	const out, off = corev1.TaintNodeOutOfService, taintShutdown
	synctest.Test(t, func(t *testing.T) {
		api := newObjectAPI("v1", "Node", func() object { return &corev1.Node{} })
		api.put(taintedNode("n1", "node-role.kubernetes.io/control-plane"))
		api.put(taintedNode("n2"))
		api.put(taintedNode("n3"))
		api.goAway(true)
		var mu sync.Mutex
		var got []string
		n, err := NewNodes(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, NodesOptions{
			Log: quiet(t),
			Changed: func(u Unfit) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(u.Out, u.Off))
				clear(u.Out) // they are the callee's own
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		step := func(what string, want ...string) {
			t.Helper()
			time.Sleep(longer)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
			got = nil
		}

		step("the API is away from the start")
		api.goAway(false)
		step("no Node is tainted so")
		api.put(taintedNode("n3", "other", out))
		step("out of service", "[n3] []")
		api.put(taintedNode("n3", out))
		step("another taint goes")
		api.put(taintedNode("n2", off, out))
		step("both, and sorted", "[n2 n3] [n2]")
		api.goAway(true)
		step("away: what was told stays")
		api.put(taintedNode("n3"))
		api.goAway(false)
		step("back in service meanwhile", "[n2] [n2]")
		api.put(taintedNode("n2", off))
		step("one of two", "[] [n2]")
		api.remove("n2")
		step("the Node is deleted", "[] []")

		want := "GET /api/v1/nodes?"
		if asked := api.all(); len(asked) != 1 || asked[want] == 0 {
			t.Errorf("asked for %v, want nothing but %s", asked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNodesSorted: an informer's store has no order.
func TestNodesSorted(t *testing.T) {
	var got string
	n := Nodes{o: NodesOptions{Changed: func(u Unfit) { got = fmt.Sprint(u.Out, u.Off) }}}
	n.pass(t.Context(), []any{
		taintedNode("c", corev1.TaintNodeOutOfService, taintShutdown), "no Node", taintedNode("b", taintShutdown),
		taintedNode("a", corev1.TaintNodeOutOfService),
	})
	if got != "[a c] [b c]" {
		t.Error(got)
	}
}

// TestNodesKeepLittle: of a Node stays what is looked at.
func TestNodesKeepLittle(t *testing.T) {
	full := taintedNode("n1", "other", corev1.TaintNodeOutOfService)
	full.ResourceVersion, full.UID = "7", "u"
	full.Labels = map[string]string{LabelEnable: "true", "other": "x"}
	full.Status.Conditions = readyIs(corev1.ConditionTrue).Status.Conditions
	full.Status.Conditions[0].Message = "long"
	small, err := (&Nodes{}).small(full)
	if err != nil {
		t.Fatal(err)
	}
	want := readyIs(corev1.ConditionTrue)
	want.Labels = map[string]string{LabelEnable: "true"}
	want.Name, want.ResourceVersion, want.UID = "n1", "7", "u"
	want.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
	if diff := cmp.Diff(any(want), small); diff != "" {
		t.Error(diff)
	}
	gone := cache.DeletedFinalStateUnknown{Key: "n1"}
	if kept, err := (&Nodes{}).small(gone); err != nil || kept != any(gone) {
		t.Errorf("%v: %v, %v", gone, kept, err)
	}
}

// readyIs is a Node with that condition; "" is none.
func readyIs(status corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{}
	if status != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	}
	return n
}

// TestNotReady: who is judged not to be ready is named, except when nobody is ready.
func TestNotReady(t *testing.T) {
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	got := "never told"
	n := Nodes{o: NodesOptions{Changed: func(u Unfit) { got = fmt.Sprint(u.NotReady) }}}
	for _, step := range []struct {
		states []corev1.ConditionStatus
		want   string
	}{
		{[]corev1.ConditionStatus{yes, "", yes}, "never told"},
		{[]corev1.ConditionStatus{yes, no, unknown}, "[n1 n2]"},
		{[]corev1.ConditionStatus{no, no, unknown}, "[]"},
		{[]corev1.ConditionStatus{no, yes, yes}, "[n0]"},
	} {
		var all []any
		for i, status := range step.states {
			node := readyIs(status)
			node.Name = fmt.Sprint("n", i)
			all = append([]any{node}, all...)
		}
		if n.pass(t.Context(), all); got != step.want {
			t.Errorf("%v: told %s, want %s", step.states, got, step.want)
		}
	}
}

// TestListed: k3s' list of Nodes counts when any Node, not only this one, is on it.
func TestListed(t *testing.T) {
	var got []string
	n := Nodes{o: NodesOptions{Self: "n1", Changed: func(Unfit) {}, Labels: func(own map[string]string, listed bool) {
		got = append(got, fmt.Sprint(len(own), listed))
	}}}
	node := func(name, value string) any {
		o := taintedNode(name)
		if value != "" {
			o.Labels = map[string]string{LabelEnable: value}
		}
		return o
	}
	for _, all := range [][]any{
		{node("n2", "true")}, // this Node is not known yet
		{node("n1", ""), node("n2", "")}, {node("n1", ""), node("n2", "true")}, {node("n1", ""), node("n2", "false")},
		{node("n1", "true"), node("n2", "")}, {node("n1", "true"), node("n2", "true")},
	} {
		n.pass(t.Context(), all)
	}
	if diff := cmp.Diff([]string{"0 false", "0 true", "0 false", "1 true"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestOwnLabels: the labels of this node alone are told, when they are known and when
// they change.
func TestOwnLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newObjectAPI("v1", "Node", func() object { return &corev1.Node{} })
		put := func(name, zone string) {
			n := taintedNode(name)
			if zone != "" {
				n.Labels = map[string]string{"zone": zone}
			}
			api.put(n)
		}
		put("n1", "")
		put("n2", "b")
		got := make(chan string, 10)
		n, err := NewNodes(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, NodesOptions{
			Log: quiet(t), Changed: func(Unfit) {}, Self: "n1",
			Labels: func(l map[string]string, _ bool) { got <- fmt.Sprint(l) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = n.Run(ctx) }()
		expect := func(want ...string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			var have []string
			for len(got) > 0 {
				have = append(have, <-got)
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
		}
		expect("map[]")
		put("n2", "c")
		expect()
		put("n1", "a")
		expect("map[zone:a]")
		put("n1", "a")
		expect()
	})
}
