package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
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

// LabelEnable on Nodes is k3s' list of those that serve: while any has the value
// "true", no other serves a Service (k3s docs, Networking Services, "Controlling
// ServiceLB Node Selection").
const LabelEnable = "svccontroller.k3s.cattle.io/enablelb"

// NodesOptions is what NewNodes needs.
type NodesOptions struct {
	// Changed gets, at every change, what the cluster says of Nodes. It is not called
	// before there is anything. Calls do not overlap.
	Changed func(Unfit)
	// Self is this node's name, Labels gets the labels of its Node at every change,
	// first when they are known; listed says that some Node has LabelEnable. Nil is not
	// called.
	Self   string
	Labels func(own map[string]string, listed bool)
	Log    *slog.Logger
}

// Unfit are names of Nodes, each list sorted.
type Unfit struct {
	// Out are those that an operator has declared out of service
	// (corev1.TaintNodeOutOfService), Off those that are shut down.
	Out, Off []string
	// NotReady are those whose condition Ready is not True, unless all are so: that
	// says more about whoever judges than about the Nodes.
	NotReady []string
}

// equal compares lists.
func (u Unfit) equal(v Unfit) bool {
	return slices.Equal(u.Out, v.Out) && slices.Equal(u.Off, v.Off) && slices.Equal(u.NotReady, v.NotReady)
}

// Nodes follows what says that a Node's machine is gone, or may not serve.
type Nodes struct {
	o      NodesOptions
	client coreclient.NodeInterface
	// told, labels and listed are what was told last; only Run's goroutine uses them.
	told   Unfit
	labels map[string]string
	listed bool
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
	} else if v, ok := full.Labels[LabelEnable]; ok {
		small.Labels = map[string]string{LabelEnable: v}
	}
	for _, c := range full.Status.Conditions {
		if c.Type == corev1.NodeReady {
			small.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
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
	var all []*corev1.Node
	for _, o := range objects {
		if node, ok := o.(*corev1.Node); ok {
			all = append(all, node)
		}
	}
	slices.SortFunc(all, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	n.look(all)
	var now Unfit
	for _, node := range all {
		// The effect does not matter: what the machine is does not depend on
		// whom the taint keeps away.
		if tainted(node, corev1.TaintNodeOutOfService) {
			now.Out = append(now.Out, node.Name)
		}
		if tainted(node, taintShutdown) {
			now.Off = append(now.Off, node.Name)
		}
		if !ready(node) {
			now.NotReady = append(now.NotReady, node.Name)
		}
	}
	if len(now.NotReady) == len(all) {
		now.NotReady = nil
	}
	if !now.equal(n.told) {
		n.told = now
		// Copies, because they belong to whoever is called.
		n.o.Changed(Unfit{slices.Clone(now.Out), slices.Clone(now.Off), slices.Clone(now.NotReady)})
	}
	return 0
}

// look takes the labels of this node, and whether some are listed.
func (n *Nodes) look(all []*corev1.Node) {
	i := slices.IndexFunc(all, func(node *corev1.Node) bool { return node.Name == n.o.Self })
	if i < 0 || n.o.Labels == nil {
		return
	}
	listed := slices.ContainsFunc(all, func(node *corev1.Node) bool { return node.Labels[LabelEnable] == "true" })
	if n.labels != nil && maps.Equal(all[i].Labels, n.labels) && listed == n.listed {
		return
	}
	n.labels, n.listed = maps.Clone(all[i].Labels), listed
	if n.labels == nil {
		n.labels = map[string]string{}
	}
	n.o.Labels(maps.Clone(n.labels), listed)
}

// ready says whether nobody has judged a Node not to be.
func ready(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue
	})
}

// tainted says whether a Node has a taint.
func tainted(node *corev1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}
