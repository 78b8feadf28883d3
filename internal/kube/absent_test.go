package kube

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestNoServers: without credentials nothing is dialled, and everybody is told
// the same at once.
func TestNoServers(t *testing.T) {
	noLeak(t)
	s := NoServers(options(t, "none"))
	s.Set([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")})
	if !s.Absent() || len(s.State()) != 0 || len(s.CAPEM()) != 0 || s.ClientPEM() != nil || s.Refused() != 0 {
		t.Errorf("it knows of something: %v", s.State())
	}
	for _, hedge := range []time.Duration{0, 150 * time.Millisecond} {
		c, err := kubernetes.NewForConfig(s.RESTConfig(hedge))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err = c.CoordinationV1().Leases("x").Get(ctx, "y", metav1.GetOptions{})
		cancel()
		if !errors.Is(err, ErrNoCredentials) {
			t.Errorf("a read: %v", err)
		}
		if !Unanswered(err) {
			t.Error("it is taken for an answer")
		}
	}
	_, ready := s.LocalReady(t.Context())
	_, anonymous := s.AnonymousReadyz(t.Context())
	_, _, names := s.CertificateNames(t.Context())
	for what, err := range map[string]error{"LocalReady": ready, "AnonymousReadyz": anonymous, "CertificateNames": names} {
		if !errors.Is(err, ErrNoCredentials) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

// TestRefusedCredentials: a 401 counts on any path, a 403 on the Leases; only what lasts is
// told, and silence refuses nothing.
func TestRefusedCredentials(t *testing.T) {
	const leases, nodes = "/apis/coordination.k8s.io/v1/namespaces/m/leases/a", "/api/v1/nodes"
	type step struct {
		path string
		code int
	}
	for _, s := range []struct {
		name  string
		steps []step
		want  int
	}{
		{"good", []step{{leases, 200}, {nodes, 200}}, 0},
		{"unknown", []step{{nodes, 401}}, 401},
		{"unknown, and again", []step{{leases, 401}, {nodes, 401}}, 401},
		{"no right to the Leases", []step{{leases, 403}}, 403},
		{"no right to something else", []step{{nodes, 403}}, 0},
		{"rights come", []step{{leases, 403}, {leases, 200}}, 0},
		{"other rights say nothing of the Leases", []step{{leases, 403}, {nodes, 200}}, 403},
		{"known again", []step{{leases, 401}, {nodes, 200}}, 0},
		{"known again, without rights", []step{{nodes, 401}, {leases, 403}}, 403},
		{"overloaded", []step{{leases, 401}, {leases, 503}, {nodes, 429}}, 401},
		{"a Lease that is missing is an answer", []step{{leases, 403}, {leases, 404}}, 0},
	} {
		now := time.Duration(0)
		o := options(t, "none")
		o.Now = func() time.Duration { return now }
		srv := NoServers(o)
		for _, st := range s.steps {
			req, err := http.NewRequest(http.MethodGet, "https://x"+st.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			srv.heard(req, st.code)
			if srv.Refused() != 0 {
				t.Errorf("%s: told at once", s.name)
			}
		}
		now += refusalFor
		if got := srv.Refused(); got != s.want {
			t.Errorf("%s: %d, want %d", s.name, got, s.want)
		}
	}
}

// TestRefusedByServer: the same over HTTP, and what readiness makes of it.
func TestRefusedByServer(t *testing.T) {
	ca := newAuthority(t)
	api := newAPIServer(t, ca, "127.0.0.1:0", "127.0.0.1")
	api.does(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	o := options(t, kubeconfig(t, ca, "https://"+api.addr, "{token: old}"))
	now := time.Duration(0)
	o.Now = func() time.Duration { return now }
	s, err := NewServers(o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(s.RESTConfig(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err == nil {
		t.Fatal("an answer")
	}
	now += refusalFor
	if got := s.Refused(); got != http.StatusUnauthorized {
		t.Errorf("refused with %d", got)
	}
	if ok, err := s.LocalReady(t.Context()); ok || !errors.Is(err, ErrRefused) {
		t.Errorf("LocalReady: %t, %v: a refusal says nothing about readiness", ok, err)
	}
	if v := s.State()[0]; v.Suspect {
		t.Errorf("a server that refuses is suspect: %s", v.Why)
	}
}
