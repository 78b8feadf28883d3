package kube

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// others makes a Service of another class.
func others(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr("other/lb") }

// written puts an address and a condition of ours into a Service's status.
func written(s *corev1.Service) {
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingressOf("192.0.2.1")}
	s.Status.Conditions = []metav1.Condition{{Type: "mooring.dev/AddressAssigned", Status: "True"}, {Type: "Other"}}
}

// TestServicesLeft: a Service that is not ours and has something of ours is told, also
// from the start, and told again when it is clean.
func TestServicesLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClusterAPI()
		api.services.put(service(others, written))
		api.services.put(service(others, func(s *corev1.Service) { s.Name = "never" }))
		x := watchServices(t, api)
		defer x.end()
		x.stepAny("from the start: the class of ours was another one", "pools wrong 0", "synced",
			"shop/web gone, left u1 [192.0.2.1]")
		api.services.put(service(others))
		x.step("clean", "shop/web gone, left  []")
		api.services.put(service(others, says("a", "b")))
		x.step("still clean")
		api.services.put(service())
		x.step("ours", "shop/web u1 map[]")
		api.services.put(service(others, written))
		x.step("and not ours with what we wrote", "shop/web gone, left u1 [192.0.2.1]")
		api.services.remove("web")
		x.step("deleted: nothing of ours is anywhere", "shop/web gone, left  []")
		api.services.remove("never")
		x.step("never ours")
	})
}

// TestLeaveTakesAddresses: with our conditions, where asked for; what others wrote stays.
// A Service that is ours again at once is not thought to have what was taken.
func TestLeaveTakesAddresses(t *testing.T) {
	seen, clock := service(), int64(50)
	seen.Spec.Type = corev1.ServiceTypeLoadBalancer
	seen.Status.Conditions = []metav1.Condition{{Type: "Other", Status: "True", Reason: "R",
		LastTransitionTime: metav1.Unix(1, 0)}}
	api := &statusAPI{svc: seen.DeepCopy()}
	w := writer(t, api, &seen, &clock)
	ours := wish([]Condition{{Type: "Assigned", True: true, Reason: "R"}}, "192.0.2.1")
	if _, err := w.Set(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	seen = api.svc.DeepCopy()
	if err := w.Leave(t.Context(), "shop/web", "u1", true, "Assigned"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("Other=True(R  @1)", drawStatus(api.svc)); diff != "" {
		t.Error(diff)
	}
	// The watch is behind.
	if _, err := w.Set(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("192.0.2.1/Proxy Assigned=True(R  @50) Other=True(R  @1)", drawStatus(api.svc)); diff != "" {
		t.Error(diff)
	}
}

// TestAddConditions: written beside all else, once per change.
func TestAddConditions(t *testing.T) {
	seen, clock := service(func(s *corev1.Service) { s.ResourceVersion = "100" }), int64(50)
	api := &statusAPI{svc: seen.DeepCopy()}
	w := writer(t, api, &seen, &clock)
	if _, err := w.Set(t.Context(), wish(nil, "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if has, _ := w.Has("shop/web", "Served"); has {
		t.Error("it has a condition before")
	}
	no := Condition{Type: "Served", Reason: "NotServed", Message: "port 80"}
	api.writes()
	for i, step := range []struct {
		c      Condition
		at     int64
		writes int
		want   string
	}{
		{no, 60, 1, "192.0.2.1/Proxy Served=False(NotServed port 80 @60)"},
		{no, 70, 0, "192.0.2.1/Proxy Served=False(NotServed port 80 @60)"},
		{Condition{Type: "Served", Reason: "NotServed", Message: "port 81"}, 80, 1,
			"192.0.2.1/Proxy Served=False(NotServed port 81 @60)"},
		{Condition{Type: "Served", True: true, Reason: "Served"}, 90, 1, "192.0.2.1/Proxy Served=True(Served  @90)"},
	} {
		clock = step.at
		news, err := w.Add(t.Context(), "shop/web", "u1", step.c)
		if got := api.writes(); err != nil || got != step.writes || news != (got > 0) {
			t.Errorf("%d: %d writes, news %t, %v", i, got, news, err)
		}
		if diff := cmp.Diff(step.want, drawStatus(api.svc)); diff != "" {
			t.Errorf("%d: %s", i, diff)
		}
		if has, isTrue := w.Has("shop/web", "Served"); !has || isTrue != step.c.True {
			t.Errorf("%d: has %t, true %t", i, has, isTrue)
		}
	}
	if _, err := w.Add(t.Context(), "shop/web", "u2", no); !errors.Is(err, ErrGone) {
		t.Errorf("another of its name: %v", err)
	}
	seen = nil
	if _, err := w.Add(t.Context(), "shop/web", "u1", no); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
	if has, _ := w.Has("shop/web", "Served"); has {
		t.Error("one that is gone has a condition")
	}
}
