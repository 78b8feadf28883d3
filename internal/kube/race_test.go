package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

// never answers; refused fails to connect; broken fails after the request was
// sent.
var (
	never   = reply{after: -1}
	refused = reply{early: true}
	broken  = reply{}
)

// in answers after a time.
func in(after time.Duration, code int) reply { return reply{after: after, code: code} }

// raceStory is one way the servers may behave and what comes of it.
type raceStory struct {
	name    string
	hedge   time.Duration
	method  string
	limit   time.Duration // the caller's deadline, 10 s if 0
	servers []reply
	want    string
	took    time.Duration
	asked   string // servers asked, in order
	suspect string // servers under suspicion afterwards
}

// plainStories go without hedging, mostly.
func plainStories() []raceStory {
	return []raceStory{
		{"the first answers", 0, "GET", 0, []reply{in(5*ms, 200), in(0, 200)}, "200 a", 5 * ms, "a", ""},
		{"refused: the next at once", 0, "PUT", 0, []reply{refused, in(5*ms, 200)}, "200 b", 5 * ms, "ab", "a"},
		{"all refused", 0, "GET", 0, []reply{refused, refused},
			"no API server answered (a: broken; b: broken)", 0, "ab", "a b"},
		{"a write broken half-way may have been executed", 0, "PUT", 0, []reply{broken, in(0, 200)},
			"no API server answered (a: broken)", 0, "a", ""},
		{"a read broken half-way is sent again", 0, "GET", 0, []reply{broken, in(0, 200)}, "200 b", 0, "ab", ""},
		{"a hedged write broken half-way too", 20 * ms, "PUT", 0, []reply{broken, in(0, 200)}, "200 b", 0, "ab", ""},
		{"503 goes on", 0, "PUT", 0, []reply{in(ms, 503), in(ms, 200)}, "200 b", 2 * ms, "ab", ""},
		{"503 everywhere: the last answer", 0, "PUT", 0, []reply{in(ms, 503), in(ms, 503), in(ms, 503)},
			"503 c", 3 * ms, "abc", ""},
		{"503 and then nobody: the answer there is", 0, "GET", 0, []reply{in(ms, 503), refused},
			"503 a", ms, "ab", "b"},
		{"401 is an answer", 0, "GET", 0, []reply{in(ms, 401), in(0, 200)}, "401 a", ms, "a", ""},
		{"403 is an answer", 0, "GET", 0, []reply{in(ms, 403), in(0, 200)}, "403 a", ms, "a", ""},
		{"404 is an answer", 0, "GET", 0, []reply{in(ms, 404), in(0, 200)}, "404 a", ms, "a", ""},
		{"409 is an answer", 0, "PUT", 0, []reply{in(ms, 409), in(0, 200)}, "409 a", ms, "a", ""},
		{"429 is an answer", 0, "GET", 0, []reply{in(ms, 429), in(0, 200)}, "429 a", ms, "a", ""},
		{"500 is an answer", 0, "GET", 0, []reply{in(ms, 500), in(0, 200)}, "500 a", ms, "a", ""},

		{"hung within the caller's deadline", 0, "PUT", time.Second, []reply{never, in(0, 200)},
			"context deadline exceeded", time.Second, "a", "a"},
		{"a deadline too short to blame anybody", 0, "PUT", 50 * ms, []reply{never, in(0, 200)},
			"context deadline exceeded", 50 * ms, "a", ""},
		{"a read without hedging waits with patience", 0, "GET", 0, []reply{never, in(3*ms, 200)},
			"200 b", patience + 3*ms, "ab", "a"},
	}
}

// hedgeStories send a request to a second server when the first is slow.
func hedgeStories() []raceStory {
	return []raceStory{
		{"hedge: not needed", 20 * ms, "PUT", 0, []reply{in(19*ms, 200), in(0, 200)}, "200 a", 19 * ms, "a", ""},
		{"hedge: the second wins", 20 * ms, "PUT", 0, []reply{never, in(5*ms, 200)}, "200 b", 25 * ms, "ab", ""},
		{"hedge: the first wins after all", 20 * ms, "PUT", 0, []reply{in(30*ms, 200), in(50*ms, 200)},
			"200 a", 30 * ms, "ab", ""},
		{"hedge: and so on", 20 * ms, "POST", 0, []reply{never, never, in(5*ms, 201)}, "201 c", 45 * ms, "abc", ""},
		{"hedge: a DELETE never", 20 * ms, "DELETE", time.Second, []reply{never, in(0, 200)},
			"context deadline exceeded", time.Second, "a", "a"},
		{"hedge: all hung", 20 * ms, "PATCH", time.Second, []reply{never, never},
			"context deadline exceeded", time.Second, "ab", "a b"},
		{"hedge: our duplicate's 409 waits for the 200", 20 * ms, "PUT", 0, []reply{in(200*ms, 200), in(5*ms, 409)},
			"200 a", 200 * ms, "ab", ""},
		{"hedge: the original's 409 waits for our duplicate's 200", 20 * ms, "PUT", 0,
			[]reply{in(30*ms, 409), in(80*ms, 200)}, "200 b", 100 * ms, "ab", ""},
		{"hedge: 409 by both is a conflict", 20 * ms, "PUT", 0, []reply{in(80*ms, 409), in(5*ms, 409)},
			"409 a", 80 * ms, "ab", ""},
		{"hedge: 409 when the other fails", 20 * ms, "PUT", 0, []reply{reply{after: 80 * ms}, in(5*ms, 409)},
			"409 b", 80 * ms, "ab", ""},
		{"hedge: 409 without a duplicate is told at once", 20 * ms, "PUT", 0, []reply{in(5*ms, 409), in(0, 200)},
			"409 a", 5 * ms, "a", ""},
		{"hedge: after a 409 nobody else is asked", 20 * ms, "PUT", 0,
			[]reply{in(200*ms, 200), in(5*ms, 409), in(0, 200)}, "200 a", 200 * ms, "ab", ""},
		{"hedge: 200 beats 500", 20 * ms, "GET", 0, []reply{in(100*ms, 200), in(0, 500)}, "200 a", 100 * ms, "ab", ""},
		{"hedge: 409 beats 500", 20 * ms, "PUT", 0, []reply{in(30*ms, 409), in(60*ms, 500)},
			"409 a", 80 * ms, "ab", ""},
		{"hedge: 500 beats 503", 20 * ms, "GET", 0, []reply{in(100*ms, 500), in(0, 503)},
			"500 a", 100 * ms, "ab", ""},
		{"hedge: 409 while the other never answers", 20 * ms, "PUT", time.Second, []reply{never, in(5*ms, 409)},
			"context deadline exceeded", time.Second, "ab", "a"},
		{"one server only", 20 * ms, "PUT", 0, []reply{in(300*ms, 200)}, "200 a", 300 * ms, "a", ""},
	}
}

// TestRace tells, for each story, who wins when, who was asked and who is under
// suspicion afterwards. Time is simulated and exact.
func TestRace(t *testing.T) {
	for _, story := range append(plainStories(), hedgeStories()...) {
		t.Run(story.name, func(t *testing.T) {
			synctest.Test(t, story.tell)
		})
	}
}

// tell plays the story.
func (story raceStory) tell(t *testing.T) {
	s, servers := fakes(t, story.servers...)
	limit := story.limit
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	begun := time.Now()
	got := do(ctx, s, story.hedge, story.method)
	took := time.Since(begun)
	synctest.Wait() // all losers have gone
	asked := ""
	for _, f := range servers {
		for _, line := range f.log() {
			asked += f.name
			if strings.HasPrefix(line, "P") && !strings.HasSuffix(line, " text") {
				t.Errorf("%s got %q, without the body", f.name, line)
			}
		}
	}
	want := []any{story.want, story.took, story.asked, story.suspect}
	if diff := cmp.Diff(want, []any{got, took, asked, suspects(s)}); diff != "" {
		t.Error(diff)
	}
}

// TestLosersAreCancelled: whoever lost a race stops working.
func TestLosersAreCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, never, never, in(0, 200))
		if got := do(t.Context(), s, 20*ms, "PUT"); got != "200 c" {
			t.Fatal(got)
		}
		synctest.Wait()
		for _, f := range f[:2] {
			if f.cancelled != 1 {
				t.Errorf("%s: %d requests cancelled, want 1", f.name, f.cancelled)
			}
		}
	})
}

// TestConflictDoesNotWaitForSuspects: a server known to be hung holds nobody
// up, also when it was asked.
func TestConflictDoesNotWaitForSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := fakes(t, never, in(30*ms, 409))
		s.accuse(s.list[0], "test")
		begun := time.Now()
		if got := do(t.Context(), s, 20*ms, "PUT"); got != "409 b" || time.Since(begun) != 30*ms {
			t.Errorf("%s after %s", got, time.Since(begun))
		}
		synctest.Wait()
	})
}

// TestCrowd: of a crowd some requests at a time are under way, in time all; the others
// wait for none of them, and who waits in vain blames nobody.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(10*ms, 200))
		s.room = make(chan struct{}, crowdRoom)
		s.crowd = func(r *http.Request) bool { return r.Method == http.MethodGet }
		var all sync.WaitGroup
		begun := time.Now()
		for range 3 * crowdRoom {
			all.Go(func() {
				if got := do(t.Context(), s, time.Second, "GET"); got != "200 a" {
					t.Error(got)
				}
			})
		}
		synctest.Wait()
		if n := len(f[0].log()); n != crowdRoom {
			t.Errorf("%d requests are under way", n)
		}
		if got := do(t.Context(), s, time.Second, "PUT"); got != "200 a" || time.Since(begun) != 10*ms {
			t.Errorf("beside the crowd: %s after %s", got, time.Since(begun))
		}
		short, cancel := context.WithTimeout(t.Context(), 5*ms)
		defer cancel()
		if got := do(short, s, time.Second, "GET"); got != context.DeadlineExceeded.Error() || suspects(s) != "" {
			t.Errorf("in vain: %s, suspects %q", got, suspects(s))
		}
		all.Wait()
		if took := time.Since(begun); took != 30*ms {
			t.Errorf("the crowd took %s", took)
		}
	})
}

// TestCallerGivesUp: a caller that changes its mind blames nobody.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, never)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		if got := do(ctx, s, 0, "PUT"); got != context.Canceled.Error() {
			t.Error(got)
		}
		synctest.Wait()
		if suspects(s) != "" || f[0].cancelled != 1 {
			t.Errorf("suspects %q, cancelled %d", suspects(s), f[0].cancelled)
		}
	})
}

// TestErrorUnwraps: client-go looks for refused connections in the error.
func TestErrorUnwraps(t *testing.T) {
	s, _ := fakes(t, refused, refused)
	req, _ := http.NewRequest(http.MethodGet, "https://a/x", nil)
	_, err := tripper{s: s}.RoundTrip(req)
	if !errors.Is(err, errBroken) {
		t.Errorf("%v hides its cause", err)
	}
}

// failing is a body that cannot be read.
type failing struct{ closed bool }

func (f *failing) Read([]byte) (int, error) { return 0, errBroken }
func (f *failing) Close() error             { f.closed = true; return nil }

// TestUnreadableBody: nothing is sent, and the body is closed (http.RoundTripper).
func TestUnreadableBody(t *testing.T) {
	s, f := fakes(t, in(0, 200))
	req, _ := http.NewRequest(http.MethodPut, "https://a/x", nil)
	body := &failing{}
	req.Body = body
	if _, err := (tripper{s: s}).RoundTrip(req); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
	if !body.closed || len(f[0].log()) != 0 {
		t.Error("body left open or request sent")
	}
}

// openWatch opens a stream and returns what ends it.
func openWatch(t *testing.T, s *Servers) (server string, ended chan error) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a/x?watch=true", nil)
	resp, err := tripper{s: s, hedge: 20 * ms}.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, _ := resp.Body.Read(buf)
	ended = make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(buf)
		resp.Body.Close()
		ended <- err
	}()
	return string(buf[:n]), ended
}

// TestSuspicionCutsWatches: a watch on a server that stopped answering ends as
// if regularly, and the next one goes elsewhere.
func TestSuspicionCutsWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := fakes(t, in(0, 200), in(0, 200))
		who, ended := openWatch(t, s)
		if who != "a" {
			t.Fatalf("watch went to %s", who)
		}
		synctest.Wait()
		f[0].set(never)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := do(ctx, s, 0, "PUT"); got != context.DeadlineExceeded.Error() {
			t.Fatal(got)
		}
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("the watch ended with %v", err)
		}
		if who, ended = openWatch(t, s); who != "b" {
			t.Errorf("the next watch went to %s", who)
		}
		s.mu.Lock()
		n, m := len(s.list[0].streams), len(s.list[1].streams)
		s.mu.Unlock()
		if n != 0 || m != 1 {
			t.Errorf("%d and %d streams registered, want 0 and 1", n, m)
		}
		s.accuse(s.list[1], "test") // nobody in good standing is left …
		synctest.Wait()
		select {
		case err := <-ended:
			t.Errorf("the watch was cut (%v) although no server could take it", err)
		default:
		}
		s.absolve(s.list[0]) // … until the first is well
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}
