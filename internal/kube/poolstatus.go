package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/api/v1alpha1"
)

// maxQuarantined is what the CRD allows in status.quarantined.
const maxQuarantined = 256

// PoolStatus is what the status of an AddressPool shall say.
type PoolStatus struct {
	Name string
	// Size, Used and Free count addresses; more than an int64 holds is shown as that.
	Size, Used, Free uint64
	Conditions       []Condition
	// Quarantined are addresses that another host answers for, of which the first
	// 256 are shown.
	Quarantined []v1alpha1.Quarantined
}

// PoolStatusWriter writes the status of AddressPools.
type PoolStatusWriter struct {
	client *pools
	known  func(name string) *v1alpha1.AddressPool
	now    func() time.Time
}

// NewPoolStatusWriter prepares; it connects to nothing. known is ServiceWatcher's
// Pool, now the time of day.
func NewPoolStatusWriter(
	config *rest.Config, known func(string) *v1alpha1.AddressPool, now func() time.Time,
) (*PoolStatusWriter, error) {
	c, err := newPools(config)
	if err != nil {
		return nil, err
	}
	return &PoolStatusWriter{client: c, known: known, now: now}, nil
}

// Set makes the status say s; it writes only what is not there yet, which is what
// the watch has shown: call it again when a pool changes. The error wraps ErrGone
// when there is no such pool any more; after others try again.
func (w *PoolStatusWriter) Set(ctx context.Context, s PoolStatus) error {
	have := w.known(s.Name)
	if have == nil {
		return fmt.Errorf("AddressPool %s %w", s.Name, ErrGone)
	}
	conditions, news := stamped(have.Status.Conditions, s.Conditions, w.now())
	if !news {
		conditions = have.Status.Conditions
	}
	want := v1alpha1.AddressPoolStatus{
		Size: saturated(s.Size), Used: saturated(s.Used), Free: saturated(s.Free), Conditions: conditions,
		Quarantined: s.Quarantined[:min(len(s.Quarantined), maxQuarantined)],
	}
	// Times apart from which all is compared are kept by stamped.
	if len(want.Quarantined) == 0 {
		want.Quarantined = have.Status.Quarantined[:0]
	}
	if reflect.DeepEqual(want, have.Status) {
		return nil
	}
	// Explicit lists: one that is left out of a merge patch stays (RFC 7396).
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": have.UID}, "status": map[string]any{
		"size": want.Size, "used": want.Used, "free": want.Free,
		"conditions": want.Conditions, "quarantined": want.Quarantined,
	}})
	if err != nil {
		return fmt.Errorf("status of AddressPool %s: %w", s.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	_, err = w.client.Patch(ctx, s.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil {
		return fmt.Errorf("status of AddressPool %s: %w", s.Name, goneOr(err))
	}
	return nil
}

// saturated is a count as the API can hold it.
func saturated(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
