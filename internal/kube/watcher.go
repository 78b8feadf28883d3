package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"time"

	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"

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

// relistEvery is how often the list is read besides being watched: an API server
// that was hung may go on with a watch and tell nothing on it for minutes.
const relistEvery = 30 * time.Second

// Watcher follows the cluster's own list of its API servers.
type Watcher struct {
	o      WatcherOptions
	client discoveryclient.EndpointSliceInterface

	// Only Run's goroutine uses what follows: what the watch tells is older than
	// behind, if that is not 0, and when to read the list again.
	behind uint64
	relist time.Time
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
	// The few slices concerned and nothing else.
	f := &follow{
		what: "the list of API servers", log: w.o.Log, client: w.client, example: &discovery.EndpointSlice{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = apiService
			return w.client.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = apiService
			return w.client.Watch(ctx, o)
		},
	}
	var last []lb.Backend
	return f.run(ctx, func(ctx context.Context, objects []any) time.Duration {
		all := slicesOf(objects)
		if now := time.Now(); !now.Before(w.relist) {
			if !w.relist.IsZero() {
				all = w.read(ctx, all)
			}
			w.relist = now.Add(relistEvery)
		}
		if version(all) >= w.behind {
			last = w.pass(all, last)
		}
		return time.Until(w.relist)
	})
}

// slicesOf leaves out what the store should not have.
func slicesOf(objects []any) []*discovery.EndpointSlice {
	all := make([]*discovery.EndpointSlice, 0, len(objects))
	for _, o := range objects {
		if s, ok := o.(*discovery.EndpointSlice); ok {
			all = append(all, s)
		}
	}
	return all
}

// read asks for the list as it is now (a quorum read); without an answer the watched
// one stands.
func (w *Watcher) read(ctx context.Context, watched []*discovery.EndpointSlice) []*discovery.EndpointSlice {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := w.client.List(ctx, metav1.ListOptions{LabelSelector: apiService})
	if err != nil {
		return watched
	}
	fresh := make([]*discovery.EndpointSlice, len(list.Items))
	for i := range list.Items {
		fresh[i] = &list.Items[i]
	}
	w.behind = 0
	if now := version(fresh); now > version(watched) {
		w.behind = now
		w.o.Log.Warn("the watch of the API servers has told nothing of a change; using what was read")
	}
	return fresh
}

// version is the newest of the slices' resourceVersions, which compare as numbers
// (KEP-5504).
func version(all []*discovery.EndpointSlice) uint64 {
	newest := uint64(0)
	for _, s := range all {
		if v, err := strconv.ParseUint(s.ResourceVersion, 10, 64); err == nil {
			newest = max(newest, v)
		}
	}
	return newest
}

// pass hands the list on if it says something new, and returns what is in
// force.
func (w *Watcher) pass(all []*discovery.EndpointSlice, last []lb.Backend) []lb.Backend {
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
