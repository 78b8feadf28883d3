package haproxy

import (
	"cmp"
	"net/netip"
	"path"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// Config is everything one HAProxy process serves. Its zero numbers stand for
// DefaultMaxConn and DefaultThreads.
type Config struct {
	// Name tells the proxies of one host apart, for example "apiserver":
	// [a-z0-9-], at most 63 bytes.
	Name string
	// Frontends in any order; names and binds are unique.
	Frontends []lb.Frontend
	// MaxConn is the most connections served at once, all frontends together.
	// Proxy lowers it to what the file descriptor limit allows.
	MaxConn int
	// Threads is nbthread. HAProxy's own default counts the host's processors
	// and ignores a CPU quota, at 100 KB of memory per frontend and 16 threads.
	Threads int
	// Dir is the absolute run directory: configuration, sockets, lock, log.
	Dir string
	// Peers are all nodes that may serve the same Services, this one among them:
	// they tell each other which server a client has. Only affinity needs them, and
	// without any it ends with a reload; give them from the start, and not when the
	// first Service wants affinity. They speak plain TCP, so their port belongs
	// behind a firewall. API servers' frontends have none.
	Peers []Peer
	// Local is this node's name in Peers.
	Local string
	// Metrics has HAProxy's own exporter for Prometheus answer, on a socket in Dir:
	// see ServeMetrics. A port would be one more that somebody else may have.
	Metrics bool

	// files is a digest of the contents of the files that checks refer to, so
	// that a renewed certificate makes another structure and thus a reload.
	files string
	// service says that the frontends are Services' (lb.Frontend.Front). It stays
	// when none of them is left that could be served.
	service bool
}

const (
	// DefaultMaxConn is Config.MaxConn when that is 0.
	DefaultMaxConn = 10000
	// DefaultThreads is Config.Threads when that is 0.
	DefaultThreads = 2
	// MaxBackends bounds the backends of all API servers' frontends of one proxy
	// together; the budget of file descriptors reserves one per health check.
	MaxBackends = 128
	// MaxServiceBackends bounds those of Services, by memory (5 KB each in HAProxy).
	MaxServiceBackends = 200_000
)

// Names of the files in Config.Dir. They do not change between versions: an
// agent finds the HAProxy of its predecessor by them.
const (
	fileConfig = "haproxy.cfg"
	fileLock   = "lock"
	fileLog    = "haproxy.log"
	fileMaster = "master.sock"
	fileStats  = "stats.sock"
	fileHealth = "health.sock"
	fileExport = "metrics.sock"
	fileStates = "servers.state"
)

// frontendName, backendName and fallbackName are the names of HAProxy's
// sections for one lb.Frontend. They are prefixed because HAProxy wants names
// unique over frontends and backends as soon as one holds a stick table.
func frontendName(name string) string { return "fe_" + name }
func backendName(name string) string  { return "be_" + name }
func fallbackName(name string) string { return "all_" + name }

// ServerName is the name of a backend inside HAProxy, derived from its address
// alone ("s-10-0-0-11-6443", "s-2001-db8--5-6443"): the file and the runtime
// socket, this agent and its successor, agree without remembering anything.
func ServerName(a netip.AddrPort) string { return lb.BackendAt(a).Name }

// normal returns c with defaults filled in and every list sorted and copied,
// so that equal wishes render to equal text.
func (c Config) normal() Config {
	c.MaxConn, c.Threads = c.defaults()
	c.Frontends = slices.Clone(c.Frontends)
	for i := range c.Frontends {
		f := &c.Frontends[i]
		f.Binds = unmapped(f.Binds)
		slices.SortFunc(f.Binds, netip.AddrPort.Compare)
		f.Backends = slices.Clone(f.Backends)
		for j := range f.Backends {
			f.Backends[j].Addr = unmap(f.Backends[j].Addr)
		}
		slices.SortFunc(f.Backends, func(a, b lb.Backend) int { return strings.Compare(a.Name, b.Name) })
	}
	slices.SortFunc(c.Frontends, func(a, b lb.Frontend) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// defaults returns MaxConn and Threads with what their zero stands for.
func (c Config) defaults() (maxConn, threads int) {
	return cmp.Or(c.MaxConn, DefaultMaxConn), cmp.Or(c.Threads, DefaultThreads)
}

// unmap writes ::ffff:10.0.0.1 as 10.0.0.1: one address, one spelling.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func unmapped(list []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, len(list))
	for i, a := range list {
		out[i] = unmap(a)
	}
	return out
}

// file is the absolute name of one of the files in the run directory.
func (c Config) file(name string) string { return path.Join(c.Dir, name) }

// binds lists the listening addresses of all frontends.
func (c Config) binds() []netip.AddrPort {
	var out []netip.AddrPort
	for _, f := range c.Frontends {
		out = append(out, f.Binds...)
	}
	return out
}
