package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// serverHeader is in which a lab's web server says its name.
const serverHeader = "Lab-Server"

// tickEvery is the pace of a web server's /ticks.
const tickEvery = 20 * time.Millisecond

// Web starts a web server on the host that says its name and the client's address,
// over HTTP and in datagrams: "web-1 10.99.0.100". A PROXY protocol header may come
// first on a connection. /ticks goes on for ever; /healthz fails with 500 after a
// request of /sick and until one of /well. A datagram of [Host.Datagrams] comes back
// with the name alone.
func (h *Host) Web(port int) *Process {
	p := h.server("web", fmt.Sprintf("%s=%d", h.name, port))
	p.Start()
	return p
}

// serveWeb is Web's server; the argument is NAME=PORT.
func serveWeb(arg string) error {
	name, port, _ := strings.Cut(arg, "=")
	packets, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go answerDatagrams(packets, name)
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	return webServer(name).Serve(proxied{l})
}

// connKey is under which a request's context has its connection.
type connKey struct{}

// webServer keeps each request's connection, which knows its client late.
func webServer(name string) *http.Server {
	return &http.Server{Handler: webMux(name), ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }}
}

// answerDatagrams says who asked, or which question of a probe it was.
func answerDatagrams(conn net.PacketConn, name string) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(from.String())
		answer := []byte(name + " " + host)
		if n == len(datagram(0)) {
			answer = append(buf[:n:n], name...)
		}
		_, _ = conn.WriteTo(answer, from)
	}
}

func webMux(name string) http.Handler {
	var sick atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		from := r.RemoteAddr
		if c, ok := r.Context().Value(connKey{}).(*proxiedConn); ok {
			from = c.client()
		}
		host, _, _ := net.SplitHostPort(from)
		w.Header().Set(serverHeader, name)
		fmt.Fprintf(w, "%s %s", name, host)
	})
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) { sick.Store(false) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/ticks", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(serverHeader, name)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "."); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(tickEvery)
		}
	})
	return mux
}

// proxied takes connections that may begin with a PROXY protocol header.
type proxied struct{ net.Listener }

func (p proxied) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: conn, r: bufio.NewReader(conn)}, nil
}

// proxiedConn reads the header with the first bytes, so not while others are accepted.
type proxiedConn struct {
	net.Conn
	r      *bufio.Reader
	looked bool
	from   atomic.Pointer[net.TCPAddr]
}

func (c *proxiedConn) Read(b []byte) (int, error) {
	if !c.looked {
		c.looked = true
		from, err := readProxyHeader(c.r)
		if err != nil {
			return 0, err
		}
		c.from.Store(from)
	}
	return c.r.Read(b)
}

// client is the one of the header, else who connected.
func (c *proxiedConn) client() string {
	if from := c.from.Load(); from != nil {
		return from.String()
	}
	return c.RemoteAddr().String()
}

// Ticks reads a web server's endless page at address, until the stream is stopped.
// Each connection that breaks is noted and opened again.
func (h *Host) Ticks(address string) *Stream {
	transport := &http.Transport{DialContext: h.dialContext, DisableKeepAlives: true, ResponseHeaderTimeout: openLimit}
	return h.lab.startStream("ticks", func(ctx context.Context, opened func(), got func(int)) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/ticks", nil)
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		opened()
		buf := make([]byte, 64)
		for {
			n, err := resp.Body.Read(buf)
			if n > 0 {
				got(n)
			}
			if err != nil {
				return errors.Join(io.ErrUnexpectedEOF, err)
			}
		}
	})
}
