package kube

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

// clusterAPI is an API server with all that Services need.
type clusterAPI struct{ services, slices, namespaces, pools *objectAPI }

func newClusterAPI() clusterAPI {
	return clusterAPI{
		services:   newObjectAPI("v1", "Service", func() object { return &corev1.Service{} }),
		slices:     slicesAPI(),
		namespaces: newObjectAPI("v1", "Namespace", func() object { return &corev1.Namespace{} }),
		pools:      newObjectAPI("mooring.dev/v1alpha1", "AddressPool", func() object { return &v1alpha1.AddressPool{} }),
	}
}

// all are its parts by the end of their paths.
func (c clusterAPI) all() map[string]*objectAPI {
	return map[string]*objectAPI{
		"/services": c.services, "/endpointslices": c.slices, "/namespaces": c.namespaces, "/addresspools": c.pools,
	}
}

// RoundTrip implements http.RoundTripper.
func (c clusterAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	for suffix, a := range c.all() {
		if strings.HasSuffix(req.URL.Path, suffix) {
			return a.RoundTrip(req)
		}
	}
	return answerWith(req, http.StatusNotFound), nil
}

func (c clusterAPI) goAway(away bool) {
	for _, a := range c.all() {
		a.goAway(away)
	}
}

// namespace, sliceFor make objects as large as real ones.
func namespace(name string, labels map[string]string) *corev1.Namespace {
	n := &corev1.Namespace{}
	n.Name, n.Labels = name, labels
	n.Annotations = map[string]string{"long": strings.Repeat("x", 1000)}
	return n
}

func sliceFor(name, service string, addresses ...string) *discovery.EndpointSlice {
	s := pods("", 8080, addresses...)
	s.Name, s.Namespace = name, "shop"
	s.Labels = map[string]string{discovery.LabelServiceName: service, "long": strings.Repeat("x", 1000)}
	s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m",
		FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:x":"` + strings.Repeat("x", 1000) + `"}`)}}}
	return s
}

// watched runs a ServiceWatcher in a synctest bubble and collects what it tells,
// a line per call.
type watched struct {
	t   *testing.T
	api clusterAPI
	w   *ServiceWatcher
	mu  sync.Mutex
	got []string
	end func()
}

func watchServices(t *testing.T, api clusterAPI) *watched {
	x := &watched{t: t, api: api}
	note := func(format string, args ...any) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.got = append(x.got, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
	w, err := NewServiceWatcher(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, ServicesOptions{
		Mode: ClassDefault, Log: quiet(t),
		Changed: func(c Changed) {
			if c.Service == nil {
				note("%s gone, left %s %v", c.Key, c.Left.UID, c.Left.Addresses)
				return
			}
			note("%s %s %v %s", c.Key, c.Service.UID, c.Service.NamespaceLabels, drawService(*c.Service))
		},
		Pools: func(all []lb.Pool, wrong map[string][]lb.Issue) {
			text := "pools"
			for _, p := range all {
				text += fmt.Sprint(" ", p.Name, p.Ranges)
			}
			note("%s wrong %d", text, len(wrong))
		},
		Synced: func() { note("synced") },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	x.w = w
	x.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return x
}

// step compares what was told since the last one.
func (x *watched) step(what string, want ...string) {
	x.t.Helper()
	time.Sleep(longer)
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if diff := cmp.Diff(want, x.got); diff != "" {
		x.t.Errorf("%s: %s", what, diff)
	}
	x.got = nil
}

// stepAny is step where the order does not matter, but for "synced", which is last.
func (x *watched) stepAny(what string, want ...string) {
	x.t.Helper()
	time.Sleep(longer)
	synctest.Wait()
	x.mu.Lock()
	if i := slices.Index(x.got, "synced"); i >= 0 && i < len(x.got)-1 {
		x.t.Errorf("%s: said synced before %v", what, x.got[i+1:])
	}
	slices.Sort(x.got)
	slices.Sort(want)
	x.mu.Unlock()
	x.step(what, want...)
}

// TestServiceWatcher follows Services through every kind of change and an outage.
func TestServiceWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClusterAPI()
		pool := addressPool("192.0.2.0/30")
		api.pools.put(pool)
		api.namespaces.put(namespace("shop", map[string]string{"team": "a"}))
		api.services.put(service())
		api.services.put(service(func(s *corev1.Service) { s.Name, s.UID = "api", "u2" }))
		api.slices.put(sliceFor("web-1", "web", "10.0.0.1"))
		api.goAway(true)
		x := watchServices(t, api)
		defer x.end()

		x.step("the API is away from the start")
		api.goAway(false)
		x.stepAny("all lists, whichever can be read first, and then that it is all",
			"pools public[{192.0.2.0 192.0.2.3}] wrong 0",
			"shop/api u2 map[team:a]", "shop/web u1 map[team:a] port 80/TCP 10.0.0.1:8080", "synced")
		api.slices.put(sliceFor("web-2", "web", "10.0.0.2"))
		x.step("a pod in another slice", "shop/web u1 map[team:a] port 80/TCP 10.0.0.1:8080 10.0.0.2:8080")
		api.slices.put(sliceFor("web-2", "api", "10.0.0.2"))
		x.step("a slice changes hands", "shop/web u1 map[team:a] port 80/TCP 10.0.0.1:8080",
			"shop/api u2 map[team:a] port 80/TCP 10.0.0.2:8080")
		api.slices.put(sliceFor("other", "unknown", "10.0.0.3"))
		x.step("of no Service")
		again := sliceFor("web-1", "web", "10.0.0.1")
		again.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "now"}
		api.slices.put(again)
		x.step("nothing that matters")
		api.namespaces.put(namespace("shop", map[string]string{"team": "b"}))
		x.step("labels of the namespace", "shop/api u2 map[team:b] port 80/TCP 10.0.0.2:8080",
			"shop/web u1 map[team:b] port 80/TCP 10.0.0.1:8080")
		api.services.put(service(says("mooring.dev/pool", "public")))
		x.step("an annotation", "shop/web u1 map[team:b] pool public\nport 80/TCP 10.0.0.1:8080")
		api.services.put(service(says("mooring.dev/pool", "public", "unheeded", "x")))
		x.step("another's annotation")
		api.services.put(service(func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr("other/lb") }))
		x.step("not ours any more, and nothing of ours on it", "shop/web gone, left  []")
		if x.w.Service("shop/web") != nil || x.w.Service("shop/api") == nil {
			t.Error("Service does not say what is ours")
		}
		api.services.put(service())
		x.step("ours again", "shop/web u1 map[team:b] port 80/TCP 10.0.0.1:8080")

		pool.Status.Used = 1
		api.pools.put(pool)
		x.step("the status of a pool")
		pool.Spec.Addresses = append(pool.Spec.Addresses, "nonsense")
		api.pools.put(pool)
		x.step("a bad range", "pools public[{192.0.2.0 192.0.2.3}] wrong 1")
		if p := x.w.Pool("public"); p == nil || p.Status.Used != 1 || x.w.Pool("none") != nil {
			t.Errorf("Pool is %v", p)
		}

		api.goAway(true)
		x.step("away: all stays")
		api.services.remove("api")
		api.pools.remove("public")
		api.slices.put(sliceFor("web-1", "web", "10.0.0.9"))
		api.goAway(false)
		x.stepAny("back", "pools wrong 0", "shop/api gone, left u2 []", "shop/web u1 map[team:b] port 80/TCP 10.0.0.9:8080")
		api.services.remove("web")
		x.step("deleted, or of another type", "shop/web gone, left u1 []")
		for suffix, want := range map[string]string{
			"/services": "GET /api/v1/services?spec.type=LoadBalancer", "/namespaces": "GET /api/v1/namespaces?",
			"/endpointslices": "GET /apis/discovery.k8s.io/v1/endpointslices?kubernetes.io/service-name,!service.kubernetes.io/headless",
			"/addresspools":   "GET /apis/mooring.dev/v1alpha1/addresspools?",
		} {
			if asked := api.all()[suffix].all(); len(asked) != 1 || asked[want] == 0 {
				t.Errorf("asked for %v, want nothing but %s", asked, want)
			}
		}
	})
}

// TestServicesWithoutPools: who has an address is served although the kind
// AddressPool is not installed.
func TestServicesWithoutPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClusterAPI()
		api.services.put(service())
		api.pools.refuse(http.MethodGet, http.StatusNotFound)
		x := watchServices(t, api)
		defer x.end()
		x.step("no pools, and the namespace is not known", "shop/web u1 map[]")
		api.pools.refuse(http.MethodGet, 0)
		x.step("installed", "pools wrong 0", "synced")
	})
}

// TestServicesInOrder: what is there from the start is told by name.
func TestServicesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClusterAPI()
		want := []string{"pools wrong 0"}
		for _, n := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			api.services.put(service(func(s *corev1.Service) { s.Name = n }))
			want = append(want, "shop/"+n+" u1 map[]")
		}
		x := watchServices(t, api)
		defer x.end()
		time.Sleep(longer)
		synctest.Wait()
		x.mu.Lock()
		// The pools come before or after.
		i := slices.Index(x.got, want[0])
		x.got = append(want[:1:1], slices.Delete(x.got, i, i+1)...)
		x.mu.Unlock()
		x.step("all", append(want, "synced")...)
	})
}

// TestServiceOfSlice: a slice speaks for a Service of its own namespace.
func TestServiceOfSlice(t *testing.T) {
	s := sliceFor("x", "web")
	if keys, err := serviceOfSlice(s); err != nil || fmt.Sprint(keys) != "[shop/web]" {
		t.Error(keys, err)
	}
	s.Labels = nil
	if keys, err := serviceOfSlice(s); err != nil || keys != nil {
		t.Error(keys, err)
	}
	if _, err := serviceOfSlice("no object"); err == nil {
		t.Error("a string has a Service")
	}
}

// TestKeepEnough: what is forgotten changes nothing of what is told.
func TestKeepEnough(t *testing.T) {
	svc := service(says("mooring.dev/check", "tcp", "metallb.io/address-pool", "p", "other", strings.Repeat("x", 1000),
		corev1.AnnotationLoadBalancerSourceRangesKey, "10.0.0.0/8"), func(s *corev1.Service) {
		s.Labels = map[string]string{"a": "b", poolLabel: "edge"}
		s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
		s.Finalizers = []string{"f"}
		s.Spec.LoadBalancerClass, s.Spec.LoadBalancerIP = ptr(Class), "192.0.2.1"
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Selector = map[string]string{"app": "web"}
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicySingleStack)
		s.Spec.PublishNotReadyAddresses = true
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingressOf("192.0.2.1")}
		s.Status.Conditions = []metav1.Condition{{Type: "Ready"}}
	})
	slice := sliceFor("web-1", "web", "10.0.0.1!", "10.0.0.2!~+", "10.0.0.3")
	slice.Endpoints[0].Zone = ptr("z")
	want := TranslateService(svc, list(slice), nil)
	small, err := keepService(svc.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	smallSlice, err := newWords().keepSlice(slice.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	kept := small.(*corev1.Service)
	if diff := cmp.Diff(drawService(want), drawService(TranslateService(kept,
		list(smallSlice.(*discovery.EndpointSlice)), nil))); diff != "" {
		t.Error(diff)
	}
	if fmt.Sprintf("%+v", want) != fmt.Sprintf("%+v", TranslateService(kept, list(smallSlice.(*discovery.EndpointSlice)),
		nil)) {
		t.Error("not the same Service")
	}
	if !Ours(kept, ClassOnly, nil) || len(kept.Status.Conditions) != 1 {
		t.Error("class or conditions are lost")
	}
	if len(kept.Annotations) != 3 || kept.ManagedFields != nil || kept.Finalizers != nil {
		t.Errorf("kept too much: %+v", kept.ObjectMeta)
	}
	names := &discovery.EndpointSlice{AddressType: discovery.AddressTypeFQDN}
	if kept, _ := newWords().keepSlice(names); kept.(*discovery.EndpointSlice).AddressType != names.AddressType {
		t.Error("the type of addresses is lost")
	}
	gone := cache.DeletedFinalStateUnknown{Key: "k"}
	for _, keep := range []cache.TransformFunc{keepService, keepNamespace, keepPool, newWords().keepSlice} {
		if got, err := keep(gone); err != nil || got != any(gone) {
			t.Errorf("the mark of a deletion became %v, %v", got, err)
		}
	}
}

// TestWords: equal words are one.
func TestWords(t *testing.T) {
	w := newWords()
	a, b := w.same(ptr("n1")), w.same(ptr("n1"))
	if a != b || *a != "n1" || w.same(nil) != nil || w.same(ptr("n2")) == a {
		t.Error("words are not shared")
	}
	for i := range maxWords + 5 {
		w.same(ptr(fmt.Sprint(i)))
	}
	if len(w.seen) > maxWords {
		t.Errorf("%d words remembered", len(w.seen))
	}
}

// TestDirty: each once, in order.
func TestDirty(t *testing.T) {
	d := dirty{wake: make(chan struct{}, 1), set: map[lb.ServiceKey]bool{}}
	d.add("b", "a", "b")
	d.add("a", "c")
	if got := fmt.Sprint(d.take(), d.take(), len(d.wake), d.takePools()); got != "[b a c] [] 1 false" {
		t.Error(got)
	}
	d.addPools()
	d.add("b")
	if got := fmt.Sprint(d.take(), d.takePools(), d.takePools()); got != "[b] true false" {
		t.Error(got)
	}
}

// BenchmarkServiceMemory: what a Service with ten endpoints costs to remember,
// informer and translation together, and what one endpoint change costs.
func BenchmarkServiceMemory(b *testing.B) {
	const n = 1000
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	slicesOf := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byService: serviceOfSlice})
	w := newWords()
	fill := func() []lb.Service {
		var out []lb.Service
		for i := range n {
			svc := service(says("mooring.dev/check", "http", "kubectl.kubernetes.io/last-applied-configuration",
				strings.Repeat("x", 2000)))
			svc.Name = fmt.Sprintf("web-%d", i)
			slice := sliceFor(svc.Name+"-abcde", svc.Name)
			for j := range 10 {
				slice.Endpoints = append(slice.Endpoints, discovery.Endpoint{
					Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250, j+1)}, NodeName: ptr(fmt.Sprintf("node-%d", j)),
					TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: strings.Repeat("p", 40), Namespace: "shop", UID: "u"},
					Conditions: discovery.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)},
				})
			}
			small, _ := keepService(svc)
			smallSlice, _ := w.keepSlice(slice)
			_, _ = services.Add(small), slicesOf.Add(smallSlice)
			out = append(out, TranslateService(small.(*corev1.Service), list(smallSlice.(*discovery.EndpointSlice)), nil))
		}
		return out
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		all := fill()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "bytes/Service")
		runtime.KeepAlive(all)
		_, _ = services.Replace(nil, ""), slicesOf.Replace(nil, "")
	}
}
