package haproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const (
	// tableSize bounds the clients of one Service with affinity or a rate; memory
	// is taken as clients come, some 200 bytes each, and the oldest goes first.
	tableSize = "100k"
	// defaultConnect is for pods on hosts that are switched off; a refusal is
	// noticed at once.
	defaultConnect = time.Second
	// handshakeTime is for a PROXY header or a TLS handshake that never comes, and
	// idleTunnel for an idle connection to a server: `timeout tunnel` takes the
	// place of both sides' timeouts as soon as it is made.
	handshakeTime = 30 * time.Second
	idleTunnel    = 24 * time.Hour
	// queueTime is how long a connection waits for one of a bounded number.
	queueTime = 10 * time.Second
)

// Defaults of lb.ServiceCheck, as documented there.
const (
	defaultInterval = 2 * time.Second
	defaultFall     = 3
	defaultRise     = 2
	mostCheckTime   = 5 * time.Second
)

// printer writes the sections of one frontend.
type printer struct {
	strings.Builder
	site site
	// lists are the files that the text refers to, content by name.
	lists map[string]string
}

// site is what the text of a frontend depends on besides the frontend.
type site struct {
	// dir is Config.Dir.
	dir string
	// peers says that there are some, so that tables are told to them.
	peers bool
}

func (p *printer) line(format string, args ...any) { fmt.Fprintf(p, "  "+format+"\n", args...) }
func (p *printer) section(kind, name string)       { fmt.Fprintf(p, "\n%s %s\n", kind, name) }

// renderService writes the sections of one valid and normal Service's frontend.
// Only the `server` lines differ between two with the same structure. lists are
// the files that the text refers to, content by name, nil for none.
func renderService(at site, f lb.Frontend) (text string, lists map[string]string) {
	p := &printer{site: at}
	p.Grow(2048 + 300*len(f.Backends))
	p.section("frontend", frontendName(f.Name))
	p.line("mode tcp")
	renderListening(p, f)
	renderClients(p, *f.Front)
	renderIdleClients(p, *f.Front)
	checked := f.Front.Check.Kind != ""
	if checked {
		// Fail open, as for API servers. Without a check there is no second section:
		// HAProxy then never thinks that a server is down.
		p.line("use_backend %s if { nbsrv(%s) eq 0 }", fallbackName(f.Name), backendName(f.Name))
	}
	p.line("default_backend %s", backendName(f.Name))
	renderServiceBackend(p, f, true)
	if checked {
		renderServiceBackend(p, f, false)
	}
	return p.String(), p.lists
}

// renderListening writes the binds. ALPN offers http/1.1 alone: connections are
// passed on as they are after TLS, and a client that chose h2 would speak it to
// pods that do not.
func renderListening(p *printer, f lb.Frontend) {
	tls := ""
	if f.Front.TLS != "" {
		tls = " ssl crt " + f.Front.TLS + " alpn http/1.1"
	}
	for _, a := range f.Binds {
		p.line("bind %s transparent%s", a, tls)
	}
	if f.Front.MaxConn > 0 {
		p.line("maxconn %d", f.Front.MaxConn)
	}
	if f.Front.Rate > 0 {
		p.line("rate-limit sessions %d", f.Front.Rate)
	}
}

// renderClients writes who may come. `connection` rules see the sender of the
// first packet and cost next to nothing; `session` rules come after the PROXY
// header (and TLS) and see the client that it names. With AcceptProxy only the
// latter can judge clients; hosts outside of it are judged by their own address,
// and their header, which is not expected, is data.
func renderClients(p *printer, f lb.Front) {
	stage := "connection"
	if len(f.AcceptProxy) > 0 {
		stage = "session"
		p.line("tcp-request connection expect-proxy layer4 if { %s }", p.source(f.AcceptProxy))
	}
	if len(f.Sources) > 0 {
		p.line("tcp-request %s reject unless { %s }", stage, p.source(f.Sources))
	}
	if f.RatePerClient > 0 {
		p.line("stick-table type ipv6 size %s expire 10s store conn_rate(1s)", tableSize)
		p.line("tcp-request %s track-sc0 src", stage)
		p.line("tcp-request %s reject if { sc0_conn_rate gt %d }", stage, f.RatePerClient)
	}
}

// source is the condition that a client is in a list, which may become a file.
func (p *printer) source(list []netip.Prefix) string {
	condition, file, content := source(p.site.dir, list)
	if file != "" {
		if p.lists == nil {
			p.lists = map[string]string{}
		}
		p.lists[file] = content
	}
	return condition
}

// renderIdleClients writes when a silent client is given up. A client that
// vanished is found by keep-alive after a minute.
func renderIdleClients(p *printer, f lb.Front) {
	p.line("option clitcpka")
	p.line("clitcpka-idle 30s")
	p.line("clitcpka-intvl 10s")
	p.line("clitcpka-cnt 3")
	p.line("timeout client %s", timer(f.ClientTimeout, idle(f)))
	p.line("timeout client-fin 30s")
}

// idle is the default of the client's and the server's timeout. When one of them
// is given `timeout tunnel` must go, and then the other must not be short.
func idle(f lb.Front) time.Duration {
	if f.ClientTimeout != 0 || f.ServerTimeout != 0 {
		return idleTunnel
	}
	return handshakeTime
}

// renderServiceBackend writes the servers, with their checks or as the fallback
// without. A backend without any usable server closes connections at once.
func renderServiceBackend(p *printer, f lb.Frontend, checked bool) {
	name := backendName(f.Name)
	if !checked {
		name = fallbackName(f.Name)
	}
	p.section("backend", name)
	renderBalancing(p, *f.Front)
	renderIdleServers(p, *f.Front)
	renderAffinity(p, f, checked)
	if checked {
		renderServiceCheck(p, f.Front.Check)
	}
	ids, _ := serverIDs(f.Backends)
	for i, s := range f.Backends {
		p.line("server %s %s %s", ServerName(s.Addr), s.Addr, serviceArgs(*f.Front, s, ids[i], checked))
	}
}

// renderBalancing: every algorithm must take servers at run time, so a hash is
// consistent.
func renderBalancing(p *printer, f lb.Front) {
	p.line("mode tcp")
	p.line("balance %s", cmp.Or(f.Balance, lb.LeastConn))
	if f.Balance == lb.Source {
		p.line("hash-type consistent")
	}
	p.line("option redispatch 1")
	p.line("retries 3")
}

func renderIdleServers(p *printer, f lb.Front) {
	p.line("option srvtcpka")
	p.line("srvtcpka-idle 30s")
	p.line("srvtcpka-intvl 10s")
	p.line("srvtcpka-cnt 3")
	p.line("timeout connect %s", timer(f.ConnectTimeout, defaultConnect))
	p.line("timeout server %s", timer(f.ServerTimeout, idle(f)))
	p.line("timeout server-fin 30s")
	if f.ClientTimeout == 0 && f.ServerTimeout == 0 {
		p.line("timeout tunnel %s", timer(idleTunnel, 0))
	}
	if f.ServerMaxConn > 0 {
		p.line("timeout queue %s", timer(queueTime, 0))
	}
}

// renderAffinity writes the table of clients. It remembers the server's address
// (srvkey addr), which all nodes agree on.
func renderAffinity(p *printer, f lb.Frontend, checked bool) {
	if f.Front.Affinity == 0 {
		return
	}
	if !checked {
		p.line("stick on src table %s", backendName(f.Name))
		return
	}
	told := ""
	if p.site.peers {
		told = " peers " + peersName
	}
	p.line("stick-table type ipv6 size %s expire %s srvkey addr%s", tableSize, timer(f.Front.Affinity, 0), told)
	p.line("stick on src")
}

// renderServiceCheck writes how all servers of a backend are asked.
func renderServiceCheck(p *printer, c lb.ServiceCheck) {
	if c.Kind == "" {
		return
	}
	if c.Kind != lb.CheckTCP {
		p.line("option httpchk")
		// HTTP/1.1 needs some Host; servers that look at it are told which by name.
		p.line("http-check send meth GET uri %s ver HTTP/1.1 hdr Host %s",
			cmp.Or(c.Path, "/"), cmp.Or(c.Host, "localhost"))
		p.line("http-check expect status %d-%d", cmp.Or(c.StatusFrom, 200), cmp.Or(c.StatusTo, 399))
	}
	p.line("timeout check %s", timer(min(cmp.Or(c.Interval, defaultInterval), mostCheckTime), 0))
	// What checks found out is kept over a reload.
	p.line("load-server-state-from-file global")
}

// serviceArgs is what follows "server NAME ADDRESS" in the file, and "add server
// NAME ADDRESS" on the socket, where nothing is inherited. A draining server has
// no weight: it is left out of balancing and keeps the clients that a table sends
// to it.
func serviceArgs(f lb.Front, s lb.Backend, id uint32, checked bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id %d", id)
	if s.Drain {
		b.WriteString(" weight 0")
	}
	if checked && f.Check.Kind != "" {
		b.WriteString(" " + checkArgs(f.Check))
	}
	if f.ServerMaxConn > 0 {
		fmt.Fprintf(&b, " maxconn %d", f.ServerMaxConn)
	}
	if f.SlowStart > 0 {
		b.WriteString(" slowstart " + timer(f.SlowStart, 0))
	}
	switch f.SendProxy {
	case 1:
		b.WriteString(" send-proxy")
	case 2:
		b.WriteString(" send-proxy-v2")
	}
	return b.String()
}

// checkArgs is the check of one server. Three refused connections in a row take
// it out before the next check does.
func checkArgs(c lb.ServiceCheck) string {
	args := fmt.Sprintf("check inter %s fall %d rise %d observe layer4 error-limit 3 on-error mark-down",
		timer(c.Interval, defaultInterval), cmp.Or(c.Fall, defaultFall), cmp.Or(c.Rise, defaultRise))
	if c.Port != 0 {
		args += fmt.Sprintf(" port %d", c.Port)
	}
	if c.Kind == lb.CheckHTTPS {
		args += " check-ssl verify none"
	}
	return args
}

// timer prints d, or what stands for 0, in whole milliseconds, at least one.
func timer(d, otherwise time.Duration) string {
	return fmt.Sprintf("%dms", max(1, cmp.Or(d, otherwise).Milliseconds()))
}

// maxReloads is how many reloads a worker with connections survives. Services
// come and go more often than API servers do; there are fewer reloads the more old
// workers there are (stretch), so this many are not reached within the hour.
func maxReloads(c Config) int {
	if c.service {
		return 60
	}
	return 10
}

// renderServiceGlobal writes what the `global` section of Services has besides.
func renderServiceGlobal(b *strings.Builder, c Config) {
	if c.meshed() {
		fmt.Fprintf(b, "  localpeer %s\n", c.Local)
	}
	// Thousands of checks must not all come in the same millisecond.
	fmt.Fprintln(b, "  spread-checks 10")
}
