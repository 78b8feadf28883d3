package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/internal/lb"
)

// sliceAPI is the part of an API server that serves EndpointSlices.
type sliceAPI struct {
	mu      sync.Mutex
	away    bool
	version int
	slices  map[string]*discovery.EndpointSlice
	streams map[*io.PipeWriter]bool
	paths   map[string]int
}

// RoundTrip implements http.RoundTripper.
func (a *sliceAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := req.URL.Query()
	a.paths[req.URL.Path+"?"+q.Get("labelSelector")]++
	if a.away {
		return nil, errBroken
	}
	resp := answerWith(req, http.StatusOK)
	if !isWatch(req) {
		list := discovery.EndpointSliceList{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"},
		}
		for _, s := range a.slices {
			list.Items = append(list.Items, *s)
		}
		data, err := json.Marshal(list)
		resp.Body = io.NopCloser(bytes.NewReader(data))
		return resp, err
	}
	r, w := io.Pipe()
	a.streams[w] = true
	context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
	resp.Body = r
	if q.Get("sendInitialEvents") == "true" {
		var initial []*discovery.EndpointSlice
		for _, s := range a.slices {
			initial = append(initial, s.DeepCopy())
		}
		go a.initial(w, initial)
	}
	return resp, nil
}

// initial streams what there is, then the mark that it was all (KEP-3157).
func (a *sliceAPI) initial(w *io.PipeWriter, all []*discovery.EndpointSlice) {
	for _, s := range all {
		send(w, watch.Added, s)
	}
	mark := &discovery.EndpointSlice{}
	mark.ResourceVersion = "1"
	mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	send(w, watch.Bookmark, mark)
}

// send writes one watch event.
func send(w io.Writer, kind watch.EventType, s *discovery.EndpointSlice) {
	s.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	object, _ := json.Marshal(s)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": json.RawMessage(object)})
}

// put writes a slice and tells the watches.
func (a *sliceAPI) put(name string, addresses ...string) {
	a.mu.Lock()
	s := endpointSlice("https", 6443, addresses...)
	a.version++
	s.Name, s.Namespace, s.ResourceVersion = name, "default", "1"+strings.Repeat("0", a.version)
	kind := watch.Modified
	if a.slices[name] == nil {
		kind = watch.Added
	}
	a.slices[name] = s
	var all []*io.PipeWriter
	for w := range a.streams {
		all = append(all, w)
	}
	a.mu.Unlock()
	for _, w := range all {
		send(w, kind, s.DeepCopy())
	}
}

// goAway ends all streams and answers no more, until called with false.
func (a *sliceAPI) goAway(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
	for w := range a.streams {
		w.CloseWithError(errors.New("connection lost"))
		delete(a.streams, w)
	}
}

// TestWatcher follows the list through an outage.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &sliceAPI{
			away: true, slices: map[string]*discovery.EndpointSlice{},
			streams: map[*io.PipeWriter]bool{}, paths: map[string]int{},
		}
		var mu sync.Mutex
		var got []string
		w, err := NewWatcher(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, WatcherOptions{
			Never: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Log: quiet(t),
			Backends: func(list []lb.Backend) {
				mu.Lock()
				defer mu.Unlock()
				text := ""
				for _, b := range list {
					text += b.Addr.String() + " "
				}
				got = append(got, text)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		step := func(what string, want ...string) {
			t.Helper()
			time.Sleep(2 * time.Minute) // longer than any back-off of a reflector
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
			got = nil
		}

		step("the API is away from the start")
		api.put("v4", "10.0.0.2", "10.0.0.1", "192.0.2.10")
		api.put("v6", "2001:db8::1")
		api.goAway(false)
		step("both families at once", "10.0.0.1:6443 10.0.0.2:6443 [2001:db8::1]:6443 ")
		api.put("v4", "10.0.0.1", "10.0.0.2")
		step("nothing new", nil...)
		api.put("v4", "10.0.0.1", "10.0.0.3")
		step("a change", "10.0.0.1:6443 10.0.0.3:6443 [2001:db8::1]:6443 ")
		api.put("v6")
		step("one family left", "10.0.0.1:6443 10.0.0.3:6443 ")
		api.put("v4")
		step("never an empty list")
		api.put("v4", "10.0.0.1", "10.0.0.3")
		step("the same again")
		api.goAway(true)
		step("away")
		api.goAway(false)
		step("back")
		api.put("v4", "10.0.0.4")
		step("and followed again", "10.0.0.4:6443 ")

		want := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?kubernetes.io/service-name=kubernetes"
		if len(api.paths) != 1 || api.paths[want] == 0 {
			t.Errorf("asked for %v, want nothing but %s", api.paths, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestWatcherGoesOnElsewhere puts the real reflector on real connections: the
// server of its watch hangs, and it follows the other one.
func TestWatcherGoesOnElsewhere(t *testing.T) {
	s, a, b := pair(t)
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	serve := func(address string, watches chan<- struct{}) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			out := endpointSlice("https", 6443, address)
			out.Name, out.Namespace, out.ResourceVersion = "kubernetes", "default", "5"
			if isWatch(r) && r.URL.Query().Get("sendInitialEvents") == "true" {
				(&sliceAPI{}).initialTo(w, out)
			}
			if isWatch(r) {
				w.(http.Flusher).Flush()
				if r.URL.Query().Get("sendInitialEvents") != "true" {
					send(w, watch.Modified, out)
					w.(http.Flusher).Flush()
				}
				watches <- struct{}{}
				<-r.Context().Done()
			}
		}
	}
	onA, onB := make(chan struct{}, 10), make(chan struct{}, 10)
	a.does(serve("10.0.0.1", onA))
	b.does(serve("10.0.0.2", onB))
	lists := make(chan []lb.Backend, 10)
	w, err := NewWatcher(s.RESTConfig(0), WatcherOptions{Log: quiet(t), Backends: func(l []lb.Backend) { lists <- l }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if l := next(t, lists); l[0].Addr.String() != "10.0.0.1:6443" {
		t.Fatal(l)
	}
	next(t, onA)
	a.does(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	begun := time.Now()
	get(t, s, client(t, s, 20*ms), time.Second) // any hedged request finds it out
	next(t, onB)
	if l := next(t, lists); l[0].Addr.String() != "10.0.0.2:6443" {
		t.Error(l)
	}
	t.Logf("followed the other server after %s", time.Since(begun))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("followed the other server after %s", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// next receives, or fails after 10 s.
func next[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing within 10 s")
	}
	return v
}

// initialTo is initial for a real server.
func (a *sliceAPI) initialTo(w http.ResponseWriter, s *discovery.EndpointSlice) {
	send(w, watch.Added, s)
	mark := &discovery.EndpointSlice{}
	mark.ResourceVersion = "5"
	mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	send(w, watch.Bookmark, mark)
}
