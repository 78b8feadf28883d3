package kube

import (
	"net/http"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// csrAPI serves CertificateSigningRequests, which have no namespace.
func csrAPI(t *testing.T) (*objectAPI, *Requests) {
	t.Helper()
	api := newObjectAPI("certificates.k8s.io/v1", "CertificateSigningRequest", func() object {
		return new(certificatesv1.CertificateSigningRequest)
	})
	r, err := NewRequests(&rest.Config{
		Host: "http://x", Transport: api, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return api, r
}

// TestFile: what the API server and its signer get to see.
func TestFile(t *testing.T) {
	api, r := csrAPI(t)
	for life, want := range map[time.Duration]int32{
		365 * 24 * time.Hour: 365 * 24 * 3600, time.Second: 600, 100 * 365 * 24 * time.Hour: 3650 * 24 * 3600,
	} {
		clear(api.objects)
		if err := r.File(t.Context(), "mooring-n1-0", []byte("request"), life); err != nil {
			t.Fatal(err)
		}
		got := api.objects["mooring-n1-0"].(*certificatesv1.CertificateSigningRequest).Spec
		if got.SignerName != "kubernetes.io/kube-apiserver-client" || string(got.Request) != "request" ||
			*got.ExpirationSeconds != want || len(got.Usages) != 2 || got.Usages[1] != certificatesv1.UsageClientAuth {
			t.Errorf("%s: %+v", life, got)
		}
	}
	api.code[http.MethodPost] = http.StatusConflict // there is one of this name: filed before the answer got lost
	if err := r.File(t.Context(), "mooring-n1-0", nil, time.Hour); err != nil {
		t.Error(err)
	}
	api.code[http.MethodPost] = http.StatusForbidden
	if err := r.File(t.Context(), "mooring-n1-1", nil, time.Hour); err == nil {
		t.Error("a refusal is no error")
	}
}

// TestJudgeRequest: conditions and the certificate, in every combination that
// controllers and people make.
func TestJudgeRequest(t *testing.T) {
	type conditions = []certificatesv1.CertificateSigningRequestCondition
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}
	denied := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Message: "who are you",
	}
	failed := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Message: "no CA",
	}
	for _, s := range []struct {
		name string
		of   conditions
		cert string
		want Request
	}{
		{"just filed", nil, "", Request{State: RequestWaiting}},
		{"approved", conditions{approved}, "", Request{State: RequestApproved}},
		{"issued", conditions{approved}, "pem", Request{State: RequestIssued, Cert: []byte("pem")}},
		{"denied", conditions{denied}, "", Request{State: RequestDenied, Why: "who are you"}},
		{"failed", conditions{approved, failed}, "", Request{State: RequestFailed, Why: "no CA"}},
	} {
		c := &certificatesv1.CertificateSigningRequest{}
		c.Status.Conditions = s.of
		if s.cert != "" {
			c.Status.Certificate = []byte(s.cert)
		}
		if got := judgeRequest(c); got.State != s.want.State || got.Why != s.want.Why || string(got.Cert) != string(s.want.Cert) {
			t.Errorf("%s: %+v, want %+v", s.name, got, s.want)
		}
	}
}

// TestLook: one that is gone is no error; a refusal is.
func TestLook(t *testing.T) {
	api, r := csrAPI(t)
	api.code[http.MethodGet] = http.StatusNotFound
	if got, err := r.Look(t.Context(), "mooring-n1-0"); err != nil || got.State != RequestGone {
		t.Errorf("gone: %+v, %v", got, err)
	}
	api.code[http.MethodGet] = http.StatusUnauthorized
	if _, err := r.Look(t.Context(), "mooring-n1-0"); err == nil {
		t.Error("a refusal is no error")
	}
	delete(api.code, http.MethodGet)
	c := &certificatesv1.CertificateSigningRequest{}
	c.Name, c.Status.Certificate = "mooring-n1-0", []byte("pem")
	api.objects[c.Name] = c
	if got, err := r.Look(t.Context(), "mooring-n1-0"); err != nil || got.State != RequestIssued {
		t.Errorf("issued: %+v, %v", got, err)
	}
}
