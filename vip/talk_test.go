package vip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serveAs answers each line with the name, in the host's namespace or, without
// one, in ours; also before the host has the address.
func serveAs(t *testing.T, h *host, name, addr string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		c := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
			level, opt := unix.SOL_IP, unix.IP_FREEBIND
			if network == "tcp6" {
				level, opt = unix.SOL_IPV6, unix.IPV6_FREEBIND
			}
			var bad error
			err := raw.Control(func(fd uintptr) { bad = unix.SetsockoptInt(int(fd), level, opt, 1) })
			return errors.Join(err, bad)
		}}
		l, err = c.Listen(context.Background(), "tcp", addr)
		return err
	}
	if h == nil {
		must(t, listen())
	} else {
		h.in(listen)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := fmt.Fprintf(conn, "%s %s", name, line); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// talk is one client's connection.
type talk struct {
	conn net.Conn
	r    *bufio.Reader
}

// dial connects from the host.
func (h *host) dial(addr string) (*talk, error) {
	var conn net.Conn
	var err error
	h.in(func() error {
		conn, err = net.DialTimeout("tcp", addr, 2*time.Second)
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { conn.Close() })
	return newTalk(conn), nil
}

// newTalk is a client's connection.
func newTalk(conn net.Conn) *talk { return &talk{conn, bufio.NewReader(conn)} }

// says sends n bytes and gives the name of who sent them back.
func (c *talk) says(n int) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	go func() { _, _ = io.WriteString(c.conn, strings.Repeat("x", n)+"\n") }()
	line, err := c.r.ReadString('\n')
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err == nil && len(rest) != n {
		err = fmt.Errorf("%d bytes came back of %d", len(rest), n)
	}
	return name, err
}

// wantAnswer fails unless the connection is served by that host.
func wantAnswer(t testing.TB, what string, c *talk, by string, n int) {
	t.Helper()
	if got, err := c.says(n); err != nil || got != by {
		t.Fatalf("%s: %q answers (%v), want %s", what, got, err, by)
	}
}

// chat is a connection that is used every 20 ms until the test ends.
type chat struct {
	*talk
	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex
	count int
	worst time.Duration
	err   error
}

// chat opens a connection from the host and begins to use it; by is who must
// answer, always.
func (h *host) chat(addr, by string) *chat {
	h.t.Helper()
	c, err := h.dial(addr)
	must(h.t, err)
	wantAnswer(h.t, "the first exchange", c, by, 10)
	k := &chat{talk: c, stop: make(chan struct{})}
	k.done.Go(func() { k.run(by) })
	h.t.Cleanup(k.end)
	return k
}

// run talks until it is stopped or fails.
func (k *chat) run(by string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-tick.C:
		}
		begun := time.Now()
		got, err := k.says(50)
		if err == nil && got != by {
			err = fmt.Errorf("%q answers, want %s", got, by)
		}
		k.mu.Lock()
		k.count, k.worst, k.err = k.count+1, max(k.worst, time.Since(begun)), err
		k.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// end stops it.
func (k *chat) end() {
	select {
	case <-k.stop:
	default:
		close(k.stop)
	}
	k.done.Wait()
}

// goesOn waits for more exchanges and wants no error.
func (k *chat) goesOn(t *testing.T, what string) {
	t.Helper()
	k.mu.Lock()
	from := k.count
	k.mu.Unlock()
	eventually(t, 10*time.Second, what+": more exchanges", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.err != nil {
			t.Fatalf("%s: after %d exchanges: %v", what, k.count, k.err)
		}
		return k.count >= from+5
	})
}

// breaks waits until the connection fails, and wants it to be by a reset.
func (k *chat) breaks(t *testing.T, what string) {
	t.Helper()
	eventually(t, 10*time.Second, what+": the connection ends", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.err != nil
	})
	if !errors.Is(k.err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", what, k.err)
	}
}

// isTimeout says whether nothing came.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
