package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// answers is an API server that has one answer for each METHOD PATH, and 404 else.
type answers struct {
	mu    sync.Mutex
	of    map[string]string // JSON, or a status code
	asked []string
}

// RoundTrip implements http.RoundTripper.
func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := req.Method + " " + req.URL.Path
	body := ""
	if req.Body != nil {
		data, _ := io.ReadAll(req.Body)
		body = string(data)
	}
	a.asked = append(a.asked, key+"?"+req.URL.RawQuery+" "+body)
	text, found := a.of[key]
	switch {
	case !found:
		return answerWith(req, http.StatusNotFound), nil
	case text == "403":
		return answerWith(req, http.StatusForbidden), nil
	case strings.HasPrefix(text, "func "):
		// A review: allowed unless the request has the word.
		allowed := !strings.Contains(body, strings.TrimPrefix(text, "func "))
		var o map[string]any
		_ = json.Unmarshal([]byte(body), &o)
		o["status"] = map[string]any{"allowed": allowed}
		data, _ := json.Marshal(o)
		text = string(data)
	}
	resp := answerWith(req, http.StatusOK)
	resp.Header = http.Header{"Content-Type": {"application/json"}}
	resp.Body = io.NopCloser(bytes.NewReader([]byte(text)))
	return resp, nil
}

func (a *answers) config() *rest.Config {
	return &rest.Config{
		Host: "https://a", Transport: a, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	}
}

func surveyor(t *testing.T, of map[string]string) (*Surveyor, *answers) {
	t.Helper()
	a := &answers{of: of}
	s, err := NewSurveyor(a.config())
	if err != nil {
		t.Fatal(err)
	}
	return s, a
}

// TestRights: what the manifests say, each right once and as kubectl would ask.
func TestRights(t *testing.T) {
	text, err := os.ReadFile("../../manifests/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Rights(string(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range all {
		if got[r.String()] {
			t.Errorf("twice: %s", r)
		}
		got[r.String()] = true
	}
	for _, want := range []string{
		"update leases.coordination.k8s.io in mooring-system", "get secrets mooring-hello in mooring-system", "create secrets in mooring-system",
		"list nodes", "watch endpointslices.discovery.k8s.io in default", "patch events in default", "patch events.events.k8s.io in default",
	} {
		if !got[want] {
			t.Errorf("missing: %s", want)
		}
	}
	status, err := Rights("kind: ClusterRole\nrules: [{apiGroups: [\"\"], resources: [services/status], verbs: " +
		"[patch]}]\n---\nkind: Other\n")
	if err != nil || len(status) != 1 || status[0].String() != "patch services/status" ||
		status[0].Subresource != "status" {
		t.Errorf("a subresource: %v, %v", status, err)
	}
	if _, err := Rights("\tno YAML"); err == nil {
		t.Error("nonsense has rights")
	}
}

func TestDenied(t *testing.T) {
	const self, other = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
	all := []Right{{Verb: "get", Resource: "nodes"}, {Namespace: "x", Verb: "patch", Resource: "services",
		Subresource: "status"}, {Verb: "list", Resource: "nodes"}}
	a := &answers{of: map[string]string{self: `func "get"`, other: `func "patch"`}}
	got, err := Denied(t.Context(), a.config(), all, nil)
	if err != nil || !slices.Equal(got, all[:1]) {
		t.Errorf("denied %v, %v", got, err)
	}
	if !slices.ContainsFunc(a.asked, func(q string) bool {
		return strings.Contains(q, `"namespace":"x","verb":"patch","resource":"services","subresource":"status"`)
	}) {
		t.Errorf("asked %q", a.asked)
	}
	a.asked = nil
	got, err = Denied(t.Context(), a.config(), all, &Who{Name: "mooring:node:n1", Groups: []string{"mooring:agents"}})
	if err != nil || !slices.Equal(got, all[1:2]) {
		t.Errorf("about another: denied %v, %v", got, err)
	}
	for _, q := range a.asked {
		if !strings.Contains(q, `"user":"mooring:node:n1","groups":["mooring:agents"]`) {
			t.Errorf("asked without the user: %s", q)
		}
	}
	a.of[other] = "403"
	if _, err = Denied(t.Context(), a.config(), all, &Who{Name: "x"}); !Forbidden(err) {
		t.Errorf("who may not ask: %v", err)
	}
}

func TestWhoAmI(t *testing.T) {
	a := &answers{of: map[string]string{"POST " +
		"/apis/authentication.k8s.io/v1/selfsubjectreviews": `{"apiVersion":"authentication.k8s.io/v1",
		"kind":"SelfSubjectReview","status":{"userInfo":{"username":"mooring:node:n1","groups":["mooring:agents"]}}}`}}
	got, err := WhoAmI(t.Context(), a.config())
	if d := cmp.Diff(Who{"mooring:node:n1", []string{"mooring:agents"}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// TestSurveyMissing: what is not there is an answer, what may not be read an error.
func TestSurveyMissing(t *testing.T) {
	s, a := surveyor(t, map[string]string{})
	ctx := context.Background()
	calls := map[string]func() (bool, error){
		"GET /api/v1/nodes/n1": func() (bool, error) { return s.HasNode(ctx, "n1") },
		"POST /apis/coordination.k8s.io/v1/namespaces/m/leases": func() (bool, error) {
			return s.HasNamespace(ctx,
				"m")
		},
		"GET /api/v1/namespaces/m/secrets/k": func() (bool, error) {
			_, ok,
				err := s.HelloKeys(ctx, "m", "k")
			return ok, err
		},
		"GET /apis/mooring.dev/v1alpha1/addresspools": func() (bool, error) {
			_, ok,
				err := s.Pools(ctx)
			return ok, err
		},
		"GET /api/v1/namespaces/kube-system/configmaps/kube-proxy": func() (bool, error) {
			_, ok,
				err := s.KubeProxy(ctx)
			return ok, err
		},
		"GET /api/v1/namespaces/kube-system/configmaps/cilium-config": func() (bool, error) {
			_, ok,
				err := s.Cilium(ctx)
			return ok, err
		},
	}
	for path, call := range calls {
		if found, err := call(); found || err != nil {
			t.Errorf("%s, which is not there: %t, %v", path, found, err)
		}
		a.of[path] = "403"
		if _, err := call(); !Forbidden(err) {
			t.Errorf("%s, which is forbidden: %v", path, err)
		}
	}
	if !slices.ContainsFunc(a.asked, func(q string) bool { return strings.Contains(q, "/leases?dryRun=All") }) {
		t.Errorf("the Lease is no dry run: %q", a.asked)
	}
}

func TestSurvey(t *testing.T) {
	pod := `{"metadata":{"annotations":{%q:"x"},"name":"kube-vip-n1","namespace":"kube-system"},` +
		`"spec":{"containers":[{"name":"a","image":"i","command":["c"],"args":["manager"],"env":[{"name":"address","value":"192.0.2.10"}]}]}}`
	s, _ := surveyor(t, map[string]string{
		"GET /api/v1/namespaces/kube-system/configmaps/kube-proxy": `{"kind":"ConfigMap","apiVersion":"v1","data":{"config.conf":` +
			`"kind: KubeProxyConfiguration\nmode: ipvs\nipvs: {strictARP: true, scheduler: rr}\n"}}`,
		"GET /api/v1/namespaces/kube-system/configmaps/cilium-config": `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"cilium-config",` +
			`"namespace":"kube-system"},"data":{"kube-proxy-replacement":"true","a":"b"}}`,
		"GET /apis/apps/v1/daemonsets": `{"kind":"DaemonSetList","apiVersion":"apps/v1","items":[{"metadata":{"name":"speaker","namespace":"m"},` +
			`"spec":{"template":{"spec":{"containers":[{"image":"quay.io/metallb/speaker","args":["--port=1"]}]}}}}]}`,
		"GET /api/v1/namespaces/kube-system/pods": `{"kind":"PodList","apiVersion":"v1","items":[` +
			strings.ReplaceAll(pod, "%q", `"kubernetes.io/config.mirror"`) + `,` + strings.ReplaceAll(pod, "%q",
			`"other"`) + `]}`,
		"GET /api/v1/namespaces/m/secrets/k": `{"kind":"Secret","apiVersion":"v1","data":{"next":"YmJiYmJiYmJiYmJiYmJiYg==",` +
			`"current":"YWFhYWFhYWFhYWFhYWFhYQo=","a":"eA=="}}`,
		"GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices": `{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[` +
			`{"ports":[{"port":6443}],"endpoints":[{"addresses":["192.0.2.1"]},{"addresses":["x","192.0.2.2"]}]}]}`,
	})
	ctx := context.Background()
	c, found, err := s.KubeProxy(ctx)
	if err != nil || !found || c.Mode != "ipvs" || !c.IPVS.StrictARP {
		t.Errorf("kube-proxy: %+v, %t, %v", c, found, err)
	}
	cilium, _, err := s.Cilium(ctx)
	if d := cmp.Diff(Workload{"ConfigMap", "kube-system", "cilium-config", nil, []string{"a=b",
		"kube-proxy-replacement=true"}}, cilium); d != "" || err != nil {
		t.Error(d, err)
	}
	sets, err := s.DaemonSets(ctx)
	if d := cmp.Diff([]Workload{{"DaemonSet", "m", "speaker", []string{"quay.io/metallb/speaker"},
		[]string{"--port=1"}}}, sets); d != "" || err != nil {
		t.Error(d, err)
	}
	pods, err := s.StaticPods(ctx)
	want := []Workload{{"Pod", "kube-system", "kube-vip-n1", []string{"i"}, []string{"c", "manager",
		"address=192.0.2.10"}}}
	if d := cmp.Diff(want, pods); d != "" || err != nil {
		t.Error("static pods only: ", d, err)
	}
	keys, found, err := s.HelloKeys(ctx, "m", "k")
	if keys != keyA+"\n"+keyB || !found || err != nil {
		t.Errorf("keys %q, %t, %v", keys, found, err)
	}
	servers, err := s.Servers(ctx)
	if err != nil || len(servers) != 2 || servers[1] != netip.MustParseAddrPort("192.0.2.2:6443") {
		t.Errorf("API servers %v, %v", servers, err)
	}
}

func TestSkew(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		begun         time.Time
		took          time.Duration
		ahead, within time.Duration
	}{
		{at.Add(500 * time.Millisecond), 0, 0, 500 * time.Millisecond},
		{at.Add(400 * time.Millisecond), 200 * time.Millisecond, 0, 600 * time.Millisecond},
		{at.Add(-9500 * time.Millisecond), 0, 10 * time.Second, 500 * time.Millisecond},
		{at.Add(3500 * time.Millisecond), 0, -3 * time.Second, 500 * time.Millisecond},
	} {
		if ahead, within, _ := skew(at, c.begun, c.took); ahead != c.ahead || within != c.within {
			t.Errorf("Date %v, asked at %v for %v: %v ± %v, want %v ± %v", at, c.begun, c.took, ahead, within, c.ahead, c.within)
		}
	}
}

// TestSurveyLook: real TLS; a server whose clock is ahead, and one that never answers.
func TestSurveyLook(t *testing.T) {
	ca := newAuthority(t)
	api := newAPIServer(t, ca, "127.0.0.1:0", "127.0.0.1", "kubernetes")
	_, _, cert, key := issue(t, ca, "mooring:node:n1")
	user := fmt.Sprintf("{client-certificate-data: %s, client-key-data: %s}",
		base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://"+api.addr, user)))
	if err != nil {
		t.Fatal(err)
	}
	hung := silent(t)
	s.Set([]netip.AddrPort{netip.MustParseAddrPort(hung)})
	api.does(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusTeapot)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	got := s.Look(ctx)
	if len(got) != 2 || got[0].Addr != api.addr || !got[0].Local || got[0].Code != http.StatusTeapot ||
		got[0].Err != nil || !got[0].Dated ||
		(got[0].Ahead-time.Hour).Abs() > got[0].Within+time.Second {
		t.Errorf("the first: %+v", got[0])
	}
	if got[1].Addr != hung || got[1].Local || got[1].Code != 0 || got[1].Err == nil || got[1].Dated {
		t.Errorf("the one that hangs: %+v", got[1])
	}
	if s.At() != api.addr {
		t.Errorf("At is %s", s.At())
	}
	end, err := s.Expires()
	if left := time.Until(end); err != nil || left < 50*time.Minute || left > time.Hour {
		t.Errorf("the certificate ends in %v, %v", left, err)
	}
	token, err := NewServers(options(t, kubeconfig(t, ca, "https://"+api.addr, "{token: x}")))
	if err != nil {
		t.Fatal(err)
	}
	if end, err := token.Expires(); err != nil || !end.IsZero() {
		t.Errorf("a token ends at %v, %v", end, err)
	}
}
