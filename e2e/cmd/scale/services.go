package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"mooring.dev/mooring/e2e/lab"
)

const (
	namespace = "default"
	workers   = 16
	// requestLimit bounds one request to an API server.
	requestLimit = 30 * time.Second
)

// population is which Services there are: n of one policy.
type population struct {
	n     int
	local bool
}

// name of Service i.
func (p population) name(i int) string {
	if p.local {
		return fmt.Sprintf("local-%05d", i)
	}
	return fmt.Sprintf("shop-%05d", i)
}

// each calls f for 0 … n-1 from some workers and ends the play at the first error.
func (b *scale) each(n int, f func(i int) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		b.Fatalf("%v", err)
	default:
	}
}

// populate makes the cluster have exactly these Services, with their endpoints.
func (b *scale) populate(want population) {
	have := b.there
	if have == want {
		return
	}
	b.there = want
	begun, keep := time.Now(), 0
	if have.local == want.local {
		keep = min(have.n, want.n)
	}
	b.each(have.n-keep, func(i int) error { return b.remove(have.name(keep + i)) })
	b.each(want.n-keep, func(i int) error {
		return b.publish(service(want.name(keep+i), want.local), b.endpoints(b.pods[:endpointsEach]))
	})
	b.Logf("%d Services, Local: %t, after %.1f s", want.n, want.local, time.Since(begun).Seconds())
}

// remove deletes a Service and its slice.
func (b *scale) remove(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	err := b.kube.CoreV1().Services(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		err = b.kube.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// publish makes a Service with its EndpointSlice, as a controller manager would.
func (b *scale) publish(s *corev1.Service, endpoints []discovery.Endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	if _, err := b.kube.CoreV1().Services(namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := b.kube.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(s.Name, endpoints), metav1.CreateOptions{})
	return err
}

// service is one port over TCP.
func service(name string, local bool) *corev1.Service {
	no := false
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			AllocateLoadBalancerNodePorts: &no, // there are fewer than 3,000
			Ports:                         []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if local {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	return s
}

// slice has the endpoints of a Service.
func slice(name string, endpoints []discovery.Endpoint) *discovery.EndpointSlice {
	port, protocol, none := int32(8080), corev1.ProtocolTCP, ""
	return &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discovery.EndpointPort{{Name: &none, Port: &port, Protocol: &protocol}},
	}
}

// endpoints are ready pods.
func (b *scale) endpoints(pods []*lab.Host) []discovery.Endpoint {
	var out []discovery.Endpoint
	for _, p := range pods {
		out = append(out, b.endpointOf(p, true))
	}
	return out
}

// endpointOf is a pod that is ready, or one that ends and still serves.
func (b *scale) endpointOf(pod *lab.Host, ready bool) discovery.Endpoint {
	node, yes, ends := b.hosts[pod.IP()], true, !ready
	return discovery.Endpoint{Addresses: []string{pod.IP()}, NodeName: &node,
		Conditions: discovery.EndpointConditions{Ready: &ready, Serving: &yes, Terminating: &ends}}
}

// setEndpoints replaces a Service's slice.
func (b *scale) setEndpoints(name string, endpoints []discovery.Endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	_, err := b.kube.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice(name, endpoints), metav1.UpdateOptions{})
	return err
}

// awaitAddresses waits until every Service has one, and returns how long it took.
func (b *scale) awaitAddresses(limit time.Duration) time.Duration {
	begun := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
		list, err := b.kube.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		cancel()
		if err != nil {
			b.Fatalf("%v", err)
		}
		clear(b.addrs)
		for _, s := range list.Items {
			if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
				b.addrs[s.Name] = in[0].IP
			}
		}
		if len(b.addrs) >= b.there.n {
			return time.Since(begun)
		}
		if time.Since(begun) > limit {
			b.Fatalf("after %s only %d of %d Services have an address", limit, len(b.addrs), b.there.n)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// ask sends one request to a Service as a client does.
func (b *scale) ask(address string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if get(ctx, b.client, "http://"+address+"/") {
		return nil
	}
	return fmt.Errorf("%s does not answer", address)
}

// awaitAnswers asks every Service until it answers, and returns when the last did.
func (b *scale) awaitAnswers(limit time.Duration) time.Duration {
	begun := time.Now()
	b.each(b.there.n, func(i int) error {
		address := b.addrs[b.there.name(i)] + ":80"
		for b.ask(address, 300*time.Millisecond) != nil {
			if time.Since(begun) > limit {
				return fmt.Errorf("%s, Service %s, does not answer after %s", address, b.there.name(i), limit)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	return time.Since(begun)
}
