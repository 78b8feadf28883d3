package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

// statusAPI is the part of an API server that patches the status of one Service
// and one AddressPool.
type statusAPI struct {
	mu      sync.Mutex
	svc     *corev1.Service
	pool    *v1alpha1.AddressPool
	revised int
	// modeless drops ipMode, as API servers before 1.30 do; code refuses.
	modeless bool
	// other is the mode that every entry gets, as an admission policy can do.
	other *IPMode
	code  int
	asked []string
}

// RoundTrip implements http.RoundTripper.
func (a *statusAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	data, _ := io.ReadAll(req.Body)
	a.asked = append(a.asked, req.Method+" "+req.URL.Path+" "+req.Header.Get("Content-Type"))
	if a.code != 0 {
		resp := answerWith(req, a.code)
		if a.code == http.StatusConflict {
			resp.Body = io.NopCloser(strings.NewReader(
				`{"apiVersion":"v1","kind":"Status","status":"Failure","code":409,"reason":"Conflict"}`))
		}
		return resp, nil
	}
	var uid struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(data, &uid); err != nil {
		return nil, err
	}
	a.revised++
	if strings.HasPrefix(req.URL.Path, "/apis/mooring.dev/v1alpha1/addresspools/") {
		if a.pool == nil {
			return answerWith(req, http.StatusNotFound), nil
		}
		// RFC 7396 for the one level there is.
		if err := json.Unmarshal(data, a.pool); err != nil {
			return nil, err
		}
		return jsonAnswer(req, "mooring.dev/v1alpha1", "AddressPool", a.pool), nil
	}
	switch {
	case a.svc == nil:
		return answerWith(req, http.StatusNotFound), nil
	case uid.Metadata.UID != string(a.svc.UID):
		resp := answerWith(req, http.StatusUnprocessableEntity)
		resp.Body = io.NopCloser(strings.NewReader(`{"apiVersion":"v1","kind":"Status","status":"Failure","code":422,"reason":"Invalid",` +
			`"details":{"causes":[{"reason":"FieldValueInvalid","field":"metadata.uid"}]}}`))
		return resp, nil
	}
	old, _ := json.Marshal(a.svc)
	patched, err := strategicpatch.StrategicMergePatch(old, data, corev1.Service{})
	if err != nil {
		return nil, err
	}
	now := &corev1.Service{}
	if err := json.Unmarshal(patched, now); err != nil {
		return nil, err
	}
	for i := range now.Status.LoadBalancer.Ingress {
		if a.modeless {
			now.Status.LoadBalancer.Ingress[i].IPMode = nil
		}
		if a.other != nil {
			now.Status.LoadBalancer.Ingress[i].IPMode = a.other
		}
	}
	now.ResourceVersion = fmt.Sprint(100 + a.revised)
	a.svc = now
	return jsonAnswer(req, "v1", "Service", now), nil
}

// jsonAnswer is an object as the API server writes it.
func jsonAnswer(req *http.Request, version, kind string, o object) *http.Response {
	a := newObjectAPI(version, kind, nil)
	return a.reply(req, http.StatusOK, a.encode(o))
}

// writes returns how many requests there were, and forgets them.
func (a *statusAPI) writes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.asked)
	a.asked = nil
	return n
}

// drawStatus prints a Service's status.
func drawStatus(s *corev1.Service) string {
	var b strings.Builder
	for _, in := range s.Status.LoadBalancer.Ingress {
		fmt.Fprintf(&b, "%s%s/%s ", in.IP, in.Hostname, deref(in.IPMode, "none"))
	}
	for _, c := range s.Status.Conditions {
		fmt.Fprintf(&b, "%s=%s(%s %s @%d) ", c.Type, c.Status, c.Reason, c.Message, c.LastTransitionTime.Unix())
	}
	return strings.TrimSpace(b.String())
}

// writer makes a StatusWriter; seen is what the watch knows, and the clock stands
// at clock.
func writer(t *testing.T, api *statusAPI, seen **corev1.Service, clock *int64) *StatusWriter {
	t.Helper()
	w, err := NewStatusWriter(&rest.Config{Host: "https://a", Transport: api, QPS: -1},
		func(key lb.ServiceKey) *corev1.Service {
			if key != "shop/web" {
				return nil
			}
			return *seen
		}, func() time.Time { return time.Unix(*clock, 5) })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func wish(conditions []Condition, addresses ...string) ServiceStatus {
	s := ServiceStatus{Key: "shop/web", UID: "u1", Mode: ModeProxy, Conditions: conditions}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

// TestStatus: written as wished, once, whatever was there.
func TestStatus(t *testing.T) {
	seen := service(func(s *corev1.Service) {
		s.ResourceVersion = "100"
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
			{IP: "10.0.0.1"}, {IP: "10.0.0.2"}, {Hostname: "lb.example"},
		}
		s.Status.Conditions = []metav1.Condition{{Type: "Other", Status: "True", Reason: "R",
			LastTransitionTime: metav1.Unix(1, 0)}}
	})
	api := &statusAPI{svc: seen.DeepCopy()}
	clock := int64(50)
	w := writer(t, api, &seen, &clock)
	step := func(what string, s ServiceStatus, writes int, want string) {
		t.Helper()
		kept, err := w.Set(t.Context(), s)
		if err != nil || !kept {
			t.Errorf("%s: kept %t, %v", what, kept, err)
		}
		if got := api.writes(); got != writes {
			t.Errorf("%s: %d writes, want %d", what, got, writes)
		}
		if diff := cmp.Diff(want, drawStatus(api.svc)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	good := []Condition{{Type: "Assigned", True: true, Reason: "FromPool", Message: "public"}}
	step("klipper-lb's goes, others' conditions stay", wish(good, "192.0.2.1"), 1,
		"192.0.2.1/Proxy Assigned=True(FromPool public @50) Other=True(R  @1)")
	clock = 60
	step("again, the watch lags behind", wish(good, "192.0.2.1"), 0,
		"192.0.2.1/Proxy Assigned=True(FromPool public @50) Other=True(R  @1)")
	seen = api.svc.DeepCopy()
	step("again, the watch knows", wish(good, "192.0.2.1"), 0,
		"192.0.2.1/Proxy Assigned=True(FromPool public @50) Other=True(R  @1)")
	good[0].Message = "other"
	step("another message is no transition", wish(good, "192.0.2.1"), 1,
		"192.0.2.1/Proxy Assigned=True(FromPool other @50) Other=True(R  @1)")
	good[0].True = false
	step("a transition, two families", wish(good, "2001:db8::1", "192.0.2.1"), 1,
		"2001:db8::1/Proxy 192.0.2.1/Proxy Assigned=False(FromPool other @60) Other=True(R  @1)")
	// The watch is two writes behind: what it says must not hide the wish.
	back := wish(good, "192.0.2.1")
	good[0].Message, good[0].True = "public", true
	step("back to what the watch still shows", back, 1,
		"192.0.2.1/Proxy Assigned=True(FromPool public @60) Other=True(R  @1)")
	vip := wish(good, "192.0.2.1")
	vip.Mode = ModeVIP
	step("another mode", vip, 1, "192.0.2.1/VIP Assigned=True(FromPool public @60) Other=True(R  @1)")
	step("cleared", wish(nil), 1, "Assigned=True(FromPool public @60) Other=True(R  @1)")
	step("cleared already", wish(nil), 0, "Assigned=True(FromPool public @60) Other=True(R  @1)")
	// Somebody writes after us, twice.
	seen = api.svc.DeepCopy()
	seen.ResourceVersion = "900"
	seen.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: ptr(ModeProxy),
		Hostname: "lb.example"}}
	api.svc = seen.DeepCopy()
	step("a host name beside ours", wish(good, "192.0.2.1"), 1,
		"192.0.2.1/Proxy Assigned=True(FromPool public @60) Other=True(R  @1)")
	seen = api.svc.DeepCopy()
	seen.ResourceVersion = "1000"
	seen.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingressOf("10.0.0.1")}
	api.svc = seen.DeepCopy()
	step("somebody else's", wish(good, "192.0.2.1"), 1,
		"192.0.2.1/Proxy Assigned=True(FromPool public @60) Other=True(R  @1)")
}

// TestStatusRequest: the subresource, by a patch.
func TestStatusRequest(t *testing.T) {
	seen, clock := service(), int64(0)
	api := &statusAPI{svc: seen.DeepCopy()}
	if _, err := writer(t, api, &seen, &clock).Set(t.Context(), wish(nil, "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	want := []string{"PATCH /api/v1/namespaces/shop/services/web/status application/strategic-merge-patch+json"}
	if diff := cmp.Diff(want, api.asked); diff != "" {
		t.Error(diff)
	}
}

// TestStatusWithoutMode: an API server that drops the mode is found out, and is
// not told it for ever.
func TestStatusWithoutMode(t *testing.T) {
	seen, clock := service(), int64(0)
	api := &statusAPI{svc: seen.DeepCopy(), modeless: true}
	w := writer(t, api, &seen, &clock)
	for i, writes := range []int{1, 0, 0} {
		kept, err := w.Set(t.Context(), wish(nil, "192.0.2.1"))
		if err != nil || kept {
			t.Errorf("%d: kept %t, %v", i, kept, err)
		}
		if got := api.writes(); got != writes {
			t.Errorf("%d: %d writes", i, got)
		}
		seen = api.svc.DeepCopy()
	}
	insisting := func(addr string) ServiceStatus {
		s := wish(nil, addr)
		s.Insist = true
		return s
	}
	if kept, err := w.Set(t.Context(), insisting("192.0.2.1")); err != nil || kept || api.writes() != 1 {
		t.Errorf("insisting in vain: kept %t, %v", kept, err)
	}
	// It is upgraded; who insists finds that out, as the next real write does.
	api.modeless = false
	if kept, err := w.Set(t.Context(), insisting("192.0.2.1")); err != nil || !kept {
		t.Errorf("after the upgrade: kept %t, %v", kept, err)
	}
	if kept, err := w.Set(t.Context(), wish(nil, "192.0.2.2")); err != nil || !kept {
		t.Errorf("after the upgrade: kept %t, %v", kept, err)
	}
}

// TestStatusOfAnotherMode: what makes the mode another is as good as dropping it, and
// what is written of Services of kube-proxy's says nothing about it.
func TestStatusOfAnotherMode(t *testing.T) {
	seen, clock := service(), int64(0)
	api := &statusAPI{svc: seen.DeepCopy(), other: ptr(ModeVIP)}
	w := writer(t, api, &seen, &clock)
	set := func(mode IPMode, kept bool, writes int) {
		t.Helper()
		s := wish(nil, "192.0.2.1")
		s.Mode = mode
		got, err := w.Set(t.Context(), s)
		if n := api.writes(); err != nil || got != kept || n != writes {
			t.Errorf("%s: kept %t after %d writes, %v", mode, got, n, err)
		}
		seen = api.svc.DeepCopy()
	}
	set(ModeProxy, false, 1)
	set(ModeProxy, false, 0)
	seen.Status.LoadBalancer.Ingress[0].IP = "192.0.2.9"
	set(ModeVIP, true, 1)
	set(ModeProxy, false, 0)
}

// TestStatusGone: never written to another Service of the name.
func TestStatusGone(t *testing.T) {
	old, clock := service(), int64(0)
	seen := old
	api := &statusAPI{}
	w := writer(t, api, &seen, &clock)
	set := func(what string, writes int, gone bool) {
		t.Helper()
		_, err := w.Set(t.Context(), wish(nil, "192.0.2.1"))
		if err == nil || errors.Is(err, ErrGone) != gone {
			t.Errorf("%s: %v", what, err)
		}
		if got := api.writes(); got != writes {
			t.Errorf("%s: %d writes", what, got)
		}
	}
	set("deleted, and the watch does not know", 1, true)
	api.svc = service(func(s *corev1.Service) { s.UID = "u2" })
	set("made anew, and the watch does not know", 1, true)
	if len(api.svc.Status.LoadBalancer.Ingress) > 0 {
		t.Error("written to another Service")
	}
	seen = api.svc
	set("made anew", 0, true)
	seen = nil
	set("deleted", 0, true)
	seen, api.code = old, http.StatusConflict
	set("a conflict about the UID", 1, true)
	api.code = http.StatusForbidden
	set("no right to", 1, false)
	api.code = http.StatusServiceUnavailable
	set("the API is unwell", 1, false)
	seen, api.svc, api.code = service(), service(), 0
	if _, err := w.Set(t.Context(), wish(nil, "192.0.2.1")); err != nil {
		t.Error(err)
	}
	w.Forget("shop/web")
	if len(w.answers) != 0 {
		t.Error("an answer about a forgotten Service is kept")
	}
}

// TestLeave: our conditions go, others' stay, and so do the addresses.
func TestLeave(t *testing.T) {
	seen, clock := service(), int64(50)
	seen.Status.Conditions = []metav1.Condition{{Type: "Other", Status: "True", Reason: "R",
		LastTransitionTime: metav1.Unix(1, 0)}}
	api := &statusAPI{svc: seen.DeepCopy()}
	w := writer(t, api, &seen, &clock)
	if _, err := w.Set(t.Context(), wish([]Condition{{Type: "Assigned", Reason: "R"}}, "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	api.svc.Spec.Type = corev1.ServiceTypeClusterIP
	if err := w.Leave(t.Context(), "shop/web", "u1", false, "Assigned", "Served"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("192.0.2.1/Proxy Other=True(R  @1)", drawStatus(api.svc)); diff != "" {
		t.Error(diff)
	}
	if len(w.answers) > 0 {
		t.Error("an answer about a Service that was left is kept")
	}
	// It is ours again before the watch has shown what became of the conditions.
	seen = seen.DeepCopy()
	seen.Status.Conditions = append(seen.Status.Conditions, metav1.Condition{Type: "Assigned", Status: "False", Reason: "R"})
	if _, err := w.Set(t.Context(), wish([]Condition{{Type: "Assigned", Reason: "R"}}, "192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	if got := drawStatus(api.svc); !strings.Contains(got, "192.0.2.2/Proxy") || !strings.Contains(got, "Assigned") {
		t.Errorf("ours again: %s", got)
	}
	if err := w.Leave(t.Context(), "shop/web", "u2", false, "Assigned"); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// TestPoolStatus: written as wished, once.
func TestPoolStatus(t *testing.T) {
	pool := addressPool("192.0.2.0/24")
	pool.UID = "p1"
	api := &statusAPI{pool: pool.DeepCopy()}
	clock := int64(50)
	w, err := NewPoolStatusWriter(&rest.Config{Host: "https://a", Transport: api, QPS: -1},
		func(name string) *v1alpha1.AddressPool {
			if name != pool.Name {
				return nil
			}
			return pool
		}, func() time.Time { return time.Unix(clock, 0) })
	if err != nil {
		t.Fatal(err)
	}
	s := PoolStatus{Name: "public", Size: math.MaxUint64, Used: 2, Free: 3, Conditions: []Condition{{Type: "Ready",
		True: true, Reason: "Used"}}}
	for i, step := range []struct {
		change func()
		writes int
		want   string
	}{
		{func() {}, 1, "9223372036854775807 2 3 [Ready True @50] []"},
		{func() { clock = 60 }, 0, "9223372036854775807 2 3 [Ready True @50] []"},
		{func() { s.Used, s.Size = 3, 256 }, 1, "256 3 3 [Ready True @50] []"},
		{func() { s.Quarantined = []v1alpha1.Quarantined{{Address: "192.0.2.9", MAC: "02:00:00:00:00:01"}} }, 1,
			"256 3 3 [Ready True @50] [{192.0.2.9 02:00:00:00:00:01}]"},
		{func() {}, 0, "256 3 3 [Ready True @50] [{192.0.2.9 02:00:00:00:00:01}]"},
		{func() { s.Quarantined = nil }, 1, "256 3 3 [Ready True @50] []"},
		{func() { s.Conditions[0].True = false }, 1, "256 3 3 [Ready False @60] []"},
		{func() { s.Quarantined = make([]v1alpha1.Quarantined, 300) }, 1, "256 3 3 [Ready False @60] 256 of them"},
	} {
		step.change()
		if err := w.Set(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if got := api.writes(); got != step.writes {
			t.Errorf("%d: %d writes", i, got)
		}
		pool = api.pool.DeepCopy()
		st := pool.Status
		q := fmt.Sprint(st.Quarantined)
		if len(st.Quarantined) > 1 {
			q = fmt.Sprint(len(st.Quarantined), " of them")
		}
		c := st.Conditions[0]
		got := fmt.Sprintf("%d %d %d [%s %s @%d] %s", st.Size, st.Used, st.Free, c.Type, c.Status,
			c.LastTransitionTime.Unix(), q)
		if got != step.want {
			t.Errorf("%d: %s, want %s", i, got, step.want)
		}
	}
	s.Name = "other"
	if err := w.Set(t.Context(), s); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	s.Name, s.Used, api.pool = "public", 0, nil
	if err := w.Set(t.Context(), s); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}
