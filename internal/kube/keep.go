package kube

import (
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/api/v1alpha1"
)

// keepService leaves of a Service what TranslateService and StatusWriter read:
// what kubectl apply and controllers note beside it is most of it.
func keepService(object any) (any, error) {
	full, ok := object.(*corev1.Service)
	if !ok {
		return object, nil // the mark of a deletion that was missed
	}
	in := &full.Spec
	small := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: in.Type, LoadBalancerClass: in.LoadBalancerClass, ClusterIP: in.ClusterIP, ClusterIPs: in.ClusterIPs,
		ExternalTrafficPolicy: in.ExternalTrafficPolicy, Selector: in.Selector, LoadBalancerIP: in.LoadBalancerIP,
		LoadBalancerSourceRanges: in.LoadBalancerSourceRanges, SessionAffinity: in.SessionAffinity,
		SessionAffinityConfig: in.SessionAffinityConfig, IPFamilyPolicy: in.IPFamilyPolicy,
		PublishNotReadyAddresses: in.PublishNotReadyAddresses,
	}, Status: full.Status}
	small.Name, small.Namespace, small.UID = full.Name, full.Namespace, full.UID
	small.ResourceVersion, small.CreationTimestamp = full.ResourceVersion, full.CreationTimestamp
	small.Labels = full.Labels
	for _, p := range in.Ports {
		small.Spec.Ports = append(small.Spec.Ports,
			corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	for k, v := range full.Annotations {
		if heeded(k) {
			if small.Annotations == nil {
				small.Annotations = make(map[string]string)
			}
			small.Annotations[k] = v
		}
	}
	return small, nil
}

// heeded says whether TranslateService looks at an annotation.
func heeded(key string) bool {
	if strings.HasPrefix(key, prefix) || key == corev1.AnnotationLoadBalancerSourceRangesKey {
		return true
	}
	for _, a := range annotations {
		if slices.Contains(a.foreign, key) {
			return true
		}
	}
	return false
}

// keepNamespace leaves of a Namespace its labels.
func keepNamespace(object any) (any, error) {
	full, ok := object.(*corev1.Namespace)
	if !ok {
		return object, nil
	}
	small := &corev1.Namespace{}
	small.Name, small.ResourceVersion, small.Labels = full.Name, full.ResourceVersion, full.Labels
	return small, nil
}

// keepPool leaves out who wrote which field, which is as long as the rest.
func keepPool(object any) (any, error) {
	if p, ok := object.(*v1alpha1.AddressPool); ok {
		p.ManagedFields, p.Annotations = nil, nil
	}
	return object, nil
}

// words keeps one copy of strings that occur often: names of nodes and zones.
type words struct {
	mu   sync.Mutex
	seen map[string]*string
	// yes is true, no is false.
	yes, no bool
}

// newWords knows no word yet.
func newWords() *words { return &words{seen: make(map[string]*string), yes: true} }

// maxWords bounds the words remembered; then it begins anew.
const maxWords = 20_000

// same returns a pointer to a string that equals *s, always the same one.
func (w *words) same(s *string) *string {
	if s == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if kept := w.seen[*s]; kept != nil {
		return kept
	}
	if len(w.seen) >= maxWords {
		w.seen = make(map[string]*string)
	}
	w.seen[*s] = s
	return s
}

// sameBool returns a pointer to an equal bool, always the same one.
func (w *words) sameBool(b *bool) *bool {
	if b == nil {
		return nil
	}
	// Nobody writes to them.
	if *b {
		return &w.yes
	}
	return &w.no
}

// keepSlice leaves of an EndpointSlice what TranslateService reads. Slices are the
// bulk of what an agent remembers: what many have in common is one copy.
func (w *words) keepSlice(object any) (any, error) {
	full, ok := object.(*discovery.EndpointSlice)
	if !ok {
		return object, nil
	}
	small := &discovery.EndpointSlice{AddressType: full.AddressType}
	small.Name, small.Namespace, small.ResourceVersion = full.Name, full.Namespace, full.ResourceVersion
	small.Labels = map[string]string{discovery.LabelServiceName: full.Labels[discovery.LabelServiceName]}
	for _, p := range full.Ports {
		small.Ports = append(small.Ports,
			discovery.EndpointPort{Name: w.same(p.Name), Port: p.Port, Protocol: p.Protocol})
	}
	small.Endpoints = make([]discovery.Endpoint, 0, len(full.Endpoints))
	for _, e := range full.Endpoints {
		c := e.Conditions
		small.Endpoints = append(small.Endpoints, discovery.Endpoint{
			Addresses: e.Addresses, NodeName: w.same(e.NodeName), Zone: w.same(e.Zone),
			Conditions: discovery.EndpointConditions{
				Ready: w.sameBool(c.Ready), Serving: w.sameBool(c.Serving), Terminating: w.sameBool(c.Terminating),
			},
		})
	}
	return small, nil
}
