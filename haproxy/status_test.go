package haproxy

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mooring.dev/mooring/internal/lb"
)

// testdata/status.txt is what HAProxy 2.6.12 answered to statusCommand.
func TestParseStatus(t *testing.T) {
	text, err := os.ReadFile("testdata/status.txt")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseStatus(string(text))
	if err != nil {
		t.Fatal(err)
	}
	want := worker{
		id:   "mooring-abc123",
		open: map[string]bool{"health": true, "fe_apiserver": true},
		servers: map[string][]server{
			"be_apiserver": {
				{name: "s-10-0-0-11-6443", status: "DOWN", check: "L4CON"},
				{name: "s-10-0-0-12-6443", status: "MAINT"},
			},
			"all_apiserver": {{name: "s-10-0-0-11-6443", status: "no check"}},
		},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(worker{}, server{})); d != "" {
		t.Error(d)
	}
}

func TestParseStatusWhileACheckRuns(t *testing.T) {
	const text = "description: x\n\n# pxname,svname,scur,status,check_status,new\n" +
		"fe_a,FRONTEND,1,STOP,,\nbe_a,s-1,3,DOWN 1/2,* L6TOUT,7\nbe_a,s-2,0,UP 1/2,L7OK,7\n\n"
	w, err := parseStatus(text)
	if err != nil {
		t.Fatal(err)
	}
	s := w.servers["be_a"]
	if w.open["fe_a"] || len(s) != 2 || !s[0].silent() || s[0].sessions != 3 || s[0].up() || !s[1].up() {
		t.Errorf("%+v", w)
	}
}

func TestParseStatusOfNonsense(t *testing.T) {
	for _, text := range []string{"", "Unknown command.", "description: x\n", "# pxname", "[3]: no"} {
		if w, err := parseStatus(text); err == nil {
			t.Errorf("%q: %+v", text, w)
		}
	}
	// A header alone is a worker without anything.
	if w, err := parseStatus("# pxname,svname\n"); err != nil || w.id != "" {
		t.Errorf("%+v %v", w, err)
	}
}

func TestParseProc(t *testing.T) {
	const head = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"
	for _, c := range []struct {
		name, text string
		want       master
		bad        bool
	}{
		{"fresh", head + "100  master  0 [failed: 0]  0d00h00m03s  2.6.12\n# workers\n" +
			"101  worker  0  0d00h00m03s  2.6.12\n" +
			"# programs\n\n\n", master{worker: 101}, false},
		{"failed, old ones", head + "100  master  3 [failed: 2]  0d  2.6.12\n# workers\n105  worker  0  0d  2.6\n" +
			"# old workers\n101  worker  1  0d  2.6\n102  worker  2  0d  2.6\n# programs\n",
			master{worker: 105, failed: 2}, false},
		{"2.8, only old ones", head + "100  master  3 [failed: 1]  0d  2.8\n# workers\n" +
			"# old workers\n101  worker  1  0d  2.8\n",
			master{failed: 1}, false},
		{"silence", "", master{}, true},
		{"nonsense", "Unknown command. Please enter one of the following commands", master{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseProc(c.text)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// have is a worker that runs c with all servers in a state.
func have(c Config, status string) worker {
	w := worker{id: structureID(c), open: map[string]bool{}, servers: map[string][]server{}}
	for _, f := range c.Frontends {
		w.open[frontendName(f.Name)] = true
		for _, b := range f.Backends {
			be, all := backendName(f.Name), fallbackName(f.Name)
			w.servers[be] = append(w.servers[be], server{name: ServerName(b.Addr), status: status})
			w.servers[all] = append(w.servers[all], server{name: ServerName(b.Addr), status: "no check"})
		}
	}
	return w
}

func TestStateOf(t *testing.T) {
	c := example().normal()
	want := wish{cfg: c, id: structureID(c)}
	all := []string{"cp1", "cp2.example", "cp3"}
	for _, x := range []struct {
		name   string
		change func(*worker)
		want   lb.ProxyState
	}{
		{"as wanted", func(*worker) {}, lb.ProxyState{Serving: true, Up: all}},
		{"one down", func(w *worker) { w.servers["be_apiserver"][1].status = "DOWN" },
			lb.ProxyState{Serving: true, Up: []string{"cp1", "cp3"}}},
		{"all down", func(w *worker) { w.servers["be_apiserver"] = nil }, lb.ProxyState{Serving: true}},
		{"not listening", func(w *worker) { w.open["fe_apiserver"] = false },
			lb.ProxyState{Up: all, Why: "HAProxy does not listen for frontend apiserver"}},
		{"another configuration", func(w *worker) { w.id = "mooring-x" },
			lb.ProxyState{Up: all, Why: "HAProxy still runs its former configuration"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := have(c, "UP")
			x.change(&w)
			if d := cmp.Diff(x.want, stateOf(w, want)); d != "" {
				t.Error(d)
			}
		})
	}
}

// steps prints changes, for reading.
func steps(list []change) string {
	var b strings.Builder
	for _, c := range list {
		b.WriteString(string(c.action) + " " + c.backend + "/" + c.server + "\n")
	}
	return b.String()
}

func TestChanges(t *testing.T) {
	full := example().normal()
	less := full
	less.Frontends = []lb.Frontend{full.Frontends[0]}
	less.Frontends[0].Backends = full.Frontends[0].Backends[:2]
	const third = "s-10-0-0-13-6443"
	for _, c := range []struct {
		name string
		have worker
		want Config
		out  string
		done bool
	}{
		{"nothing", have(full, "UP"), full, "", true},
		{"down is no reason", have(full, "DOWN"), full, "", true},
		{"a new server", have(less, "UP"), full, `add be_apiserver/` + third + `
enable be_apiserver/` + third + `
add all_apiserver/` + third + `
enable all_apiserver/` + third + `
`, false},
		{"a removed server", have(full, "UP"), less, `disable be_apiserver/` + third + `
delete be_apiserver/` + third + `
disable all_apiserver/` + third + `
delete all_apiserver/` + third + `
`, false},
		{"a server in maintenance is back", have(less, "MAINT"), less, `enable be_apiserver/s-10-0-0-11-6443
enable be_apiserver/s-2001-db8--5-6443
`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := changes(c.have, c.want)
			if d := cmp.Diff(c.out, steps(got)); d != "" {
				t.Error(d)
			}
			if settled(got) != c.done {
				t.Errorf("settled: %v", settled(got))
			}
		})
	}
	// What waits for its connections to end is done for now.
	w := have(full, "UP")
	w.servers["be_apiserver"][2].status = "MAINT"
	w.servers["all_apiserver"][2].status = "MAINT (via x)"
	got := changes(w, less)
	want := "delete be_apiserver/" + third + "\ndelete all_apiserver/" + third + "\n"
	if steps(got) != want || !settled(got) {
		t.Errorf("%v", steps(got))
	}
}

func TestSilentServersAreCut(t *testing.T) {
	c := example().normal()
	status := func(first, check string, others string) worker {
		w := have(c, others)
		w.servers["be_apiserver"][0] = server{name: "s-10-0-0-11-6443", status: first, check: check, sessions: 2}
		w.servers["all_apiserver"][0].sessions = 1
		return w
	}
	both := [][2]string{{"be_apiserver", "s-10-0-0-11-6443"}, {"all_apiserver", "s-10-0-0-11-6443"}}
	for _, x := range []struct {
		name string
		w    worker
		want [][2]string
	}{
		{"hangs in TLS", status("DOWN", "L6TOUT", "UP"), both},
		{"its host is gone", status("DOWN", "L4TOUT", "UP"), both},
		{"says that it is not ready", status("DOWN", "L7STS", "UP"), nil},
		{"refuses", status("DOWN", "L4CON", "UP"), nil},
		{"slow, not down yet", status("UP 1/2", "L7TOUT", "UP"), nil},
		{"hangs, and nobody else is up", status("DOWN", "L6TOUT", "DOWN"), nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			q := silence{}
			for i := range silentPolls - 1 {
				if got := q.cut(x.w, c); got != nil {
					t.Fatalf("poll %d: %v", i, got)
				}
			}
			if d := cmp.Diff(x.want, q.cut(x.w, c)); d != "" {
				t.Error(d)
			}
			// One good answer and it starts from nothing.
			q.cut(have(c, "UP"), c)
			if got := q.cut(x.w, c); got != nil {
				t.Errorf("at once again: %v", got)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	want := []string{"0s", "100ms", "200ms", "400ms", "800ms", "1.6s", "3.2s", "5s", "5s"}
	for failures, w := range want {
		if got := backOff(failures).String(); got != w {
			t.Errorf("after %d failures %s, want %s", failures, got, w)
		}
	}
	if backOff(1000) != retryMost {
		t.Error("it overflows")
	}
}

func TestOnlyAlerts(t *testing.T) {
	const text = "[NOTICE] (1) : x\n[ALERT]    (1) : one\n   | more\n[WARNING] y\n[ALERT] (2) : two\n"
	if got := onlyAlerts(text); got != "(1) : one; (2) : two" {
		t.Errorf("%q", got)
	}
	if got := onlyAlerts(" plain \n"); got != "plain" {
		t.Errorf("%q", got)
	}
	if got := onlyAlerts(strings.Repeat("x", 10000)); len(got) > 700 {
		t.Errorf("%d bytes", len(got))
	}
}
