package lb

import (
	"net/netip"
	"slices"
	"strings"
)

// Snapshot is everything that the API servers' data plane is planned from.
type Snapshot struct {
	// VIPs of the API servers.
	VIPs []netip.Addr
	// Balance says that HAProxy stands in front of the API servers.
	Balance bool
	// Port is where clients come, ProxyPort where HAProxy listens for them.
	Port, ProxyPort uint16
	// Backends are the API servers as the cluster says, Seeds as the
	// configuration does; the seeds count until the cluster has spoken.
	Backends, Seeds []Backend
	Check           Check
	// Proxy is HAProxy's state as last seen.
	Proxy ProxyState
}

// Desired is what the data plane shall be.
type Desired struct {
	Frontends []Frontend
	Redirects []Redirect
	// Reason says why nothing is balanced or redirected, or "".
	Reason Reason
}

// Reason is why a plan leaves something out.
type Reason string

// The reasons of Plan.
const (
	NotAsked    Reason = "BalanceOff"
	NoBackends  Reason = "NoAPIServersKnown"
	ProxyIsDown Reason = "ProxyNotServing"
)

// Plan says what frontends and redirects follow from a snapshot. Without a
// serving HAProxy there is no redirect: the VIP then reaches the node's own
// API server.
func Plan(s Snapshot) Desired {
	if !s.Balance {
		return Desired{Reason: NotAsked}
	}
	backends := s.Backends
	if len(backends) == 0 {
		backends = s.Seeds
	}
	if len(backends) == 0 {
		return Desired{Reason: NoBackends}
	}
	backends = slices.Clone(backends)
	slices.SortFunc(backends, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	f := Frontend{Name: "apiserver", Backends: backends, Check: s.Check}
	var redirects []Redirect
	for _, ip := range s.VIPs {
		f.Binds = append(f.Binds, netip.AddrPortFrom(ip, s.ProxyPort))
		redirects = append(redirects, Redirect{VIP: ip, From: s.Port, To: s.ProxyPort})
	}
	d := Desired{Frontends: []Frontend{f}, Redirects: redirects}
	if !s.Proxy.Serving {
		d.Redirects, d.Reason = nil, ProxyIsDown
	}
	return d
}
