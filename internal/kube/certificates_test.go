package kube

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// pairPEM is a certificate and its key.
func pairPEM(t *testing.T) [2]string {
	_, _, crt, key := issue(t, nil, "web", "web.example")
	return [2]string{string(crt), string(key)}
}

// TestCertificates: a Secret is told when it is usable, when it changes and what is
// wrong with it; one that nobody wants any more is not followed.
func TestCertificates(t *testing.T) {
	one, two := pairPEM(t), pairPEM(t)
	synctest.Test(t, func(t *testing.T) {
		api := secretsAPI()
		var mu sync.Mutex
		var got []string
		c, err := NewCertificates(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, CertificatesOptions{
			Log: quiet(t), Changed: func(secret string, pem []byte, err error) {
				mu.Lock()
				defer mu.Unlock()
				text := fmt.Sprintf("%s %d", secret, len(pem))
				if err != nil {
					text = err.Error()
				}
				got = append(got, text)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		expect := func(what, want string) {
			t.Helper()
			time.Sleep(longer)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if have := strings.Join(got, "; "); !strings.Contains(have, want) || want == "" && have != "" {
				t.Errorf("%s: %q, want %q", what, have, want)
			}
			got = nil
		}
		put := func(crt, key string) {
			s := &corev1.Secret{Data: map[string][]byte{corev1.TLSCertKey: []byte(crt), corev1.TLSPrivateKeyKey: []byte(key)}}
			s.Name, s.Namespace = "web-tls", "shop"
			api.put(s)
		}
		c.Want([]string{"shop/web-tls"})
		expect("missing", "it does not exist")
		put(one[0], one[1])
		expect("there", fmt.Sprintf("shop/web-tls %d", len(strings.TrimSpace(one[0]))+len(strings.TrimSpace(one[1]))+2))
		put(one[0], one[1])
		expect("the same", "")
		put(two[0], one[1])
		expect("of two pairs", "do not fit")
		put("", one[1])
		expect("half", "has no tls.crt")
		put(two[0], two[1])
		expect("another", "shop/web-tls ")
		c.Want(nil)
		time.Sleep(time.Second)
		put(one[0], one[1])
		expect("not wanted any more", "")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
