package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// LocalReady says whether this node's own API server, the kubeconfig's, answers
// /readyz with 200 within 1 s. False without an error is its answer that it is
// not ready (5xx, 429); with one, the error says why there is no answer that
// can be believed: it does not listen, hangs, or does not let this user ask.
// No other server is asked, and no suspicion raised or cleared.
func (s *Servers) LocalReady(ctx context.Context) (bool, error) {
	if s.absent {
		return false, ErrNoCredentials
	}
	s.mu.Lock()
	local := s.list[0]
	s.mu.Unlock()
	code, err := s.askReadyz(ctx, local)
	switch {
	case err != nil:
		return false, fmt.Errorf("this node's API server %s: %w", local.addr, err)
	case code == http.StatusOK:
		return true, nil
	case overloaded(code):
		return false, nil
	default:
		return false, fmt.Errorf("this node's API server %s answers /readyz with %d %s: %w; "+
			"the kubeconfig's user must be allowed to get /readyz (ClusterRole system:public-info-viewer)",
			local.addr, code, http.StatusText(code), ErrRefused)
	}
}

// ErrRefused is the answer of an API server that works, to credentials that it
// does not let ask: it says nothing about whether the server is ready.
var ErrRefused = errors.New("refused")

// askReadyz asks one server for /readyz with the user's credentials and returns
// the status code. The error says that there was no answer within probeWait.
func (s *Servers) askReadyz(ctx context.Context, v *server) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeWait, errNoReadyz)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+v.addr+"/readyz", nil)
	if err != nil {
		return 0, err
	}
	resp, err := s.probes.RoundTrip(req)
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the next use of the connection
	return resp.StatusCode, nil
}

// overloaded says that a server is there and cannot serve now.
func overloaded(code int) bool {
	return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
}

// Unanswered says whether an error is the lack of an answer from any API server
// that works, and not an answer that refuses.
func Unanswered(err error) bool {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return overloaded(int(status.Status().Code))
	}
	var sent *url.Error // net/http's, for a request without an answer
	return errors.As(err, &sent) || errors.Is(err, context.DeadlineExceeded)
}
