package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// CertificatesOptions is what NewCertificates needs.
type CertificatesOptions struct {
	// Changed gets a wanted Secret ("namespace/name") when its certificate is there or
	// has changed: certificate chain and key, PEM. The error says what to mend, for one
	// that is missing or unusable; what was told before may go on. Calls overlap.
	Changed func(secret string, pem []byte, err error)
	Log     *slog.Logger
}

// Certificates follows Secrets of type kubernetes.io/tls, each by its own name: that
// is all that an owner needs to allow.
type Certificates struct {
	o      CertificatesOptions
	client coreclient.SecretsGetter
	wake   chan struct{}

	mu   sync.Mutex
	want map[string]bool
}

// NewCertificates prepares; it connects to nothing.
func NewCertificates(config *rest.Config, o CertificatesOptions) (*Certificates, error) {
	c, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for Secrets: %w", err)
	}
	return &Certificates{o: o, client: c, wake: make(chan struct{}, 1), want: map[string]bool{}}, nil
}

// Want replaces the Secrets to follow, "namespace/name" each.
func (c *Certificates) Want(secrets []string) {
	want := make(map[string]bool, len(secrets))
	for _, s := range secrets {
		want[s] = true
	}
	c.mu.Lock()
	c.want = want
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run follows until ctx is done and returns nil.
func (c *Certificates) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	running := map[string]context.CancelFunc{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		c.mu.Lock()
		want := c.want
		c.mu.Unlock()
		for secret, stop := range running {
			if !want[secret] {
				stop()
				delete(running, secret)
			}
		}
		for secret := range want {
			if running[secret] != nil {
				continue
			}
			one, stop := context.WithCancel(ctx)
			running[secret] = stop
			all.Go(func() { c.keep(one, secret) })
		}
	}
}

// keep follows one Secret until ctx ends.
func (c *Certificates) keep(ctx context.Context, secret string) {
	if err := c.follow(ctx, secret); err != nil {
		c.o.Changed(secret, nil, err)
	}
}

// follow follows one Secret.
func (c *Certificates) follow(ctx context.Context, secret string) error {
	namespace, name, _ := strings.Cut(secret, "/")
	client := c.client.Secrets(namespace)
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	f := &follow{
		what: "Secret " + secret, log: c.o.Log, client: client, example: &corev1.Secret{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.Watch(ctx, o)
		},
	}
	var last []byte
	return f.run(ctx, func(_ context.Context, objects []any) time.Duration {
		pem, err := certificateOf(secret, objects)
		if err != nil || !bytes.Equal(pem, last) {
			if err == nil {
				last = pem
			}
			c.o.Changed(secret, pem, err)
		}
		return 0
	})
}

// certificateOf reads the Secret.
func certificateOf(secret string, objects []any) ([]byte, error) {
	for _, o := range objects {
		s, ok := o.(*corev1.Secret)
		if !ok || s.Namespace+"/"+s.Name != secret {
			continue
		}
		crt, key := s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
		if len(crt) == 0 || len(key) == 0 {
			return nil, fmt.Errorf("secret %s has no %s and %s: make it with kubectl create secret tls", secret,
				corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
		}
		if _, err := tls.X509KeyPair(crt, key); err != nil {
			return nil, fmt.Errorf("secret %s: certificate and key do not fit: %w", secret, err)
		}
		return bytes.Join([][]byte{bytes.TrimSpace(crt), bytes.TrimSpace(key), nil}, []byte("\n")), nil
	}
	return nil, fmt.Errorf("secret %s: it does not exist: make it with kubectl create secret tls", secret)
}
