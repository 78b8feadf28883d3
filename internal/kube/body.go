package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// body is the body of the answer that won. It releases the request when it
// ends, and tells how it ended.
type body struct {
	io.ReadCloser
	s *Servers
	a *attempt
	// caller is the context of the request as the caller gave it.
	caller context.Context
	code   int
	cut    atomic.Bool
	once   sync.Once
}

// Read reads on. A watch that was cut reads as a regular end of file, so that
// reflectors go on elsewhere from the version they have and complain of nothing.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.end(err)
	if b.cut.Load() {
		err = io.EOF
	}
	return n, err
}

// Close releases the request.
func (b *body) Close() error {
	b.end(io.EOF)
	return b.ReadCloser.Close()
}

// cutOff ends the stream at its next Read.
func (b *body) cutOff() {
	b.cut.Store(true)
	b.a.cancel()
}

// end forgets the stream and judges the server by how it ended.
func (b *body) end(err error) {
	b.once.Do(func() {
		b.s.forget(b)
		b.a.cancel()
		switch {
		case b.code == http.StatusUnauthorized:
			b.s.unauthorized(b.a.server)
		case errors.Is(err, io.EOF) || b.cut.Load() || errors.Is(b.caller.Err(), context.Canceled):
		case errors.Is(b.caller.Err(), context.DeadlineExceeded):
			b.s.accuse(b.a.server, "stopped in the middle of an answer")
		default:
			b.s.doubt(b.a.server)
		}
	})
}

// watch registers a stream to be cut when its server becomes suspect.
func (s *Servers) watch(b *body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.a.server.streams[b] = struct{}{}
}

// forget undoes watch.
func (s *Servers) forget(b *body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(b.a.server.streams, b)
}
