package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// longer is more than any back-off of a reflector or of ours.
const longer = 3 * time.Minute

// Keys that fit, by a letter each.
var (
	keyA = strings.Repeat("a", minKey)
	keyB = strings.Repeat("b", minKey)
	keyC = strings.Repeat("c", minKey)
)

func secretsAPI() *objectAPI {
	return newObjectAPI("v1", "Secret", func() object { return &corev1.Secret{} })
}

// secret makes one out of names and values.
func secret(name string, pairs ...string) *corev1.Secret {
	s := &corev1.Secret{Data: map[string][]byte{}}
	s.Name, s.Namespace = name, "mooring-system"
	for i := 0; i < len(pairs); i += 2 {
		s.Data[pairs[i]] = []byte(pairs[i+1])
	}
	return s
}

// agentKeys is a Keys that runs, and what it said.
type agentKeys struct {
	t    *testing.T
	mu   sync.Mutex
	told []string
	log  bytes.Buffer
	stop func()
}

// runKeys starts one; it belongs into a synctest bubble.
func runKeys(t *testing.T, api http.RoundTripper) *agentKeys {
	t.Helper()
	a := &agentKeys{t: t}
	k, err := NewKeys(&rest.Config{
		Host: "https://a", Transport: api, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/json"}, // the default here is protobuf
	}, KeysOptions{
		Namespace: "mooring-system", Name: "mooring-hello", Log: slog.New(slog.NewTextHandler(a, nil)),
		Changed: func(text string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.told = append(a.told, text)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return a
}

// Write takes the log.
func (a *agentKeys) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.Write(p)
}

// heard waits and returns what was told since.
func (a *agentKeys) heard() []string {
	time.Sleep(longer)
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.told
	a.told = nil
	return out
}

// step compares what is heard.
func (a *agentKeys) step(what string, want ...string) {
	a.t.Helper()
	if diff := cmp.Diff(want, a.heard()); diff != "" {
		a.t.Errorf("%s: %s", what, diff)
	}
}

// logged counts the lines of the log with a text, and forgets all.
func (a *agentKeys) logged(text string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := strings.Count(a.log.String(), text)
	a.log.Reset()
	return n
}

// TestKeysFollowed goes through a rotation, a mistake and an outage.
func TestKeysFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := secretsAPI()
		api.put(secret("other", "current", keyC))
		api.put(secret("mooring-hello", "current", keyA+"\n"))
		api.goAway(true)
		a := runKeys(t, api)
		defer a.stop()

		a.step("the API is away from the start")
		if n := a.logged("level=WARN"); n != 1 {
			t.Errorf("%d warnings in an outage, want one", n)
		}
		api.goAway(false)
		a.step("it comes", keyA)
		api.put(secret("other", "current", keyB))
		a.step("another Secret is nothing to us")
		api.put(secret("mooring-hello", "current", keyA, "next", keyB))
		a.step("the next key is added", keyA+"\n"+keyB)
		api.put(secret("mooring-hello", "current", keyB, "next", keyA, "a", keyC))
		a.step("swapped: current first, then by name", keyB+"\n"+keyC+"\n"+keyA)
		api.put(secret("mooring-hello", "current", keyB))
		a.step("the old one is removed", keyB)
		api.put(secret("mooring-hello", "current", "short"))
		a.step("no usable key")
		if n := a.logged("no usable key"); n != 1 {
			t.Errorf("%d complaints about a Secret without keys", n)
		}
		api.goAway(true)
		a.step("away")
		api.goAway(false)
		api.put(secret("mooring-hello", "current", keyB))
		a.step("back, and the same as before")
		api.put(secret("mooring-hello", "current", keyC))
		a.step("followed again", keyC)

		for asked := range api.all() {
			if !strings.HasSuffix(asked, " /api/v1/namespaces/mooring-system/secrets?metadata.name=mooring-hello") {
				t.Errorf("asked %s, which the agents' Role does not allow", asked)
			}
		}
	})
}

// TestKeysMade: the first agent makes the Secret and the second takes what it
// finds; a deleted one comes back with the same keys.
func TestKeysMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := secretsAPI()
		first, second := runKeys(t, api), runKeys(t, api)
		defer first.stop()
		defer second.stop()
		told := first.heard()
		if len(told) != 1 {
			t.Fatalf("told %q", told)
		}
		if random, err := base64.StdEncoding.DecodeString(told[0]); err != nil || len(random) != newKey {
			t.Errorf("key %q: %d bytes, %v", told, len(random), err)
		}
		second.step("the same key", told[0])
		s := api.get("mooring-hello").(*corev1.Secret)
		if len(s.Data) != 1 || string(s.Data[currentKey]) != told[0] || s.Type != corev1.SecretTypeOpaque {
			t.Errorf("made %+v", s)
		}
		if n := first.logged(told[0]) + second.logged(told[0]); n != 0 {
			t.Error("the key is in the log")
		}

		api.put(secret("mooring-hello", "current", keyA, "next", keyB, "junk", "x"))
		first.step("an operator's keys", keyA+"\n"+keyB)
		api.remove("mooring-hello")
		first.step("deleted: nothing new")
		want := secret("mooring-hello", "current", keyA, "next", keyB).Data
		if diff := cmp.Diff(want, api.get("mooring-hello").(*corev1.Secret).Data); diff != "" {
			t.Errorf("put back: %s", diff)
		}
	})
}

// TestKeysAreDifferent: two sites do not share a key.
func TestKeysAreDifferent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := runKeys(t, secretsAPI()), runKeys(t, secretsAPI())
		defer a.stop()
		defer b.stop()
		if x, y := a.heard(), b.heard(); len(x) != 1 || len(y) != 1 || x[0] == y[0] {
			t.Errorf("made %q and %q", x, y)
		}
	})
}

// TestKeysRefused: without rights, or without the namespace, one line in the log
// and a question now and then; once the cluster allows it, a key.
func TestKeysRefused(t *testing.T) {
	stories := []struct {
		name, method string
		code         int
		say          string
	}{
		{"may not create", http.MethodPost, http.StatusForbidden, "mooring manifest rbac"},
		{"no namespace", http.MethodPost, http.StatusNotFound, "mooring manifest namespace"},
		{"may not read", http.MethodGet, http.StatusForbidden, "cannot be read"},
		{"not authenticated yet", http.MethodGet, http.StatusUnauthorized, "cannot be read"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := secretsAPI()
				api.refuse(s.method, s.code)
				a := runKeys(t, api)
				defer a.stop()
				time.Sleep(time.Hour)
				a.step("refused")
				total := 0
				for what, n := range api.all() {
					if strings.HasPrefix(what, s.method) {
						total += n
					}
				}
				if total < 10 || total > 500 {
					t.Errorf("asked %d times in an hour", total)
				}
				a.mu.Lock()
				text := a.log.String()
				a.mu.Unlock()
				if strings.Count(text, "level=") != 1 || !strings.Contains(text, s.say) {
					t.Errorf("log, want one line with %q:\n%s", s.say, text)
				}
				api.refuse(s.method, 0)
				if told := a.heard(); len(told) != 1 {
					t.Errorf("allowed, and told %q", told)
				}
			})
		})
	}
}

// TestKeysMadeByAnother: two agents at once, and the watch of the second one is
// behind: what it finds when its own write fails is what it uses.
func TestKeysMadeByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := secretsAPI()
		// Known to the API server and told to no watch.
		late := secret("mooring-hello", "current", keyB)
		blind := roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost {
				api.mu.Lock()
				api.objects[late.Name] = late
				api.mu.Unlock()
			}
			return api.RoundTrip(req)
		})
		a := runKeys(t, blind)
		defer a.stop()
		a.step("the other's key", keyB)
	})
}

// roundTrip is a function as http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestKeysNonsense: what is no key is left out, said, and never shown.
func TestKeysNonsense(t *testing.T) {
	many := []string{"current", keyA}
	for _, n := range strings.Split("bcdefghij", "") {
		many = append(many, n, strings.Repeat(n, minKey))
	}
	stories := []struct {
		name  string
		pairs []string
		want  string
		say   string // of each entry left out; "" if none is
	}{
		{"white space around", []string{"current", " \t" + keyA + "\r\n"}, keyA, ""},
		{"too short", []string{"current", keyA, "x", keyB[1:]}, keyA, "has 15 bytes"},
		{"white space does not make it longer", []string{"current", keyA, "x", keyB[1:] + "  "}, keyA, "has 15 bytes"},
		{"a whole file", []string{"current", keyA, "x", strings.Repeat("x", maxKey+1)}, keyA, "has 1025 bytes"},
		{"the longest", []string{"current", strings.Repeat("x", maxKey)}, strings.Repeat("x", maxKey), ""},
		{"two lines", []string{"current", keyA, "x", keyB + "\n" + keyC}, keyA, "not one line of text"},
		{"raw bytes", []string{"current", keyA, "x", keyB + "\xff"}, keyA, "not one line of text"},
		{"a NUL", []string{"current", keyA, "x", keyB + "\x00b"}, keyA, "not one line of text"},
		{"a comment", []string{"current", keyA, "x", "# " + keyB}, keyA, "begins with #"},
		{"current is no key", []string{"current", "x", "next", keyB}, keyB, "entry=current"},
		{"no current", []string{"z", keyB, "a", keyC}, keyC + "\n" + keyB, ""},
		{"nothing", nil, "", "no usable key"},
		{"too many", many, keyA + "\n" + strings.Join([]string{"b", "c", "d", "e", "f", "g", "h"},
			strings.Repeat("\n", 1)), "is one more than the 8"},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			var log bytes.Buffer
			got := ""
			k := Keys{o: KeysOptions{Log: slog.New(slog.NewTextHandler(&log, nil)), Changed: func(text string) { got = text }}}
			k.take(secret("mooring-hello", s.pairs...))
			if s.name == "too many" { // one letter stands for each key
				for _, n := range "bcdefgh" {
					got = strings.ReplaceAll(got, strings.Repeat(string(n), minKey), string(n))
				}
			}
			if got != s.want {
				t.Errorf("got %q, want %q", got, s.want)
			}
			if text := log.String(); s.say != "" && !strings.Contains(text, s.say) || s.say == "" && text != "" {
				t.Errorf("log, want %q: %s", s.say, text)
			}
			if strings.Contains(log.String(), keyB[1:]) {
				t.Errorf("a key is in the log: %s", log.String())
			}
		})
	}
}
