package kube

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// quiet is a logger into the test's log.
func quiet(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// reply is how a fake server answers.
type reply struct {
	// after is the time until the answer; never if negative.
	after time.Duration
	// code is the HTTP status; 0 is an error without an answer.
	code int
	// early says that the error came before the request was sent.
	early bool
}

var errBroken = errors.New("broken")

// fake is one API server without a network.
type fake struct {
	name string
	mu   sync.Mutex
	does reply
	// ready is the answer to /readyz, if its code is not 0.
	ready     reply
	asked     []string
	cancelled int
}

// RoundTrip implements http.RoundTripper.
func (f *fake) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	does := f.does
	if req.URL.Path == "/readyz" && f.ready.code != 0 {
		does = f.ready
	}
	body := ""
	if req.Body != nil {
		data, _ := io.ReadAll(req.Body)
		body = " " + string(data)
	}
	f.asked = append(f.asked, req.Method+" "+req.URL.Path+body)
	f.mu.Unlock()
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && !does.early {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	wait := time.NewTimer(max(does.after, 0))
	defer wait.Stop()
	if does.after < 0 {
		wait.Stop()
	}
	select {
	case <-wait.C:
	case <-req.Context().Done():
		f.mu.Lock()
		f.cancelled++
		f.mu.Unlock()
		return nil, req.Context().Err()
	}
	if does.code == 0 {
		return nil, errBroken
	}
	return &http.Response{
		StatusCode: does.code, Status: fmt.Sprint(does.code), Header: http.Header{"Content-Type": {"application/json"}},
		Body: &stream{ctx: req.Context(), text: f.name, open: isWatch(req)}, Request: req,
	}, nil
}

// log returns what the server was asked, and forgets it.
func (f *fake) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked = nil
	return out
}

// set changes what the server does from now on.
func (f *fake) set(does reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.does = does
}

// stream is a response body that names its server and, if open, then stays
// open until the request is cancelled.
type stream struct {
	ctx  context.Context
	text string
	open bool
	mu   sync.Mutex
}

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	n := copy(p, s.text)
	s.text = s.text[n:]
	s.mu.Unlock()
	switch {
	case n > 0:
		return n, nil
	case !s.open:
		return 0, io.EOF
	}
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (s *stream) Close() error { return nil }

// fakes builds Servers over fake servers named a, b, c…
func fakes(t *testing.T, does ...reply) (*Servers, []*fake) {
	start := time.Now()
	s := &Servers{
		log: quiet(t), now: func() time.Duration { return time.Since(start) },
		base: &rest.Config{}, url: &url.URL{Scheme: "https", Host: "a"}, tls: &tls.Config{},
		own: func() []netip.Addr { return nil }, wake: make(chan struct{}, 1),
	}
	s.probes = direct{s}
	var out []*fake
	for i, d := range does {
		f := &fake{name: string(rune('a' + i)), does: d}
		out = append(out, f)
		s.list = append(s.list, &server{addr: f.name, rt: f, idle: func() {}, streams: make(map[*body]struct{})})
	}
	return s, out
}

// do sends one request and returns "CODE SERVER" or the error's text.
func do(ctx context.Context, s *Servers, hedge time.Duration, method string) string {
	var body io.Reader
	if method != http.MethodGet && method != http.MethodDelete {
		body = io.LimitReader(strings.NewReader("text"), 100) // a reader net/http cannot replay
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://a/x", body)
	if err != nil {
		return err.Error()
	}
	resp, err := tripper{s: s, hedge: hedge}.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	who, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, who)
}

// suspects lists the servers under suspicion.
func suspects(s *Servers) string {
	var out []string
	for _, v := range s.State() {
		if v.Suspect {
			out = append(out, v.Addr)
		}
	}
	return strings.Join(out, " ")
}
