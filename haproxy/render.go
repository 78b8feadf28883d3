package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// Timing of the health check of an API server. A killed server refuses
// connections: found at the next check, confirmed by the quick second one, so
// it is out within 0.3 s + 0.1 s. A hung one accepts and stays silent: two
// checks of 0.7 s, out within 1.8 s. `observe layer4` is quicker than both when
// there is traffic, and needs three failures in a row so that one full accept
// queue does not cost a server.
const checkTiming = "inter 300ms fastinter 100ms fall 2 rise 2 observe layer4 error-limit 3 on-error mark-down"

// Render writes haproxy.cfg for c. It is pure: equal wishes, in any order,
// give equal bytes. Every string is validated first (*FieldError).
//
// Each section is complete by itself, without `defaults`: servers added over
// the runtime socket do not inherit from there either.
func Render(c Config) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	if c.forServices() {
		return compile(c, nil).wish().content(), nil
	}
	return render(c.normal()), nil
}

// render writes a normal and valid configuration.
func render(c Config) string {
	return renderGlobal(c, structureID(c)) + renderRest(c)
}

// structureID is a digest of everything that needs a reload when it changes,
// that is all but the list of servers. It is written into `description`, so
// that the running worker itself says what it was loaded with: a file on disk
// cannot, after an agent died between writing and reloading.
func structureID(c Config) string {
	s := c
	s.Frontends = append([]lb.Frontend(nil), c.Frontends...)
	for i := range s.Frontends {
		// One fixed server, so that a changed check counts as structure.
		fixed := lb.Backend{Name: "x", Addr: netip.AddrPortFrom(netip.IPv6Loopback(), 1)}
		s.Frontends[i].Backends = []lb.Backend{fixed}
	}
	sum := sha256.Sum256([]byte(renderGlobal(s, c.files) + renderRest(s)))
	return "mooring-" + c.Name + "-" + hex.EncodeToString(sum[:8])
}

func renderGlobal(c Config, id string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("global")
	line("  description %s", id)
	line("  maxconn %d", c.MaxConn)
	line("  nbthread %d", c.Threads)
	// Watches are long: a worker replaced by a reload goes on for an hour, and
	// not more than ten of them gather.
	line("  hard-stop-after 1h")
	line("  mworker-max-reloads %d", maxReloads(c))
	line("  server-state-file %s", c.file(fileStates))
	line("  stats socket %s mode 600 level admin expose-fd listeners", c.file(fileStats))
	line("  stats timeout 10s")
	if c.service {
		renderServiceGlobal(&b, c)
	}
	return b.String()
}

func renderRest(c Config) string {
	var b strings.Builder
	renderOwn(&b, c)
	for _, f := range c.Frontends {
		renderFrontend(&b, f)
		renderBackend(&b, f)
		renderFallback(&b, f)
	}
	return b.String()
}

// renderOwn writes the sections that serve no frontend.
func renderOwn(b *strings.Builder, c Config) {
	// HAProxy refuses to run without any listener; this one is always there and
	// answers for probes of the process itself.
	fmt.Fprintf(b, `
frontend health
  mode http
  bind unix@%s mode 600
  timeout client 5s
  monitor-uri /healthz
`, c.file(fileHealth))
	if c.Metrics {
		fmt.Fprintf(b, `
frontend metrics
  mode http
  bind unix@%s mode 600
  timeout client 10s
  http-request use-service prometheus-exporter if { path /metrics }
  http-request return status 404
`, c.file(fileExport))
	}
	if c.meshed() {
		renderPeers(b, c.Peers)
	}
}

// renderFrontend writes the listening side. The connection count of clients
// that vanished is kept down by TCP keep-alive (60 s) instead of a short idle
// timeout, because an idle watch is legitimate.
func renderFrontend(b *strings.Builder, f lb.Frontend) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	line("\nfrontend %s", frontendName(f.Name))
	line("  mode tcp")
	for _, a := range f.Binds {
		// transparent: IP_TRANSPARENT, bind before the host has the address.
		line("  bind %s transparent", a)
	}
	line("  option clitcpka")
	line("  clitcpka-idle 30s")
	line("  clitcpka-intvl 10s")
	line("  clitcpka-cnt 3")
	line("  timeout client 1h")
	line("  timeout client-fin 30s")
	// Fail open: when no server passes its check, checks prove nothing any more
	// (an expired client certificate, a slow etcd), and all are tried.
	line("  use_backend %s if { nbsrv(%s) eq 0 }", fallbackName(f.Name), backendName(f.Name))
	line("  default_backend %s", backendName(f.Name))
}

// renderBackend writes the checked servers.
//
// on-marked-down shutdown-sessions is left out on purpose. A server that fails
// /readyz because it shuts down gracefully ends its watches by itself, and one
// that is merely slow under load would lose all clients at once to the next,
// which then is slow too. Servers that hang or vanished are different: their
// sessions are cut by Proxy after five seconds, provided another server is up.
func renderBackend(b *strings.Builder, f lb.Frontend) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	line("\nbackend %s", backendName(f.Name))
	renderBalance(line)
	line("  option httpchk")
	line("  http-check send meth GET uri %s ver HTTP/1.1 hdr Host %s", f.Check.Path, f.Check.ServerName)
	line("  http-check expect status 200")
	line("  timeout check 700ms")
	// What checks found out is kept over a reload: without it a dead server is
	// up again until two checks failed.
	line("  load-server-state-from-file global")
	for _, s := range f.Backends {
		line("  server %s %s %s", ServerName(s.Addr), s.Addr, serverArgs(f.Check))
	}
}

// renderFallback writes the same servers without checks.
func renderFallback(b *strings.Builder, f lb.Frontend) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	line("\nbackend %s", fallbackName(f.Name))
	renderBalance(line)
	for _, s := range f.Backends {
		line("  server %s %s", ServerName(s.Addr), s.Addr)
	}
}

// renderBalance writes what both backends share. A refused or timed-out
// connection goes to another server at once (redispatch 1); the 1 s is for
// hosts that are switched off and send no answer at all.
func renderBalance(line func(string, ...any)) {
	line("  mode tcp")
	line("  balance leastconn")
	line("  option redispatch 1")
	line("  retries 3")
	line("  option srvtcpka")
	line("  srvtcpka-idle 30s")
	line("  srvtcpka-intvl 10s")
	line("  srvtcpka-cnt 3")
	line("  timeout connect 1s")
	line("  timeout server 1h")
	line("  timeout server-fin 30s")
	line("  timeout tunnel 24h")
}

// serverArgs is what follows "server NAME ADDRESS" in the file, and "add
// server NAME ADDRESS" on the socket.
func serverArgs(c lb.Check) string {
	args := "check " + checkTiming + " check-ssl check-sni " + c.ServerName + " verify required ca-file " + c.CAFile
	if c.ClientPEM != "" {
		args += " crt " + c.ClientPEM
	}
	return args
}
