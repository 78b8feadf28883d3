package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestLocalReady: only the first server counts, whatever the second one says
// and whichever of them is under suspicion.
func TestLocalReady(t *testing.T) {
	stories := []struct {
		name  string
		local reply
		ready bool
		err   string
		took  time.Duration
	}{
		{"ready", reply{code: 200}, true, "", 0},
		{"slow, but within a second", reply{code: 200, after: 900 * ms}, true, "", 900 * ms},
		{"not ready", reply{code: 500}, false, "", 0},
		{"overloaded", reply{code: 429}, false, "", 0},
		{"broken", reply{}, false, "this node's API server a: broken", 0},
		{"hung", reply{after: -1, code: 200}, false, "this node's API server a: no answer to /readyz within 1s", time.Second},
		{"not allowed", reply{code: 403}, false, "must be allowed to get /readyz", 0},
		{"not an API server", reply{code: 404}, false, "answers /readyz with 404 Not Found", 0},
	}
	for _, s := range stories {
		for _, other := range []int{200, 500} {
			t.Run(fmt.Sprint(s.name, other), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v, servers := fakes(t, s.local, reply{code: other})
					for _, suspect := range []string{"", "a", "b", "a b"} {
						v.list[0].suspect = strings.Contains(suspect, "a")
						v.list[1].suspect = strings.Contains(suspect, "b")
						begun := time.Now()
						ready, err := v.LocalReady(t.Context())
						if ready != s.ready || (err != nil) != (s.err != "") || err != nil && !strings.Contains(err.Error(), s.err) {
							t.Errorf("suspects %q: %v, %v", suspect, ready, err)
						}
						if took := time.Since(begun); took != s.took {
							t.Errorf("took %s, want %s", took, s.took)
						}
						if got := suspects(v); got != suspect {
							t.Errorf("suspects were %q and are %q", suspect, got)
						}
					}
					if asked := servers[1].log(); len(asked) != 0 {
						t.Errorf("the other server was asked %v", asked)
					}
				})
			})
		}
	}
}

// TestLocalReadyGivenUp: who asks may stop waiting.
func TestLocalReadyGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := fakes(t, reply{after: -1, code: 200})
		ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
		defer cancel()
		if ready, err := s.LocalReady(ctx); ready || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", ready, err)
		}
	})
}

// TestUnanswered tells silence from a refusal.
func TestUnanswered(t *testing.T) {
	leases := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	for _, s := range []struct {
		err  error
		want bool
	}{
		{&url.Error{Op: "Get", Err: errBroken}, true},
		{fmt.Errorf("marking: %w", &url.Error{Op: "Get", Err: errBroken}), true},
		{fmt.Errorf("marking: %w", context.DeadlineExceeded), true},
		{apierrors.NewInternalError(errBroken), true},
		{apierrors.NewTooManyRequests("later", 1), true},
		{apierrors.NewNotFound(leases, "node-n9"), false},
		{fmt.Errorf("marking: %w", apierrors.NewForbidden(leases, "node-n9", nil)), false},
		{apierrors.NewConflict(leases, "node-n9", errBroken), false},
		{errBroken, false},
		{nil, false},
	} {
		if got := Unanswered(s.err); got != s.want {
			t.Errorf("%v: %v", s.err, got)
		}
	}
}
