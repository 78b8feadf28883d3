package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestStream: breaks, refusals, silence and completeness, told with a clock of its own.
func TestStream(t *testing.T) {
	type script func(ctx context.Context, opened func(), got func(int)) error
	say := func(times int, every time.Duration, end error) script {
		return func(_ context.Context, opened func(), got func(int)) error {
			opened()
			for range times {
				time.Sleep(every)
				got(10)
			}
			return end
		}
	}
	refuse := func(context.Context, func(), func(int)) error { return syscall.ECONNREFUSED }
	hang := func(ctx context.Context, opened func(), got func(int)) error {
		opened()
		got(1)
		<-ctx.Done()
		return ctx.Err()
	}
	for _, tc := range []struct {
		name    string
		opens   []script
		breaks  string
		failed  int
		silence time.Duration
		bytes   int64
		whole   bool
	}{
		{name: "complete", opens: []script{say(3, 50*time.Millisecond, nil)}, silence: 50 * time.Millisecond, bytes: 30, whole: true},
		{name: "reset and opened again", opens: []script{say(2, 50*time.Millisecond, syscall.ECONNRESET), refuse, say(1, 50*time.Millisecond, nil)},
			breaks: "reset", failed: 1, silence: 250 * time.Millisecond, bytes: 30},
		{name: "ended early", opens: []script{say(1, 50*time.Millisecond, errEnded), say(1, 50*time.Millisecond, nil)},
			breaks: "ended", silence: 150 * time.Millisecond, bytes: 20},
		{name: "hangs", opens: []script{hang}, silence: 10 * time.Second, bytes: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			next := 0
			ctx, cancel := context.WithCancel(t.Context())
			s := &Stream{cancel: cancel, ended: make(chan struct{})}
			s.open = func(ctx context.Context, opened func(), got func(int)) error {
				next++
				return tc.opens[next-1](ctx, opened, got)
			}
			go s.run(ctx)
			time.Sleep(10 * time.Second)
			r := s.Stop()
			var breaks []string
			for _, b := range r.Breaks {
				breaks = append(breaks, b.Class)
			}
			if strings.Join(breaks, " ") != tc.breaks || r.Failed != tc.failed || r.Silence != tc.silence ||
				r.Bytes != tc.bytes || r.Complete != tc.whole {
				t.Errorf("%s: %+v", tc.name, r)
			}
			if again := s.Stop(); again.End != r.End {
				t.Errorf("%s: a second Stop ends at another time", tc.name)
			}
		})
	}
}

// TestReadAll: only the full length is complete.
func TestReadAll(t *testing.T) {
	for _, tc := range []struct {
		want int64
		err  error
	}{{5, nil}, {6, errEnded}, {-1, errEnded}} {
		total := 0
		err := readAll(strings.NewReader("12345"), tc.want, func(n int) { total += n })
		if !errors.Is(err, tc.err) || total != 5 {
			t.Errorf("want %d bytes: %v after %d", tc.want, err, total)
		}
	}
}

// TestBackend: zeros at the asked rate, an echo after the upgrade, errors for nonsense.
func TestBackend(t *testing.T) {
	srv := httptest.NewServer(backendMux())
	defer srv.Close()
	for _, q := range []string{"", "?bytes=x&seconds=1", "?bytes=1&seconds=0", "?bytes=-1&seconds=1"} {
		if code := getCode(t, srv.URL+"/zeros"+q); code != http.StatusBadRequest {
			t.Errorf("/zeros%s: %d", q, code)
		}
	}
	if code := getCode(t, srv.URL+"/upgrade"); code != http.StatusUpgradeRequired {
		t.Errorf("/upgrade without a wish: %d", code)
	}
	begun := time.Now()
	resp, err := http.Get(srv.URL + "/zeros?bytes=1000000&seconds=0.2")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) != 1_000_000 || bytes.ContainsFunc(body, func(r rune) bool { return r != 0 }) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if took := time.Since(begun); took < 150*time.Millisecond {
		t.Errorf("0.2 s of zeros came within %s", took)
	}
	echoes(t, srv.Listener.Addr().String())
}

func getCode(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// echoes upgrades and speaks a line, sent before and after the handshake's end.
func echoes(t *testing.T, address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nearly\n", upgradeTo)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	fmt.Fprintf(conn, "late\n")
	for _, want := range []string{"early\n", "late\n"} {
		if got, err := r.ReadString('\n'); got != want {
			t.Errorf("echo %q, %v; want %q", got, err, want)
		}
	}
}

// TestEchoNonsense: short answers and unknown control messages are none.
func TestEchoNonsense(t *testing.T) {
	if _, _, ok := parseEcho(datagram(1)); ok {
		t.Error("an answer without a name")
	}
	if seq, who, ok := parseEcho(append(datagram(77), "n2"...)); seq != 77 || who != "n2" || !ok {
		t.Errorf("answer 77 of n2 is %d of %q", seq, who)
	}
	for _, oob := range [][]byte{nil, {1}, make([]byte, 7), make([]byte, 64)} {
		if got := answerFrom(oob); got != nil {
			t.Errorf("%v was taken for a packet's destination: %v", oob, got)
		}
	}
}
