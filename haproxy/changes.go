package haproxy

import (
	"maps"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// action is one step at the runtime socket.
type action string

const (
	actAdd action = "add"
	// actEnable ends maintenance, of a new server or of one that is back.
	actEnable action = "enable"
	// actDisable starts maintenance: no new connections.
	actDisable action = "disable"
	// actDelete forgets a server in maintenance. HAProxy refuses while it has
	// connections; it is tried again later.
	actDelete action = "delete"
)

// change is an action on one server.
type change struct {
	action  action
	backend string
	server  string
	// attributes is the address and all that follows it, for actAdd.
	attributes string
	// checked says that the server has a health check to switch on.
	checked bool
}

// changes compares the servers that a worker has with those wanted and returns
// the steps between them: first what adds, then what takes away, so that no
// backend is empty in between.
func changes(w worker, c Config) []change {
	var add, take []change
	for _, f := range c.Frontends {
		for _, section := range []string{backendName(f.Name), fallbackName(f.Name)} {
			a, t := sectionChanges(section, w.servers[section], f)
			add, take = append(add, a...), append(take, t...)
		}
	}
	return append(add, take...)
}

func sectionChanges(section string, have []server, f lb.Frontend) (add, take []change) {
	checked := section == backendName(f.Name)
	live := map[string]server{}
	for _, s := range have {
		live[s.name] = s
	}
	for _, b := range f.Backends {
		name := ServerName(b.Addr)
		c := change{backend: section, server: name, checked: checked}
		s, ok := live[name]
		delete(live, name)
		if ok && !s.maint() {
			continue
		}
		if !ok {
			c.action, c.attributes = actAdd, b.Addr.String()
			if checked {
				c.attributes += " " + serverArgs(f.Check)
			}
			add = append(add, c)
		}
		c.action, c.attributes = actEnable, ""
		add = append(add, c)
	}
	for _, s := range have {
		if _, unwanted := live[s.name]; !unwanted {
			continue
		}
		c := change{backend: section, server: s.name, checked: checked}
		if !s.maint() {
			c.action = actDisable
			take = append(take, c)
		}
		c.action = actDelete
		take = append(take, c)
	}
	return add, take
}

// settled says that nothing but deletions is left to do, which wait for
// connections to end and do no harm until then.
func settled(list []change) bool {
	for _, c := range list {
		if c.action != actDelete {
			return false
		}
	}
	return true
}

// silentPolls is how many polls in a row a server must be silent before its
// sessions are cut: five seconds at the pace of Run. Long enough that a server
// which is merely slow for a moment keeps its clients.
const silentPolls = 10

// silence counts for how many polls each server has been silent.
type silence map[[2]string]int

// cut takes the status of one poll and returns the servers, as backend and
// server name, whose sessions must be ended now: silent for silentPolls, with
// sessions left, and another server up to take the clients.
func (q silence) cut(w worker, c Config) [][2]string {
	var out [][2]string
	former := maps.Clone(q)
	// A server that is gone or back starts from nothing.
	clear(q)
	for _, f := range c.Frontends {
		section := backendName(f.Name)
		anyUp := slices.ContainsFunc(w.servers[section], server.up)
		for _, s := range w.servers[section] {
			if !s.silent() {
				continue
			}
			key := [2]string{section, s.name}
			q[key] = former[key] + 1
			if anyUp && q[key] >= silentPolls {
				out = append(out, withSessions(w, f.Name, s.name)...)
			}
		}
	}
	return out
}

// withSessions lists the sections of a frontend in which a server has sessions.
func withSessions(w worker, frontend, name string) [][2]string {
	var out [][2]string
	for _, section := range []string{backendName(frontend), fallbackName(frontend)} {
		for _, s := range w.servers[section] {
			if s.name == name && s.sessions > 0 {
				out = append(out, [2]string{section, name})
			}
		}
	}
	return out
}
