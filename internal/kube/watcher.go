package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"mooring.dev/mooring/internal/lb"
)

// apiService selects the EndpointSlices of Service default/kubernetes, which
// the API servers keep themselves (kube-apiserver --endpoint-reconciler-type).
const (
	apiNamespace = metav1.NamespaceDefault
	apiService   = discovery.LabelServiceName + "=kubernetes"
)

// WatcherOptions is what NewWatcher needs.
type WatcherOptions struct {
	// Backends gets the API servers, sorted by address, at every change and
	// never an empty list. Calls do not overlap; it shall not block long.
	Backends func([]lb.Backend)
	// Never lists the virtual IPs, which are no backends.
	Never []netip.Addr
	Log   *slog.Logger
}

// Watcher follows the cluster's own list of its API servers.
type Watcher struct {
	o      WatcherOptions
	client discoveryclient.EndpointSliceInterface
	// away says that the API could not be read, so that it is logged once.
	away atomic.Bool
}

// NewWatcher prepares; it connects to nothing.
func NewWatcher(config *rest.Config, o WatcherOptions) (*Watcher, error) {
	c, err := discoveryclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for EndpointSlices: %w", err)
	}
	return &Watcher{o: o, client: c.EndpointSlices(apiNamespace)}, nil
}

// Run follows until ctx is done and returns nil. While the API is away the
// last list stays in force.
func (w *Watcher) Run(ctx context.Context) error {
	// The informer's own logger knows nothing about this program.
	ctx = klog.NewContext(ctx, klog.Logger{})
	// One slot: several changes in a row are one new list.
	changed := make(chan struct{}, 1)
	informer := cache.NewSharedIndexInformer(w.listWatch(), &discovery.EndpointSlice{}, 0, nil)
	if err := informer.SetWatchErrorHandlerWithContext(w.failed); err != nil {
		return err
	}
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
	})
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		informer.RunWithContext(ctx)
	}()
	// Whoever waits for Run has the informer's goroutines waited for too, but not
	// for long: in an outage the informer sleeps up to 30 s whatever its context
	// says (client-go's watchList), and the VIPs are not refreshed meanwhile.
	defer func() {
		select {
		case <-stopped:
		case <-time.After(100 * time.Millisecond):
		}
	}()

	// Not before the first list is complete: with one of two families only a
	// proxy would lose half of its backends for a moment.
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	note()
	// Only this goroutine reads the store and calls back, so that calls come
	// in order and do not overlap; events merely say that there is something.
	var last []lb.Backend
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			last = w.pass(informer.GetStore().List(), last)
		}
	}
}

// listWatch reads the few slices concerned and nothing else.
func (w *Watcher) listWatch() cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = apiService
			list, err := w.client.List(ctx, o)
			w.seen(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = apiService
			stream, err := w.client.Watch(ctx, o)
			w.seen(err)
			return stream, err
		},
	}, w.client)
}

// pass hands the list on if it says something new, and returns what is in
// force.
func (w *Watcher) pass(objects []any, last []lb.Backend) []lb.Backend {
	all := make([]*discovery.EndpointSlice, 0, len(objects))
	for _, o := range objects {
		if s, ok := o.(*discovery.EndpointSlice); ok {
			all = append(all, s)
		}
	}
	backends, ignored := Translate(all, w.o.Never)
	if len(backends) == 0 || slices.Equal(backends, last) {
		if len(backends) == 0 {
			w.o.Log.Warn("the cluster lists no API server; keeping the last list", "kept", len(last))
		}
		return last
	}
	for _, i := range ignored {
		w.o.Log.Warn("address of an API server is not used", "address", i.Address, "why", i.Cause.String())
	}
	w.o.Backends(backends)
	return backends
}

// seen logs that the API can be read again.
func (w *Watcher) seen(err error) {
	if err == nil && w.away.CompareAndSwap(true, false) {
		w.o.Log.Info("the list of API servers can be read again")
	}
}

// failed logs the first of a row of failures.
func (w *Watcher) failed(ctx context.Context, _ *cache.Reflector, err error) {
	if ctx.Err() == nil && w.away.CompareAndSwap(false, true) {
		w.o.Log.Warn("the list of API servers cannot be read; keeping the last one", "error", err)
	}
}
