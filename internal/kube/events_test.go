package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// eventAPI is the part of an API server that keeps Events.
type eventAPI struct {
	mu     sync.Mutex
	code   int // answered to everything; 0 works, -1 is away
	events map[string]*eventsv1.Event
	asked  []string // METHOD, in order
	at     []time.Duration
	start  time.Time
}

// RoundTrip implements http.RoundTripper.
func (a *eventAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, req.Method)
	a.at = append(a.at, time.Since(a.start))
	if a.code < 0 {
		return nil, errBroken
	}
	home := strings.HasPrefix(req.URL.Path, "/apis/events.k8s.io/v1/namespaces/default/events") ||
		strings.HasPrefix(req.URL.Path, "/apis/events.k8s.io/v1/namespaces/shop/events")
	if !home {
		return answerWith(req, http.StatusNotFound), nil
	}
	if a.code != 0 {
		return answerWith(req, a.code), nil
	}
	data, _ := io.ReadAll(req.Body)
	if req.Method == http.MethodPatch {
		e := a.events[req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]]
		if e == nil {
			return answerWith(req, http.StatusNotFound), nil
		}
		if err := json.Unmarshal(data, e); err != nil {
			return nil, err
		}
		return answerWith(req, http.StatusOK), nil
	}
	var e eventsv1.Event
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, err
	}
	if a.events[e.Name] != nil {
		return answerWith(req, http.StatusConflict), nil
	}
	a.events[e.Name] = &e
	return answerWith(req, http.StatusCreated), nil
}

// answerWith is an answer as the API server words it.
func answerWith(req *http.Request, code int) *http.Response {
	body := `{"apiVersion":"events.k8s.io/v1","kind":"Event"}`
	if code >= 400 {
		reason := map[int]metav1.StatusReason{
			404: metav1.StatusReasonNotFound, 403: metav1.StatusReasonForbidden, 409: metav1.StatusReasonAlreadyExists,
		}[code]
		body = fmt.Sprintf(`{"apiVersion":"v1","kind":"Status","status":"Failure","code":%d,"reason":%q}`, code, reason)
	}
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: req,
	}
}

// takeAsked returns the requests so far, as "POST PATCH …", and forgets them.
func (a *eventAPI) takeAsked() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := strings.Join(a.asked, " ")
	a.asked, a.at = nil, nil
	return out
}

// all returns copies of the Events.
func (a *eventAPI) all() []eventsv1.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []eventsv1.Event
	for _, e := range a.events {
		out = append(out, *e)
	}
	return out
}

// clear forgets the Events, as the API server does after an hour.
func (a *eventAPI) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.events)
}

func (a *eventAPI) set(code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.code = code
}

// reporter starts a Reporter on a fake API; the function returned stops it.
func reporter(t *testing.T) (*Reporter, *eventAPI, func()) {
	api := &eventAPI{events: map[string]*eventsv1.Event{}, start: time.Now()}
	config := &rest.Config{Host: "https://a", Transport: api, QPS: -1}
	config.ContentType = "application/json" // what the fake understands
	r, err := NewReporter(config, ReporterOptions{Node: "n1.example", Now: time.Now, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, api, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, api, stop := reporter(t)
		defer stop()
		begun := time.Now()
		r.Report(Note{Type: Warning, Reason: "ForeignClaim", Message: strings.Repeat("ä", 600)})
		synctest.Wait()
		all := api.all()
		if len(all) != 1 {
			t.Fatalf("%d Events", len(all))
		}
		got := all[0]
		name := strings.HasPrefix(got.Name, "n1.example.") && got.Namespace == "default"
		if !name || !got.EventTime.Time.Equal(begun) {
			t.Errorf("name %s/%s at %s", got.Namespace, got.Name, got.EventTime)
		}
		if len(got.Note) != maxNote || !utf8.ValidString(got.Note) {
			t.Errorf("note of %d bytes", len(got.Note))
		}
		ref := got.Regarding
		// What the API server requires (events.k8s.io/v1 validation) and what
		// kubectl describe node looks for.
		have := []any{got.Type, got.Reason, got.Action, got.ReportingController, got.ReportingInstance,
			ref.Kind, ref.Name, string(ref.UID), ref.Namespace}
		want := []any{"Warning", "ForeignClaim", "ForeignClaim", "mooring.dev/agent", "n1.example",
			"Node", "n1.example", "n1.example", ""}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Error(diff)
		}
	})
}

// TestEventAboutOthers: an Event lives in the namespace of its object, refers to
// it, and is counted apart from the same words about another.
func TestEventAboutOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, api, stop := reporter(t)
		defer stop()
		for _, about := range []About{AboutService("shop/web", "u1"), AboutService("shop/api", "u2"), AboutPool("public",
			"p1"), {}} {
			for range 2 {
				r.Report(Note{About: about, Type: Warning, Reason: "BadValue", Message: "m"})
			}
		}
		time.Sleep(time.Minute)
		got := make(map[string]string)
		for _, e := range api.all() {
			ref := e.Regarding
			name, _, _ := strings.Cut(strings.TrimPrefix(e.Name, "n1."), ".")
			got[ref.Name] = fmt.Sprint(e.Namespace, " ", name, " ", ref.APIVersion, " ", ref.Kind, " ", ref.Namespace, "/",
				ref.UID, " ",
				e.Series != nil && e.Series.Count == 2, " ", e.ReportingInstance)
		}
		want := map[string]string{
			"web": "shop web v1 Service shop/u1 true n1.example", "api": "shop api v1 Service shop/u2 true n1.example",
			"public":     "default public mooring.dev/v1alpha1 AddressPool /p1 true n1.example",
			"n1.example": "default example v1 Node /n1.example true n1.example",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestRoom: more notes wait where that was asked for.
func TestRoom(t *testing.T) {
	r, err := NewReporter(&rest.Config{Host: "https://a"}, ReporterOptions{Node: "n", Room: 100, Now: time.Now,
		Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		r.Report(Note{Reason: "R", Message: fmt.Sprint(i)})
	}
	if len(r.waiting) != 100 || r.waiting[0].note.Message != "50" {
		t.Errorf("%d wait, from %s", len(r.waiting), r.waiting[0].note.Message)
	}
}

// TestSeries: the same note again and again is one Event, written twice a
// minute at most; after a pause it is another Event.
func TestSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, api, stop := reporter(t)
		defer stop()
		note := Note{Type: Normal, Reason: "Moved", Message: "m"}
		for range 600 { // a minute
			r.Report(note)
			time.Sleep(100 * ms)
		}
		time.Sleep(time.Minute)
		if got := api.takeAsked(); got != "POST PATCH PATCH" {
			t.Errorf("requests: %s", got)
		}
		for _, e := range api.all() {
			if e.Series == nil || e.Series.Count != 600 {
				t.Errorf("series %v, want 600", e.Series)
			}
		}
		time.Sleep(time.Hour)
		if got := api.takeAsked(); got != "" {
			t.Errorf("requests at rest: %s", got)
		}
		r.Report(note)
		synctest.Wait()
		if got := api.takeAsked(); got != "POST" || len(api.all()) != 2 {
			t.Errorf("requests %s, %d Events", got, len(api.all()))
		}
		api.clear()
		r.Report(note)
		time.Sleep(time.Minute)
		if got := api.takeAsked(); got != "PATCH POST" || len(api.all()) != 1 {
			t.Errorf("requests %s, %d Events", got, len(api.all()))
		}
	})
}

// TestAPIAway: reporting never blocks, the oldest are dropped, writing backs
// off, and the newest arrive in the end.
func TestAPIAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, api, stop := reporter(t)
		defer stop()
		api.set(-1)
		begun := time.Now()
		for i := range 500 {
			r.Report(Note{Type: Normal, Reason: "R", Message: fmt.Sprint(i)})
		}
		if time.Since(begun) != 0 {
			t.Error("Report waited")
		}
		time.Sleep(10 * time.Minute)
		n := strings.Count(api.takeAsked(), "POST")
		// 1+2+4+8+16+32 s, then once a minute.
		if n < 10 || n > 20 {
			t.Errorf("%d requests in 10 minutes", n)
		}
		api.set(503)
		time.Sleep(2 * time.Minute)
		api.set(0)
		time.Sleep(2 * time.Minute)
		notes := make(map[string]bool)
		for _, e := range api.all() {
			notes[e.Note] = true
		}
		if len(notes) != maxNotes || notes["435"] || !notes["436"] || !notes["499"] {
			t.Errorf("%d notes arrived", len(notes))
		}
	})
}

// TestRefused: what the API server refuses is not tried again.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, api, stop := reporter(t)
		defer stop()
		api.set(http.StatusForbidden)
		r.Report(Note{Type: Normal, Reason: "A"})
		time.Sleep(time.Hour)
		if got := api.takeAsked(); got != "POST" {
			t.Errorf("requests: %s", got)
		}
		api.set(0)
		r.Report(Note{Type: Normal, Reason: "B"})
		synctest.Wait()
		if len(api.all()) != 1 {
			t.Error("a refusal stopped the reporter")
		}
	})
}

// TestFlood: a flood of different notes does not fill the memory.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, stop := reporter(t)
		defer stop()
		for i := range 5000 {
			r.Report(Note{Type: Normal, Reason: "R", Message: fmt.Sprint(i)})
			synctest.Wait()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.series) > maxSeries || len(r.waiting) != 0 {
			t.Errorf("%d notes remembered, %d waiting", len(r.series), len(r.waiting))
		}
	})
}

func TestEventName(t *testing.T) {
	at := time.Unix(1, 0)
	long := eventName(strings.Repeat("a", 229)+"."+strings.Repeat("b", 23), Note{}, at)
	if len(long) > 253 || strings.Contains(long, "..") {
		t.Errorf("%d bytes: %s", len(long), long)
	}
	if eventName("n", Note{Reason: "a"}, at) == eventName("n", Note{Reason: "b"}, at) {
		t.Error("two notes, one name")
	}
	web := Note{About: AboutService("shop/web", "u1")}
	if eventName("n", web, at) == eventName("m", web, at) {
		t.Error("two nodes about one Service, one name")
	}
}
