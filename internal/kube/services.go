package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

// Changed is what became of a Service.
type Changed struct {
	Key lb.ServiceKey
	// Service as it is now, not to be modified; nil when it is gone or not ours any
	// more. A Service deleted and made anew may be told as one change: see its UID.
	Service *lb.Service
	// Left, where Service is nil, is what we may have left on it.
	Left Left
}

// Left is what there may be of ours on a Service that is ours no more: it has another
// type or class now, or is gone. Without a UID it is nothing.
type Left struct {
	UID string
	// Addresses that its status still has. The API server itself clears them where the
	// type has changed.
	Addresses []netip.Addr
}

// ServicesOptions is what NewServiceWatcher needs. Calls do not overlap and hold
// up those that follow.
type ServicesOptions struct {
	// Mode and Accepted say which Services are ours, see Ours.
	Mode     ClassMode
	Accepted []string
	// Changed gets each of our Services once, then at every change that matters.
	Changed func(Changed)
	// Pools gets all pools, sorted by name, and what of each cannot be used, at every
	// change of a specification.
	Pools func([]lb.Pool, map[string][]lb.Issue)
	// Synced is called once, when all pools and Services were told: no Service that
	// has an address is missing any more.
	Synced func()
	Log    *slog.Logger
}

// ServiceWatcher follows the Services of type LoadBalancer with their
// EndpointSlices and namespaces, and the AddressPools.
type ServiceWatcher struct {
	o                                   ServicesOptions
	services, slices, namespaces, pools cache.SharedIndexInformer
	dirty                               dirty

	// told is what Changed knows; only Run's goroutine uses what follows.
	told      map[lb.ServiceKey]*lb.Service
	toldPools []lb.Pool
	toldWrong map[string][]lb.Issue
	// left are those told to have something of ours.
	left map[lb.ServiceKey]bool
	// havePools and haveServices say which lists are whole, synced that Synced was
	// called.
	havePools, haveServices, synced bool
}

// NewServiceWatcher prepares; it connects to nothing.
func NewServiceWatcher(config *rest.Config, o ServicesOptions) (*ServiceWatcher, error) {
	w := &ServiceWatcher{
		o: o, told: make(map[lb.ServiceKey]*lb.Service), left: make(map[lb.ServiceKey]bool),
		dirty: dirty{wake: make(chan struct{}, 1), set: make(map[lb.ServiceKey]bool)},
	}
	follows, err := serviceSources(config, o.Log)
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		f     *follow
		at    *cache.SharedIndexInformer
		index cache.Indexers
		note  func(any)
	}{
		{follows.services, &w.services, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
			w.serviceNoted},
		{follows.slices, &w.slices, cache.Indexers{byService: serviceOfSlice}, w.sliceNoted},
		{follows.namespaces, &w.namespaces, nil, w.namespaceNoted},
		{follows.pools, &w.pools, nil, func(any) { w.dirty.addPools() }},
	} {
		if *s.at, err = s.f.keyed(s.index, s.note); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Service returns what is known of a Service, nil if it is of no use to us. It is
// not to be modified. Safe for concurrent use.
func (w *ServiceWatcher) Service(key lb.ServiceKey) *corev1.Service {
	object, _, _ := w.services.GetIndexer().GetByKey(string(key)) // a store of memory does not fail
	svc, _ := object.(*corev1.Service)
	if svc == nil || !Ours(svc, w.o.Mode, w.o.Accepted) {
		return nil
	}
	return svc
}

// Pool returns an AddressPool, nil if there is none. It is not to be modified.
// Safe for concurrent use.
func (w *ServiceWatcher) Pool(name string) *v1alpha1.AddressPool {
	object, _, _ := w.pools.GetIndexer().GetByKey(name)
	p, _ := object.(*v1alpha1.AddressPool)
	return p
}

// Run follows until ctx is done and returns nil. While the API is away what was
// told last stays in force. Services are told as soon as they are known whole,
// also when there are no AddressPools to be read: who has an address is served.
func (w *ServiceWatcher) Run(ctx context.Context) error {
	// The informers' own logger knows nothing about this program.
	ctx = klog.NewContext(ctx, klog.Logger{})
	stop := w.start(ctx)
	defer stop()
	services, pools := make(chan struct{}), make(chan struct{})
	go whenSynced(ctx, services, w.services, w.slices, w.namespaces)
	go whenSynced(ctx, pools, w.pools)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-services:
			services, w.haveServices = nil, true
			w.dirty.take() // all of them now, in order
			w.dirty.add(w.keys(w.services.GetIndexer().ListKeys())...)
		case <-pools:
			pools, w.havePools = nil, true
			w.dirty.addPools()
		case <-w.dirty.wake:
		}
		w.tell()
	}
}

// tell tells what is new of the lists that are whole: half of a list may say the
// opposite of the whole.
func (w *ServiceWatcher) tell() {
	// Pools first: whoever allocates needs them (rule 19).
	if w.havePools && w.dirty.takePools() {
		w.passPools()
	}
	if w.haveServices {
		for _, key := range w.dirty.take() {
			w.pass(key)
		}
	}
	if w.havePools && w.haveServices && !w.synced {
		w.synced = true
		w.o.Synced()
	}
}

// start runs the informers and returns what waits for their end, but not for
// long: see follow.run.
func (w *ServiceWatcher) start(ctx context.Context) (stop func()) {
	var all sync.WaitGroup
	for _, i := range []cache.SharedIndexInformer{w.services, w.slices, w.namespaces, w.pools} {
		all.Go(func() { i.RunWithContext(ctx) })
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		all.Wait()
	}()
	return func() {
		select {
		case <-stopped:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// whenSynced closes a channel when the first lists are complete.
func whenSynced(ctx context.Context, done chan<- struct{}, informers ...cache.SharedIndexInformer) {
	for _, i := range informers {
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			return
		}
	}
	close(done)
}

func (w *ServiceWatcher) keys(names []string) []lb.ServiceKey {
	slices.Sort(names) // the same order on every node, for the log
	out := make([]lb.ServiceKey, len(names))
	for i, n := range names {
		out[i] = lb.ServiceKey(n)
	}
	return out
}

// pass tells what is new about a Service.
func (w *ServiceWatcher) pass(key lb.ServiceKey) {
	svc, old := w.Service(key), w.told[key]
	if svc == nil {
		w.passLeft(key, old)
		return
	}
	delete(w.left, key)
	s := TranslateService(svc, w.slicesOf(key), w.labelsOf(svc.Namespace))
	if old != nil && reflect.DeepEqual(*old, s) {
		return // what has changed does not matter
	}
	w.told[key] = &s
	w.o.Changed(Changed{Key: key, Service: &s})
}

// passLeft tells that a Service is not ours, if it was or has something of ours.
func (w *ServiceWatcher) passLeft(key lb.ServiceKey, old *lb.Service) {
	var left Left
	object, listed, _ := w.services.GetIndexer().GetByKey(string(key))
	if svc, ok := object.(*corev1.Service); ok && marked(svc) {
		left = Left{UID: string(svc.UID), Addresses: TranslateService(svc, nil, nil).Has}
	} else if old != nil && !listed {
		left.UID = old.UID // deleted, or of another type: this list does not tell
	}
	if old == nil && left.UID == "" && !w.left[key] {
		return
	}
	delete(w.told, key)
	delete(w.left, key)
	if listed && left.UID != "" {
		w.left[key] = true
	}
	w.o.Changed(Changed{Key: key, Left: left})
}

// marked says whether a Service has a condition of ours.
func marked(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
		return strings.HasPrefix(c.Type, prefix)
	})
}

// slicesOf are the EndpointSlices of a Service, in any order.
func (w *ServiceWatcher) slicesOf(key lb.ServiceKey) []*discovery.EndpointSlice {
	objects, _ := w.slices.GetIndexer().ByIndex(byService, string(key)) // the index exists
	out := make([]*discovery.EndpointSlice, 0, len(objects))
	for _, o := range objects {
		if s, ok := o.(*discovery.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

// labelsOf are those of a namespace, nil while it is not known.
func (w *ServiceWatcher) labelsOf(namespace string) map[string]string {
	object, _, _ := w.namespaces.GetIndexer().GetByKey(namespace)
	n, ok := object.(*corev1.Namespace)
	switch {
	case !ok:
		return nil
	case n.Labels == nil:
		return map[string]string{}
	}
	return n.Labels
}

// passPools tells the pools if they, or what is wrong with them, have changed.
func (w *ServiceWatcher) passPools() {
	list := []lb.Pool{}
	wrong := map[string][]lb.Issue{}
	for _, o := range w.pools.GetStore().List() {
		p, ok := o.(*v1alpha1.AddressPool)
		if !ok {
			continue
		}
		pool, issues := TranslatePool(p)
		list = append(list, pool)
		if len(issues) > 0 {
			wrong[pool.Name] = issues
		}
	}
	slices.SortFunc(list, func(a, b lb.Pool) int { return strings.Compare(a.Name, b.Name) })
	// Mostly it is the status that changes, which we write ourselves.
	if reflect.DeepEqual(list, w.toldPools) && reflect.DeepEqual(wrong, w.toldWrong) {
		return
	}
	w.toldPools, w.toldWrong = list, wrong
	w.o.Pools(slices.Clone(list), wrong)
}

// serviceNoted, sliceNoted and namespaceNoted say which Services an object is
// about. They are called by the informers' goroutines.
func (w *ServiceWatcher) serviceNoted(object any) {
	if key, err := cache.MetaNamespaceKeyFunc(object); err == nil {
		w.dirty.add(lb.ServiceKey(key))
	}
}

func (w *ServiceWatcher) sliceNoted(object any) {
	keys, _ := serviceOfSlice(object)
	w.dirty.add(w.keys(keys)...)
}

func (w *ServiceWatcher) namespaceNoted(object any) {
	n, ok := object.(*corev1.Namespace)
	if !ok {
		return
	}
	keys, err := w.services.GetIndexer().IndexKeys(cache.NamespaceIndex, n.Name)
	if err != nil {
		w.o.Log.Warn("Services of a namespace not found; the change of its labels is not heeded",
			"namespace", n.Name, "error", fmt.Sprint(err))
	}
	w.dirty.add(w.keys(keys)...)
}

// dirty lists what to look at anew, each once, in the order in which it came.
type dirty struct {
	// wake has something in it when there is something to take.
	wake chan struct{}

	mu    sync.Mutex
	set   map[lb.ServiceKey]bool
	order []lb.ServiceKey
	pools bool
}

// add never blocks.
func (d *dirty) add(keys ...lb.ServiceKey) {
	d.mu.Lock()
	for _, k := range keys {
		if !d.set[k] {
			d.set[k] = true
			d.order = append(d.order, k)
		}
	}
	d.mu.Unlock()
	d.ring()
}

func (d *dirty) addPools() {
	d.mu.Lock()
	d.pools = true
	d.mu.Unlock()
	d.ring()
}

func (d *dirty) ring() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// take empties the list.
func (d *dirty) take() []lb.ServiceKey {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.order
	d.order = nil
	clear(d.set)
	return out
}

func (d *dirty) takePools() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.pools
	d.pools = false
	return out
}
