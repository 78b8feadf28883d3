package election

import (
	"context"
	"fmt"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
)

// ReadMembers reads the member Leases once, for who runs no agent. Live are those that
// were renewed within their time, by this host's clock.
func ReadMembers(ctx context.Context, config *rest.Config, namespace string, now time.Time) ([]Member, error) {
	c, err := coordinationclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for Leases: %w", err)
	}
	list, err := c.Leases(namespace).List(ctx, meta.ListOptions{LabelSelector: labelKind + "=" + kindMember})
	if err != nil {
		return nil, err
	}
	var out []Member
	for i := range list.Items {
		l := &list.Items[i]
		m, ok := toMember(l)
		if !ok {
			continue
		}
		m.Live = m.Live && l.Spec.RenewTime != nil && now.Sub(l.Spec.RenewTime.Time) < 3*memberEvery
		out = append(out, m)
	}
	return out, nil
}
