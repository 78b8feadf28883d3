package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/lb"
)

// clientView is what a client of one address and port meets.
type clientView struct {
	IP       netip.Addr  `json:"ip"`
	Port     uint16      `json:"port"`
	Protocol lb.Protocol `json:"protocol"`
	Meets    meeting     `json:"meets"`
	// Why says more, and what to do.
	Why string `json:"why,omitempty"`
}

// meeting is how a new connection ends.
type meeting string

const (
	isAnswered   meeting = "answered"
	isClosed     meeting = "closed at once" // taken by HAProxy, which has no pod for it
	isRefused    meeting = "refused"
	isUnserved   meeting = "not served"
	isUnanswered meeting = "not answered" // nothing at all comes back
	isUncertain  meeting = "perhaps answered"
)

// clients are the views of all addresses and ports.
func (r *serviceReport) clients() []clientView {
	var out []clientView
	for _, a := range r.Addresses {
		for _, p := range r.Ports {
			m, why := r.meets(a, p)
			if m == isAnswered && r.Front != nil && len(r.Front.Sources) > 0 {
				why = strings.Trim("only those from "+prefixList(r.Front.Sources)+"; "+why, "; ")
			}
			out = append(out, clientView{IP: a.IP, Port: p.Port, Protocol: p.Protocol, Meets: m, Why: why})
		}
	}
	return out
}

// meets says what a client of an address meets at a port, as far as this node knows.
func (r *serviceReport) meets(a addressOn, p portReport) (meeting, string) {
	switch {
	case a.Pool == "":
		return isUnanswered, "the address is in no AddressPool, so nobody announces it: add it to one"
	case a.Holder == "" && len(a.Candidates) == 0:
		return isUnanswered, "no node may hold the address: it wants one with a link in its subnet that the pool's " +
			"nodeSelector chooses, and for externalTrafficPolicy: Local a ready endpoint on it"
	case a.Holder == "":
		return isUnanswered, "nobody holds the address yet"
	case r.Path == lb.DataPathDirect:
		return r.meetsDirect(a, p)
	case p.Protocol != lb.TCP:
		return isUnserved, "HAProxy serves TCP only; set mooring.dev/data-path: direct"
	case r.NoCertificate:
		return isRefused, "the certificate of mooring.dev/tls-secret has not been read"
	case !a.here():
		if !r.endpoints(a, p) {
			return isClosed, "no pod is ready: look at their readiness and at the Service's selector"
		}
		return isAnswered, fmt.Sprintf("as far as %s knows; HAProxy on the holder knows it: run this on %s", r.Node, a.Holder)
	default:
		return r.meetsHere(p)
	}
}

// meetsDirect is meets for what kube-proxy serves.
func (r *serviceReport) meetsDirect(a addressOn, p portReport) (meeting, string) {
	switch {
	case r.endpoints(a, p):
		return isAnswered, ""
	case r.Local:
		return isUnanswered, "no pod on " + a.Holder + " is ready, and kube-proxy drops what comes for others'"
	default:
		return isRefused, "no pod is ready: look at their readiness and at the Service's selector"
	}
}

// endpoints says whether a port has some that the holder would use.
func (r *serviceReport) endpoints(a addressOn, p portReport) bool {
	usable := func(e endpoint) bool { return !r.Local || e.Node == a.Holder }
	return slices.ContainsFunc(p.Ready, usable) || slices.ContainsFunc(p.Draining, usable)
}

// meetsHere is meets for an address that this node holds, by the word of its HAProxy.
func (r *serviceReport) meetsHere(p portReport) (meeting, string) {
	up := func(s haproxy.ServerState) bool { return strings.HasPrefix(s.Status, "UP") || s.Status == "no check" }
	down := func(s haproxy.ServerState) bool { return strings.HasPrefix(s.Status, "DOWN") }
	switch {
	case p.Skipped != "":
		return isUnserved, p.Skipped
	case !p.Asked && p.Pending:
		return isUnserved, "HAProxy has it with its next reload, which comes by itself"
	case !p.Asked:
		return isUnserved, "HAProxy does not answer for it: " + orNone(r.Why)
	case slices.ContainsFunc(p.Servers, up):
		return isAnswered, ""
	case slices.ContainsFunc(p.Servers, down):
		return isUncertain, "no pod passes its check, so HAProxy tries all of them"
	default:
		return isClosed, "no pod is ready: look at their readiness and at the Service's selector"
	}
}

// prefixList is a list of prefixes for people.
func prefixList(list []netip.Prefix) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}
