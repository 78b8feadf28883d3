package haproxy

import (
	"errors"
	"strconv"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// More steps at the runtime socket, for Services.
const (
	// actReady ends maintenance and draining, actDrain ends maintenance and keeps
	// new clients away.
	actReady action = "ready"
	actDrain action = "drain"
)

// standing is how a server is administered, whatever its checks say.
type standing struct {
	name string
	// maint is no connection at all, drain none of new clients.
	maint, drain bool
}

// standings are the servers by backend section.
type standings map[string][]standing

// Bits of srv_admin_state (management.txt §9.3, "show servers state").
const (
	anyMaint = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
	anyDrain = 0x08 | 0x10
)

// parseStandings adds the answer to one or more "show servers state" to have.
// Columns are found by the names in the header line, as they grow with versions.
func parseStandings(text string, have standings) error {
	var column map[string]int
	for line := range strings.SplitSeq(text, "\n") {
		if names, ok := strings.CutPrefix(line, "# "); ok {
			column = map[string]int{}
			for i, name := range strings.Fields(names) {
				column[name] = i
			}
			continue
		}
		words := strings.Fields(line)
		if len(words) < 8 || column == nil {
			continue
		}
		section, s, err := parseStanding(words, column)
		if err != nil {
			return err
		}
		have[section] = append(have[section], s)
	}
	if column == nil {
		return errors.New("haproxy: the socket's answer has no servers in it: " + strings.TrimSpace(cut(text)))
	}
	return nil
}

func parseStanding(words []string, column map[string]int) (string, standing, error) {
	var missing bool
	get := func(name string) string {
		i, ok := column[name]
		if !ok || i >= len(words) {
			missing = true
			return ""
		}
		return words[i]
	}
	section, name := get("be_name"), get("srv_name")
	admin, err := strconv.Atoi(get("srv_admin_state"))
	weight := get("srv_uweight")
	if missing || err != nil {
		return "", standing{}, errors.New("haproxy: a line of the servers' state cannot be read")
	}
	return section, standing{
		name: name, maint: admin&anyMaint != 0, drain: admin&anyDrain != 0 || weight == "0",
	}, nil
}

// serviceChanges are the steps from the servers that a worker has to those of the
// blocks: first what adds, then what drains, then what takes away, so that no
// backend is empty in between.
func serviceChanges(have standings, blocks []*block) []change {
	var out, drain, take []change
	for _, b := range blocks {
		ids, _ := serverIDs(b.f.Backends)
		for _, section := range b.sections() {
			live := make(map[string]standing, len(have[section]))
			for _, s := range have[section] {
				live[s.name] = s
			}
			for i, s := range b.f.Backends {
				for _, c := range b.serverChanges(section, s, ids[i], live) {
					if c.action == actDrain {
						drain = append(drain, c)
					} else {
						out = append(out, c)
					}
				}
				delete(live, ServerName(s.Addr))
			}
			take = append(take, removals(section, have[section], live)...)
		}
	}
	return append(append(out, drain...), take...)
}

// serverChanges are the steps for one server that is wanted in a section.
func (b *block) serverChanges(section string, s lb.Backend, id uint32, live map[string]standing) []change {
	checked := section == backendName(b.f.Name) && b.f.Front.Check.Kind != ""
	c := change{backend: section, server: ServerName(s.Addr), checked: checked}
	was, ok := live[c.server]
	if ok && !was.maint && was.drain == s.Drain {
		return nil
	}
	var out []change
	if !ok {
		c.action, c.attributes = actAdd, s.Addr.String()+" "+serviceArgs(*b.f.Front, s, id, checked)
		out = append(out, c)
		c.attributes = ""
	}
	c.action = actReady
	if s.Drain {
		c.action = actDrain
	}
	return append(out, c)
}

// removals takes away the servers of have that are left in live.
func removals(section string, have []standing, live map[string]standing) []change {
	var out []change
	for _, s := range have {
		if _, unwanted := live[s.name]; !unwanted {
			continue
		}
		c := change{action: actDisable, backend: section, server: s.name}
		if !s.maint {
			out = append(out, c)
		}
		c.action = actDelete
		out = append(out, c)
	}
	return out
}

// commands are the socket's words for a change. A server's weight is written
// anew when it is ready: it may have been loaded with none.
func (c change) commands() string {
	at := c.backend + "/" + c.server
	health := ""
	if c.checked {
		health = "enable health " + at + ";"
	}
	switch c.action {
	case actAdd:
		return "add server " + at + " " + c.attributes
	case actReady, actEnable:
		return health + "set server " + at + " state ready;set server " + at + " weight 1"
	case actDrain:
		return health + "set server " + at + " state drain"
	case actDisable:
		return "set server " + at + " state maint"
	case actDelete:
		return "del server " + at
	}
	return ""
}

// maxLine is the most of one line of commands; HAProxy reads up to tune.bufsize,
// 16 KB.
const maxLine = 8 << 10

// lines joins commands to lines of at most maxLine bytes.
func lines(commands []string) []string {
	var out []string
	var b strings.Builder
	for _, c := range commands {
		if b.Len() > 0 && b.Len()+1+len(c) > maxLine {
			out = append(out, b.String())
			b.Reset()
		}
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		b.WriteString(c)
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	return out
}

// refusals are the lines of an answer to changes that say no. A server that
// cannot be deleted yet because of its connections is none.
func refusals(text string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "", line == "New server registered.", line == "Server deleted.":
		case strings.Contains(line, "connections attached"):
		default:
			out = append(out, line)
		}
	}
	return out
}

// description is the `description` of a worker in its answer to "show info": the
// id of the configuration that it was started with.
func description(text string) (string, error) {
	for line := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(line, "description: "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", errors.New("haproxy: the socket's answer has no description in it")
}

// tablesThere says from "show table" that a worker has a table of clients. Those of
// frontends are of rates, which are nobody else's.
func tablesThere(text string) bool { return strings.Contains(text, "# table: "+backendName("")) }

// tablesReady says from "show peers" that a worker may be reloaded without a loss
// of its tables: it hands them to its successor only once it has finished its own
// lesson (peers.c, PEERS_RESYNC_FINISHED). Without a peers section there is
// nothing to wait for.
func tablesReady(text string) bool {
	const finished = 0x3
	for line := range strings.SplitSeq(text, "\n") {
		_, after, ok := strings.Cut(line, " id="+peersName+" ")
		if !ok {
			continue
		}
		_, after, _ = strings.Cut(after, "flags=0x")
		hex, _, _ := strings.Cut(after, " ")
		flags, err := strconv.ParseUint(hex, 16, 64)
		return err == nil && flags&finished == finished
	}
	return true
}

// cut shortens a foreign text for a message.
func cut(s string) string {
	const show = 200
	if len(s) > show {
		return s[:show] + "…"
	}
	return s
}
