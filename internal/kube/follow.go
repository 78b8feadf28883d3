package kube

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// follow keeps a copy of a few objects of one kind up to date.
type follow struct {
	// what is read, for the log, as the subject of a sentence in the singular.
	what string
	log  *slog.Logger
	// client is the typed client that list and watch use.
	client any
	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	// example is an empty object of the kind.
	example runtime.Object
	// keep reduces an object before it is stored; nil stores it whole.
	keep cache.TransformFunc
	// away says that the API could not be read, so that it is logged once.
	away atomic.Bool
}

// run calls changed with all objects when the first list is complete and after
// changes, until ctx is done, and returns nil. Calls do not overlap. If changed
// returns a positive time it is called again after that, at the latest. While
// the API is away nothing changes.
func (f *follow) run(ctx context.Context, changed func(ctx context.Context, objects []any) time.Duration) error {
	// The informer's own logger knows nothing about this program.
	ctx = klog.NewContext(ctx, klog.Logger{})
	// One slot: several changes in a row are one new list.
	noted := make(chan struct{}, 1)
	informer, err := f.informer(func() {
		select {
		case noted <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		informer.RunWithContext(ctx)
	}()
	// Whoever waits for run has the informer's goroutines waited for too, but not
	// for long: in an outage the informer sleeps up to 30 s whatever its context
	// says (client-go's watchList), and the VIPs are not refreshed meanwhile.
	defer func() {
		select {
		case <-stopped:
		case <-time.After(100 * time.Millisecond):
		}
	}()

	// Not before the first list is complete: half of a list may say the opposite
	// of the whole.
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	// Only this goroutine reads the store and calls back, so that calls come
	// in order and do not overlap; events merely say that there is something.
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-noted:
		case <-again.C:
		}
		again.Stop()
		if next := changed(ctx, informer.GetStore().List()); next > 0 {
			again.Reset(next)
		}
	}
}

// informer makes one that calls note at each change.
func (f *follow) informer(note func()) (cache.SharedIndexInformer, error) {
	informer := cache.NewSharedIndexInformer(f.listWatch(), f.example, 0, nil)
	if err := informer.SetWatchErrorHandlerWithContext(f.failed); err != nil {
		return nil, err
	}
	if f.keep != nil {
		if err := informer.SetTransform(f.keep); err != nil {
			return nil, err
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() },
	})
	return informer, err
}

// listWatch notes when the API can be read again.
func (f *follow) listWatch() cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := f.list(ctx, o)
			f.seen(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			stream, err := f.watch(ctx, o)
			f.seen(err)
			return stream, err
		},
	}, f.client)
}

// seen logs that the API can be read again.
func (f *follow) seen(err error) {
	if err == nil && f.away.CompareAndSwap(true, false) {
		f.log.Info(f.what + " can be read again")
	}
}

// failed logs the first of a row of failures.
func (f *follow) failed(ctx context.Context, _ *cache.Reflector, err error) {
	if ctx.Err() == nil && f.away.CompareAndSwap(false, true) {
		f.log.Warn(f.what+" cannot be read; going on with what is known", "error", err)
	}
}
