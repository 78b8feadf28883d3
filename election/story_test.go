package election

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite what the transcripts expect")

// TestTranscriptStory tells the stories of testdata/story: what is done to a
// small world stands in the first column, what came of it is indented beneath
// and rewritten by -update; a line "expect …" holds whatever -update does.
func TestTranscriptStory(t *testing.T) {
	transcripts(t, "story", func(t *testing.T) func(string) (string, error) {
		s := &story{w: newWorld(3, 0)}
		s.w.say, s.w.quiet = s.say, false
		return s.do
	})
}

// transcripts runs every file of a directory; each gets an interpreter.
func transcripts(t *testing.T, dir string, begin func(*testing.T) func(string) (string, error)) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata/%s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			do := begin(t)
			var fresh strings.Builder
			for i, line := range strings.Split(strings.TrimRight(string(old), "\n"), "\n") {
				if strings.HasPrefix(line, " ") {
					continue
				}
				fresh.WriteString(line + "\n")
				if line == "" || line[0] == '#' {
					continue
				}
				out, err := do(line)
				if err != nil {
					t.Errorf("%s:%d: %s: %v", file, i+1, line, err)
				}
				for l := range strings.Lines(out) {
					fresh.WriteString("    " + l)
				}
			}
			compare(t, file, string(old), fresh.String())
		})
	}
}

func compare(t *testing.T, file, old, fresh string) {
	if old == fresh {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(fresh), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	a, b := strings.Split(old, "\n"), strings.Split(fresh, "\n")
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(i-3, 0)
	t.Errorf("%s:%d: the story went otherwise (-update if it should)\nexpected\n%s\ngot\n%s", file, i+1,
		strings.Join(a[from:min(i+6, len(a))], "\n"), strings.Join(b[from:min(i+12, len(b))], "\n"))
}

// story is a world and what happened since the last line.
type story struct {
	w   *world
	out strings.Builder
	// the last two lines, and how many like them were left out
	last  [2]string
	alike int
	// what had happened at the last mark
	moves, repairs int
	frames         map[string]int
}

// say prints what happened, but not the same two things over and over.
func (s *story) say(f string, a ...any) {
	text := fmt.Sprintf(f, a...)
	if text == s.last[0] || text == s.last[1] {
		s.alike++
		return
	}
	s.flush()
	s.last = [2]string{s.last[1], text}
	fmt.Fprintf(&s.out, "%8.3f  %s\n", s.w.now.Seconds(), text)
}

func (s *story) flush() {
	if s.alike > 0 {
		fmt.Fprintf(&s.out, "%8s  and so on, %d more\n", "", s.alike)
	}
	s.alike = 0
}

// do carries out one line.
func (s *story) do(line string) (string, error) {
	s.out.Reset()
	words := strings.Fields(line)
	err := s.command(words[0], words[1:])
	if err == nil && s.w.fault != "" {
		err = fmt.Errorf("%s", s.w.fault)
	}
	s.flush()
	return s.out.String(), err
}

func (s *story) command(verb string, args []string) error {
	w := s.w
	if verb != "run" && verb != "expect" && verb != "mark" {
		w.rules.harm()
	}
	switch verb {
	case "run":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		w.runUntil(w.now + d)
	case "every": // every 1s for 30s WHAT…
		return s.every(args)
	case "mark":
		s.mark()
	case "expect":
		return s.expect(args)
	case "api":
		return s.api(args)
	case "lease":
		return s.lease(args)
	case "gateway":
		w.gateway = args[0] == "back"
	case "members":
		w.remember = true
	case "drain-time":
		d, err := time.ParseDuration(args[0])
		w.cfg.Drain = d
		return err
	case "preempt":
		d, err := time.ParseDuration(args[0])
		w.cfg.Preempt, w.cfg.PreemptDelay = true, d
		return err
	case "join":
		w.join()
	case "connect":
		w.client.open()
	case "hiccup": // n1 misses a hello of n2
		w.hiccup(w.node(args[0]), w.node(args[1]))
	case "stranger":
		switch args[0] {
		case "claims":
			w.strangerClaims()
		default:
			w.stranger = args[0] == "answers"
		}
	default:
		return s.nodes(verb, args)
	}
	return nil
}

// nodes does the same to each of the nodes named.
func (s *story) nodes(verb string, args []string) error {
	verbs := map[string]func(*node){
		"start": (*node).start, "kill": (*node).kill, "stop": (*node).shutdown, "freeze": (*node).freeze,
		"thaw": (*node).thaw, "unplug": func(n *node) { n.setLink(false) }, "plug": func(n *node) { n.setLink(true) },
		"poweroff": (*node).powerOff, "poweron": (*node).powerOn,
		"refuse": func(n *node) { n.refuses = true }, "accept": func(n *node) { n.refuses = false },
		"pause": (*node).pause, "resume": (*node).resume,
		"sick": func(n *node) { n.setSick(true) }, "well": func(n *node) { n.setSick(false) },
		"empty": func(n *node) { n.setDrain(true) }, "fill": func(n *node) { n.setDrain(false) },
		"part": func(n *node) { s.w.cut(1<<n.id, false) }, "mute": func(n *node) { s.w.cut(1<<n.id, true) },
		"block": func(n *node) { s.block(n, true) }, "pass": func(n *node) { s.block(n, false) },
		"taint":  func(n *node) { s.w.taint(n.name) },
		"delete": func(n *node) { n.until = 0; n.send(AddressGone{}) },
		"forget": func(n *node) { n.disk, n.kept, n.met = Record{}, false, nil },
	}
	if verb == "move" { // move n1 [to n2]
		ev := Ask{Cause: CauseMove}
		if len(args) == 3 {
			ev.To = args[2]
		}
		s.w.node(args[0]).send(ev)
		s.w.runUntil(s.w.now)
		return nil
	}
	f, ok := verbs[verb]
	if !ok {
		return fmt.Errorf("unknown")
	}
	for _, name := range args {
		n := s.w.node(name)
		if n == nil {
			return fmt.Errorf("no node %s", name)
		}
		f(n)
		s.w.look()
	}
	return nil
}

// block keeps all hellos of a node back, or lets them pass.
func (s *story) block(n *node, on bool) {
	for _, o := range s.w.nodes {
		if o != n {
			s.w.block(n, o, on)
		}
	}
}

func (s *story) every(args []string) error {
	step, err1 := time.ParseDuration(args[0])
	total, err2 := time.ParseDuration(args[2])
	if err1 != nil || err2 != nil {
		return fmt.Errorf("want: every 1s for 30s WHAT")
	}
	for end := s.w.now + total; s.w.now < end; s.w.runUntil(s.w.now + step) {
		if err := s.command(args[3], args[4:]); err != nil {
			return err
		}
	}
	return nil
}

// api MODE [for NODE] | api slow 1.2s
func (s *story) api(args []string) error {
	mode := slices.Index([]string{"up", "refuses", "hangs", "slow", "mute"}, args[0])
	if mode < 0 {
		return fmt.Errorf("unknown mode")
	}
	var n *node
	if len(args) == 3 && args[1] == "for" {
		n = s.w.node(args[2])
	} else if len(args) == 2 {
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		s.w.slow = d
	}
	s.w.setAPI(apiMode(mode), n)
	return nil
}

// lease deleted | scribbled | edited n2/3 | written n2/3
func (s *story) lease(args []string) error {
	var r Record
	if len(args) == 2 {
		name, n, _ := strings.Cut(args[1], "/")
		r.Holder = name
		r.Transitions, _ = strconv.ParseInt(n, 10, 64)
	}
	s.w.meddle(func(st *store) {
		switch args[0] {
		case "deleted":
			st.exists = false
		case "scribbled":
			st.exists, st.sound = true, false
		case "edited": // without the proof of the term
			st.exists, st.sound, st.rec = true, false, r
		case "written":
			st.exists, st.sound, st.rec = true, true, r
		}
	})
	return nil
}

func (s *story) mark() {
	s.w.wire.mark(s.w.now)
	s.w.client.mark()
	s.moves, s.repairs, s.frames = s.w.moves, s.w.repairs, map[string]int{}
	for _, n := range s.w.nodes {
		s.frames[n.name] = n.frames
	}
}

// expect is an assertion; spells and counts are since the last mark.
func (s *story) expect(args []string) error {
	w, x := s.w, &s.w.wire
	x.tally(w.now)
	what, rest := args[0], args[1:]
	switch what {
	case "holder":
		return same2("holder", w.store.rec.Holder+" "+w.who(), rest[0]+" "+rest[0])
	case "answers":
		return same2("answers", w.who(), strings.Join(rest, ""))
	case "only": // no other node answered since the mark
		return same2("who answered", w.names(x.seen), rest[0])
	case "both":
		return within(max(x.both, x.withDead), rest)
	case "nobody":
		return within(x.nobody, rest)
	case "outage": // of the client
		w.client.tally()
		return within(w.client.worst, rest)
	case "connections": // all that were opened
		return same2("connections", w.client.state(), strings.Join(rest, " "))
	case "moves":
		return same2("moves", fmt.Sprint(w.moves-s.moves), rest[0])
	case "repairs":
		n, _ := strconv.Atoi(rest[0])
		if w.repairs-s.repairs > n {
			return fmt.Errorf("%d repairs", w.repairs-s.repairs)
		}
		return nil
	case "frames":
		return same2("frames", fmt.Sprint(w.node(rest[0]).frames-s.frames[rest[0]]), rest[1])
	}
	return s.expectNode(what, rest)
}

func (s *story) expectNode(name string, rest []string) error {
	n := s.w.node(name)
	if n == nil {
		return fmt.Errorf("unknown")
	}
	got := "ended"
	if n.agent != nil {
		st := n.agent.m.Status()
		got = st.Phase.String()
		if st.Phase == Holding {
			got += map[bool]string{true: " confirmed", false: " unconfirmed"}[st.Confirmed]
		}
	}
	return same2(name, got, strings.Join(rest, " "))
}

func same2(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s is %q", what, got)
	}
	return nil
}

// within checks "0s", or "7s..9s".
func within(got time.Duration, rest []string) error {
	low, high, ranged := strings.Cut(rest[0], "..")
	if !ranged {
		low, high = "0s", low
	}
	a, err1 := time.ParseDuration(low)
	b, err2 := time.ParseDuration(high)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("want a duration")
	}
	if got < a || got > b {
		return fmt.Errorf("it was %.3fs", got.Seconds())
	}
	return nil
}
