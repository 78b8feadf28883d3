package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// head and ok begin files that are right so far.
const (
	head = "apiVersion: mooring.dev/v1alpha1\nkind: AgentConfig\nkubeconfig: /k\n"
	ok   = head + "apiServer:\n  vips: [192.0.2.10]\n"
)

// errorStory is a wrong file and every line of the error.
type errorStory struct{ name, file, host, want string }

// wrongShapes are files in which a field is not where or what it should be.
func wrongShapes() []errorStory {
	return []errorStory{
		{"empty", "", "n1", `f: is empty; the shortest complete file is:` + "\n" + minimal},
		{"only a comment", "# nothing\n", "n1", `f: is empty; the shortest complete file is:` + "\n" + minimal},
		{"not YAML", "kind: [\n", "n1", `f:1: not valid YAML: did not find expected node content; ` +
			`look at the indentation and quotes of this line and the one before`},
		{"a list", "- a\n", "n1", `
f: apiVersion: is missing; write apiVersion: mooring.dev/v1alpha1
f: kind: is missing; write kind: AgentConfig
f: kubeconfig: is missing; write the path of the agent's kubeconfig, for example /etc/kubernetes/mooring.conf
f: apiServer.vips: is missing; list the virtual IPs of the API server, for example [192.0.2.10]
f:1: is a list; write fields below it, one "name: value" a line`},
		{"two documents", ok + "---\nkind: x\n", "n1", `f:6: a second document begins here; keep only one`},
		{"another kind", "apiVersion: v1\nkind: Pod\nkubeconfig: /k\napiServer: {vips: [192.0.2.10]}\n", "n1", `
f:1: apiVersion: is "v1"; this program reads mooring.dev/v1alpha1 only
f:2: kind: is "Pod"; this program reads AgentConfig only`},
		{"unknown fields, each with the nearest name", ok + "  proxyport: 1\n  vip: x\n  chekc: {}\nlaese: {}\n" +
			"validLifetime: 4s\nzzzzzz: 1\nlog: {levle: info, colour: red}\n", "n1", `
f:6: apiServer.proxyport: unknown field; did you mean apiServer.proxyPort?
f:7: apiServer.vip: unknown field; did you mean apiServer.vips?
f:8: apiServer.chekc: unknown field; did you mean apiServer.check?
f:9: laese: unknown field; did you mean lease?
f:10: validLifetime: unknown field; did you mean fence.validLifetime?
f:11: zzzzzz: unknown field; known here: apiVersion, kind, kubeconfig, interface, node, namespace, runDir, ` +
			`stateDir, log, metrics, apiServer, lease, fence, hello, moves, priority, witnesses, peers, announce, services
f:12: log.levle: unknown field; did you mean log.level?
f:12: log.colour: unknown field; known here: format, level`},
		{"twice, and the wrong shape", head + "kubeconfig: /l\napiServer:\n  vips: 192.0.2.10\nlog: text\nnode: [a]\n",
			"n1", `
f:4: kubeconfig: is already set in line 3; keep one of them
f:6: apiServer.vips: is a single value; write a list, for example [192.0.2.10]
f:7: log: is a single value; write fields below it, one "name: value" a line
f:8: node: is a list; write a single value`},
		{"aliases", head + "node: &n n1\nnamespace: *n\napiServer: {vips: [192.0.2.10]}\n", "n1",
			`f:5: namespace: is an alias (*), which this file does not support; write a single value`},
	}
}

// wrongAddresses are files whose fields are all there.
func wrongAddresses() []errorStory {
	return []errorStory{
		{"every kind of bad VIP", head + `apiServer:
  vips:
  - 192.0.2.10/24
  - 2001:db8::1/64
  - vip.example
  - fe80::1%eth0
  - fe80::1
  - 127.0.0.1
  - 224.0.0.1
  - "::"
  - ::ffff:192.0.2.1
  - 255.255.255.255
  - 2001:db8::10
  - 2001:DB8:0::10
  -
`, "n1", `
f:6: apiServer.vips: has 12 addresses, at most 8 are possible
f:6: apiServer.vips[0]: has a prefix length; write 192.0.2.10, the agent always adds a VIP as /32
f:7: apiServer.vips[1]: has a prefix length; write 2001:db8::1, the agent always adds a VIP as /128
f:8: apiServer.vips[2]: "vip.example" is not an IP address; write one, a host name cannot be announced
f:9: apiServer.vips[3]: has a zone; write it without %eth0 and set "interface" instead
f:10: apiServer.vips[4]: fe80::1 is link-local, which clients cannot use without naming an interface; ` +
			`choose a free address of the nodes' subnet
f:11: apiServer.vips[5]: 127.0.0.1 is a loopback address; choose a free address of the nodes' subnet
f:12: apiServer.vips[6]: 224.0.0.1 is a multicast address; choose a free address of the nodes' subnet
f:13: apiServer.vips[7]: :: is unspecified; choose a free address of the nodes' subnet
f:14: apiServer.vips[8]: is an IPv4 address in IPv6 form; write 192.0.2.1
f:15: apiServer.vips[9]: 255.255.255.255 is the broadcast address; choose a free address of the nodes' subnet
f:17: apiServer.vips[11]: 2001:DB8:0::10 is in the list twice; remove one
f:18: apiServer.vips[12]: is empty; remove it`},
		{"servers", ok + "  servers: [10.0.0.11, '[fe80::1%e]:1', 192.0.2.10:6443, 10.0.0.12:0, 127.0.0.1:6443,\n" +
			"    10.0.0.13:6443, 10.0.0.13:6443]\n", "n1", `
f:6: apiServer.servers[0]: "10.0.0.11" is not ADDRESS:PORT; write for example 10.0.0.11:6443 or [2001:db8::11]:6443
f:6: apiServer.servers[1]: "[fe80::1%e]:1" is not ADDRESS:PORT; write for example 10.0.0.11:6443 or [2001:db8::11]:6443
f:6: apiServer.servers[2]: 192.0.2.10 is a virtual IP; write the addresses of the control-plane nodes themselves
f:6: apiServer.servers[3]: "10.0.0.12:0" is not ADDRESS:PORT; write for example 10.0.0.11:6443 or [2001:db8::11]:6443
f:6: apiServer.servers[4]: 127.0.0.1 is a loopback address; write the address of a control-plane node
f:7: apiServer.servers[6]: 10.0.0.13:6443 is in the list twice; remove one`},
		{"ports", ok + "  port: 7443\n  maxConnections: -1\nmetrics: {bind: '127.0.0.1:7443'}\n", "n1", `
f:6: apiServer.proxyPort: is 7443, the same as apiServer.port; the API server already listens there, ` +
			`choose another free port
f:7: apiServer.maxConnections: is "-1"; write a number from 0 to 1000000
f:8: metrics.bind: uses port 7443, which apiServer needs; choose another free port`},
		{"port out of range", ok + "  port: 65536\n  proxyPort: ssh\n", "n1", `
f:6: apiServer.port: is "65536"; write a number from 1 to 65535
f:7: apiServer.proxyPort: is "ssh"; write a number from 1 to 65535`},
	}
}

// wrongValues too.
func wrongValues() []errorStory {
	return []errorStory{
		{"choices", ok + "  balance: roundrobin\n  allowOutsideSubnet: maybe\n" +
			"  check: {path: 'a b', clientCertificate: no}\nlog: {format: xml, level: trace}\n", "n1", `
f:6: apiServer.balance: is "roundrobin"; write one of haproxy, off
f:7: apiServer.allowOutsideSubnet: is "maybe"; write true or false
f:8: apiServer.check.path: "a b" is not a path HAProxy can ask for; write for example /readyz
f:8: apiServer.check.clientCertificate: is "no"; write one of auto, always, never
f:9: log.format: is "xml"; write one of text, json
f:9: log.level: is "trace"; write one of debug, info, warn, error`},
		{"lease too short for the fence", ok + "lease: {duration: 6s}\n", "n1", `f:6: lease.duration: is 6s, ` +
			`but the holder renews its Lease every 5s (lease.renew) and the kernel keeps a dead holder's ` +
			`address up to 4s (fence.validLifetime); with 2s to spare the Lease must last at least 11s`},
		{"fence too long for the lease", ok + "fence: {validLifetime: 12s}\nlease: {renew: 1500ms}\n", "n1",
			`f:7: lease.duration: is 15s, but the holder renews its Lease every 1.5s (lease.renew) and the kernel ` +
				`keeps a dead holder's address up to 12s (fence.validLifetime); with 2s to spare the Lease must ` +
				`last at least 16s`},
		{"durations", ok + "lease: {duration: 7500ms, renew: 1}\nfence: {validLifetime: 90s}\n" +
			"announce: {rate: 0, refresh: -1s}\n", "n1", `
f:6: lease.duration: is 7500ms; the Kubernetes API and the kernel count whole seconds, write 8s
f:6: lease.renew: "1" is not a duration; write a number with its unit, for example 5s
f:7: fence.validLifetime: is 90s; write a duration from 2s to 1m0s
f:8: announce.rate: is "0"; write a number from 1 to 10000
f:8: announce.refresh: is -1s; write a duration from 1s to 1h0m0s`},
		{"names and paths", ok + "interface: a/b\nnode: N1\nnamespace: a.b\nrunDir: run\nstateDir: /\n", "n1", `
f:6: interface: "a/b" is no name of an interface; "ip link" lists them, at most 15 bytes
f:7: node: "N1" is not the name of a Node (lower-case letters, digits, - and .); "kubectl get nodes" lists them
f:8: namespace: "a.b" is not the name of a namespace; at most 63 lower-case letters, digits and -
f:9: runDir: "run" is not an absolute path below /; write it in full
f:10: stateDir: "/" is not an absolute path below /; write it in full`},
		{"one directory for both", ok + "runDir: /x\nstateDir: /x/\n", "n1", `f:7: stateDir: is the same directory ` +
			`as runDir; runDir is emptied at boot, stateDir is not, so give them different ones`},
		{"a host name that is no Node's", ok, "my_host",
			`f: node: the host name "my_host" is not the name of a Node; set node to what "kubectl get nodes" says`},
	}
}

// wrongOthers are files that are wrong about the other nodes.
func wrongOthers() []errorStory {
	return []errorStory{
		{"hello", ok + "hello: {interval: 5ms, multiplier: 1, port: 443, keyFile: keys}\n", "n1", `
f:6: hello.interval: is 5ms; write a duration from 10ms to 1s
f:6: hello.multiplier: is "1"; write a number from 2 to 10
f:6: hello.port: is "443"; write a number from 1024 to 65535
f:6: hello.keyFile: "keys" is not an absolute path below /; write it in full`},
		{"moves", ok + "moves: {drainTimeout: 1500ms, preempt: yes, preemptDelay: 2h}\npriority: high\n", "n1", `
f:6: moves.preempt: is "yes"; write true or false
f:6: moves.preemptDelay: is 2h; write a duration from 0s to 1h0m0s
f:6: moves.drainTimeout: is 1500ms; the Kubernetes API and the kernel count whole seconds, write 2s
f:7: priority: is "high"; write a number from 0 to 255`},
		{"witnesses", ok + "witnesses: [gw, 10.0.0.0/24, 192.0.2.10, 'fe80::1%e', '::ffff:10.0.0.1', 0.0.0.0, 10.0.0.1,\n" +
			"  10.0.0.1, 10.0.0.2, {a: b}]\n", "n1", `
f:6: witnesses: has 9 addresses, at most 8 are possible
f:6: witnesses[0]: "gw" is not an IP address; write one, no name server is asked when the network may be what is broken
f:6: witnesses[1]: "10.0.0.0/24" is not an IP address; write one, no name server is asked when the network may be ` +
			`what is broken
f:6: witnesses[2]: 192.0.2.10 is a virtual IP; write the host's own address
f:6: witnesses[3]: has a zone; write it without %e and set "interface" instead
f:6: witnesses[4]: is an IPv4 address in IPv6 form; write 10.0.0.1
f:6: witnesses[5]: 0.0.0.0 is unspecified; write the address of a host of the VIP's subnet
f:7: witnesses[9]: is a mapping; write a single value
f:7: witnesses[7]: 10.0.0.1 is in the list twice; remove one`},
		{"peers that are no mappings", ok + "peers:\n- n2\n-\n- {nod: n3, address: 10.0.0.3}\n- {node: [n4]}\n", "n1", `
f:7: peers[0]: is a single value; write fields below it, one "name: value" a line
f:8: peers[1]: is empty; remove it
f:9: peers[2].nod: unknown field; did you mean peers[2].node?
f:10: peers[3].node: is a list; write a single value`},
		{"peers that are a mapping", ok + "peers: {node: n2, address: 10.0.0.2}\n", "n1",
			`f:6: peers: is a mapping; write a list, for example [{node: n2, address: 10.0.0.12}]`},
		{"peers that cannot be", ok + `peers:
- {node: N2, address: host, mac: 1}
- {mac: "01:00:5e:00:00:01"}
- {node: n3, address: 192.0.2.10, mac: "52:54:00:12:34:56:78:9a"}
- {node: n4, address: 10.0.0.4, mac: 00-00-00-00-00-00}
- node: n5
  address: 10.0.0.5
  mac: 52-54-00-00-00-AA
- {node: n5, address: 10.0.0.6}
- {node: n7, address: 10.0.0.5}
- {node: n8, address: 10.0.0.8, mac: "52:54:00:00:00:aa"}
`, "n1", `
f:7: peers[0].node: "N2" is not the name of a Node (lower-case letters, digits, - and .); "kubectl get nodes" lists them
f:7: peers[0].address: "host" is not an IP address; write one, no name server is asked when the network may be ` +
			`what is broken
f:7: peers[0].mac: "1" is not the hardware address of one host; write it as "ip link" does, ` +
			`for example 52:54:00:12:34:56, or leave it out
f:8: peers[1].node: is missing; write the node's name, as "kubectl get nodes" prints it
f:8: peers[1].address: is missing; write the node's own address in the VIP's subnet
f:8: peers[1].mac: "01:00:5e:00:00:01" is not the hardware address of one host; write it as "ip link" does, ` +
			`for example 52:54:00:12:34:56, or leave it out
f:9: peers[2].address: 192.0.2.10 is a virtual IP; write the host's own address
f:9: peers[2].mac: "52:54:00:12:34:56:78:9a" is not the hardware address of one host; write it as "ip link" does, ` +
			`for example 52:54:00:12:34:56, or leave it out
f:10: peers[3].mac: "00-00-00-00-00-00" is not the hardware address of one host; write it as "ip link" does, ` +
			`for example 52:54:00:12:34:56, or leave it out
f:14: peers[5]: is n5 at 10.0.0.6, but the list has n5 at 10.0.0.5 already; keep one of them
f:15: peers[6]: is n7 at 10.0.0.5, but the list has n5 at 10.0.0.5 already; keep one of them
f:16: peers[7]: is n8 at 10.0.0.8, but the list has n5 at 10.0.0.5 already; keep one of them`},
		{"too many peers", ok + "peers: [" + strings.Repeat("{node: n1, address: 10.0.0.1}, ", 17) + "]\n", "n1",
			"f:6: peers: has 17 nodes, at most 16 are possible" + strings.Join(repeats(1, 16), "")},
	}
}

// repeats are the lines about entries that say the first one again.
func repeats(from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf(
			"\nf:6: peers[%d]: is n1 at 10.0.0.1, but the list has n1 at 10.0.0.1 already; keep one of them", i))
	}
	return out
}

// TestParseErrors compares the whole text: it is what people read.
func TestParseErrors(t *testing.T) {
	for _, s := range slices.Concat(wrongShapes(), wrongAddresses(), wrongValues(), wrongOthers()) {
		t.Run(s.name, func(t *testing.T) {
			_, err := parse("f", []byte(s.file), s.host)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(strings.TrimPrefix(s.want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestParseAccepts lists what looks odd but is right.
func TestParseAccepts(t *testing.T) {
	base := Minimal()
	stories := []struct {
		name, file string
		host       string
		check      func(Config) bool
	}{
		{"off", base + "  balance: off\n", "n1", func(c Config) bool { return c.APIServer.Balance == BalanceOff }},
		{"off as YAML 1.1 tools write it", base + "  balance: false\n", "n1",
			func(c Config) bool { return c.APIServer.Balance == BalanceOff }},
		{"no", base + "  balance: No\n", "n1", func(c Config) bool { return c.APIServer.Balance == BalanceOff }},
		{"fields left empty have their default", base + "  servers:\n  port:\nlog:\nnode:\n", "n1",
			func(c Config) bool { return c.Node == "n1" && c.APIServer.Port == 6443 && c.Log.Level == "info" }},
		{"an empty string too where the reference says so", base + "node: ''\ninterface: ''\n", "n2",
			func(c Config) bool { return c.Node == "n2" && c.Interface == "" }},
		{"tabs in comments, CRLF", strings.ReplaceAll(base, "\n", " #\t\r\n"), "n1",
			func(c Config) bool { return len(c.APIServer.VIPs) == 1 }},
		{"a name with dots", base, "n1.example.com", func(c Config) bool { return c.Node == "n1.example.com" }},
		{"VLAN interfaces", base + "interface: bond0.100\n", "n1",
			func(c Config) bool { return c.Interface == "bond0.100" }},
		{"the tightest times", base + "fence: {validLifetime: 2s}\nlease: {duration: 5s, renew: 1s}\n", "n1",
			func(c Config) bool { return c.Lease.Duration.Seconds() == 5 }},
		{"a mapped server", base + "  servers: ['[::ffff:10.0.0.1]:6443']\n", "n1",
			func(c Config) bool { return c.APIServer.Servers[0] == netip.MustParseAddrPort("10.0.0.1:6443") }},
		{"quoted numbers", base + "  port: '16443'\n", "n1", func(c Config) bool { return c.APIServer.Port == 16443 }},
		{"connections end at a move", base + "moves: {drainTimeout: 0}\n", "n1",
			func(c Config) bool { return c.Moves.DrainTimeout == 0 }},
		{"a hello port that HAProxy has too, for TCP", base + "hello: {port: 7443}\n", "n1",
			func(c Config) bool { return c.Hello.Port == c.APIServer.ProxyPort }},
		{"a list of peers that names this node", base + "peers:\n- {node: n1, address: 10.0.0.1}\n" +
			"- {address: 10.0.0.2, node: n2, mac: 52-54-00-00-00-AA}\n- {node: n3, address: '2001:db8::3', mac: ''}\n", "n1",
			func(c Config) bool {
				return slices.Equal(c.Peers, []Peer{
					{"n2", netip.MustParseAddr("10.0.0.2"), "52:54:00:00:00:aa"}, {"n3", netip.MustParseAddr("2001:db8::3"), ""},
				})
			}},
		{"the metrics on all addresses", base + "metrics: {bind: '[::]:9000'}\n", "n1",
			func(c Config) bool { return c.Metrics.Bind.Port() == 9000 }},
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			c, err := parse("f", []byte(s.file), s.host)
			if err != nil {
				t.Fatal(err)
			}
			if !s.check(c) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// FuzzParse: any bytes give a configuration or an error, never a panic, and an
// accepted one keeps its promises.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Minimal()))
	f.Add([]byte(Reference()))
	f.Add([]byte("a: &a [*a]\n? [x]\n: y\n<<: *a\n"))
	f.Add([]byte("lease: {duration: 9223372036854775807ns}\n--- 1\n"))
	f.Add([]byte(ok + "peers: [{node: n2, address: 10.0.0.2, mac: 2-0-0-0-0-0}, [], {address: [1]}]\nwitnesses: [1]\n"))
	f.Add([]byte("apiServer: {vips: !!binary aGk=, check: !x {path: \"\\0\"}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("f", data, "n1")
		if err != nil {
			if strings.Contains(err.Error(), "%!") {
				t.Errorf("bad format in %q", err)
			}
			return
		}
		if n := len(c.APIServer.VIPs); n < 1 || n > maxVIPs {
			t.Errorf("%d VIPs accepted", n)
		}
		if c.Lease.Duration < c.Lease.Renew+c.Fence.ValidLifetime+slack {
			t.Errorf("times accepted: %+v %+v", c.Lease, c.Fence)
		}
		if len(c.Witnesses) > maxWitnesses || len(c.Peers) > maxPeers || c.Hello.Port < firstUserPort {
			t.Errorf("accepted: %+v", c)
		}
		if c.Kubeconfig == "" || c.Node == "" || c.APIServer.Port == c.APIServer.ProxyPort {
			t.Errorf("accepted: %+v", c)
		}
		if len(c.Changed(c)) != 0 {
			t.Error("a configuration differs from itself")
		}
	})
}
