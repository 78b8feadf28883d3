package kube

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/internal/lb"
)

// slicesAPI is an API server with nothing but EndpointSlices.
func slicesAPI() *objectAPI {
	return newObjectAPI("discovery.k8s.io/v1", "EndpointSlice", func() object { return &discovery.EndpointSlice{} })
}

// put writes a slice.
func put(a *objectAPI, name string, addresses ...string) {
	s := endpointSlice("https", 6443, addresses...)
	s.Name, s.Namespace = name, "default"
	a.put(s)
}

// TestWatcher follows the list through an outage.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := slicesAPI()
		api.goAway(true)
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
		put(api, "v4", "10.0.0.2", "10.0.0.1", "192.0.2.10")
		put(api, "v6", "2001:db8::1")
		api.goAway(false)
		step("both families at once", "10.0.0.1:6443 10.0.0.2:6443 [2001:db8::1]:6443 ")
		put(api, "v4", "10.0.0.1", "10.0.0.2")
		step("nothing new", nil...)
		put(api, "v4", "10.0.0.1", "10.0.0.3")
		step("a change", "10.0.0.1:6443 10.0.0.3:6443 [2001:db8::1]:6443 ")
		put(api, "v6")
		step("one family left", "10.0.0.1:6443 10.0.0.3:6443 ")
		put(api, "v4")
		step("never an empty list")
		put(api, "v4", "10.0.0.1", "10.0.0.3")
		step("the same again")
		api.goAway(true)
		step("away")
		api.goAway(false)
		step("back")
		put(api, "v4", "10.0.0.4")
		step("and followed again", "10.0.0.4:6443 ")

		want := "GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices?kubernetes.io/service-name=kubernetes"
		if asked := api.all(); len(asked) != 1 || asked[want] == 0 {
			t.Errorf("asked for %v, want nothing but %s", asked, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestWatcherOutlivesADeafWatch: a watch on which nothing is told any more, after an
// API server hung, does not hide a change for longer than the next read, and what it
// tells late changes nothing back.
func TestWatcherOutlivesADeafWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := slicesAPI()
		got := make(chan string, 10)
		w, err := NewWatcher(&rest.Config{Host: "https://a", Transport: api, QPS: -1}, WatcherOptions{
			Log: quiet(t), Backends: func(list []lb.Backend) { got <- list[len(list)-1].Addr.String() },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		put(api, "v4", "10.0.0.1")
		go func() { _ = w.Run(ctx) }()
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			select {
			case have := <-got:
				if have != want {
					t.Errorf("got %s, want %s", have, want)
				}
			default:
				if want != "" {
					t.Errorf("got nothing, want %s", want)
				}
			}
		}
		time.Sleep(time.Second)
		expect("10.0.0.1:6443")
		secret := endpointSlice("https", 6443, "10.0.0.1", "10.0.0.2")
		secret.Name, secret.Namespace = "v4", "default"
		api.keepSecret(secret)
		time.Sleep(relistEvery + time.Second)
		expect("10.0.0.2:6443")
		time.Sleep(10 * relistEvery)
		expect("") // the watched list is older
		put(api, "v4", "10.0.0.1", "10.0.0.3")
		time.Sleep(time.Second)
		expect("10.0.0.3:6443")
		api.remove("v4")
		put(api, "other", "10.0.0.4")
		time.Sleep(2 * relistEvery)
		expect("10.0.0.4:6443")
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
				slicesAPI().initial(w, []object{out})
			}
			if isWatch(r) {
				w.(http.Flusher).Flush()
				if r.URL.Query().Get("sendInitialEvents") != "true" {
					slicesAPI().send(w, watch.Modified, out)
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
