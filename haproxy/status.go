package haproxy

import (
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// statusCommand asks the stats socket for everything that is watched, in one
// connection: `-1 5 -1` are all proxies, of type frontend (1) and server (4)
// (management.txt §9.3, "show stat").
const statusCommand = "show info;show stat -1 5 -1"

// server is one line of `show stat` of type server.
type server struct {
	name string
	// status is UP, DOWN, "UP 1/2", MAINT, "no check" and so on.
	status string
	// check is the last check's result: L7OK, L4CON, L6TOUT and so on.
	check    string
	sessions int
}

// up says that the server passes its check. "UP 1/2" is on its way down.
func (s server) up() bool { return strings.HasPrefix(s.status, "UP") }

// maint says that the server was switched off over the socket, or added and
// not yet switched on.
func (s server) maint() bool { return strings.HasPrefix(s.status, "MAINT") }

// silent says that the server is down because it did not answer at all: it
// hangs or its host is gone, and its clients will not learn of it by a reset.
func (s server) silent() bool {
	return strings.HasPrefix(s.status, "DOWN") && strings.HasSuffix(s.check, "TOUT")
}

// worker is what the running worker process says of itself.
type worker struct {
	// id is the structureID of the configuration it was started with.
	id string
	// open holds the listening frontends, by section name.
	open map[string]bool
	// servers by backend section name.
	servers map[string][]server
}

// parseStatus reads the answer to statusCommand.
func parseStatus(text string) (worker, error) {
	w := worker{open: map[string]bool{}, servers: map[string][]server{}}
	info, stat, ok := strings.Cut(text, "# pxname,")
	if !ok {
		return w, errors.New("haproxy: the socket's answer has no statistics in it")
	}
	for line := range strings.SplitSeq(info, "\n") {
		if v, ok := strings.CutPrefix(line, "description: "); ok {
			w.id = strings.TrimSpace(v)
		}
	}
	rows, err := readCSV("pxname," + stat)
	if err != nil {
		return w, err
	}
	for _, row := range rows {
		w.add(row)
	}
	return w, nil
}

// add takes over one line of `show stat`.
func (w *worker) add(row map[string]string) {
	proxy := row["pxname"]
	if row["svname"] == "FRONTEND" {
		w.open[proxy] = row["status"] == "OPEN"
		return
	}
	// While a check runs its last result is shown with a star.
	check := strings.TrimPrefix(row["check_status"], "* ")
	sessions, _ := strconv.Atoi(row["scur"])
	s := server{name: row["svname"], status: row["status"], check: check, sessions: sessions}
	w.servers[proxy] = append(w.servers[proxy], s)
}

// readCSV reads rows by the names in the header line, because columns are
// appended with each version of HAProxy.
func readCSV(text string) ([]map[string]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord = -1
	r.LazyQuotes = true
	all, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("haproxy: the socket's statistics cannot be read: %w", err)
	}
	var out []map[string]string
	for _, fields := range all[1:] {
		if len(fields) < 2 {
			continue
		}
		row := make(map[string]string, len(fields))
		for i, v := range fields {
			if i < len(all[0]) {
				row[all[0][i]] = v
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// stateOf judges a worker by what is wanted of it.
func stateOf(w worker, want wish) lb.ProxyState {
	if want.cfg.service {
		return servicesState(w, want)
	}
	st := lb.ProxyState{Up: upBackends(w, want.cfg)}
	if w.id != want.id {
		st.Why = "HAProxy still runs its former configuration"
		return st
	}
	for _, f := range want.cfg.Frontends {
		if !w.open[frontendName(f.Name)] {
			st.Why = "HAProxy does not listen for frontend " + f.Name
			return st
		}
	}
	st.Serving = true
	return st
}

// upBackends are the names of the backends that pass their check in at least
// one frontend, sorted.
func upBackends(w worker, c Config) []string {
	var out []string
	for _, f := range c.Frontends {
		up := map[string]bool{}
		for _, s := range w.servers[backendName(f.Name)] {
			up[s.name] = s.up()
		}
		for _, b := range f.Backends {
			if up[ServerName(b.Addr)] {
				out = append(out, b.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// master is what `show proc` says of the master process.
type master struct {
	// worker is the process that serves, 0 if there is none.
	worker int
	// failed counts reloads that failed since the last good one.
	failed int
}

// parseProc reads `show proc` of the master socket (management.txt §9.4).
func parseProc(text string) (master, error) {
	var m master
	seen, old := false, false
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		if strings.HasPrefix(line, "# old workers") {
			old = true
		}
		if len(words) < 2 || words[0] == "#" {
			continue
		}
		switch words[1] {
		case "master":
			seen = true
			if _, after, ok := strings.Cut(line, "[failed: "); ok {
				count, _, _ := strings.Cut(after, "]")
				m.failed, _ = strconv.Atoi(count)
			}
		case "worker":
			if !old {
				m.worker, _ = strconv.Atoi(words[0])
			}
		}
	}
	if !seen {
		return m, errors.New("haproxy: the master socket's answer names no master process")
	}
	return m, nil
}

// wish is a configuration ready to run.
type wish struct {
	cfg Config
	// text is haproxy.cfg, id its structureID.
	text, id string

	// The rest is for Services, whose text is head and then that of blocks; it is
	// put together only to be written.
	head   string
	blocks []*block
	// unknown says that nothing but id is known of it: it is what a worker of a
	// former agent runs.
	unknown bool
	// skipped says why a frontend that was asked for is not in it, pending which
	// ones wait for a reload.
	skipped map[string]error
	pending []string
	// certs are the certificates of Front.TLS, by file.
	certs map[string]*tlsFile
}
