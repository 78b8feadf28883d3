package kube

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/client-go/rest"
)

// RequestState is how far a CertificateSigningRequest has come.
type RequestState string

// The states. Gone is one that does not exist (any more): the controllers delete
// one that waits after a day, any other after an hour.
const (
	RequestGone    RequestState = "gone"
	RequestWaiting RequestState = "waiting"
	RequestDenied  RequestState = "denied"
	RequestFailed  RequestState = "failed"
	// RequestApproved has no certificate yet: the signer works on it, if there is one.
	RequestApproved RequestState = "approved"
	RequestIssued   RequestState = "issued"
)

// Request is what is known of a CertificateSigningRequest.
type Request struct {
	State RequestState
	// Why says why it was denied or failed, for people.
	Why string
	// Cert is the issued certificate, PEM.
	Cert []byte
}

// Requests files CertificateSigningRequests for client certificates and looks
// after them. It approves none: who may approve for this signer may become anybody.
type Requests struct {
	client certificatesclient.CertificateSigningRequestInterface
}

// NewRequests prepares; it connects to nothing.
func NewRequests(config *rest.Config) (*Requests, error) {
	c, err := certificatesclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for CertificateSigningRequests: %w", err)
	}
	return &Requests{client: c.CertificateSigningRequests()}, nil
}

// minLife is the least that the API takes (certificates.k8s.io/v1, spec.expirationSeconds).
const minLife = 10 * time.Minute

// File makes a request of this name for a PKCS #10 text (PEM), asking for a life
// that the signer may cut. One of the same name that exists already is left alone.
func (r *Requests) File(ctx context.Context, name string, pkcs10 []byte, life time.Duration) error {
	seconds := int32(min(max(life, minLife), 10*365*24*time.Hour) / time.Second)
	_, err := r.client.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": "mooring"}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pkcs10, SignerName: certificatesv1.KubeAPIServerClientSignerName, ExpirationSeconds: &seconds,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{FieldManager: "mooring"})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Look asks how far the request has come.
func (r *Requests) Look(ctx context.Context, name string) (Request, error) {
	c, err := r.client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Request{State: RequestGone}, nil
	}
	if err != nil {
		return Request{}, err
	}
	return judgeRequest(c), nil
}

// judgeRequest reads the conditions; a certificate counts whatever they say beside it.
func judgeRequest(c *certificatesv1.CertificateSigningRequest) Request {
	out := Request{State: RequestWaiting}
	for _, cond := range c.Status.Conditions {
		switch {
		case cond.Status != corev1.ConditionTrue && cond.Status != "":
		case cond.Type == certificatesv1.CertificateDenied:
			return Request{State: RequestDenied, Why: cond.Message}
		case cond.Type == certificatesv1.CertificateFailed:
			return Request{State: RequestFailed, Why: cond.Message}
		case cond.Type == certificatesv1.CertificateApproved:
			out.State = RequestApproved
		}
	}
	if len(c.Status.Certificate) > 0 {
		out = Request{State: RequestIssued, Cert: c.Status.Certificate}
	}
	return out
}
