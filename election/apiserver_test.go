package election

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// apiserver is the coordination.k8s.io/v1 Leases of one namespace, as an
// http.RoundTripper: no socket, so that it works inside a synctest bubble.
type apiserver struct {
	mu      sync.Mutex
	leases  map[string]*coordination.Lease
	version uint64
	history []leaseEvent
	more    chan struct{} // closed and replaced at each change
	mode    apiMode
	slow    time.Duration
	code    int // answer every request on a Lease so, if not 0
	log     []request
}

// request is one that arrived.
type request struct {
	at     time.Time
	method string
	name   string
	// writes: what was to be written over which version, and how it ended
	holder, version string
	code            int
}

type leaseEvent struct {
	Type    string              `json:"type"`
	Object  *coordination.Lease `json:"object"`
	version uint64
}

// newAPIServer has the member Leases of n2 and n3, as if these had been here before.
func newAPIServer() *apiserver {
	s := &apiserver{leases: map[string]*coordination.Lease{}, version: 100, more: make(chan struct{})}
	s.store("node-n2", memberLease("n2", 0, true))
	s.store("node-n3", memberLease("n3", 0, true))
	return s
}

// set changes how requests are treated.
func (s *apiserver) set(mode apiMode, slow time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode, s.slow = mode, slow
}

func (s *apiserver) fail(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code = code
}

// sent counts requests of a method on a Lease since t.
func (s *apiserver) sent(t time.Time, method, name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.log {
		if r.method == method && r.name == name && !r.at.Before(t) {
			n++
		}
	}
	return n
}

// get is the Lease as it is, nil if there is none.
func (s *apiserver) get(name string) *coordination.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[name].DeepCopy()
}

// put changes a Lease from outside; nil deletes it.
func (s *apiserver) put(name string, edit func(*coordination.Lease) *coordination.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(name, edit(s.leases[name].DeepCopy()))
}

// store takes a change; the lock is held.
func (s *apiserver) store(name string, l *coordination.Lease) *coordination.Lease {
	old := s.leases[name]
	s.version++
	ev := leaseEvent{Type: "MODIFIED", version: s.version}
	switch {
	case l == nil && old == nil:
		return nil
	case l == nil:
		ev.Type, l = "DELETED", old.DeepCopy()
		delete(s.leases, name)
	case old == nil:
		ev.Type = "ADDED"
		l.UID = types.UID(fmt.Sprint("u", s.version))
	default:
		l.UID = old.UID
	}
	l.Name, l.ResourceVersion = name, fmt.Sprint(s.version)
	l.TypeMeta = meta.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	if ev.Type != "DELETED" {
		s.leases[name] = l
	}
	ev.Object = l.DeepCopy()
	s.history = append(s.history, ev)
	close(s.more)
	s.more = make(chan struct{})
	return l.DeepCopy()
}

// RoundTrip is part of http.RoundTripper.
func (s *apiserver) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	mode, slow := s.mode, s.slow
	s.mu.Unlock()
	switch mode {
	case apiRefuse:
		return nil, errors.New("connect: connection refused")
	case apiHang:
		s.note(r, nil, 0)
		<-r.Context().Done()
		return nil, r.Context().Err()
	case apiSlow:
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			s.note(r, nil, 0)
			return nil, r.Context().Err()
		}
	}
	answer, err := s.serve(r)
	if mode == apiMute {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return answer, err
}

func (s *apiserver) note(r *http.Request, l *coordination.Lease, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteLocked(r, l, code)
}

func (s *apiserver) noteLocked(r *http.Request, l *coordination.Lease, code int) {
	q := request{at: time.Now(), method: r.Method, name: leaseName(r, l), code: code}
	if l != nil {
		q.version = l.ResourceVersion
		if l.Spec.HolderIdentity != nil {
			q.holder = *l.Spec.HolderIdentity
		}
	}
	s.log = append(s.log, q)
}

func leaseName(r *http.Request, l *coordination.Lease) string {
	_, name, _ := strings.Cut(r.URL.Path, "/leases/")
	if name == "" && l != nil {
		name = l.Name
	}
	return name
}

func (s *apiserver) serve(r *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(r.URL.Path, "/apis/coordination.k8s.io/v1/namespaces/") {
		return status(r, 404, "NotFound"), nil
	}
	if r.URL.Query().Get("watch") != "" {
		return s.watch(r), nil
	}
	var l *coordination.Lease
	if r.Body != nil {
		l = &coordination.Lease{}
		if err := json.NewDecoder(r.Body).Decode(l); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := leaseName(r, l)
	code, reason, answer := s.answer(r.Method, name, l)
	s.noteLocked(r, l, code)
	if answer == nil {
		return status(r, code, reason), nil
	}
	return respond(r, code, answer), nil
}

// answer carries one request out; the lock is held.
func (s *apiserver) answer(method, name string, l *coordination.Lease) (code int, reason string, answer any) {
	old := s.leases[name]
	switch {
	case s.code == 403:
		return 403, "Forbidden", nil
	case s.code != 0:
		return s.code, "InternalError", nil
	case method == "GET" && name == "":
		list := &coordination.LeaseList{ListMeta: meta.ListMeta{ResourceVersion: fmt.Sprint(s.version)}}
		list.APIVersion, list.Kind = "coordination.k8s.io/v1", "LeaseList"
		for _, l := range s.leases {
			list.Items = append(list.Items, *l)
		}
		return 200, "", list
	case method == "POST" && old != nil:
		return 409, "AlreadyExists", nil
	case method == "POST":
		return 201, "", s.store(name, l)
	case old == nil:
		return 404, "NotFound", nil
	case method == "GET":
		return 200, "", old
	case l.ResourceVersion != "" && l.ResourceVersion != old.ResourceVersion:
		return 409, "Conflict", nil
	}
	return 200, "", s.store(name, l)
}

func respond(r *http.Request, code int, body any) *http.Response {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: code, Status: strconv.Itoa(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data)),
	}
}

func status(r *http.Request, code int, reason string) *http.Response {
	return respond(r, code, meta.Status{
		TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure",
		Reason: meta.StatusReason(reason), Message: "as the test wants it", Code: int32(code),
	})
}

// watch streams what is newer than the version asked for, or all there is and
// then a bookmark.
func (s *apiserver) watch(r *http.Request) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	b := &stream{s: s, ctx: r.Context(), from: number(q.Get("resourceVersion"))}
	if q.Get("sendInitialEvents") == "true" {
		b.from = s.version
		for _, l := range s.leases {
			b.push(leaseEvent{Type: "ADDED", Object: l})
		}
		mark := &coordination.Lease{ObjectMeta: meta.ObjectMeta{
			ResourceVersion: fmt.Sprint(s.version),
			Annotations:     map[string]string{meta.InitialEventsAnnotationKey: "true"},
		}}
		mark.APIVersion, mark.Kind = "coordination.k8s.io/v1", "Lease"
		b.push(leaseEvent{Type: "BOOKMARK", Object: mark})
	}
	answer := respond(r, 200, nil)
	answer.Body = b
	return answer
}

// stream is a watch's body. It ends with an error when the server no longer
// answers, as a broken connection does; a hung server keeps silent.
type stream struct {
	s    *apiserver
	ctx  context.Context
	from uint64
	left []byte
}

func (b *stream) push(ev leaseEvent) {
	data, err := json.Marshal(ev)
	if err != nil {
		panic(err)
	}
	b.left = append(append(b.left, data...), '\n')
}

func (b *stream) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		b.s.mu.Lock()
		mode, more := b.s.mode, b.s.more
		if mode != apiHang {
			for _, ev := range b.s.history {
				if ev.version > b.from {
					b.from = ev.version
					b.push(ev)
				}
			}
		}
		b.s.mu.Unlock()
		if mode == apiRefuse {
			return 0, io.ErrUnexpectedEOF
		}
		if len(b.left) > 0 {
			break
		}
		select {
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		case <-more:
		case <-time.After(100 * time.Millisecond): // the mode may have changed
		}
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *stream) Close() error { return nil }
