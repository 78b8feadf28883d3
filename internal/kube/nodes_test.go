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
			Changed: func(out, leave []string) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(out, leave))
				clear(out) // they are the callee's own
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
	n := Nodes{o: NodesOptions{Changed: func(out, leave []string) { got = fmt.Sprint(out, leave) }}}
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
	small, err := (&Nodes{}).small(full)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Node{}
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
			Log: quiet(t), Changed: func(_, _ []string) {}, Self: "n1",
			Labels: func(l map[string]string) { got <- fmt.Sprint(l) },
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
