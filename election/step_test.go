package election

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// TestTranscriptStep feeds one machine, line by line, and prints what it wants
// done. A line is an instant and an event:
//
//	10s    started [alive] [known n1/3] [sameboot] [forwards=n3]
//	10s    members n1 n2 n3:dead
//	10.5s  saw read n1/3 v7 [from=n2] [cause=move] [beat=5] [begun=10.2s] [unsound] [missing] [stranger]
//	11s    failed                                a read
//	11s    address held [begun=10.9s] | late | refused
//	11s    gone                                  the address, by hand
//	11s    probed [quick] [witness] [mac-n2 …] [error] [asked=10.98s]
//	11s    hears n2 up|late|down [standby|claiming|holding|draining n2/4] [from=n1] [to=n1] [forwards=n3] [sick] [noapi]
//	11s    pinged n2 alive|dead
//	11s    rival mac-n2
//	11s    health ok|bad
//	11s    taints [out=n2] [leave=n1]
//	11s    claimed mac-n2
//	11s    swapped n2 won|lost|unanswered
//	11s    carrier up|down
//	11s    ask [n2]
//	11s    shutdown
//	12s    tick
//	12s    until                                 every deadline up to then
func TestTranscriptStep(t *testing.T) {
	transcripts(t, "step", func(*testing.T) func(string) (string, error) {
		return (&stepper{m: New(testConfig("n1"))}).do
	})
}

type stepper struct {
	m    *Machine
	now  lb.Instant
	last string
}

func (s *stepper) do(line string) (out string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	words := strings.Fields(line)
	at, err := time.ParseDuration(words[0])
	if err != nil {
		return "", err
	}
	if words[1] == "until" {
		for next := s.m.Next(); next != 0 && next <= at; next = s.m.Next() {
			s.now = max(next, s.now)
			out += fmt.Sprintf("%.3fs\n", s.now.Seconds()) + s.step(Tick{})
			if len(out) > 1<<16 {
				return "", fmt.Errorf("it never ends:\n%s", out[:2000])
			}
		}
		return out, nil
	}
	if at < s.now {
		return "", fmt.Errorf("time goes backwards")
	}
	s.now = at
	ev, err := parseEvent(at, words[1], words[2:])
	if err != nil {
		return "", err
	}
	return s.step(ev), nil
}

// step prints the actions, and the state if it changed.
func (s *stepper) step(ev Event) string {
	var b strings.Builder
	for _, a := range s.m.Step(s.now, ev) {
		b.WriteString(actionText(a) + "\n")
	}
	st := s.m.Status()
	state := st.Phase.String()
	if st.Phase == Holding {
		state += map[bool]string{true: " confirmed", false: " unconfirmed"}[st.Confirmed]
	}
	if state != s.last {
		s.last = state
		b.WriteString("-> " + state + "\n")
	}
	return b.String()
}

func actionText(a Action) string {
	until := func(t lb.Instant) string { return fmt.Sprintf(" until %.3fs", t.Seconds()) }
	switch a := a.(type) {
	case Hold:
		return "Hold" + until(a.NotAfter) + map[bool]string{true: " mute"}[a.Mute]
	case Read:
		return fmt.Sprintf("Read within %v", a.Timeout)
	case Lock:
		if a.Mode == LockClosed {
			return "Lock closed"
		}
		return fmt.Sprintf("Lock %s %s v%s", a.Mode, a.Record, a.Record.Version) + until(a.NotAfter)
	case Repair:
		return "Repair " + a.Record.String()
	case Swap:
		return fmt.Sprintf("Swap v%s to %s within %v", a.Record.Version, a.Record, a.Timeout)
	case Forward:
		return "Forward " + map[bool]string{true: "nothing"}[a.Node == ""] + a.Node
	case Remember:
		return "Remember " + a.Record.String()
	case Probe:
		return "Probe" + map[bool]string{true: " quick"}[a.Quick]
	case Ping:
		return "Ping " + a.Node
	case Drain:
		return fmt.Sprintf("Drain for %v", a.For)
	case Note:
		return "! " + noteText(a)
	case Done:
		return "Done" + map[bool]string{true: " kept"}[a.Kept]
	}
	return describe(a)
}

// options are words with and without "=".
type options map[string]string

func (o options) has(k string) bool { _, ok := o[k]; return ok }

func parseOptions(words []string) options {
	o := options{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		o[k] = v
	}
	return o
}

// begun is when a request was sent: as said, or a moment ago.
func (o options) begun(at lb.Instant) lb.Instant {
	if d, err := time.ParseDuration(o["begun"]); err == nil {
		return d
	}
	return at - 5*ms
}

func parseRecord(s string) Record {
	holder, n, _ := strings.Cut(s, "/")
	term, _ := strconv.ParseInt(n, 10, 64)
	return Record{Holder: holder, Transitions: term}
}

// parsers read the words after an event's name.
var parsers = map[string]func(at lb.Instant, args []string, o options) (Event, error){
	"started": parseStarted, "members": parseMembers, "saw": parseSaw, "address": parseAddress, "probed": parseProbed,
	"hears": parseHears,
	"pinged": func(_ lb.Instant, args []string, o options) (Event, error) {
		return Pinged{Node: args[0], Alive: o.has("alive")}, nil
	},
	"rival":  func(_ lb.Instant, args []string, _ options) (Event, error) { return Rival{MAC: args[0]}, nil },
	"health": func(_ lb.Instant, _ []string, o options) (Event, error) { return Health{OK: o.has("ok")}, nil },
	"taints": func(_ lb.Instant, _ []string, o options) (Event, error) {
		return Taints{Out: words(o["out"]), Leave: words(o["leave"])}, nil
	},
	"failed":  func(at lb.Instant, _ []string, o options) (Event, error) { return ReadFailed{Begun: o.begun(at)}, nil },
	"gone":    func(lb.Instant, []string, options) (Event, error) { return AddressGone{}, nil },
	"claimed": func(_ lb.Instant, args []string, _ options) (Event, error) { return Claimed{MAC: args[0]}, nil },
	"swapped": func(_ lb.Instant, args []string, _ options) (Event, error) {
		for _, r := range []SwapResult{SwapWon, SwapLost, SwapUnanswered} {
			if r.String() == args[1] {
				return Swapped{To: args[0], Result: r}, nil
			}
		}
		return nil, fmt.Errorf("won, lost or unanswered?")
	},
	"carrier": func(_ lb.Instant, _ []string, o options) (Event, error) { return Carrier{Up: o.has("up")}, nil },
	"ask": func(_ lb.Instant, args []string, _ options) (Event, error) {
		return Ask{To: strings.Join(args, ""), Cause: CauseMove}, nil
	},
	"shutdown": func(lb.Instant, []string, options) (Event, error) { return Shutdown{}, nil },
	"tick":     func(lb.Instant, []string, options) (Event, error) { return Tick{}, nil },
}

func parseEvent(at lb.Instant, verb string, args []string) (Event, error) {
	parse, ok := parsers[verb]
	if !ok {
		return nil, fmt.Errorf("unknown event")
	}
	return parse(at, args, parseOptions(args))
}

func parseStarted(at lb.Instant, args []string, o options) (Event, error) {
	ev := Started{Alive: o.has("alive"), SameBoot: o.has("sameboot"), Known: o.has("known"), Begun: o.begun(at)}
	if o.has("forwards") {
		ev.Forwards, ev.Until = o["forwards"], at+time.Minute
	}
	for _, a := range args {
		if strings.Contains(a, "/") {
			ev.Last = parseRecord(a)
			ev.Last.From = o["from"]
		}
	}
	return ev, nil
}

func parseAddress(at lb.Instant, _ []string, o options) (Event, error) {
	ev := AddressIs{Held: o.has("held"), Late: o.has("late"), Begun: o.begun(at)}
	if o.has("refused") {
		ev.Err = "operation not permitted"
	}
	return ev, nil
}

func parseProbed(at lb.Instant, args []string, o options) (Event, error) {
	ev := Probed{Witness: o.has("witness"), Quick: o.has("quick"), Begun: o.begun(at), Asked: o.begun(at)}
	if d, err := time.ParseDuration(o["asked"]); err == nil {
		ev.Asked = d
	}
	for _, a := range args {
		if strings.HasPrefix(a, "mac-") {
			ev.Answers = append(ev.Answers, a)
		}
	}
	if o.has("error") {
		ev.Err = "network is down"
	}
	return ev, nil
}

func parseMembers(_ lb.Instant, args []string, _ options) (Event, error) {
	var ev Members
	for _, a := range args {
		node, dead := strings.CutSuffix(a, ":dead")
		ev.All = append(ev.All, Member{Node: node, MACs: []string{"mac-" + node}, Live: !dead})
	}
	return ev, nil
}

func parseSaw(at lb.Instant, args []string, o options) (Event, error) {
	ev := Saw{Begun: o.begun(at)}
	switch args[0] {
	case "watch":
		ev.Begun = at
	case "read":
		ev.Via = ByRead
	case "write":
		ev.Via = ByWrite
	default:
		return nil, fmt.Errorf("watch, read or write?")
	}
	if o.has("missing") {
		return ev, nil
	}
	r := parseRecord(args[1])
	r.From, r.Cause, r.UID, r.Beat = o["from"], Cause(o["cause"]), "u", o["beat"]
	if len(args) > 2 {
		r.Version = strings.TrimPrefix(args[2], "v")
	}
	ev.View = View{Exists: true, Sound: !o.has("unsound"), Candidate: !o.has("stranger"), Record: r}
	return ev, nil
}

// describe prints events and actions for transcripts: "Name field=value".
func describe(v any) string {
	s := fmt.Sprintf("%T", v)
	return s[strings.LastIndexByte(s, '.')+1:]
}

// parseHears reads what the hellos of a node show.
func parseHears(at lb.Instant, args []string, o options) (Event, error) {
	ev := Peer{Node: args[0], Heard: at, Say: Say{From: o["from"], To: o["to"], Forwards: o["forwards"]}}
	ev.Say.Healthy, ev.Say.API = !o.has("sick"), !o.has("noapi")
	for _, a := range args[1:] {
		for s := PeerUnknown; s <= PeerDown; s++ {
			if s.String() == a {
				ev.State = s
			}
		}
		for p := Standby; p <= Draining; p++ {
			if strings.EqualFold(p.String(), a) {
				ev.Say.Phase = p
			}
		}
		if strings.Contains(a, "/") {
			ev.Say.Transitions = parseRecord(a).Transitions
		}
	}
	return ev, nil
}
