package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// object is anything an API server keeps.
type object interface {
	runtime.Object
	metav1.Object
}

// objectAPI is the part of an API server that serves objects of one kind, in
// one namespace: list by name, watch, get and create.
type objectAPI struct {
	version, kind string
	made          func() object

	mu      sync.Mutex
	away    bool
	code    map[string]int // method → answered to it; missing works
	revised int
	objects map[string]object
	streams map[*io.PipeWriter]string // → the name it is about, or ""
	asked   map[string]int            // METHOD PATH?SELECTOR
}

func newObjectAPI(version, kind string, made func() object) *objectAPI {
	return &objectAPI{
		version: version, kind: kind, made: made, objects: map[string]object{}, code: map[string]int{},
		streams: map[*io.PipeWriter]string{}, asked: map[string]int{},
	}
}

// RoundTrip implements http.RoundTripper.
func (a *objectAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := req.URL.Query()
	a.asked[req.Method+" "+req.URL.Path+"?"+q.Get("labelSelector")+q.Get("fieldSelector")]++
	name, one := strings.CutPrefix(q.Get("fieldSelector"), "metadata.name=")
	if !one {
		name = "" // other selectors are noted and not applied
	}
	switch code := a.code[req.Method]; {
	case a.away:
		return nil, errBroken
	case code != 0:
		return answerWith(req, code), nil
	case req.Method == http.MethodPost:
		return a.create(req)
	case isWatch(req):
		return a.watch(req, name), nil
	}
	if o := a.objects[path.Base(req.URL.Path)]; o != nil {
		return a.reply(req, http.StatusOK, a.encode(o)), nil
	}
	list := map[string]any{
		"apiVersion": a.version, "kind": a.kind + "List", "metadata": map[string]string{"resourceVersion": "1"},
		"items": a.selected(name),
	}
	return a.reply(req, http.StatusOK, list), nil
}

// selected are the objects of a name, or all. a.mu is held.
func (a *objectAPI) selected(name string) []object {
	out := []object{}
	for _, o := range a.objects {
		if name == "" || o.GetName() == name {
			out = append(out, o.DeepCopyObject().(object))
		}
	}
	return out
}

// reply is an answer with a body.
func (a *objectAPI) reply(req *http.Request, code int, body any) *http.Response {
	resp := answerWith(req, code)
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return resp
}

// encode writes an object with its kind.
func (a *objectAPI) encode(o object) json.RawMessage {
	data, _ := json.Marshal(o)
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a count is no floating point number
	_ = d.Decode(&fields)
	fields["apiVersion"], fields["kind"] = a.version, a.kind
	data, _ = json.Marshal(fields)
	return data
}

// create adds an object unless there is one of this name. a.mu is held.
func (a *objectAPI) create(req *http.Request) (*http.Response, error) {
	o := a.made()
	if err := json.NewDecoder(req.Body).Decode(o); err != nil {
		return nil, err
	}
	if a.objects[o.GetName()] != nil {
		return answerWith(req, http.StatusConflict), nil
	}
	tell := a.store(watch.Added, o)
	go tell()
	return a.reply(req, http.StatusCreated, a.encode(o)), nil
}

// watch opens a stream. a.mu is held.
func (a *objectAPI) watch(req *http.Request, name string) *http.Response {
	r, w := io.Pipe()
	a.streams[w] = name
	context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
	resp := answerWith(req, http.StatusOK)
	resp.Body = r
	if req.URL.Query().Get("sendInitialEvents") == "true" {
		go a.initial(w, a.selected(name))
	}
	return resp
}

// initial streams what there is, then the mark that it was all (KEP-3157).
func (a *objectAPI) initial(w io.Writer, all []object) {
	for _, o := range all {
		a.send(w, watch.Added, o)
	}
	mark := a.made()
	mark.SetResourceVersion("5")
	mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	a.send(w, watch.Bookmark, mark)
}

// send writes one watch event.
func (a *objectAPI) send(w io.Writer, kind watch.EventType, o object) {
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": a.encode(o)})
}

// put writes an object and tells the watches.
func (a *objectAPI) put(o object) {
	a.mu.Lock()
	kind := watch.Modified
	if a.objects[o.GetName()] == nil {
		kind = watch.Added
	}
	tell := a.store(kind, o)
	a.mu.Unlock()
	tell()
}

// keepSecret writes an object of which no watch is told.
func (a *objectAPI) keepSecret(o object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.store(watch.Modified, o)
}

// remove deletes an object and tells the watches.
func (a *objectAPI) remove(name string) {
	a.mu.Lock()
	tell := a.store(watch.Deleted, a.objects[name])
	a.mu.Unlock()
	tell()
}

// store changes what there is and returns what tells the watches. a.mu is held.
func (a *objectAPI) store(kind watch.EventType, o object) (tell func()) {
	a.revised++
	o = o.DeepCopyObject().(object)
	o.SetResourceVersion(fmt.Sprint(10 + a.revised))
	a.objects[o.GetName()] = o
	if kind == watch.Deleted {
		delete(a.objects, o.GetName())
	}
	var to []io.Writer
	for w, name := range a.streams {
		if name == "" || name == o.GetName() {
			to = append(to, w)
		}
	}
	return func() {
		for _, w := range to {
			a.send(w, kind, o.DeepCopyObject().(object))
		}
	}
}

// goAway ends all streams and answers no more, until called with false.
func (a *objectAPI) goAway(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
	for w := range a.streams {
		w.CloseWithError(errors.New("connection lost"))
		delete(a.streams, w)
	}
}

// refuse answers a method with a code, until called with 0.
func (a *objectAPI) refuse(method string, code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.code[method] = code
}

// all returns how often was asked what.
func (a *objectAPI) all() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.asked)
}

// get returns a copy of an object, nil if there is none.
func (a *objectAPI) get(name string) object {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[name]; o != nil {
		return o.DeepCopyObject().(object)
	}
	return nil
}
