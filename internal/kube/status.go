package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/internal/lb"
)

// ErrGone says that the object whose status should be written is not there any
// more, or is another one of its name.
var ErrGone = errors.New("is gone")

// IPMode says to kube-proxy who serves an address (KEP-1860).
type IPMode = corev1.LoadBalancerIPMode

// The modes: with ModeProxy kube-proxy leaves connections to the load balancer,
// with ModeVIP it takes them itself on every node.
const (
	ModeProxy = corev1.LoadBalancerIPModeProxy
	ModeVIP   = corev1.LoadBalancerIPModeVIP
)

// Condition is one of status.conditions without its times.
type Condition struct {
	Type string
	True bool
	// Reason is one CamelCase word, Message is for people.
	Reason, Message string
}

// ServiceStatus is what the status of a Service shall say.
type ServiceStatus struct {
	Key lb.ServiceKey
	// UID is that of the Service that is meant.
	UID string
	// Addresses in the order of the Service's families. All that is there besides,
	// also of other load balancers, goes; none clears it.
	Addresses []netip.Addr
	Mode      IPMode
	// Conditions are written besides those of others.
	Conditions []Condition
	// Insist writes the mode also to an API server that dropped it before.
	Insist bool
}

// StatusWriter writes the status of Services.
type StatusWriter struct {
	client coreclient.ServicesGetter
	// known returns what is known of a Service, nil for none.
	known func(lb.ServiceKey) *corev1.Service
	now   func() time.Time

	mu sync.Mutex
	// answers are what the API server made of the last writes, until they are known
	// otherwise.
	answers map[lb.ServiceKey]*corev1.Service
	// modeless says that the API server dropped or changed ModeProxy when it was
	// written last.
	modeless bool
}

// NewStatusWriter prepares; it connects to nothing. known is ServiceWatcher's
// Service, now the time of day.
func NewStatusWriter(
	config *rest.Config, known func(lb.ServiceKey) *corev1.Service, now func() time.Time,
) (*StatusWriter, error) {
	c, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for the status of Services: %w", err)
	}
	return &StatusWriter{client: c, known: known, now: now, answers: make(map[lb.ServiceKey]*corev1.Service)}, nil
}

// Set makes the status say s; it writes only what is not there yet. kept is false
// when the API server, older than 1.30, knows no ipMode, or something between makes
// it another: kube-proxy then takes connections whatever the mode. The error wraps ErrGone when there is no such
// Service any more; after others try again. Safe for concurrent use, of one
// Service by one caller at a time.
func (w *StatusWriter) Set(ctx context.Context, s ServiceStatus) (kept bool, err error) {
	have := w.newest(s.Key)
	if have == nil || string(have.UID) != s.UID {
		return false, fmt.Errorf("Service %s %w", s.Key, ErrGone)
	}
	want := ingress(s)
	conditions, news := stamped(have.Status.Conditions, s.Conditions, w.now())
	if w.same(have.Status.LoadBalancer.Ingress, want, s.Insist) && !news {
		return modes(have.Status.LoadBalancer.Ingress, s.Mode), nil
	}
	// All are written beside addresses: what is known may still show some that Leave
	// took a moment ago.
	patch, err := servicePatch(s.UID, want, conditions)
	if err != nil {
		return false, fmt.Errorf("status of Service %s: %w", s.Key, err)
	}
	got, err := w.patch(ctx, s.Key, patch)
	if err != nil {
		return false, fmt.Errorf("status of Service %s: %w", s.Key, err)
	}
	kept = modes(got.Status.LoadBalancer.Ingress, s.Mode)
	w.answered(s.Key, got)
	if s.Mode == ModeProxy && len(got.Status.LoadBalancer.Ingress) > 0 {
		w.learned(kept)
	}
	return kept, nil
}

// fieldManager is our name in metadata.managedFields.
const fieldManager = "mooring"

// Add writes conditions and nothing else, and says whether they were new. The error
// wraps ErrGone when there is no such Service any more.
func (w *StatusWriter) Add(
	ctx context.Context, key lb.ServiceKey, uid string, all ...Condition,
) (news bool, err error) {
	have := w.newest(key)
	if have == nil || string(have.UID) != uid {
		return false, fmt.Errorf("Service %s %w", key, ErrGone)
	}
	conditions, fresh := stamped(have.Status.Conditions, all, w.now())
	if !fresh {
		return false, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"uid": uid}, "status": map[string]any{"conditions": conditions},
	})
	if err != nil {
		return false, fmt.Errorf("conditions of Service %s: %w", key, err)
	}
	got, err := w.patch(ctx, key, patch)
	if err != nil {
		return false, fmt.Errorf("conditions of Service %s: %w", key, err)
	}
	w.answered(key, got)
	return true, nil
}

// Has says whether a Service, as far as is known, has a condition, and whether that is
// true.
func (w *StatusWriter) Has(key lb.ServiceKey, condition string) (has, isTrue bool) {
	svc := w.newest(key)
	if svc == nil {
		return false, false
	}
	for _, c := range svc.Status.Conditions {
		if c.Type == condition {
			return true, c.Status == metav1.ConditionTrue
		}
	}
	return false, false
}

// Leave takes conditions of ours from a Service that is not ours any more, and with
// addresses those too. The API server clears them where the type has changed, and never
// the conditions. The error wraps ErrGone when there is nothing to leave.
func (w *StatusWriter) Leave(
	ctx context.Context, key lb.ServiceKey, uid string, addresses bool, conditions ...string,
) error {
	w.Forget(key)
	var list []map[string]string
	for _, c := range conditions {
		list = append(list, map[string]string{"type": c, "$patch": "delete"})
	}
	status := map[string]any{"conditions": list}
	if addresses {
		status["loadBalancer"] = map[string]any{"ingress": nil} // null deletes
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]string{"uid": uid}, "status": status})
	if err != nil {
		return fmt.Errorf("what was left on Service %s: %w", key, err)
	}
	got, err := w.patch(ctx, key, patch)
	if err != nil {
		return fmt.Errorf("what was left on Service %s: %w", key, err)
	}
	if got.Spec.Type == corev1.ServiceTypeLoadBalancer {
		// It may be ours again before the watch shows that the conditions are gone.
		w.answered(key, got)
	}
	return nil
}

// patch writes a status. Conditions are merged by type in this kind of patch, and the
// list of addresses is replaced as a whole, whoever wrote it.
func (w *StatusWriter) patch(ctx context.Context, key lb.ServiceKey, patch []byte) (*corev1.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	namespace, name, _ := strings.Cut(string(key), "/")
	got, err := w.client.Services(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil {
		return nil, goneOr(err)
	}
	return got, nil
}

// Forget drops what is remembered of a Service that is gone.
func (w *StatusWriter) Forget(key lb.ServiceKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.answers, key)
}

// newest is the Service as the watch, or a later answer to a write, says.
func (w *StatusWriter) newest(key lb.ServiceKey) *corev1.Service {
	seen := w.known(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	answer := w.answers[key]
	if answer == nil || seen == nil || seen.UID != answer.UID {
		return seen
	}
	// Not knowing the order is no reason to trust an old answer for ever.
	order, err := resourceversion.CompareResourceVersion(seen.ResourceVersion, answer.ResourceVersion)
	if err != nil || order >= 0 {
		delete(w.answers, key)
		return seen
	}
	return answer
}

// answered remembers an answer.
func (w *StatusWriter) answered(key lb.ServiceKey, got *corev1.Service) {
	small, _ := keepService(got) // never fails
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[key] = small.(*corev1.Service)
}

// learned remembers whether the API server keeps ModeProxy.
func (w *StatusWriter) learned(kept bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.modeless = !kept
}

// same compares entries; an API server that drops the mode is not told it again
// and again, unless one insists.
func (w *StatusWriter) same(have, want []corev1.LoadBalancerIngress, insist bool) bool {
	w.mu.Lock()
	modeless := w.modeless && !insist
	w.mu.Unlock()
	if len(have) != len(want) {
		return false
	}
	for i, h := range have {
		mode, wish := deref(h.IPMode, ""), *want[i].IPMode
		dropped := modeless && (mode == "" || wish == ModeProxy)
		if h.IP != want[i].IP || h.Hostname != "" || mode != wish && !dropped {
			return false
		}
	}
	return true
}

// ingress is status.loadBalancer.ingress as it shall be.
func ingress(s ServiceStatus) []corev1.LoadBalancerIngress {
	var out []corev1.LoadBalancerIngress
	for _, a := range s.Addresses {
		out = append(out, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr(s.Mode)})
	}
	return out
}

// modes says whether every entry has the mode.
func modes(list []corev1.LoadBalancerIngress, mode IPMode) bool {
	return !slices.ContainsFunc(list, func(in corev1.LoadBalancerIngress) bool { return deref(in.IPMode, "") != mode })
}

// servicePatch is the strategic merge patch. The UID in it makes the API server
// refuse to write to another Service of that name.
func servicePatch(uid string, list []corev1.LoadBalancerIngress, conditions []metav1.Condition) ([]byte, error) {
	status := map[string]any{"loadBalancer": map[string]any{"ingress": list}} // null deletes
	if conditions != nil {
		status["conditions"] = conditions
	}
	return json.Marshal(map[string]any{"metadata": map[string]string{"uid": uid}, "status": status})
}

// stamped gives conditions their times: a condition keeps that of its last change.
// news says that one of want is not in have yet.
func stamped(have []metav1.Condition, want []Condition, now time.Time) (out []metav1.Condition, news bool) {
	for _, w := range want {
		c := metav1.Condition{
			Type: w.Type, Status: metav1.ConditionFalse, Reason: w.Reason, Message: clip(w.Message, maxNote),
			// The API has seconds.
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
		if w.True {
			c.Status = metav1.ConditionTrue
		}
		same := false
		for _, h := range have {
			if h.Type == c.Type && h.Status == c.Status {
				c.LastTransitionTime = h.LastTransitionTime
				same = h.Reason == c.Reason && h.Message == c.Message
			}
		}
		news = news || !same
		out = append(out, c)
	}
	return out, news
}

// goneOr recognises the refusals that mean that the object is gone: not found, or
// the UID in the patch is not that of the object now.
func goneOr(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return ErrGone
	}
	var status apierrors.APIStatus
	if apierrors.IsInvalid(err) && errors.As(err, &status) && status.Status().Details != nil {
		for _, c := range status.Status().Details.Causes {
			if c.Field == "metadata.uid" {
				return ErrGone
			}
		}
	}
	return err
}
