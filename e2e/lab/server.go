package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serverArg as its first argument makes any program that calls Serves
// one of the lab's own small servers: tests, bench and demo need no second
// binary, and a server of its own process dies and freezes with its host.
const serverArg = "lab-server"

// EchoPort is where every node answers datagrams to whatever address it has
// (udp/9, RFC 863: nobody else listens there).
const EchoPort = 9

// Serves makes this process one of the lab's servers, for as long as it lives, if
// its arguments say so. Call it first in main and TestMain; true means that the
// server has failed and the program should end.
func Serves() bool {
	if len(os.Args) < 4 || os.Args[1] != serverArg {
		return false
	}
	err := fmt.Errorf("no server is called %q", os.Args[2])
	switch os.Args[2] {
	case "echo":
		err = serveEcho(os.Args[3])
	case "backend":
		err = http.ListenAndServe(os.Args[3], backendMux())
	case "web":
		err = serveWeb(os.Args[3])
	}
	fmt.Fprintln(os.Stderr, "lab server:", err)
	return true
}

// server describes a process of the host that runs this very program as a server.
// Its turn must not come after that of API servers at work: what is measured is the
// network. (nice goes on without the priority where that is refused.)
func (h *Host) server(kind, arg string) *Process {
	self, err := os.Executable()
	h.lab.must(err)
	return h.Command(kind, "nice", "-n", "-15", self, serverArg, kind, arg)
}

// serveEcho answers every datagram with itself and the node's name, for ever.
func serveEcho(name string) error {
	ended := make(chan error)
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := listenEcho(network)
		if err != nil {
			return err
		}
		go func() { ended <- echo(conn, []byte(name)) }()
	}
	fmt.Println("listening")
	return <-ended
}

// listenEcho asks the kernel to say which of the host's addresses was asked.
func listenEcho(network string) (*net.UDPConn, error) {
	conn, err := net.ListenUDP(network, &net.UDPAddr{Port: EchoPort})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if network == "udp4" {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	if err == nil {
		err = failed
	}
	return conn, err
}

// echo returns only on errors of the socket. A datagram that cannot be answered
// (its sender is cut off) is the prober's to notice.
func echo(conn *net.UDPConn, name []byte) error {
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return err
		}
		if info := answerFrom(oob[:oobn]); info != nil {
			_, _, _ = conn.WriteMsgUDPAddrPort(append(buf[:n:n], name...), info, from)
		}
	}
}

// answerFrom makes of a datagram's control messages those of its answer: from
// the address that was asked, through whatever link leads back (ip(7)
// IP_PKTINFO, ipv6(7) IPV6_PKTINFO). Nil if the kernel did not say.
func answerFrom(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}

// backendMux is what the backend pod serves: /zeros?bytes=N&seconds=S streams N
// bytes evenly over S seconds, /upgrade echoes what comes after the handshake.
func backendMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/zeros", serveZeros)
	mux.HandleFunc("/upgrade", serveUpgrade)
	return mux
}

// zerosEvery is the interval in which serveZeros writes.
const zerosEvery = 20 * time.Millisecond

// serveZeros follows the clock, not a count of ticks: it catches up after a delay.
func serveZeros(w http.ResponseWriter, r *http.Request) {
	size, err1 := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
	seconds, err2 := strconv.ParseFloat(r.FormValue("seconds"), 64)
	if err1 != nil || err2 != nil || size < 0 || seconds <= 0 {
		http.Error(w, "want bytes=N and seconds=S", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	begun, sent, zeros := time.Now(), int64(0), make([]byte, 256<<10)
	for sent < size {
		due := min(size, int64(float64(size)*(time.Since(begun)+zerosEvery).Seconds()/seconds))
		for sent < due {
			n, err := w.Write(zeros[:min(due-sent, int64(len(zeros)))])
			if err != nil {
				return
			}
			sent += int64(n)
		}
		w.(http.Flusher).Flush()
		time.Sleep(zerosEvery)
	}
}

// upgradeTo is the protocol that Upgraded asks for: the API server passes on any.
const upgradeTo = "lab-echo"

// serveUpgrade is RFC 9110 §7.8.
func serveUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != upgradeTo {
		http.Error(w, "want Upgrade: "+upgradeTo, http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgradeTo)
	if err == nil {
		_, _ = io.Copy(conn, rw) // until the other side ends it
	}
}

// datagram is a probe's question: its number.
func datagram(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// parseEcho reads an answer: the number and who answered.
func parseEcho(b []byte) (seq uint64, server string, ok bool) {
	if len(b) < 9 {
		return 0, "", false
	}
	return binary.BigEndian.Uint64(b), string(b[8:]), true
}

// startEchoes starts the echo on every node that is on and lacks it.
func (l *Lab) startEchoes() {
	var fresh []*Process
	for _, n := range l.on() {
		if n.echo == nil {
			n.echo = n.server("echo", n.name)
		}
		if !n.echo.Alive() {
			n.echo.Start()
			fresh = append(fresh, n.echo)
		}
	}
	for _, p := range fresh {
		l.Eventually(10*time.Second, "the echo listens on "+p.host.name, func() bool { return listens(p.host) })
	}
}

// listens looks at the kernel's list: a restarted echo has old words in its log.
func listens(h *Host) bool {
	fd, err := h.space().socket(unix.AF_INET, unix.SOCK_DGRAM)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: EchoPort}) == syscall.EADDRINUSE
}
