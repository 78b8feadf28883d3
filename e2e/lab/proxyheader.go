package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// proxySignature begins a header of version 2 (HAProxy's proxy-protocol.txt §2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// readProxyHeader takes a PROXY protocol header, if one comes first, and returns the
// client that it names; nil without one, or for a check by the proxy itself.
func readProxyHeader(r *bufio.Reader) (*net.TCPAddr, error) {
	head, err := r.Peek(len("PROXY "))
	switch {
	case err != nil:
		return nil, err
	case string(head) == "PROXY ":
		return readProxyV1(r)
	case string(head) == proxySignature[:len(head)]:
		return readProxyV2(r)
	}
	return nil, nil
}

// readProxyV1 is "PROXY TCP4 client server port port".
func readProxyV1(r *bufio.Reader) (*net.TCPAddr, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	words := strings.Fields(line)
	if len(words) == 2 && words[1] == "UNKNOWN" {
		return nil, nil
	}
	if len(words) != 6 {
		return nil, fmt.Errorf("no PROXY header: %q", line)
	}
	from, err := netip.ParseAddrPort(net.JoinHostPort(words[2], words[4]))
	return net.TCPAddrFromAddrPort(from), err
}

// readProxyV2 is the signature, version and command, family, length, addresses.
func readProxyV2(r *bufio.Reader) (*net.TCPAddr, error) {
	const fixed = len(proxySignature) + 4
	head := make([]byte, fixed)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[fixed-2:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	switch {
	case head[12] == 0x20: // LOCAL: the proxy speaks for itself
		return nil, nil
	case head[12] == 0x21 && head[13] == 0x11 && len(body) >= 12:
		return &net.TCPAddr{IP: body[:4], Port: int(binary.BigEndian.Uint16(body[8:]))}, nil
	case head[12] == 0x21 && head[13] == 0x21 && len(body) >= 36:
		return &net.TCPAddr{IP: body[:16], Port: int(binary.BigEndian.Uint16(body[32:]))}, nil
	}
	return nil, fmt.Errorf("PROXY header of version, command and family %x is not known", head[12:14])
}

// Claiming asks a web server at address as an upstream proxy does, with a PROXY
// header of version 1 that names another client, and returns the answer.
func (h *Host) Claiming(ctx context.Context, client, address string) (string, error) {
	conn, err := h.dialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	to := netip.MustParseAddrPort(address)
	family := map[bool]string{true: "TCP4", false: "TCP6"}[to.Addr().Is4()]
	_, err = fmt.Fprintf(conn, "PROXY %s %s %s 4711 %d\r\nGET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
		family, client, to.Addr(), to.Port())
	if err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
