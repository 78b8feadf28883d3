package config

import (
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"
)

// APIVersion and Kind head every file.
const (
	APIVersion = "mooring.dev/v1alpha1"
	Kind       = "AgentConfig"
)

// maxFile bounds what is read, in bytes; a real file has under 4 KiB.
const maxFile = 1 << 20

// Config is the checked configuration of one agent. Tags name the fields in
// the file; reference.yaml explains each.
type Config struct {
	// Kubeconfig is the absolute path of the file for this node's own API
	// server.
	Kubeconfig string `yaml:"kubeconfig"`
	// Interface announces the VIPs; "" means the one on the VIP's subnet.
	Interface string `yaml:"interface"`
	// Node is this node's name, a DNS-1123 subdomain.
	Node string `yaml:"node"`
	// Namespace holds the Leases.
	Namespace string `yaml:"namespace"`
	// RunDir lives until the next boot, StateDir beyond.
	RunDir   string `yaml:"runDir"`
	StateDir string `yaml:"stateDir"`

	Log       Log       `yaml:"log"`
	Metrics   Metrics   `yaml:"metrics"`
	APIServer APIServer `yaml:"apiServer"`
	Lease     Lease     `yaml:"lease"`
	Fence     Fence     `yaml:"fence"`
	Hello     Hello     `yaml:"hello"`
	Moves     Moves     `yaml:"moves"`

	// Priority is 0 to 255; of two nodes the one with more holds rather.
	Priority int `yaml:"priority"`
	// Witnesses are at most 8 hosts on the VIPs' links, in the file's order.
	Witnesses []netip.Addr `yaml:"witnesses"`
	// Peers are at most 16 other candidates, in the file's order; an entry for
	// this node is left out, so that one list serves all nodes.
	Peers []Peer `yaml:"peers"`

	Announce Announce `yaml:"announce"`
	Services Services `yaml:"services"`
}

// Log is how the agent logs.
type Log struct {
	// Format is "text" or "json".
	Format string `yaml:"format"`
	// Level is "debug", "info", "warn" or "error".
	Level string `yaml:"level"`
}

// Metrics is the agent's own HTTP server.
type Metrics struct {
	// Bind serves /metrics, /healthz and /readyz.
	// The default is loopback: what it tells is not for the network.
	Bind netip.AddrPort `yaml:"bind"`
}

// APIServer is the virtual IP of the API server.
type APIServer struct {
	// VIPs has 1 to 8 addresses, in the file's order, without duplicates.
	VIPs []netip.Addr `yaml:"vips"`
	// Port is where clients and API servers meet; ProxyPort, another one, is
	// where HAProxy listens behind it.
	Port      uint16 `yaml:"port"`
	ProxyPort uint16 `yaml:"proxyPort"`
	// Balance says whether HAProxy spreads connections over all API servers.
	Balance Balance `yaml:"balance"`
	// Servers are API servers known before the cluster can be asked.
	Servers []netip.AddrPort `yaml:"servers"`
	Check   Check            `yaml:"check"`
	// MaxConnections of HAProxy; 0 computes it from the limit of open files.
	MaxConnections int `yaml:"maxConnections"`
	// AllowOutsideSubnet permits a VIP outside the interface's subnets.
	AllowOutsideSubnet bool `yaml:"allowOutsideSubnet"`
}

// Check is how HAProxy asks an API server whether it is ready.
type Check struct {
	Path              string            `yaml:"path"`
	ClientCertificate ClientCertificate `yaml:"clientCertificate"`
}

// Balance is the way a connection to the VIP takes.
type Balance string

// HAProxy on the holder spreads connections; with off they end at the
// holder's own API server.
const (
	BalanceHAProxy Balance = "haproxy"
	BalanceOff     Balance = "off"
)

// ClientCertificate says when the health check presents the kubeconfig's
// certificate.
type ClientCertificate string

// With auto the agent tries whether the API server answers without one.
const (
	CertificateAuto   ClientCertificate = "auto"
	CertificateAlways ClientCertificate = "always"
	CertificateNever  ClientCertificate = "never"
)

// Lease times the record of who holds the VIPs.
type Lease struct {
	// Duration is in whole seconds, at least Renew + Fence.ValidLifetime + 2 s.
	Duration time.Duration `yaml:"duration"`
	Renew    time.Duration `yaml:"renew"`
}

// Fence is how the kernel takes a VIP from a dead agent.
type Fence struct {
	// ValidLifetime is in whole seconds, 2 to 60.
	ValidLifetime time.Duration `yaml:"validLifetime"`
}

// Hello is how the agents tell each other that they live.
type Hello struct {
	// Interval is between two datagrams to one peer, 10 ms to 1 s; Multiplier, 2
	// to 10, is how many of them are missing when the peer is down.
	Interval   time.Duration `yaml:"interval"`
	Multiplier int           `yaml:"multiplier"`
	// Port is of UDP, 1024 to 65535.
	Port uint16 `yaml:"port"`
	// KeyFile is the absolute path of the keys, one a line; "" means the Secret
	// in Namespace.
	KeyFile string `yaml:"keyFile"`
}

// Moves says how the VIPs change hands when nothing is broken.
type Moves struct {
	// DrainTimeout is how long connections outlive a move: 0, or 1 s to 1 h in
	// whole seconds.
	DrainTimeout time.Duration `yaml:"drainTimeout"`
	// Preempt lets a better node take the VIPs back, PreemptDelay after it came.
	Preempt      bool          `yaml:"preempt"`
	PreemptDelay time.Duration `yaml:"preemptDelay"`
}

// Peer is a candidate known before the API server can be asked.
type Peer struct {
	// Node is its name, a DNS-1123 subdomain.
	Node string
	// Addr is its own address on a VIP's link.
	Addr netip.Addr
	// MAC is that link's hardware address in lower case, with colons; "" is
	// unknown.
	MAC string
}

// Announce paces gratuitous ARP and unsolicited neighbour advertisements.
type Announce struct {
	// Rate is in frames per second and interface.
	Rate int `yaml:"rate"`
	// Refresh is the pause between announcements at rest.
	Refresh time.Duration `yaml:"refresh"`
}

// Services of type LoadBalancer, whose addresses come from AddressPools.
type Services struct {
	Enabled bool `yaml:"enabled"`
	// Class says which Services are ours by spec.loadBalancerClass; AcceptedClasses
	// are served too, at most 8.
	Class           Class    `yaml:"class"`
	AcceptedClasses []string `yaml:"acceptedClasses"`
	// MaxConnections of their HAProxy; 0 computes it from the limit of open files.
	MaxConnections int `yaml:"maxConnections"`
	// PeersPort is where their HAProxies tell each other which server a client has.
	PeersPort uint16 `yaml:"peersPort"`
}

// Class is which Services are ours.
type Class string

// With default also those without a class, else only those that name it.
const (
	ClassDefault Class = "default"
	ClassOnly    Class = "only-class"
)

//go:embed reference.yaml
var reference string

//go:embed minimal.yaml
var minimal string

// Reference returns a file that holds every field with its default and an
// explanation.
func Reference() string { return reference }

// Minimal returns the shortest complete file.
func Minimal() string { return minimal }

// defaults is the configuration before the file is applied; it equals
// reference.yaml but for the fields that have no default.
func defaults() Config {
	return Config{
		Namespace: "mooring-system",
		RunDir:    "/run/mooring",
		StateDir:  "/var/lib/mooring",
		Log:       Log{Format: "text", Level: "info"},
		Metrics:   Metrics{Bind: netip.MustParseAddrPort("127.0.0.1:9441")},
		APIServer: APIServer{
			Port: 6443, ProxyPort: 7443, Balance: BalanceHAProxy,
			Check: Check{Path: "/readyz", ClientCertificate: CertificateAuto},
		},
		Lease:    Lease{Duration: 15 * time.Second, Renew: 5 * time.Second},
		Fence:    Fence{ValidLifetime: 4 * time.Second},
		Hello:    Hello{Interval: 50 * time.Millisecond, Multiplier: 3, Port: 7444},
		Moves:    Moves{DrainTimeout: 5 * time.Minute, PreemptDelay: time.Minute},
		Priority: 100,
		Announce: Announce{Rate: 100, Refresh: 30 * time.Second},
		Services: Services{Class: ClassDefault, PeersPort: 7445},
	}
}

// Load reads and checks the file. The error lists everything that is wrong,
// one line each, as FILE:LINE: FIELD: what, and the way out. It wraps
// fs.ErrNotExist when there is no such file.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w; the shortest complete file is:\n%s", err, minimal)
	}
	defer f.Close()
	// One byte more than allowed tells a file that is too large.
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return Parse(path, data)
}

// Parse checks the content of a file; name is used in errors only. The host's
// name is the default of "node".
func Parse(name string, data []byte) (Config, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "" // reported for the field, unless the file sets it
	}
	return parse(name, data, strings.ToLower(host))
}

// parse is Parse with the host's name given.
func parse(name string, data []byte, host string) (Config, error) {
	p := &problems{file: name}
	var r raw
	if !read(p, data, &r) {
		return Config{}, p.err()
	}
	// Values are judged although fields may be unknown, so that everything
	// that is wrong is told at once.
	c := r.config(p, host)
	if len(p.list) > 0 {
		return Config{}, p.err()
	}
	return c, nil
}
