package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/internal/lb"
)

// portName is the name the API server gives its port in its EndpointSlices.
const portName = "https"

// Cause says why an address of an EndpointSlice is not used.
type Cause int

// The causes.
const (
	// CauseNotAddress is text that is no IP address, such as a host name.
	CauseNotAddress Cause = iota
	// CauseZone is an address with a zone, meaningful on one node only.
	CauseZone
	// CauseNotReachable is loopback, link-local, multicast or unspecified: from
	// another node it is not that API server.
	CauseNotReachable
	// CauseVIP is a virtual IP: a proxy on it would connect to itself.
	CauseVIP
	// CauseNotReady is an endpoint that says it is not ready.
	CauseNotReady
	// CauseNoPort is a slice without a usable https port.
	CauseNoPort
)

// String says what to do, for the log.
func (c Cause) String() string {
	text := []string{
		"is not an IP address",
		"has a zone",
		"cannot be reached from other nodes; give the API server its --advertise-address",
		"is a virtual IP; give the API server an --advertise-address of its own node",
		"is not ready",
		"has no TCP port named https between 1 and 65535",
	}
	if c < 0 || int(c) >= len(text) {
		return fmt.Sprintf("Cause(%d)", int(c))
	}
	return text[c]
}

// Ignored is an address of an EndpointSlice that is not used, and why.
type Ignored struct {
	Address string
	Cause   Cause
}

// Translate turns the EndpointSlices of one Service into backends, both
// address families together, sorted by address and without duplicates. An
// endpoint without a ready condition counts as ready (discovery.k8s.io/v1,
// EndpointConditions). It never returns an address of never.
func Translate(slice []*discovery.EndpointSlice, never []netip.Addr) ([]lb.Backend, []Ignored) {
	found := make(map[netip.AddrPort]bool)
	var ignored []Ignored
	for _, s := range slice {
		port, ok := httpsPort(s.Ports)
		for _, e := range s.Endpoints {
			for _, text := range e.Addresses {
				a, cause := usable(text, e.Conditions, never)
				if cause == nil && !ok {
					cause = ptr(CauseNoPort)
				}
				if cause != nil {
					ignored = append(ignored, Ignored{Address: text, Cause: *cause})
					continue
				}
				found[netip.AddrPortFrom(a, port)] = true
			}
		}
	}
	out := make([]lb.Backend, 0, len(found))
	for a := range found {
		out = append(out, lb.BackendAt(a))
	}
	slices.SortFunc(out, func(a, b lb.Backend) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(ignored, func(a, b Ignored) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), cmp.Compare(a.Cause, b.Cause))
	})
	return out, slices.Compact(ignored)
}

// httpsPort finds the TCP port named https; the only port of a slice needs no
// name.
func httpsPort(ports []discovery.EndpointPort) (uint16, bool) {
	for _, p := range ports {
		name := deref(p.Name, "")
		fits := name == portName || name == "" && len(ports) == 1
		number := deref(p.Port, 0)
		if fits && deref(p.Protocol, "TCP") == "TCP" && number > 0 && number <= 65535 {
			return uint16(number), true
		}
	}
	return 0, false
}

// usable parses one address, or says why it is not used.
func usable(text string, c discovery.EndpointConditions, never []netip.Addr) (netip.Addr, *Cause) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, ptr(CauseNotAddress)
	}
	if a.Zone() != "" {
		return a, ptr(CauseZone)
	}
	a = a.Unmap()
	switch {
	case !a.IsGlobalUnicast():
		return a, ptr(CauseNotReachable)
	case isOneOf(a.String(), never):
		return a, ptr(CauseVIP)
	case !deref(c.Ready, true):
		return a, ptr(CauseNotReady)
	}
	return a, nil
}

// ptr returns a pointer to a copy.
func ptr[T any](v T) *T { return &v }

// deref returns what p points to, or otherwise for nil.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
