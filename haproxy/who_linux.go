package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Listener is a process that has a port.
type Listener struct {
	At netip.AddrPort
	// PID and Command are 0 and "" when it runs in another PID namespace, or
	// belongs to another user.
	PID     int
	Command string
}

// Listeners are those on a port of this network namespace: of TCP, or with udp
// those sockets of UDP that have no other end.
func Listeners(udp bool, port uint16) []Listener {
	tables, state := []string{"tcp", "tcp6"}, "0A"
	if udp {
		tables, state = []string{"udp", "udp6"}, "07"
	}
	var out []Listener
	for _, name := range tables {
		table, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue
		}
		for _, l := range parseSockets(string(table), state) {
			if l.addr.Port() == port {
				pid := socketOwner(l.inode, nil)
				out = append(out, Listener{At: l.addr, PID: pid, Command: command(pid)})
			}
		}
	}
	return out
}

// Program is an installed HAProxy.
type Program struct {
	// Version is as 2.6.12-1+deb12u4; Major and Minor its branch.
	Version      string
	Major, Minor int
	// Status is what it says of its branch's support.
	Status string
	// Lacks are features that configurations of ours use and that it was built
	// without, as its build options call them.
	Lacks []string
}

// features are what Render uses: TLS for health checks, its exporter for
// Prometheus, binding addresses that come later.
var features = []string{"OPENSSL", "PROMEX", "TPROXY", "THREAD"}

var (
	reVersion = regexp.MustCompile(`(?m)^HA-?Proxy version ((\d+)\.(\d+)\S*)`)
	reStatus  = regexp.MustCompile(`(?m)^Status: (.*)$`)
	reFeature = regexp.MustCompile(`(?m)^Feature list : (.*)$`)
)

// Installed asks the program what it is; "" is haproxy in PATH.
func Installed(ctx context.Context, binary string) (Program, error) {
	if binary == "" {
		binary = "haproxy"
	}
	cmd := exec.CommandContext(ctx, binary, "-vv")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return Program{}, fmt.Errorf("HAProxy cannot be run: %w", err)
	}
	return parseProgram(string(out))
}

// parseProgram reads the output of `haproxy -vv`.
func parseProgram(text string) (Program, error) {
	v := reVersion.FindStringSubmatch(text)
	if v == nil {
		first, _, _ := strings.Cut(text, "\n")
		return Program{}, fmt.Errorf("HAProxy does not say its version but %q", first)
	}
	p := Program{Version: v[1]}
	p.Major, _ = strconv.Atoi(v[2]) // digits, as the expression wants
	p.Minor, _ = strconv.Atoi(v[3])
	if s := reStatus.FindStringSubmatch(text); s != nil {
		p.Status = s[1]
	}
	if f := reFeature.FindStringSubmatch(text); f != nil {
		have := strings.Fields(f[1])
		for _, name := range features {
			if !slices.Contains(have, "+"+name) {
				p.Lacks = append(p.Lacks, name)
			}
		}
	}
	return p, nil
}
