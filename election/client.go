package election

import (
	"context"
	"fmt"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

var (
	createOptions = meta.CreateOptions{FieldManager: "mooring"}
	updateOptions = meta.UpdateOptions{FieldManager: "mooring"}
)

// isMissing tells a Lease that does not exist from a namespace or API that
// does not: both are NotFound and both mean that nobody holds.
func isMissing(err error) bool { return apierrors.IsNotFound(err) }

// listLeases and watchLeases are what a reflector asks with: all Leases of the
// namespace, for groups and members are few and one watch is cheaper than two.
func listLeases(c coordinationclient.LeaseInterface) cache.ListWithContextFunc {
	return func(ctx context.Context, o meta.ListOptions) (runtime.Object, error) { return c.List(ctx, o) }
}

func watchLeases(c coordinationclient.LeaseInterface) cache.WatchFuncWithContext {
	return func(ctx context.Context, o meta.ListOptions) (watch.Interface, error) { return c.Watch(ctx, o) }
}

// keepMember writes this node's member Lease every ten seconds, at once at the
// start and soon again after a failure.
func (e *Elector) keepMember(ctx context.Context) error {
	var last *coordination.Lease
	for {
		wait, begun := memberEvery, e.opt.Now()
		l, err := e.writeMember(ctx, last)
		switch {
		case err == nil:
			last = l
			e.site.putMember(l)
			e.site.renewed(e.opt.Node, begun)
		case apierrors.IsConflict(err) && last != nil && e.opt.Now()-e.firstRun < 3*memberEvery:
			if e.foreign(ctx) {
				return ErrDuplicateNode
			}
			last, wait = nil, time.Second
		default:
			last, wait = nil, time.Second
			e.complain("write of the member Lease failed", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.told:
		case <-time.After(wait):
		}
	}
}

// writeMember updates the Lease as last written, or as the server has it.
func (e *Elector) writeMember(ctx context.Context, last *coordination.Lease) (*coordination.Lease, error) {
	m := e.opt.Member
	m.Live = m.Live && !e.leaving.Load()
	m.Pools = *e.pools.Load()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var err error
	if last == nil {
		last, err = e.client.Get(ctx, memberName+e.opt.Node, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return e.client.Create(ctx, encodeMember(nil, m, e.opt.Identity, e.opt.Clock()), createOptions)
		}
		if err != nil {
			return nil, err
		}
	}
	return e.client.Update(ctx, encodeMember(last, m, e.opt.Identity, e.opt.Clock()), updateOptions)
}

// foreign says whether somebody else has written our member Lease.
func (e *Elector) foreign(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	l, err := e.client.Get(ctx, memberName+e.opt.Node, meta.GetOptions{})
	return err == nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity != e.opt.Identity
}

// Leave marks this node as leaving, so that nobody hands a group to it.
func (e *Elector) Leave(ctx context.Context) error {
	e.leaving.Store(true) // also for the renewals still to come
	_, err := e.writeMember(ctx, nil)
	return err
}

// SetDrain marks a node's member Lease, or unmarks it: a marked node hands its
// group over and takes none. The error of a node that has no member Lease names
// those that have.
func SetDrain(ctx context.Context, config *rest.Config, namespace, node string, on bool) error {
	c, err := coordinationclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client for Leases: %v", err)
	}
	leases := c.Leases(namespace)
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		l, err := leases.Get(ctx, memberName+node, meta.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("no agent runs on a node %q: known are %s", node, strings.Join(memberNames(ctx, leases), ", "))
		}
		if err != nil {
			return err
		}
		value := ""
		if on {
			value = "true"
		}
		l.Annotations = with(l.Annotations, annDrain, value)
		_, err = leases.Update(ctx, l, updateOptions)
		return err
	})
}

// memberNames lists the nodes that have a member Lease.
func memberNames(ctx context.Context, leases coordinationclient.LeaseInterface) []string {
	var out []string
	all, err := leases.List(ctx, meta.ListOptions{})
	if err != nil {
		return []string{"(" + err.Error() + ")"}
	}
	for i := range all.Items {
		if m, ok := toMember(&all.Items[i]); ok {
			out = append(out, m.Node)
		}
	}
	return out
}

// Acquired is when the holder now known took the group, by the clock of the
// node that wrote it; false when there is no sound record.
func (e *Elector) Acquired() (time.Time, bool) {
	l, _ := e.leases.last()
	if v := toView(l, e.leases.known); !v.Sound || l.Spec.AcquireTime == nil {
		return time.Time{}, false
	}
	return l.Spec.AcquireTime.Time, true
}
