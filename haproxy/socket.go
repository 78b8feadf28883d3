package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// answerTime is how long HAProxy may take to answer on a socket. It answers in
// less than a millisecond; what takes longer than this does not serve clients.
const answerTime = time.Second

// bulkTime is the same for an answer about thousands of servers.
const bulkTime = 5 * time.Second

// ask sends commands, separated by semicolons, to one of HAProxy's sockets and
// returns everything up to its end of the connection, within answerTime.
func ask(ctx context.Context, socket, commands string) (string, error) {
	// The master's socket goes on for more commands until it is told to quit.
	return exchange(ctx, answerTime, socket, commands+";quit\n")
}

// exchange sends a text as it is and returns the answer.
//
// It exists beside client-native's runtime client because that one waits 30 s
// for a hung process, and takes a broken answer for a complete one.
func exchange(ctx context.Context, limit time.Duration, socket, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return "", fmt.Errorf("haproxy: no connection to %s: %w", socket, err)
	}
	defer conn.Close()
	// The context's end also interrupts reads that have begun.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", fmt.Errorf("haproxy: %s does not take commands: %w", socket, err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("haproxy: %s does not answer: %w", socket, err)
	}
	return string(answer), nil
}
