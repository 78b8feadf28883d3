package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// taintShutdown is set by a cloud's controller on a Node whose machine is shut
// down (k8s.io/cloud-provider, api.TaintNodeShutdown).
const taintShutdown = "node.cloudprovider.kubernetes.io/shutdown"

// NodesOptions is what NewNodes needs.
type NodesOptions struct {
	// Changed gets, at every change, the names of the Nodes that an operator has
	// declared out of service (corev1.TaintNodeOutOfService), and of those that
	// are shut down, each sorted. It is not called before there are any. Calls do
	// not overlap.
	Changed func(out, leave []string)
	// Self is this node's name, Labels gets the labels of its Node at every change,
	// first when they are known; nil is not called.
	Self   string
	Labels func(map[string]string)
	Log    *slog.Logger
}

// Nodes follows the taints that say that a Node's machine is gone.
type Nodes struct {
	o      NodesOptions
	client coreclient.NodeInterface
	// out and leave are what was told last; only Run's goroutine uses them.
	out, leave []string
	labels     map[string]string
}

// NewNodes prepares; it connects to nothing.
func NewNodes(config *rest.Config, o NodesOptions) (*Nodes, error) {
	c, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for Nodes: %w", err)
	}
	return &Nodes{o: o, client: c.Nodes()}, nil
}

// Run follows until ctx is done and returns nil. While the API is away what was
// told last stays in force.
func (n *Nodes) Run(ctx context.Context) error {
	f := &follow{
		what: "the list of Nodes", log: n.o.Log, client: n.client, example: &corev1.Node{}, keep: n.small,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return n.client.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return n.client.Watch(ctx, o)
		},
	}
	return f.run(ctx, n.pass)
}

// small leaves of a Node what is looked at: its status alone lists every image on it.
func (n *Nodes) small(object any) (any, error) {
	full, ok := object.(*corev1.Node)
	if !ok {
		return object, nil // the mark of a deletion that was missed
	}
	small := &corev1.Node{}
	small.Name, small.UID, small.ResourceVersion = full.Name, full.UID, full.ResourceVersion
	if full.Name == n.o.Self {
		small.Labels = full.Labels
	}
	for _, t := range full.Spec.Taints {
		if t.Key == corev1.TaintNodeOutOfService || t.Key == taintShutdown {
			small.Spec.Taints = append(small.Spec.Taints, corev1.Taint{Key: t.Key})
		}
	}
	return small, nil
}

// pass tells what is new.
func (n *Nodes) pass(_ context.Context, objects []any) time.Duration {
	var out, leave []string
	for _, o := range objects {
		node, ok := o.(*corev1.Node)
		if !ok {
			continue
		}
		n.look(node)
		// The effect does not matter: what the machine is does not depend on
		// whom the taint keeps away.
		if tainted(node, corev1.TaintNodeOutOfService) {
			out = append(out, node.Name)
		}
		if tainted(node, taintShutdown) {
			leave = append(leave, node.Name)
		}
	}
	slices.Sort(out)
	slices.Sort(leave)
	if !slices.Equal(out, n.out) || !slices.Equal(leave, n.leave) {
		// Copies, because they belong to whoever is called.
		n.out, n.leave = slices.Clone(out), slices.Clone(leave)
		n.o.Changed(out, leave)
	}
	return 0
}

// look takes the labels of this node.
func (n *Nodes) look(node *corev1.Node) {
	if node.Name != n.o.Self || n.o.Labels == nil || n.labels != nil && maps.Equal(node.Labels, n.labels) {
		return
	}
	n.labels = maps.Clone(node.Labels)
	if n.labels == nil {
		n.labels = map[string]string{}
	}
	n.o.Labels(maps.Clone(n.labels))
}

// tainted says whether a Node has a taint.
func tainted(node *corev1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}
