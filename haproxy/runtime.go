package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/haproxytech/client-native/v5/runtime"
	"github.com/haproxytech/client-native/v5/runtime/options"
)

// runtimeTime bounds one batch of changes over the runtime socket.
const runtimeTime = 3 * time.Second

// errBusy says that HAProxy will not delete a server that has connections.
var errBusy = errors.New("haproxy: the server has connections")

// applyChanges carries out changes over the stats socket with client-native,
// one command per step so that each refusal is seen. It stops at the first.
func applyChanges(ctx context.Context, socket string, list []change) error {
	for _, c := range list {
		if err := c.check(); err != nil {
			return err
		}
	}
	// The client has a deadline of 30 s of its own and no context, so it is left
	// behind when time is up; it ends by itself.
	done := make(chan error, 1)
	go func() { done <- runChanges(socket, list) }()
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("haproxy: changing servers over %s took too long: %w", socket, ctx.Err())
	}
}

func runChanges(socket string, list []change) error {
	client := &runtime.SingleRuntime{}
	// Its check at the start would be one more connection; what follows shows
	// whether the socket is alive.
	if err := client.Init(socket, 0, 0, options.RuntimeOptions{DoNotCheckRuntimeOnInit: true}); err != nil {
		return fmt.Errorf("haproxy: no connection to %s: %w", socket, err)
	}
	for _, c := range list {
		if err := c.run(client); err != nil && !errors.Is(err, errBusy) {
			return err
		}
	}
	return nil
}

// run carries out one change.
func (c change) run(client *runtime.SingleRuntime) error {
	err := c.call(client)
	if err == nil {
		return nil
	}
	if c.action == actDelete && strings.Contains(err.Error(), "connections attached") {
		return errBusy
	}
	return fmt.Errorf("haproxy: to %s server %s/%s was refused: %w", c.action, c.backend, c.server, err)
}

func (c change) call(client *runtime.SingleRuntime) error {
	switch c.action {
	case actAdd:
		return client.AddServer(c.backend, c.server, c.attributes)
	case actEnable:
		// A server added with a check has it switched off until this.
		if c.checked {
			if err := client.EnableServerHealth(c.backend, c.server); err != nil {
				return err
			}
		}
		return client.EnableServer(c.backend, c.server)
	case actDisable:
		return client.DisableServer(c.backend, c.server)
	case actDelete:
		return client.DeleteServer(c.backend, c.server)
	case actReady, actDrain:
		// Services' alone, which go another way (carryOut).
	}
	return fmt.Errorf("unknown action %q", c.action)
}

// check refuses what the socket would read as more than one command. Every
// string was validated where it came from; names of servers that HAProxy
// itself reported were not.
func (c change) check() error {
	for _, s := range []string{c.backend, c.server} {
		if strings.ContainsAny(s, " \t\r\n;\\\"'/") || s == "" {
			return fmt.Errorf("haproxy: the name %q cannot be used on the runtime socket", s)
		}
	}
	if strings.ContainsAny(c.attributes, "\t\r\n;\\\"'<") {
		return fmt.Errorf("haproxy: the attributes %q cannot be used on the runtime socket", c.attributes)
	}
	return nil
}
