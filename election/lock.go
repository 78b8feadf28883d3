package election

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lock is the resource lock under client-go's LeaderElector. It answers from
// memory and writes only what the machine allows: a plain LeaseLock polls,
// expires records by its own clock and creates by itself after an outage.
type lock struct{ e *Elector }

var _ resourcelock.Interface = (*lock)(nil)

// errNotAllowed is the conflict by which the elector learns that it may not
// write now; no request was sent.
var errNotAllowed = apierrors.NewConflict(
	schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}, "",
	errors.New("the ownership protocol does not allow this write now"))

// Get returns the record as the machine wants it seen, at once and without a
// request: held by us while it may be renewed, held by nobody while it may be
// claimed, else as it is. It never says NotFound, or the elector would create.
func (k *lock) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	wish := k.e.wish.Load()
	l, synced := k.e.leases.last()
	if !synced && wish.Mode != LockRenew {
		return nil, nil, errors.New("the Lease has not been read yet")
	}
	r := &resourcelock.LeaderElectionRecord{LeaseDurationSeconds: int(k.e.opt.Lease / time.Second)}
	version := ""
	if v := toView(l, func(string) bool { return true }); v.Sound {
		r.HolderIdentity, r.LeaderTransitions = v.Record.Holder, int(v.Record.Transitions)
		version = v.Record.Version
	}
	switch wish.Mode {
	case LockRenew:
		r.HolderIdentity, r.LeaderTransitions = k.e.opt.Node, int(wish.Record.Transitions)
	case LockClaim:
		r.HolderIdentity = ""
	case LockClosed:
	}
	return r, fmt.Appendf(nil, "%s %s %s", wish.Mode, r.HolderIdentity, version), nil
}

// Create is never allowed: Update creates when the claim is for a missing Lease.
func (k *lock) Create(context.Context, resourcelock.LeaderElectionRecord) error { return errNotAllowed }

// Update renews or claims. A renewal is written once a renewal period, one
// before that is taken as done while the term is ours. One at a time: the second
// sees what the first has written.
func (k *lock) Update(ctx context.Context, _ resourcelock.LeaderElectionRecord) error {
	select {
	case k.e.writing <- struct{}{}:
		defer func() { <-k.e.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	wish := k.e.wish.Load()
	if wish.Mode == LockClosed || wish.NotAfter != 0 && k.e.opt.Now() >= wish.NotAfter {
		return errNotAllowed
	}
	l, _ := k.e.leases.last()
	v := toView(l, func(string) bool { return true })
	ours := v.Sound && v.Record.term(wish.Record)
	switch {
	case wish.Mode == LockClaim && ours:
		return nil
	case wish.Mode == LockClaim && v.Record.Version != wish.Record.Version:
		return errNotAllowed // neither renewed, nor deleted, nor made since
	case wish.Mode == LockClaim:
		return k.e.write(ctx, wish.Record, l)
	case !ours:
		return errNotAllowed
	case k.e.opt.Now() < k.e.nextRenewal():
		return nil
	}
	return k.e.write(ctx, wish.Record, l)
}

// RecordEvent does nothing: the machine's notes become Events.
func (k *lock) RecordEvent(string) {}

// Identity is the node's name.
func (k *lock) Identity() string { return k.e.opt.Node }

// Describe names the Lease.
func (k *lock) Describe() string { return k.e.opt.Namespace + "/" + k.e.opt.Group }

// write sends one record and delivers what came of it. base is the Lease to
// replace, nil to create. Failed writes back off from 50 ms to 1 s.
// The caller has the token of writing.
func (e *Elector) write(ctx context.Context, r Record, base *coordination.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	begun := e.opt.Now()
	err := e.put(ctx, r, base)
	e.wrote(begun, err)
	return err
}

// put sends the request; a conflict is followed by a read, which decides.
func (e *Elector) put(ctx context.Context, r Record, base *coordination.Lease) error {
	begun := e.opt.Now()
	l := encode(base, e.opt.Group, r, e.opt.Lease, e.opt.Clock())
	var err error
	if base == nil {
		l, err = e.client.Create(ctx, l, createOptions)
	} else {
		l, err = e.client.Update(ctx, l, updateOptions)
	}
	switch {
	case err == nil:
		e.leases.seen(l, number(l.ResourceVersion), ByWrite, begun)
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err):
		e.readSoon(readTimeout)
	default:
		e.complain("write of the Lease failed", err)
	}
	return err
}
