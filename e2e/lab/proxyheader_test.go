package lab

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestProxyHeader: both versions name the client, and what follows is left alone.
func TestProxyHeader(t *testing.T) {
	v2 := func(command, family, length string, addrs string) string {
		return proxySignature + command + family + length + addrs
	}
	for _, c := range []struct {
		name, in, want string
		bad            bool
	}{
		{"none", "", "", false},
		{"v1", "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n", "192.0.2.1:4711", false},
		{"v1 of IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n", "[2001:db8::1]:4711", false},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "", false},
		{"v1 cut", "PROXY TCP4 192.0.2.1\r\n", "", true},
		{"v2", v2("\x21", "\x11", "\x00\x0c", "\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x67\x00\x50"), "192.0.2.1:4711", false},
		{"v2 of IPv6", v2("\x21", "\x21", "\x00\x24",
			"\x20\x01\x0d\xb8"+strings.Repeat("\x00", 11)+"\x01"+strings.Repeat("\x00", 16)+"\x12\x67\x00\x50"),
			"[2001:db8::1]:4711", false},
		{"v2 with more than addresses", v2("\x21", "\x11", "\x00\x0f", "\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x67\x00\x50xyz"),
			"192.0.2.1:4711", false},
		{"v2 local", v2("\x20", "\x00", "\x00\x00", ""), "", false},
		{"v2 of another kind", v2("\x21", "\x31", "\x00\x00", ""), "", true},
	} {
		r := bufio.NewReader(strings.NewReader(c.in + "GET / HTTP/1.1"))
		from, err := readProxyHeader(r)
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := ""; err == nil {
			if from != nil {
				got = from.String()
			}
			if rest, _ := io.ReadAll(r); got != c.want || string(rest) != "GET / HTTP/1.1" {
				t.Errorf("%s: from %q, want %q, then %q", c.name, got, c.want, rest)
			}
		}
	}
}

// TestWebServer: it says whom it saw, by a header too, and can be made sick.
func TestWebServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { _ = webServer("web-1").Serve(proxied{l}) }()
	ask := func(header, path string) (int, string) {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, header+"GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := ask("", "/"); code != 200 || body != "web-1 127.0.0.1" {
		t.Errorf("%d %q", code, body)
	}
	if code, body := ask("PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n", "/"); code != 200 || body != "web-1 192.0.2.1" {
		t.Errorf("with a header: %d %q", code, body)
	}
	for _, want := range []int{200, 500, 200} {
		if code, _ := ask("", "/healthz"); code != want {
			t.Errorf("healthz says %d, want %d", code, want)
		}
		ask("", map[int]string{200: "/sick", 500: "/well"}[want])
	}
}
