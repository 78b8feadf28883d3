package kube

import (
	"time"

	"mooring.dev/mooring/internal/lb"
)

// prefix begins every annotation of ours.
const prefix = "mooring.dev/"

// need is what an annotation has no effect without; the zero value is nothing.
type need int

const (
	// needsProxy is the data path through HAProxy; all later ones imply it.
	needsProxy need = iota + 1
	// needsCheck is an active health check, needsHTTP one that asks for a page.
	needsCheck
	needsHTTP
)

// unmet says what a Service lacks for an annotation to have an effect, "" for
// nothing.
func (n need) unmet(s *lb.Service) string {
	kind := s.Front.Check.Kind
	switch {
	case n >= needsProxy && s.DataPath != lb.DataPathProxy:
		return "has no effect on the data path direct; remove it, or set mooring.dev/data-path: proxy"
	case n >= needsCheck && kind == "":
		return "has no effect without a health check; remove it, or set mooring.dev/check"
	case n == needsHTTP && kind == lb.CheckTCP:
		return "has no effect on a check of TCP; remove it, or set mooring.dev/check: http or https"
	}
	return ""
}

// annotation is one row of docs/annotations.md, and how its value is read.
type annotation struct {
	// name without the prefix.
	name string
	value
	// foreign are annotations of other load balancers that count as this one, so that a
	// migration edits no Service; they are read only, ours wins, then the first that is set.
	foreign []string
	// otherwise is what holds when the annotation is missing, does what it is for.
	otherwise, does string
	needs           need
	// fatal: with a bad value the Service gets no address. It asked for a certain
	// one, and any other would be published in its place.
	fatal bool
}

// idleTime is what holds without timeouts.
const idleTime = "`1h`; `24h` once both sides have spoken, or when the other timeout is set"

// annotations are all that a Service may say to us, in the order in which they
// are read: the data path before what depends on it, the check before its options.
var annotations = []annotation{
	{name: "addresses", value: value{"addresses", "one, or an IPv4 and an IPv6 one, comma-separated", readAddresses},
		otherwise: "any free one", fatal: true,
		foreign: []string{"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs",
			"kube-vip.io/loadbalancerIPs"},
		does: "The addresses wanted, one of each family of the cluster IPs; no others are taken for them."},
	{name: "pool", value: named(func(s *lb.Service) *string { return &s.Pool }, "name of an AddressPool"),
		otherwise: "any pool", fatal: true,
		foreign: []string{"metallb.io/address-pool", "metallb.universe.tf/address-pool"},
		does:    "The AddressPool to take the address from, also one without `autoAssign`."},
	{name: "shared-key", value: matching(reSharedKey, func(s *lb.Service) *string { return &s.SharedKey },
		"text", "1 to 128 of `A-Z a-z 0-9 . _ / : @ + = -`"), otherwise: "not shared",
		foreign: []string{"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"},
		does:    "Services with the same key may share an address if their ports differ."},
	{name: "data-path", value: value{"word", "`proxy`, `direct`", readDataPath},
		otherwise: "`proxy` for TCP; `direct` for UDP, SCTP, mixed protocols and " +
			"`externalTrafficPolicy: Local`",
		does: "Who serves the address: HAProxy on the node that holds it, or kube-proxy, which keeps the " +
			"client's address."},

	{name: "balance", value: oneOf(func(s *lb.Service) *lb.Balance { return &s.Front.Balance },
		lb.LeastConn, lb.RoundRobin, lb.Source, lb.Random), otherwise: "`leastconn`", needs: needsProxy,
		does: "How a server is chosen; `source` is a consistent hash of the client's address."},
	{name: "check", value: value{"word", "`tcp`, `http`, `https`", readCheck},
		otherwise: "none: readiness says it", needs: needsProxy,
		does: "An active health check of the pods besides readiness. The certificate of `https` is not verified."},
	{name: "check-path", value: matching(rePath, func(s *lb.Service) *string { return &s.Front.Check.Path },
		"path", "begins with `/`; at most 255 of `A-Z a-z 0-9 / . _ ~ ? = & -`"), otherwise: "`/`", needs: needsHTTP,
		does: "What the check asks for with GET."},
	{name: "check-host", value: value{"DNS name", "at most 253 of `a-z 0-9 . -`", readHost},
		otherwise: "`localhost`", needs: needsHTTP,
		does: "The Host header of the check."},
	{name: "check-status", value: value{"status or range", "100 to 599, such as `200` or `200-299`", readStatus},
		otherwise: "`200-399`", needs: needsHTTP,
		does: "The status, or range of them, that is well."},
	{name: "check-port", value: value{"port", "1 to 65535", readPort}, otherwise: "the port served", needs: needsCheck,
		does: "The port of the pod that is checked."},
	{name: "check-interval", value: duration(100*time.Millisecond, time.Hour,
		func(s *lb.Service) *time.Duration { return &s.Front.Check.Interval }), otherwise: "`2s`", needs: needsCheck,
		does: "The time between two checks."},
	{name: "check-rise", value: number(100, func(s *lb.Service) *int { return &s.Front.Check.Rise }),
		otherwise: "`2`", needs: needsCheck, does: "Successes in a row that bring a server back."},
	{name: "check-fall", value: number(100, func(s *lb.Service) *int { return &s.Front.Check.Fall }),
		otherwise: "`3`", needs: needsCheck, does: "Failures in a row that take a server out."},

	{name: "send-proxy", value: value{"word", "`v1`, `v2`", readSendProxy}, otherwise: "off", needs: needsProxy,
		does: "The version of the PROXY protocol towards the pods, which tells them the client's address."},
	{name: "accept-proxy", value: value{"prefixes", "comma-separated: `192.0.2.0/24, 2001:db8::1`", readAcceptProxy},
		otherwise: "nobody", needs: needsProxy,
		does: "Hosts that begin each connection with a PROXY protocol header; the address in it counts " +
			"as the client's."},
	{name: "tls-secret", value: named(func(s *lb.Service) *string { return &s.TLSSecret }, "name of a Secret"),
		otherwise: "TLS is passed on as it is", needs: needsProxy,
		does: "Terminate TLS with the certificate of this Secret (type kubernetes.io/tls) of the namespace. " +
			"The agents need a right to read it, see below."},

	{name: "max-connections", value: number(1_000_000, func(s *lb.Service) *int { return &s.Front.MaxConn }),
		otherwise: "no bound", needs: needsProxy, does: "Connections at once; more wait in the kernel's queue."},
	{name: "server-max-connections", value: number(1_000_000,
		func(s *lb.Service) *int { return &s.Front.ServerMaxConn }), otherwise: "no bound", needs: needsProxy,
		does: "Connections at once to each pod; more wait until one ends."},
	{name: "rate-limit", value: number(1_000_000, func(s *lb.Service) *int { return &s.Front.Rate }),
		otherwise: "no bound", needs: needsProxy, does: "New connections per second; more wait."},
	{name: "client-rate-limit", value: number(1_000_000, func(s *lb.Service) *int { return &s.Front.RatePerClient }),
		otherwise: "no bound", needs: needsProxy,
		does: "New connections per second of one client address; more are refused."},

	{name: "connect-timeout", value: duration(10*time.Millisecond, time.Minute,
		func(s *lb.Service) *time.Duration { return &s.Front.ConnectTimeout }), otherwise: "`1s`",
		needs: needsProxy, does: "How long a pod may take to accept a connection before another one is tried."},
	{name: "client-timeout", value: duration(time.Second, 168*time.Hour,
		func(s *lb.Service) *time.Duration { return &s.Front.ClientTimeout }), otherwise: idleTime,
		needs: needsProxy, does: "How long a client may be silent."},
	{name: "server-timeout", value: duration(time.Second, 168*time.Hour,
		func(s *lb.Service) *time.Duration { return &s.Front.ServerTimeout }), otherwise: idleTime,
		needs: needsProxy, does: "How long a pod may be silent."},
	{name: "slow-start", value: duration(time.Second, time.Hour,
		func(s *lb.Service) *time.Duration { return &s.Front.SlowStart }), otherwise: "off", needs: needsProxy,
		does: "The time over which a new pod's share of connections grows."},
}

// find returns the annotation that speaks for a row and its value; an empty
// value counts as none, because templates leave such behind.
func (a annotation) find(all map[string]string) (key, text string) {
	if text = all[prefix+a.name]; text != "" {
		return prefix + a.name, text
	}
	for _, key := range a.foreign {
		if all[key] != "" {
			return key, all[key]
		}
	}
	return "", ""
}
