package kube

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// ErrNoCredentials is every answer of [NoServers].
var ErrNoCredentials = errors.New("no credentials yet: mooring credentials makes them, on this node")

// NoServers is the way to no API server, for an agent whose kubeconfig is not
// there yet: every request fails at once with [ErrNoCredentials], nothing is
// dialled, and no server is ever suspect.
func NoServers(o ServersOptions) *Servers {
	return &Servers{
		log: o.Log, now: o.Now, never: o.Never, absent: true, base: &rest.Config{UserAgent: userAgent},
		url: &url.URL{Scheme: "https", Host: "localhost:6443"}, own: ownAddresses, wake: make(chan struct{}, 1),
	}
}

// Absent says that there are no credentials.
func (s *Servers) Absent() bool { return s.absent }

// refusalFor is how long an answer that refuses must have been the only kind
// before it is told: an API server that starts refuses everybody for a moment.
const refusalFor = 3 * time.Second

// refusal is what the API servers say of the credentials.
type refusal struct {
	code  int // 401, 403, or 0 while they are good
	since time.Duration
}

// heard notes whether an answer refuses who asks. A 403 counts for the agents'
// own Leases alone: other rights may be missing on purpose.
func (s *Servers) heard(req *http.Request, code int) {
	lease := strings.HasPrefix(req.URL.Path, "/apis/coordination.k8s.io/")
	if code >= http.StatusInternalServerError || code == http.StatusTooManyRequests {
		return // no word about who asks
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case code == http.StatusUnauthorized || code == http.StatusForbidden && lease:
		if s.refused.code != code {
			s.refused = refusal{code: code, since: s.now()}
		}
	case lease || s.refused.code == http.StatusUnauthorized:
		s.refused = refusal{}
	}
}

// Refused is the status with which the API servers have refused these credentials
// for some seconds: 401, they do not know them; 403, they have no right to the
// Leases; 0, neither. An unreachable API server refuses nothing.
func (s *Servers) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused.code == 0 || s.now()-s.refused.since < refusalFor {
		return 0
	}
	return s.refused.code
}
