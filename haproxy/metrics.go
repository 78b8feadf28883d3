package haproxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"os/exec"
	"strings"
)

// ServeMetrics answers with what HAProxy's own exporter says (Config.Metrics), in the
// text format of Prometheus. The query is passed on: scope=frontend&scope=backend
// leaves the servers out, no-maint those in maintenance. Without a HAProxy that serves
// the answer is 503 and says so.
func (p *Proxy) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	socket := (Config{Dir: p.dir}).file(fileExport)
	proxy := httputil.ReverseProxy{
		Rewrite: func(out *httputil.ProxyRequest) {
			out.Out.URL.Scheme, out.Out.URL.Host, out.Out.URL.Path = "http", "haproxy", "/metrics"
		},
		Transport: &http.Transport{
			// A connection that is kept would keep a worker that a reload has replaced.
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "HAProxy does not answer, see mooring status: "+err.Error(), http.StatusServiceUnavailable)
		},
	}
	proxy.ServeHTTP(w, r)
}

// exports says whether the binary has the exporter: one built without it would refuse
// the whole configuration. It is asked once; whoever calls has the turn.
func (p *Proxy) exports() bool {
	if p.exporter == nil {
		ctx, cancel := context.WithTimeout(context.Background(), execTime)
		defer cancel()
		out, err := exec.CommandContext(ctx, p.binary, "-vv").Output()
		if err != nil {
			return true // whatever is wrong with it, the check of the configuration says it
		}
		has := strings.Contains(string(out), "prometheus-exporter")
		if !has {
			p.log.Warn("this HAProxy was built without USE_PROMEX and has no metrics")
		}
		p.exporter = &has
	}
	return *p.exporter
}
