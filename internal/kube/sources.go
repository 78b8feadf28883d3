package kube

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"mooring.dev/mooring/api/v1alpha1"
)

const (
	// byService is the index of EndpointSlices by "namespace/service".
	byService = "service"
	// ofService leaves out the slices of headless Services, which no Service of type
	// LoadBalancer can be.
	ofService = discovery.LabelServiceName + ",!" + corev1.IsHeadlessService
	// onlyBalancers are the Services of type LoadBalancer. One that changes its type
	// is deleted as far as this list is concerned; the API server clears its status
	// itself (pkg/registry/core/service, dropTypeDependentFields).
	onlyBalancers = "spec.type=" + string(corev1.ServiceTypeLoadBalancer)
)

// sources are all lists that a ServiceWatcher follows.
type sources struct {
	services, slices, namespaces, pools *follow
}

// serviceSources prepares them; it connects to nothing.
func serviceSources(config *rest.Config, log *slog.Logger) (sources, error) {
	core, err := coreclient.NewForConfig(config)
	if err != nil {
		return sources{}, fmt.Errorf("client for Services: %w", err)
	}
	discover, err := discoveryclient.NewForConfig(config)
	if err != nil {
		return sources{}, fmt.Errorf("client for EndpointSlices: %w", err)
	}
	pools, err := newPools(config)
	if err != nil {
		return sources{}, err
	}
	services := source(core.Services(metav1.NamespaceAll), metav1.ListOptions{FieldSelector: onlyBalancers})
	services.what, services.example, services.keep = "the list of Services", &corev1.Service{}, keepService
	slices := source(discover.EndpointSlices(metav1.NamespaceAll), metav1.ListOptions{LabelSelector: ofService})
	slices.what, slices.example = "the list of EndpointSlices", &discovery.EndpointSlice{}
	slices.keep = newWords().keepSlice
	namespaces := source(core.Namespaces(), metav1.ListOptions{})
	namespaces.what, namespaces.example, namespaces.keep = "the list of Namespaces", &corev1.Namespace{}, keepNamespace
	all := source(pools, metav1.ListOptions{})
	all.what, all.example, all.keep = "the list of AddressPools", &v1alpha1.AddressPool{}, keepPool
	wayOutOfPools(all)
	out := sources{services, slices, namespaces, all}
	for _, f := range []*follow{services, slices, namespaces, all} {
		f.log = log
	}
	return out, nil
}

// lister is what typed clients have in common.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// source follows what a client lists with the selectors of only.
func source[L runtime.Object](client lister[L], only metav1.ListOptions) *follow {
	with := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector, o.FieldSelector = only.LabelSelector, only.FieldSelector
		return o
	}
	return &follow{
		client: client,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, with(o))
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, with(o))
		},
	}
}

// wayOutOfPools has a failure to read AddressPools say what to do about it.
func wayOutOfPools(f *follow) {
	list, open := f.list, f.watch
	f.list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		all, err := list(ctx, o)
		return all, installPools(err)
	}
	f.watch = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		stream, err := open(ctx, o)
		return stream, installPools(err)
	}
}

// serviceOfSlice is the index function of byService.
func serviceOfSlice(object any) ([]string, error) {
	o, err := meta.Accessor(object)
	if err != nil {
		return nil, err
	}
	name := o.GetLabels()[discovery.LabelServiceName]
	if name == "" {
		return nil, nil
	}
	// Never another namespace's: a slice speaks for its own only.
	return []string{o.GetNamespace() + "/" + name}, nil
}

// keyed makes an informer with indexes that calls note with each object that
// was added, changed (as it was and as it is) or deleted.
func (f *follow) keyed(index cache.Indexers, note func(object any)) (cache.SharedIndexInformer, error) {
	informer := cache.NewSharedIndexInformer(f.listWatch(), f.example, 0, index)
	if err := informer.SetWatchErrorHandlerWithContext(f.failed); err != nil {
		return nil, err
	}
	if err := informer.SetTransform(f.keep); err != nil {
		return nil, err
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note,
		UpdateFunc: func(old, now any) {
			if !sameVersion(old, now) { // another list of the same
				note(old)
				note(now)
			}
		},
		DeleteFunc: func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			note(object)
		},
	})
	return informer, err
}

// sameVersion says whether two objects are the same as the API server sees it.
func sameVersion(a, b any) bool {
	x, err := meta.Accessor(a)
	y, also := meta.Accessor(b)
	return err == nil && also == nil && x.GetResourceVersion() == y.GetResourceVersion()
}
