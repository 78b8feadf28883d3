package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// patience is after how long without an answer a reading request goes to
	// the next server too, when the caller asked for no hedging; a server
	// overtaken so is suspect.
	patience = 2 * time.Second
	// fairChance is how long a server must have had before a caller's
	// deadline tells something about the server.
	fairChance = 100 * time.Millisecond
)

// tripper is the http.RoundTripper over all servers.
type tripper struct {
	s     *Servers
	hedge time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t tripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.s.absent {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, ErrNoCredentials
	}
	getBody, err := replay(req)
	if err != nil {
		return nil, err
	}
	leave, err := t.s.enter(req)
	if err != nil {
		return nil, err
	}
	defer leave()
	r := &race{
		s: t.s, req: req, getBody: getBody, order: t.s.order(),
		answers: make(chan answer), done: make(chan struct{}),
	}
	stream := isWatch(req)
	switch reading := req.Method == http.MethodGet || req.Method == http.MethodHead; {
	case t.hedge > 0 && !stream && hedgeable(req.Method):
		r.wait, r.again = t.hedge, true
	case reading:
		r.wait, r.again = patience, true
	}
	won, err := r.run()
	if err != nil {
		return nil, err
	}
	t.s.heard(req, won.resp.StatusCode)
	b := &body{
		ReadCloser: won.resp.Body, s: t.s, a: won.attempt, caller: req.Context(), code: won.resp.StatusCode,
	}
	if stream {
		t.s.watch(b)
	}
	won.resp.Body = b
	won.resp.Request = req
	return won.resp, nil
}

// crowdRoom is how many requests of a crowd are under way at a time: an answer takes
// some milliseconds, so that a thousand have theirs within a second.
const crowdRoom = 8

// enter waits for room if the request is one of a crowd; the caller's deadline counts.
// A thousand at once make an API server slow, which has each of them sent to the
// others too.
func (s *Servers) enter(req *http.Request) (leave func(), err error) {
	if s.crowd == nil || !s.crowd(req) {
		return func() {}, nil
	}
	select {
	case s.room <- struct{}{}:
		return func() { <-s.room }, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// hedgeable methods may be sent to two servers: the API server's optimistic
// locking (resourceVersion, name) lets at most one copy of a write through.
func hedgeable(method string) bool {
	return slices.Contains([]string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch}, method)
}

// isWatch recognises a stream that stays open (Kubernetes API concepts,
// "Efficient detection of changes").
func isWatch(req *http.Request) bool {
	w := req.URL.Query().Get("watch")
	return w == "true" || w == "1"
}

// replay returns a function giving the request's body any number of times, or
// nil if there is none. The request's own body is closed, as RoundTripper asks.
func replay(req *http.Request) (func() (io.ReadCloser, error), error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	defer req.Body.Close()
	if req.GetBody != nil {
		return req.GetBody, nil
	}
	data, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	//nolint:unparam // the signature of http.Request.GetBody
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, nil
}

// attempt is the request as sent to one server.
type attempt struct {
	server *server
	begun  time.Duration
	cancel context.CancelFunc
	// connected says that the request may have reached the server.
	connected atomic.Bool
}

// answer is how an attempt ended.
type answer struct {
	*attempt
	resp *http.Response
	err  error
}

// race is one request on its way over the servers.
type race struct {
	s       *Servers
	req     *http.Request
	getBody func() (io.ReadCloser, error)
	// wait is the time without an answer after which the next server is
	// asked too, 0 for never.
	wait time.Duration
	// again allows a copy to the next server although the previous one may
	// have executed it.
	again bool
	// order lists the servers not yet asked.
	order   []*server
	pending []*attempt
	answers chan answer
	done    chan struct{}
	// held is the best answer that a better one may still beat.
	held *answer
	errs []error
}

// run asks server after server and returns the best answer. All other
// attempts are cancelled when it returns.
func (r *race) run() (*answer, error) {
	defer close(r.done)
	timer := time.NewTimer(r.wait)
	defer timer.Stop()
	if r.wait == 0 {
		timer.Stop()
	}
	ctx := r.req.Context()
	r.next()
	for r.undecided() {
		select {
		case <-ctx.Done():
			return nil, r.expired(ctx)
		case <-timer.C:
			r.next()
			timer.Reset(r.wait)
		case a := <-r.answers:
			if a.err != nil && ctx.Err() != nil {
				return nil, r.expired(ctx) // the same, heard from the attempt first
			}
			if r.judge(&a) {
				r.drop(r.held)
				r.overtaken(&a)
				return &a, nil
			}
		}
	}
	r.overtaken(nil)
	if r.held != nil {
		return r.held, nil
	}
	return nil, unanswered{r.errs}
}

// undecided says whether to wait for more. With a conflict or a server error
// in hand only a server in good standing is worth waiting for.
func (r *race) undecided() bool {
	if !r.settled() {
		return len(r.pending) > 0
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return slices.ContainsFunc(r.pending, func(a *attempt) bool { return !a.server.suspect })
}

// settled says that the answer in hand makes asking further servers pointless.
func (r *race) settled() bool {
	return r.held != nil && r.held.resp.StatusCode != http.StatusServiceUnavailable
}

// next asks the next server, if there is one and it can help.
func (r *race) next() {
	if len(r.order) == 0 || r.settled() {
		return
	}
	v := r.order[0]
	r.order = r.order[1:]
	a := &attempt{server: v, begun: r.s.now()}
	// Each attempt has a context of its own, so that losers can be cancelled;
	// the winner's lives until its body is closed.
	ctx, cancel := context.WithCancel(r.req.Context())
	a.cancel = cancel
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { a.connected.Store(true) },
	})
	// Clone, because a RoundTripper does not modify the request.
	req := r.req.Clone(ctx)
	req.URL.Host = v.addr
	r.pending = append(r.pending, a)
	go r.ask(a, req)
}

// ask is one attempt. Nobody waiting for its answer any more, it cleans up.
func (r *race) ask(a *attempt, req *http.Request) {
	var resp *http.Response
	var err error
	if r.getBody != nil {
		req.Body, err = r.getBody()
	}
	if err == nil {
		resp, err = a.server.rt.RoundTrip(req)
	}
	got := answer{attempt: a, resp: resp, err: err}
	select {
	case r.answers <- got:
	case <-r.done:
		r.drop(&got)
	}
}

// drop releases an answer that nobody wants.
func (r *race) drop(a *answer) {
	if a == nil {
		return
	}
	a.cancel()
	if a.resp != nil {
		a.resp.Body.Close()
	}
}

// judge takes an answer in and says whether it wins at once.
func (r *race) judge(a *answer) bool {
	r.pending = slices.DeleteFunc(r.pending, func(p *attempt) bool { return p == a.attempt })
	if a.err != nil {
		r.failed(a)
		return false
	}
	code := a.resp.StatusCode
	// Anything else is the cluster's answer and no other server has a better
	// one; retrying on 403 or 404 would only ask the same question twice.
	if code != http.StatusConflict && code < http.StatusInternalServerError {
		return true
	}
	if r.held != nil && rank(r.held.resp.StatusCode) > rank(code) {
		r.drop(a)
	} else {
		r.drop(r.held)
		r.held = a
	}
	if code == http.StatusServiceUnavailable {
		r.s.doubt(a.server)
		r.next()
	}
	return false
}

// rank orders the answers that are held: a conflict says more than an error,
// an error more than "not now".
func rank(code int) int {
	switch code {
	case http.StatusConflict:
		return 2
	case http.StatusServiceUnavailable:
		return 0
	}
	return 1
}

// failed is an attempt that got no HTTP answer.
func (r *race) failed(a *answer) {
	a.cancel()
	r.errs = append(r.errs, serverError{a.server.addr, a.err})
	if a.connected.Load() {
		r.s.doubt(a.server)
	} else {
		r.s.accuse(a.server, a.err.Error())
	}
	if r.again || !a.connected.Load() {
		r.next()
	}
}

// expired ends the race because the caller waits no longer, and judges the
// servers that kept it waiting until its deadline. A caller that merely changed
// its mind tells nothing about a server.
func (r *race) expired(ctx context.Context) error {
	r.drop(r.held)
	for _, a := range r.pending {
		a.cancel()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			continue
		}
		if had := r.s.now() - a.begun; had >= fairChance {
			r.s.accuse(a.server, "no answer within "+had.Round(time.Millisecond).String())
		} else {
			r.s.doubt(a.server)
		}
	}
	return ctx.Err()
}

// overtaken cancels the attempts that lost and judges their servers: one asked
// before the winner was slow, which is a reason to look, and after patience a
// reason to suspect.
func (r *race) overtaken(won *answer) {
	for _, a := range r.pending {
		a.cancel()
		had := r.s.now() - a.begun
		switch {
		case won == nil || a.begun >= won.begun:
		case had >= patience:
			r.s.accuse(a.server, "no answer within "+had.Round(time.Millisecond).String()+", another server answered")
		default:
			r.s.doubt(a.server)
		}
	}
}

// serverError names the server an error came from.
type serverError struct {
	addr string
	err  error
}

func (e serverError) Error() string { return e.addr + ": " + e.err.Error() }
func (e serverError) Unwrap() error { return e.err }

// unanswered says how each server failed. It unwraps to all of them, because
// client-go asks for refused and reset connections.
type unanswered struct{ errs []error }

func (e unanswered) Error() string {
	text := make([]string, len(e.errs))
	for i, err := range e.errs {
		text[i] = err.Error()
	}
	return "no API server answered (" + strings.Join(text, "; ") + ")"
}

func (e unanswered) Unwrap() []error { return e.errs }
