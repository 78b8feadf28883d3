package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// A story is lines of "command -> what it says". The commands:
//
//	pools a=192.0.2.0/30,2001:db8::/126;prio=1 b=...   SetPools: options prio, ns, nslabel, label, manual, avoid
//	svc KEY [options]     Assign: options v4, v6, v4v6, v6v4, none, prefer, require, tcp/N, udp/N, key, local, ask, pool,
//	                      has, foreign, born, label, nslabel, fatal
//	again KEY             Assign as it was said last
//	drop KEY, quarantine ADDR MAC, absolve ADDR, waiting, retry, has KEY, fits KEY, stats, overlaps
//	replay                a new Allocator with the same pools, Services and quarantine; prints what changed
//
// A line without an arrow is done and not compared.

// world is an Allocator and what was said to it.
type world struct {
	*Allocator
	t        testing.TB
	pools    []lb.Pool
	services map[lb.ServiceKey]lb.Service
}

func newWorld(t testing.TB) *world {
	return &world{Allocator: New(), t: t, services: make(map[lb.ServiceKey]lb.Service)}
}

// tell runs a story and compares each line.
func (w *world) tell(story string) {
	w.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(story), "\n") {
		command, want, compared := strings.Cut(line, "->")
		got := w.do(strings.Fields(command))
		if want = strings.TrimSpace(want); compared && got != want {
			w.t.Errorf("%s\n got: %s\nwant: %s", strings.TrimSpace(command), got, want)
		}
		w.check(line)
	}
}

// do runs one command and prints what came of it.
func (w *world) do(words []string) string {
	key := lb.ServiceKey("d/")
	if len(words) > 1 {
		key += lb.ServiceKey(words[1])
	}
	switch words[0] {
	case "pools":
		w.pools = nil
		for _, word := range words[1:] {
			w.pools = append(w.pools, parsePool(w.t, word))
		}
		return bare(w.SetPools(w.pools))
	case "svc":
		w.services[key] = parseService(w.t, key, words[2:])
		return w.assigned(key)
	case "again":
		return w.assigned(key)
	case "drop":
		delete(w.services, key)
		return strconv.FormatBool(w.Release(key))
	case "has":
		g, _ := w.Lookup(key)
		return drawn(g, nil)
	case "fits":
		return strings.Join(w.Fits(w.services[key]), " ")
	}
	return w.observe(words)
}

// observe runs the commands that name no Service.
func (w *world) observe(words []string) string {
	switch words[0] {
	case "quarantine":
		return bare(w.Quarantine(netip.MustParseAddr(words[1]), words[2]))
	case "absolve":
		w.Absolve(netip.MustParseAddr(words[1]))
	case "waiting":
		return bare(w.Waiting())
	case "retry":
		var out []string
		for _, key := range w.Waiting() {
			out = append(out, short(key)+" "+w.assigned(key))
		}
		return strings.Join(out, ", ")
	case "stats":
		var out []string
		for _, s := range w.Stats() {
			out = append(out, fmt.Sprintf("%s %d=%d+%d!%d", s.Pool, s.Size, s.Used, s.Free, s.Quarantined))
		}
		return strings.Join(out, ", ")
	case "overlaps":
		var out []string
		for _, o := range w.Overlaps() {
			out = append(out, fmt.Sprintf("%s>%s %s-%s", o.First, o.Second, o.Range.From, o.Range.To))
		}
		return strings.Join(out, ", ")
	case "replay":
		return w.restart()
	default:
		w.t.Fatalf("no such command: %v", words)
	}
	return ""
}

// assigned calls Assign and prints the outcome.
func (w *world) assigned(key lb.ServiceKey) string {
	g, err := w.Assign(w.services[key])
	var r *Refusal
	if err != nil && !errors.As(err, &r) {
		w.t.Fatalf("the error is a %T", err)
	}
	if r != nil && (r.Text == "" || strings.ContainsAny(r.Text, "\n") || r.Error() != r.Text) {
		w.t.Errorf("the refusal %s says %q", r.Reason, r.Text)
	}
	return drawn(g, r)
}

// restart does what an agent does that starts anew, and says who has something
// else afterwards.
func (w *world) restart() string {
	old := w.Allocator
	w.Allocator = New()
	w.SetPools(w.pools)
	for _, f := range old.Quarantined() {
		w.Quarantine(f.Addr, f.MAC)
	}
	var all []lb.Service
	for key, s := range w.services {
		if g, ok := old.Lookup(key); ok {
			s.Has, s.Foreign = g.Addresses, false
		}
		all = append(all, s)
	}
	w.Replay(all)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(w.services)) {
		was, _ := old.Lookup(key)
		is, _ := w.Lookup(key)
		if !slices.Equal(was.Addresses, is.Addresses) {
			out = append(out, fmt.Sprintf("%s %v, had %v", short(key), is.Addresses, was.Addresses))
		}
	}
	return strings.Join(out, ", ")
}

// drawn prints a Grant and a Refusal, as "192.0.2.1 2001:db8::1 of a" or "Reason,
// keeps ...", with "?" for every warning.
func drawn(g Grant, r *Refusal) string {
	var have string
	for _, addr := range g.Addresses {
		have += addr.String() + " "
	}
	if have != "" {
		have += "of " + g.Pool
	}
	have += strings.Repeat("?", len(g.Warnings))
	switch {
	case r == nil:
		return have
	case have == "":
		return string(r.Reason)
	case len(g.Addresses) == 0:
		return string(r.Reason) + have
	}
	return string(r.Reason) + ", keeps " + have
}

// short is a key without the namespace that all stories use.
func short(key lb.ServiceKey) string { return strings.TrimPrefix(string(key), "d/") }

// bare joins keys.
func bare(keys []lb.ServiceKey) string {
	var out []string
	for _, key := range keys {
		out = append(out, short(key))
	}
	return strings.Join(out, " ")
}

// parseRange reads "a-b", a prefix or an address.
func parseRange(t testing.TB, text string) lb.Range {
	if from, to, ok := strings.Cut(text, "-"); ok {
		return lb.Range{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
	}
	if !strings.Contains(text, "/") {
		return lb.Range{From: netip.MustParseAddr(text), To: netip.MustParseAddr(text)}
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		t.Fatal(err)
	}
	last := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	to, _ := netip.AddrFromSlice(last)
	return lb.Range{From: prefix.Masked().Addr(), To: to}
}

// parsePool reads "name=range,range;option;option".
func parsePool(t testing.TB, word string) lb.Pool {
	parts := strings.Split(word, ";")
	name, ranges, _ := strings.Cut(parts[0], "=")
	p := lb.Pool{Name: name, AutoAssign: true}
	for _, r := range strings.Split(ranges, ",") {
		p.Ranges = append(p.Ranges, parseRange(t, r))
	}
	for _, option := range parts[1:] {
		word, value, _ := strings.Cut(option, "=")
		switch word {
		case "prio":
			p.Priority, _ = strconv.Atoi(value)
		case "ns":
			p.Namespaces = strings.Split(value, ",")
		case "nslabel":
			p.NamespaceSelectors = append(p.NamespaceSelectors, lb.Selector{Labels: parseLabels(value)})
		case "nsnot":
			p.NamespaceSelectors = append(p.NamespaceSelectors,
				lb.Selector{Requirements: []lb.Requirement{{Key: value, Operator: "DoesNotExist"}}})
		case "label":
			p.ServiceSelectors = append(p.ServiceSelectors, lb.Selector{Labels: parseLabels(value)})
		case "manual":
			p.AutoAssign = false
		case "avoid":
			p.AvoidBuggy = true
		default:
			t.Fatalf("pools have no option %q", option)
		}
	}
	return p
}

// parseLabels reads "a:b,c:d".
func parseLabels(text string) map[string]string {
	labels := make(map[string]string)
	for _, pair := range strings.Split(text, ",") {
		key, value, _ := strings.Cut(pair, ":")
		labels[key] = value
	}
	return labels
}

// parseAddrs reads "a,b".
func parseAddrs(text string) []netip.Addr {
	var out []netip.Addr
	for _, addr := range strings.Split(text, ",") {
		out = append(out, netip.MustParseAddr(addr))
	}
	return out
}

// stacks are the words for families.
var stacks = map[string][]lb.Family{
	"none": nil, "v4": {lb.IPv4}, "v6": {lb.IPv6}, "v4v6": {lb.IPv4, lb.IPv6}, "v6v4": {lb.IPv6, lb.IPv4},
}

// parseService reads a Service; without options it has TCP/80 and an IPv4 cluster
// IP in a namespace without labels.
func parseService(t testing.TB, key lb.ServiceKey, options []string) lb.Service {
	s := lb.Service{Key: key, Families: stacks["v4"], NamespaceLabels: map[string]string{}}
	for _, option := range options {
		word, value, _ := strings.Cut(option, "=")
		if fs, ok := stacks[word]; ok {
			s.Families = fs
			continue
		}
		if protocol, number, ok := strings.Cut(option, "/"); ok && value == "" {
			n, _ := strconv.Atoi(number)
			s.Ports = append(s.Ports, lb.ServicePort{Protocol: lb.Protocol(strings.ToUpper(protocol)), Port: uint16(n)})
			continue
		}
		if !parseWish(&s, word, value) {
			t.Fatalf("Services have no option %q", option)
		}
	}
	if s.Ports == nil {
		s.Ports = []lb.ServicePort{{Protocol: lb.TCP, Port: 80}}
	}
	return s
}

// parseWish reads one option that is neither families nor a port.
func parseWish(s *lb.Service, word, value string) bool {
	switch word {
	case "prefer":
		s.Policy = lb.PreferDualStack
	case "require":
		s.Policy = lb.RequireDualStack
	case "key":
		s.SharedKey = value
	case "local":
		s.Local, s.Selector = true, value
	case "cluster":
		s.Selector = value // of no meaning, and there all the same
	case "ask":
		s.Addresses = parseAddrs(value)
	case "pool":
		s.Pool = value
	case "has":
		s.Has = parseAddrs(value)
	case "foreign":
		s.Foreign = true
	case "born":
		s.Born, _ = strconv.ParseInt(value, 10, 64)
	case "label":
		s.Labels = parseLabels(value)
	case "nslabel":
		s.NamespaceLabels = parseLabels(value)
	case "nsunknown":
		s.NamespaceLabels = nil
	case "fatal":
		s.Issues = []lb.Issue{{Field: "spec.loadBalancerIP", Problem: "is given twice", Fatal: true}}
	default:
		return false
	}
	return true
}
