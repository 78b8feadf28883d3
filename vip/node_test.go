package vip

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// nodeEnv makes the test binary an agent's address sink; its value is the state
// file. A Links belongs to the network namespace of its process, so every node of
// a test with several is a process.
const nodeEnv = "VIP_TEST_NODE"

// nodeSizeEnv is the size of its sets of flows.
const nodeSizeEnv = "VIP_TEST_NODE_SIZE"

// order is one call that a node is to make, and report what came of it.
type (
	order struct {
		Set     *lb.Holding
		Forward *[]lb.Forward
		Sweep   bool
	}
	report struct {
		Held     lb.Held
		Forwards []lb.Forward
		Swept    []lb.Address
		Err      string
	}
)

// beNode obeys orders from standard input until it ends.
func beNode(state string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l := New(Options{Now: boottime, State: state, Log: log})
	l.drains.patient()
	if size, err := strconv.Atoi(os.Getenv(nodeSizeEnv)); err == nil {
		l.drains.size = size
	}
	ran := make(chan error)
	go func() { ran <- l.Run(ctx) }()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			cancel()
			<-ran
			return 0
		}
		if err := out.Encode(obey(ctx, l, o)); err != nil {
			return 1
		}
	}
}

// patient gives nft the time that a busy machine may need.
func (d *drains) patient() { d.muting, d.ruling = 20*time.Second, 20*time.Second }

// obey makes the call.
func obey(ctx context.Context, l *Links, o order) (r report) {
	var err error
	switch {
	case o.Set != nil:
		r.Held, err = l.Set(ctx, *o.Set)
	case o.Forward != nil:
		err = l.Forward(ctx, *o.Forward)
	case o.Sweep:
		r.Swept, err = l.Sweep(ctx, nil)
	}
	if err != nil {
		r.Err = err.Error()
	}
	r.Forwards = l.Forwards()
	return r
}

// node is a host with an agent.
type node struct {
	*host
	name  string
	own   []netip.Addr // IPv4, IPv6
	state string
	env   []string

	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	log *journal
}

// journal collects what a process says.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// String is what was said.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// agent starts an agent on the lab's next host, 10.7.0.N and fd07::N.
func (l *lab) agent(name string) *node {
	l.t.Helper()
	h := l.another()
	n := &node{host: h, name: name, state: filepath.Join(l.t.TempDir(), "run", "state.json"), log: &journal{}}
	for _, base := range []string{"10.7.0.", "fd07::"} {
		n.own = append(n.own, netip.MustParseAddr(fmt.Sprint(base, len(l.peers)+1)))
	}
	n.start()
	l.t.Cleanup(func() {
		n.kill()
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s%s", name, n.log, n.rules())
		}
	})
	return n
}

// start runs the agent's process in the host's namespace.
func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.Command("/proc/self/exe")
	n.cmd.Env = append(append(os.Environ(), nodeEnv+"="+n.state), n.env...)
	n.cmd.Stderr = n.log
	var err error
	n.in, err = n.cmd.StdinPipe()
	must(n.t, err)
	out, err := n.cmd.StdoutPipe()
	must(n.t, err)
	n.out = json.NewDecoder(bufio.NewReader(out))
	n.host.in(n.cmd.Start)
}

// kill ends the agent as SIGKILL does; what it left in the kernel stays.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// do gives one order and wants no error.
func (n *node) do(o order) report {
	n.t.Helper()
	r := n.try(o)
	if r.Err != "" {
		n.t.Fatalf("%s: %s", n.name, r.Err)
	}
	return r
}

// try gives one order.
func (n *node) try(o order) (r report) {
	n.t.Helper()
	must(n.t, json.NewEncoder(n.in).Encode(o), n.out.Decode(&r))
	return r
}

// hold wants the addresses on the node's link, and nothing else.
func (n *node) hold(vips ...lb.Address) lb.Held {
	n.t.Helper()
	h := wish(60*second, vips...)
	return n.do(order{Set: &h}).Held
}

// drain wants copies of them, for so long.
func (n *node) drain(d lb.Instant, vips ...lb.Address) {
	n.t.Helper()
	n.do(order{Set: &lb.Holding{Copies: vips, CopyFor: d}})
}

// forward wants frames for the VIPs forwarded to the node; nil is to nobody.
func (n *node) forward(to *node, d lb.Instant, vips ...lb.Address) {
	n.t.Helper()
	all := []lb.Forward{}
	for _, v := range vips {
		if to == nil {
			break
		}
		own := to.own[0]
		if v.IP.Is6() {
			own = to.own[1]
		}
		all = append(all, lb.Forward{VIP: v, To: own, MACs: to.mac().String(), Until: boottime() + d})
	}
	n.do(order{Forward: &all})
}

// sh runs a shell script in the host's namespace and gives what it prints.
func (h *host) sh(script string) string {
	h.t.Helper()
	var out []byte
	h.in(func() (err error) {
		if out, err = exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %v: %s", script, err, out)
		}
		return err
	})
	return string(out)
}

// rules are the node's nftables rules.
func (n *node) rules() string {
	n.t.Helper()
	return n.sh("nft list ruleset")
}

// clean says whether neither rules of ours nor copies are left.
func (n *node) clean() bool {
	n.t.Helper()
	return !strings.Contains(n.rules(), "mooring-") && !strings.Contains(n.sh("ip -o addr show dev lo"), "proto 109")
}

// onEth0 are the lab's virtual IPs on the nodes' links.
func (l *lab) onEth0() []lb.Address {
	all := l.vips()
	for i := range all {
		all[i].Link = "eth0"
	}
	return all
}

// eachFamily runs f for each family with its VIP.
func eachFamily(t *testing.T, f func(t *testing.T, lab *lab, v lb.Address)) {
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			lab := newLab(t)
			f(t, lab, lab.onEth0()[i])
		})
	}
}
