package election

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// ControllerLease names the Lease of the node that gives out addresses.
const ControllerLease = "controller"

// Times of a role that only one node may have, and that nobody misses for a while:
// kube-controller-manager's own.
const (
	roleLease = 15 * time.Second
	roleRenew = 10 * time.Second
	roleRetry = 2 * time.Second
)

// Role is a part that one node of the site plays at a time.
type Role struct {
	// Config reaches the API servers; Namespace and Name are the Lease's.
	Config          *rest.Config
	Namespace, Name string
	// Node is this node's name, the holderIdentity.
	Node string
}

// Lead calls lead whenever this node has the role that a Lease stands for, until ctx
// ends. lead's context ends when the role is lost, before another node can have it; it
// must return soon then. At the end of ctx the Lease is given back, so that another
// node need not wait. It is client-go's plain election: the role is not an address,
// and none of its mistakes outlives a moment.
func Lead(ctx context.Context, r Role, lead func(context.Context)) error {
	c, err := coordinationclient.NewForConfig(r.Config)
	if err != nil {
		return fmt.Errorf("client for Leases: %v", err)
	}
	ctx = klog.NewContext(ctx, logr.Discard())
	for ctx.Err() == nil {
		e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: meta.ObjectMeta{Namespace: r.Namespace, Name: r.Name}, Client: c,
				LockConfig: resourcelock.ResourceLockConfig{Identity: r.Node},
			},
			LeaseDuration: roleLease, RenewDeadline: roleRenew, RetryPeriod: roleRetry,
			ReleaseOnCancel: true, Name: r.Name,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: lead, OnStoppedLeading: func() {}},
		})
		if err != nil {
			panic("election: " + err.Error()) // constants above, checked by a test
		}
		e.Run(ctx)
	}
	return nil
}
