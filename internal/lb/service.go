package lb

import (
	"net/netip"
	"time"
)

// ServiceKey names a Service as "namespace/name".
type ServiceKey string

// Protocol of a Service's port, as Kubernetes writes it.
type Protocol string

// The protocols of core/v1.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Family is an address family.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address; an IPv4 address in IPv6 form is IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// FamilyPolicy is spec.ipFamilyPolicy.
type FamilyPolicy string

// The policies of core/v1; "" counts as SingleStack.
const (
	SingleStack      FamilyPolicy = "SingleStack"
	PreferDualStack  FamilyPolicy = "PreferDualStack"
	RequireDualStack FamilyPolicy = "RequireDualStack"
)

// DataPath is who serves a Service's address on the node that holds it.
type DataPath string

const (
	// DataPathProxy is HAProxy on the holder, straight to the pods.
	DataPathProxy DataPath = "proxy"
	// DataPathDirect leaves it to kube-proxy; the client's address is kept.
	DataPathDirect DataPath = "direct"
)

// Service is a LoadBalancer Service as the cluster and its annotations say, all
// values checked: what could not be used stands in Issues and not in the fields.
type Service struct {
	Key    ServiceKey
	Labels map[string]string
	// NamespaceLabels are those of its namespace; nil while they are not known.
	NamespaceLabels map[string]string
	// UID tells a Service from an earlier one of its name.
	UID string
	// Born is its creation, in seconds of Unix time.
	Born int64

	// Families are those of its cluster IPs, in order; none yet is an empty list.
	Families []Family
	Policy   FamilyPolicy
	Ports    []ServicePort
	// Local is externalTrafficPolicy: Local; Selector is then its selector in
	// canonical form, "a=b,c=d": Local Services share an address only when equal.
	Local    bool
	Selector string

	// Addresses, Pool and SharedKey are asked for by annotation or by
	// spec.loadBalancerIP.
	Addresses []netip.Addr
	Pool      string
	SharedKey string
	// Has are the addresses in its status.
	Has []netip.Addr
	// Foreign says that its status has what no allocator of ours wrote: a host
	// name, or addresses that no family explains.
	Foreign bool

	DataPath DataPath
	// Modeless: its status does not say of all its addresses that the load balancer
	// has them, though the data path is proxy. Unless the controller is about to say
	// so, the API server dropped it (KEP-1860, before 1.30), and kube-proxy takes
	// connections on every node before HAProxy sees them.
	Modeless bool
	Front    Front
	// TLSSecret names the Secret of its namespace whose certificate becomes
	// Front.TLS; "" for none.
	TLSSecret string
	// NodeSelector restricts the nodes that may hold its address; from labels of
	// other load balancers that are honoured.
	NodeSelector map[string]string

	// Issues are bad or contradictory values; each leaves the rest of the Service
	// working, unless Fatal.
	Issues []Issue
}

// With is the Service with this file of a certificate, as HAProxy shall have it.
func (s *Service) With(tls string) Service {
	out := *s
	out.Front.TLS = tls
	return out
}

// ServicePort is one port of a Service with its endpoints.
type ServicePort struct {
	// Name is the port's, "" for the only one.
	Name     string
	Protocol Protocol
	Port     uint16
	// Endpoints in any order, of both families.
	Endpoints []Endpoint
}

// Endpoint is one pod behind a Service's port (discovery.k8s.io/v1).
type Endpoint struct {
	Addr netip.AddrPort
	// Node on which it runs, "" for none known.
	Node string
	Zone string
	// Ready takes new connections. Serving and Terminating: it ends, and still
	// takes connections when no endpoint is ready (KEP-1672).
	Ready, Serving, Terminating bool
}

// Issue is a value of a Service that cannot be used.
type Issue struct {
	// Field is the annotation or field, "spec.loadBalancerIP" for example.
	Field string
	// Problem says what is wrong and what is expected, with the value quoted and
	// cut, on one line.
	Problem string
	// Fatal says that the Service gets no address as long as it stands.
	Fatal bool
}

// Front is what HAProxy shall do for a Service besides passing connections on.
// The zero value is plain TCP: leastconn, no active check, no limits.
type Front struct {
	Balance Balance
	// Affinity sends a client to the server that it had, until it has been away
	// for so long; 0 is off.
	Affinity time.Duration
	// Sources are the only clients; none listed means all.
	Sources []netip.Prefix
	// AcceptProxy are the hosts that begin each connection with a PROXY protocol
	// header; none listed means nobody does.
	AcceptProxy []netip.Prefix
	// SendProxy is the version of the PROXY protocol towards the servers, 0 for none.
	SendProxy int
	// TLS is the file with certificate and key with which connections are
	// terminated, PEM; "" passes them on as they are.
	TLS string
	// MaxConn bounds the frontend's connections, ServerMaxConn those of each server,
	// Rate the new ones of a second and RatePerClient those of one client; 0 is no
	// bound.
	MaxConn, ServerMaxConn, Rate, RatePerClient int
	// Timeouts; 0 is the default.
	ConnectTimeout, ClientTimeout, ServerTimeout time.Duration
	// SlowStart is how long a new server's share grows; 0 is off.
	SlowStart time.Duration
	// Check is the health check; the zero value is none: readiness says it.
	Check ServiceCheck
}

// Balance is how HAProxy chooses a server.
type Balance string

// The algorithms that take servers at run time.
const (
	LeastConn  Balance = "leastconn"
	RoundRobin Balance = "roundrobin"
	// Source is a consistent hash of the client's address.
	Source Balance = "source"
	Random Balance = "random"
)

// CheckKind is the protocol of a health check.
type CheckKind string

// The kinds; "" is none.
const (
	CheckTCP   CheckKind = "tcp"
	CheckHTTP  CheckKind = "http"
	CheckHTTPS CheckKind = "https"
)

// ServiceCheck is how HAProxy asks a pod whether it serves.
type ServiceCheck struct {
	Kind CheckKind
	// Path is asked with GET, Host sent with it; StatusFrom to StatusTo is well.
	// For CheckHTTP and CheckHTTPS only; a pod's certificate is not verified.
	Path, Host           string
	StatusFrom, StatusTo int
	// Port is another one than the server's own, or 0.
	Port uint16
	// Interval between two checks, Fall failures to be out, Rise to be back in;
	// 0 are 2 s, 3 and 2.
	Interval   time.Duration
	Fall, Rise int
}
