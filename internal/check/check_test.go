package check

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// sound is a node and a cluster where all is well: a standby with Services.
func sound() *Facts {
	vip, six := ip("192.0.2.10"), ip("2001:db8::10")
	own := []Listener{{At: netip.MustParseAddrPort("0.0.0.0:1"), PID: 7, Command: "mooring", Ours: true}}
	return &Facts{
		Gaps: map[Part]Gap{},
		Site: Site{
			File: "m.yaml", Node: "n1", VIPs: []netip.Addr{vip,
				six}, Port: 6443, Proxy: 7443, Hello: 7444, Peers: 7445, Metrics: 9441,
			Balance: true, Services: true, DefaultClass: true, Namespace: "mooring-system", Kubeconfig: "k.conf",
		},
		Links: Links{Names: []string{"lo", "eth0"}, VIPs: []Placed{
			{IP: vip, Link: "eth0", Up: true, Carrier: true, MTU: 1500, Gateways: []netip.Addr{ip("192.0.2.1")}},
			{IP: six, Link: "eth0", Up: true, Carrier: true, MTU: 1500},
		}},
		Wire: Wire{
			Claims: []Claim{{vip, "02:00:00:00:00:02", "n2"}}, Known: true, Asked: []netip.Addr{ip("192.0.2.1")},
			Answered: []netip.Addr{ip("192.0.2.1")}, Candidates: 3,
		},
		Process: Process{Agent: true, PID: 7, Precedence: true, Files: 20000},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/arp_ignore": "0",
			"net/ipv4/conf/eth0/arp_ignore": "0", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "0",
		},
		Rules: Rules{Mode: "nftables", Opened: map[uint16]bool{}},
		Ports: []Port{
			{UseMetrics, "TCP", 9441, own}, {UseHello, "UDP", 7444, own}, {UseProxy, "TCP", 7443, own}, {UsePeers, "TCP",
				7445, nil},
			{UseAPIServer, "TCP", 6443, []Listener{{At: netip.MustParseAddrPort("[::]:6443"), PID: 5,
				Command: "kube-apiserver"}}},
		},
		HAProxy: HAProxy{
			Version: "3.2.1", Major: 3, Minor: 2, Status: "long-term supported branch",
			Budgets: []Budget{{For: "the API server", Setting: "apiServer.maxConnections", Most: 9000}},
		},
		Agent: Agent{
			Version: "v1", Ours: "v1", State: "Standby", Holder: "n2", Precedence: true, Peers: []Peer{{"n2", "up"}, {"n3",
				"late"}},
		},
		Neighbours:  []Neighbour{{Node: "n2", Addr: netip.MustParseAddrPort("192.0.2.2:7445")}},
		Credentials: Credentials{File: "k.conf", Left: 300 * 24 * time.Hour},
		Servers: []Server{
			{Addr: "127.0.0.1:6443", Local: true, Code: 200, Dated: true, Within: time.Second},
			{Addr: "192.0.2.2:6443", Code: 200, Dated: true, Ahead: time.Second, Within: 600 * time.Millisecond},
		},
		Rights:      Rights{User: "mooring:node:n1", Groups: []string{"mooring:agents"}, Asked: 40},
		Key:         Key{Where: "Secret mooring-system/mooring-hello", Keys: 1},
		Certificate: Certificate{Server: "127.0.0.1:6443"},
		Pools:       Pools{Count: 1},
		KubeProxy:   KubeProxy{Mode: "nftables", Told: "kube-proxy itself", Stated: true},
	}
}

// bad are the findings that are not ok.
func bad(f *Facts) []Finding {
	return slices.DeleteFunc(Run(f), func(x Finding) bool { return x.Severity == OK })
}

func TestSound(t *testing.T) {
	f := sound()
	for _, x := range bad(f) {
		t.Errorf("%+v", x)
	}
	all := Run(f)
	if Worst(all) != OK || Count(all, OK) != len(all) {
		t.Errorf("worst %s, %d of %d ok", Worst(all), Count(all, OK), len(all))
	}
	for _, c := range All() {
		if !slices.ContainsFunc(all, func(x Finding) bool { return x.Check == c.Name }) {
			t.Errorf("%s says nothing", c.Name)
		}
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All() {
		if seen[c.Name] || c.Name != strings.ToLower(c.Name) || strings.Contains(c.Name, " ") {
			t.Errorf("%q is used twice, or no word", c.Name)
		}
		seen[c.Name] = true
		if c.Looks == "" || c.Why == "" {
			t.Errorf("%s: looks at %q, because %q", c.Name, c.Looks, c.Why)
		}
	}
}

// story is one fault: what is made of the sound site, and the findings that it makes
// besides ok ones, as "SEVERITY CHECK: words of it | words of the way out".
type story struct {
	name string
	do   func(*Facts)
	want []string
}

func tell(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			f := sound()
			s.do(f)
			got := bad(f)
			for i, x := range got {
				if i >= len(s.want) {
					t.Errorf("besides: %+v", x)
					continue
				}
				head, fix, _ := strings.Cut(s.want[i], " | ")
				severity, rest, _ := strings.Cut(head, " ")
				check, what, _ := strings.Cut(rest, ": ")
				if string(x.Severity) != severity || x.Check != check || !strings.Contains(x.What, what) ||
					!strings.Contains(x.Fix, fix) {
					t.Errorf("got  %+v\nwant %s", x, s.want[i])
				}
				if x.Severity != Unseen && (x.Why == "" || x.Fix == "") {
					t.Errorf("no reason or no way out: %+v", x)
				}
			}
			if len(got) < len(s.want) {
				t.Errorf("missing: %q", s.want[len(got):])
			}
		})
	}
}

func TestNode(t *testing.T) {
	all := "net/ipv4/conf/all/"
	tell(t, []story{
		{"wrong file", func(f *Facts) { f.Site.Faults, f.Site.VIPs = []string{"m.yaml:3: vips: what"}, nil },
			[]string{"problem configuration: vips | mooring config check m.yaml"}},
		{"no file", func(f *Facts) { f.Site.Faults, f.Site.Missing = []string{"100 % missing"}, true },
			[]string{"problem configuration: 100 % missing | mooring config minimal > m.yaml"}},
		{"nothing to do", func(f *Facts) { f.Site.VIPs, f.Site.Services = nil, false },
			[]string{"warning configuration: nothing to do"}},
		{"not in the subnet", func(f *Facts) { f.Links.VIPs[0].Fault, f.Wire.Claims = "in no subnet", nil },
			[]string{"problem interface: in no subnet | m.yaml"}},
		{"link down", func(f *Facts) { f.Links.VIPs[1].Up = false },
			[]string{"problem interface: down | ip link set eth0 up", "unseen claims: 2001:db8::10"}},
		{"no carrier", func(f *Facts) { f.Links.VIPs[1].Carrier = false },
			[]string{"problem interface: carrier | ethtool eth0", "unseen claims: 2001:db8::10"}},
		{"two links in one subnet", func(f *Facts) { f.Links.VIPs[0].Beside = []string{"eth1"} },
			[]string{"warning interface: eth1 | arp_ignore=1"}},
		{"two links, arp_ignore", func(f *Facts) {
			f.Links.VIPs[0].Beside, f.Sysctls[all+"arp_ignore"] = []string{"eth1"},
				"1"
		}, nil},
		{"stranger", func(f *Facts) { f.Wire.Claims[0].Node = "" },
			[]string{"problem claims: 02:00:00:00:00:02, a host that is no candidate | ip neigh"}},
		{"stranger beside the holder", func(f *Facts) {
			f.Wire.Claims = append(f.Wire.Claims, Claim{ip("192.0.2.10"), "02:00:00:00:00:66", ""})
		}, []string{"problem claims: :66"}},
		{"VRRP", func(f *Facts) { f.Wire.Claims[0] = Claim{ip("192.0.2.10"), "00:00:5e:00:01:33", ""} },
			[]string{"problem claims: VRRP | /etc/keepalived"}},
		{"stranger, candidates unknown", func(f *Facts) { f.Wire.Claims[0].Node, f.Wire.Known = "", false },
			[]string{"warning claims: may be one of them"}},
		{"half of the wire", func(f *Facts) { f.Wire.Fault = "no socket" }, []string{"unseen claims: no socket"}},
		{"two candidates, no witness", func(f *Facts) { f.Wire.Answered, f.Wire.Candidates = nil, 2 },
			[]string{"problem witness: two candidates and no witness (192.0.2.1 does not) | witnesses:"}},
		{"two candidates, no gateway", func(f *Facts) { f.Wire.Asked, f.Wire.Answered, f.Wire.Candidates = nil, nil, 2 },
			[]string{"problem witness: there is no gateway"}},
		{"two candidates, a witness", func(f *Facts) { f.Wire.Candidates = 2 }, nil},
		{"three candidates, no witness", func(f *Facts) { f.Wire.Answered = nil }, nil},
		{"unknown candidates, no witness", func(f *Facts) { f.Wire.Answered, f.Wire.Candidates = nil, 0 },
			[]string{"warning witness: two candidates one is needed"}},
		{"agent without rights", func(f *Facts) { f.Process.Lacks = []string{"NET_RAW"} },
			[]string{"problem capabilities: the agent (process 7) lacks NET_RAW | manifest static-pod"}},
		{"this command without rights", func(f *Facts) { f.Process.Lacks, f.Process.Agent = []string{"NET_RAW"}, false },
			[]string{"warning capabilities: this command | sudo"}},
		{"no precedence", func(f *Facts) { f.Process.Precedence, f.Process.Why = false, "not permitted" },
			[]string{"warning priority: not permitted | SYS_NICE"}},
		{"read-only", func(f *Facts) { f.Process.Unwritable = []string{"/run/mooring is read-only"} },
			[]string{"problem directories: read-only | mkdir"}},
		{"read-only for this user", func(f *Facts) {
			f.Process = Process{Unwritable: []string{"/run/mooring: denied"}, Lacks: []string{"NET_ADMIN"}, Precedence: true}
		}, []string{"warning capabilities: lacks NET_ADMIN", "unseen directories: denied | sudo"}},
		{"deaf kernel", func(f *Facts) { f.Sysctls["net/ipv4/conf/eth0/arp_ignore"] = "8" },
			[]string{"problem arp: answers nobody | net.ipv4.conf.eth0.arp_ignore=1"}},
		{"proxy", func(f *Facts) { f.Sysctls["net/ipv4/conf/eth0/proxy_arp_pvlan"] = "1" },
			[]string{"problem arp: whoever holds it | =0"}},
		{"VLAN", func(f *Facts) {
			f.Links.VIPs[0].Link, f.Sysctls["net/ipv4/conf/eth0.5/proxy_arp_pvlan"] = "eth0.5", "1"
		}, []string{"problem arp: eth0.5 | conf.eth0/5.proxy_arp_pvlan"}},
		{"no belief", func(f *Facts) {
			f.Sysctls[all+"drop_gratuitous_arp"], f.Sysctls["net/ipv6/conf/eth0/drop_unsolicited_na"] = "1", "1"
		}, []string{"warning arp: drop_gratuitous_arp", "warning arp: drop_unsolicited_na"}},
		{"no IPv6", func(f *Facts) { f.Sysctls["net/ipv6/conf/eth0/disable_ipv6"] = "1" },
			[]string{"problem arp: switched off | disable_ipv6=0"}},
		{"strict and elsewhere", func(f *Facts) { f.Links.VIPs[0].Elsewhere, f.Sysctls[all+"rp_filter"] = "eth9", "1" },
			[]string{"warning return-path: eth9 | rp_filter=2"}},
		{"strict", func(f *Facts) { f.Sysctls[all+"rp_filter"] = "1" }, nil},
		{"elsewhere, loose", func(f *Facts) {
			f.Links.VIPs[0].Elsewhere, f.Sysctls[all+"rp_filter"], f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = "eth9", "2", "1"
		}, nil},
		{"no forwarding", func(f *Facts) { f.Sysctls["net/ipv4/ip_forward"] = "0" },
			[]string{"problem forwarding: ip_forward | sysctl"}},
		{"no forwarding, no Services", func(f *Facts) { f.Sysctls["net/ipv4/ip_forward"], f.Site.Services = "0", false },
			nil},
	})
}

func TestPorts(t *testing.T) {
	taken := func(i int, l Listener) func(*Facts) { return func(f *Facts) { f.Ports[i].By = []Listener{l} } }
	at := netip.MustParseAddrPort
	tell(t, []story{
		{"no nft", func(f *Facts) { f.Rules.Fault = "nft: not found" }, []string{"problem nftables: not found | nftables"}},
		{"firewall, heard", func(f *Facts) {
			f.Rules.Drops, f.Rules.Opened = []string{"inet f input"}, map[uint16]bool{7443: true, 7445: true}
		}, nil},
		{"firewall, not heard", func(f *Facts) { f.Rules.Drops, f.Agent.Peers = []string{"inet f input"}, nil }, []string{
			"warning firewall: tcp dport 7443 or udp dport 7444 or tcp dport 7445 | nft insert rule inet f input tcp dport 7443 accept && nft"}},
		{"firewall, one not heard", func(f *Facts) {
			f.Rules.Drops, f.Agent.Peers[1].State = []string{"inet f input"}, "down"
			f.Rules.Opened = map[uint16]bool{7443: true, 7445: true}
		}, []string{"warning firewall: names udp dport 7444", "warning hello: n3"}},
		{"firewall, open", func(f *Facts) {
			f.Rules.Drops, f.Agent.Peers = []string{"inet f input"}, nil
			f.Rules.Opened = map[uint16]bool{7443: true, 7444: true, 7445: true}
		}, nil},
		{"metrics taken", taken(0, Listener{At: at("0.0.0.0:9441"), PID: 9, Command: "exporter"}),
			[]string{"problem ports: TCP port 9441 (metrics.bind): process 9 (exporter) listens on 0.0.0.0:9441 | ss -lnp"}},
		{"hello taken by somebody", taken(1, Listener{At: at("0.0.0.0:7444")}),
			[]string{"problem ports: UDP port 7444 (hello.port): a process that is not visible"}},
		{"load balancer in the API server's place", taken(4, Listener{At: at("0.0.0.0:6443"), PID: 9, Command: "haproxy"}),
			[]string{"problem ports: where the API server belongs"}},
		{"API server on the VIP", taken(4, Listener{At: at("192.0.2.10:6443"), PID: 9, Command: "x"}),
			[]string{"problem ports: the VIP itself"}},
		{"API server on one address", taken(4, Listener{At: at("192.0.2.3:6443"), PID: 9, Command: "kube-apiserver"}),
			[]string{"warning ports: 192.0.2.3 only | --bind-address"}},
		{"the same, without HAProxy", func(f *Facts) {
			f.Site.Balance = false
			taken(4, Listener{At: at("192.0.2.3:6443"), PID: 9, Command: "kube-apiserver"})(f)
		}, []string{"problem ports: nobody answers on the VIP"}},
		{"API server to come", func(f *Facts) { f.Ports[4].By = nil }, nil},
		{"among the NodePorts", func(f *Facts) { f.Ports[1].Number = 30444 },
			[]string{"warning ports: NodePorts | hello.port"}},
		{"no HAProxy", func(f *Facts) { f.HAProxy.Missing = "not in PATH" },
			[]string{"problem haproxy: PATH | install haproxy"}},
		{"no HAProxy, none needed", func(f *Facts) {
			f.HAProxy.Missing, f.Site.Balance, f.Site.Services = "not in PATH",
				false, false
		}, nil},
		{"old HAProxy", func(f *Facts) { f.HAProxy.Major, f.HAProxy.Minor, f.HAProxy.Version = 2, 4, "2.4.1" },
			[]string{"problem haproxy: 2.4.1 is older than 2.6"}},
		{"short support", func(f *Facts) { f.HAProxy.Minor, f.HAProxy.Status = 1, "" },
			[]string{"warning haproxy: branch 3.1"}},
		{"end of life", func(f *Facts) { f.HAProxy.Status = "End of life - please upgrade." },
			[]string{"warning haproxy: End of life"}},
		{"no TLS", func(f *Facts) { f.HAProxy.Lacks = []string{"OPENSSL"} }, []string{"problem haproxy: without OPENSSL"}},
		{"few files", func(f *Facts) { f.HAProxy.Budgets[0].Fault = "the limit is 100" },
			[]string{"problem open-files: the limit is 100 | ulimit"}},
		{"fewer than wanted", func(f *Facts) { f.HAProxy.Budgets[0].Wanted = 20000 },
			[]string{"warning open-files: 9000 connections fit, apiServer.maxConnections wants 20000"}},
		{"rather few", func(f *Facts) { f.HAProxy.Budgets[0].Most = 500 }, []string{"warning open-files: only 500"}},
	})
}

func TestCluster(t *testing.T) {
	tell(t, []story{
		{"complaints", func(f *Facts) { f.Agent.Complaints, f.Agent.Version = []string{"no witness"}, "v0" },
			[]string{"warning agent: version v0", "warning agent: no witness"}},
		{"never heard", func(f *Facts) { f.Agent.Peers[0].State = "unknown" },
			[]string{"warning hello: n2 never came | 7444"}},
		{"gone", func(f *Facts) { f.Agent.Peers[0].State = "down" }, []string{"warning hello: n2 have ended"}},
		{"another key at first", func(f *Facts) { f.Agent.Refused = []string{"n2: key 1", "strangers: key 3"} }, nil},
		{"another key", func(f *Facts) { f.Agent.Refused, f.Agent.Peers[0].State = []string{"n2: key 12"}, "unknown" },
			[]string{"warning hello: n2 never came", "warning hello: n2: key 12 | mooring-system"}},
		{"peers' port closed", func(f *Facts) { f.Neighbours[0].Fault = "timeout" },
			[]string{"warning peers-port: 192.0.2.2:7445 on n2 cannot | nc -vz 192.0.2.2 7445"}},
		{"peers' port without HAProxy", func(f *Facts) {
			f.Neighbours[0].Fault, f.Neighbours[0].Refused = "refused",
				true
		}, nil},
		{"no credentials yet", func(f *Facts) {
			f.Credentials = Credentials{File: "k.conf", Missing: true, Fault: "none"}
			f.Site.Fresh = true
		},
			[]string{"warning credentials: no credentials yet | mooring credentials --out"}},
		{"credentials gone", func(f *Facts) { f.Credentials = Credentials{File: "k.conf", Missing: true, Fault: "gone"} },
			[]string{"problem credentials: gone | --out k.conf"}},
		{"expired", func(f *Facts) { f.Credentials.Left = -49 * time.Hour }, []string{"problem credentials: 2 days ago"}},
		{"expires soon", func(f *Facts) { f.Credentials.Left = 25 * time.Hour }, []string{"warning credentials: in 1 day"}},
		{"token", func(f *Facts) { f.Credentials.Left = 0 }, nil},
		{"one API server dead", func(f *Facts) { f.Servers[1] = Server{Addr: "192.0.2.2:6443", Fault: "refused"} },
			[]string{"warning api: 192.0.2.2:6443 does not answer | curl -k https://192.0.2.2:6443/readyz"}},
		{"all dead", func(f *Facts) { f.Servers = []Server{{Addr: "a:1", Fault: "x", Local: true}} },
			[]string{"problem api: a:1 (this node's) does not answer", "unseen clock: no API server"}},
		{"none yet", func(f *Facts) { f.Servers, f.Site.Fresh = []Server{{Addr: "a:1", Fault: "x"}}, true },
			[]string{"warning api: does not answer", "unseen clock: no API server"}},
		{"refused", func(f *Facts) { f.Servers[0].Code = 401 }, []string{"problem api: refuses the credentials (401)"}},
		{"not ready", func(f *Facts) { f.Servers[0].Code = 500 }, []string{"warning api: not ready (500)"}},
		{"clock ahead", func(f *Facts) { f.Servers[1].Ahead = 9 * time.Second },
			[]string{"warning clock: 9s ahead of | timedatectl"}},
		{"clock behind", func(f *Facts) { f.Servers[1].Ahead = -time.Hour }, []string{"problem clock: 1h0m0s behind"}},
		{"slow answer", func(f *Facts) { f.Servers[1].Ahead, f.Servers[1].Within = 3*time.Second, 2*time.Second }, nil},
		{"certificate", func(f *Facts) { f.Certificate.Missing = []netip.Addr{ip("192.0.2.10")} },
			[]string{"problem certificate: does not name 192.0.2.10 | --apiserver-cert-extra-sans 192.0.2.10"}},
		{"rights", func(f *Facts) {
			f.Rights.Denied = map[string][]string{"rbac": {"a", "b", "c", "d", "e"}, "rbac-services": {"x"}}
		}, []string{"problem rights: may not: a, b, c, d and 1 more | mooring manifest rbac |", "problem rights: may not: x | mooring manifest rbac-services"}},
		{"another user", func(f *Facts) {
			f.Rights = Rights{User: "joe", Denied: map[string][]string{"rbac": {"a"}}, Groups: []string{"system:authenticated"}}
		},
			[]string{"problem rights: joe may not", "problem rights: not in the group mooring:agents"}},
		{"namespace", func(f *Facts) { f.NamespaceMissing = true },
			[]string{"problem namespace: mooring-system | mooring manifest namespace"}},
		{"node", func(f *Facts) { f.NodeMissing = true }, []string{"problem node: no Node n1 | kubectl get nodes"}},
		{"key to come", func(f *Facts) { f.Key.Missing = true }, nil},
		{"key file gone", func(f *Facts) { f.Key.Missing, f.Site.KeyFile = true, "/k" },
			[]string{"problem key: not there | > /k"}},
		{"key unfit", func(f *Facts) { f.Key.Fault = "too short" }, []string{"problem key: too short"}},
		{"no CRD", func(f *Facts) { f.Pools = Pools{Missing: true} },
			[]string{"problem pools: AddressPools | mooring manifest addresspools"}},
		{"no pool", func(f *Facts) { f.Pools.Count = 0 }, []string{"warning pools: no AddressPool"}},
	})
}

// ipvs is a kube-proxy in that mode.
func ipvs(f *Facts) {
	f.KubeProxy = KubeProxy{Mode: "ipvs", Told: "kube-proxy itself", Stated: true}
	f.Links.Names = append(f.Links.Names, "kube-ipvs0")
	f.Rules.Mode = "ipvs"
}

func TestOthers(t *testing.T) {
	with := func(w ...Workload) func(*Facts) { return func(f *Facts) { f.Workloads = w } }
	only := func(do func(*Facts)) func(*Facts) {
		return func(f *Facts) { do(f); f.Site.Services = false }
	}
	speaker := Workload{Kind: "DaemonSet", Namespace: "metallb-system", Name: "speaker",
		Images: []string{"quay.io/metallb/speaker:v0.14"}}
	kubevip := Workload{Kind: "Pod", Namespace: "kube-system", Name: "kube-vip-n1", Words: []string{"manager",
		"address=192.0.2.99"}}
	cilium := Workload{Kind: "ConfigMap", Namespace: "kube-system", Name: "cilium-config",
		Words: []string{"kube-proxy-replacement=true"}}
	calico := Workload{Kind: "DaemonSet", Namespace: "calico-system", Name: "calico-node",
		Words: []string{"FELIX_BPFENABLED=True"}}
	tell(t, []story{
		{"loose ipvs", ipvs, []string{"problem kube-proxy: answers ARP for every Service | strictARP: true"}},
		{"loose ipvs, no Services", only(ipvs), []string{"warning kube-proxy: kube-ipvs0"}},
		{"strict ipvs", func(f *Facts) { ipvs(f); f.Sysctls["net/ipv4/conf/all/arp_ignore"] = "1"; f.KubeProxy.StrictARP = true }, nil},
		{"loose on paper", func(f *Facts) { ipvs(f); f.Sysctls["net/ipv4/conf/all/arp_ignore"] = "1" }, nil},
		{"VIP on kube-ipvs0", func(f *Facts) { f.Links.OnIPVS = []netip.Addr{ip("192.0.2.10")} },
			[]string{"problem kube-proxy: 192.0.2.10 is on kube-ipvs0"}},
		{"ipvs by its link", func(f *Facts) { ipvs(f); f.KubeProxy, f.Rules.Mode = KubeProxy{}, "" },
			[]string{"problem kube-proxy: link kube-ipvs0"}},
		{"MetalLB", with(speaker),
			[]string{"problem load-balancers: MetalLB (DaemonSet metallb-system/speaker) | loadBalancerClass"}},
		{"MetalLB, another class", func(f *Facts) { f.Workloads, f.Site.DefaultClass = []Workload{speaker}, false }, nil},
		{"MetalLB, no Services", only(with(speaker)), nil},
		{"servicelb", with(Workload{Kind: "DaemonSet", Namespace: "kube-system", Name: "svclb-traefik-1"}),
			[]string{"problem load-balancers: servicelb | --disable servicelb"}},
		{"kube-vip", with(kubevip),
			[]string{"warning load-balancers: must not have 192.0.2.10 | /etc/kubernetes/manifests/kube-vip.yaml"}},
		{"kube-vip with our VIP", func(f *Facts) {
			k := kubevip
			k.Words = []string{"vip_address=192.0.2.10"}
			f.Workloads = []Workload{k}
		},
			[]string{"problem load-balancers: names a VIP"}},
		{"kube-vip for Services",
			func(f *Facts) { k := kubevip; k.Words = []string{"svc_enable=true"}; f.Workloads = []Workload{k} },
			[]string{"problem load-balancers: gives or announces"}},
		{"an address that only begins alike", func(f *Facts) {
			k := kubevip
			k.Words = []string{"address=192.0.2.100"}
			f.Workloads = []Workload{k}
		}, []string{"warning load-balancers: runs"}},
		{"Cilium", with(cilium), []string{"warning network: Cilium stands in for kube-proxy"}},
		{"Cilium, no Services", only(with(cilium)), nil},
		{"Cilium L2", func(f *Facts) {
			c := cilium
			c.Words = []string{"enable-l2-announcements=true"}
			f.Workloads = []Workload{c}
		},
			[]string{"problem load-balancers: Cilium | enable-l2-announcements false"}},
		{"Cilium beside kube-proxy", func(f *Facts) {
			c := cilium
			c.Words = []string{"kube-proxy-replacement=false"}
			f.Workloads = []Workload{c}
		}, nil},
		{"Calico eBPF", with(calico), []string{"warning network: Calico"}},
		{"Calico eBPF by its links", func(f *Facts) {
			f.KubeProxy, f.Rules.Mode, f.Links.Names = KubeProxy{}, "", []string{"bpfin.cali"}
		}, []string{"warning network: link bpfin.cali"}},
		{"links left of eBPF", func(f *Facts) { f.Links.Names = []string{"bpfin.cali"} }, nil},
		{"keepalived", func(f *Facts) { f.Programs = []Program{{PID: 9, Command: "keepalived"}} },
			[]string{"warning load-balancers: keepalived runs on this node (process 9) | systemctl disable"}},
		{"kube-vip, pod and process", func(f *Facts) {
			with(kubevip)(f)
			f.Programs = []Program{{PID: 9,
				Command: "kube-vip"}}
		},
			[]string{"warning load-balancers: kube-vip (Pod"}},
		{"what is not seen", func(f *Facts) {
			f.Gaps[PartWorkloads] = Gap{Why: "forbidden", Fix: "mooring manifest rbac-check"}
		}, []string{"unseen network: forbidden", "unseen load-balancers: forbidden | rbac-check"}},
		{"seen in part", func(f *Facts) {
			f.Gaps[PartWorkloads] = Gap{Why: "forbidden"}
			f.Programs = []Program{{PID: 9, Command: "keepalived"}}
		}, []string{"unseen network: forbidden", "warning load-balancers: keepalived"}},
		{"kube-proxy not seen", func(f *Facts) {
			f.KubeProxy, f.Rules.Mode, f.Gaps[PartKubeProxy] = KubeProxy{}, "", Gap{Why: "forbidden"}
		}, []string{"unseen kube-proxy: forbidden"}},
	})
}

// TestGaps: what could not be seen is said by each check that needs it, is no
// problem, and hides no other.
func TestGaps(t *testing.T) {
	for _, c := range All() {
		for _, p := range c.Needs {
			f := sound()
			f.Gaps[p] = Gap{Why: "the reason", Fix: "the way"}
			f.NodeMissing = true
			all := Run(f)
			i := slices.IndexFunc(all, func(x Finding) bool { return x.Check == c.Name })
			if got := all[i]; got.Severity != Unseen || got.What != "not seen: the reason" || got.Fix != "the way" ||
				got.Why != "" {
				t.Errorf("%s without %s: %+v", c.Name, p, got)
			}
			if p != PartNode && Worst(all) != Problem {
				t.Errorf("without %s the missing Node is not found", p)
			}
			f.NodeMissing = false
			if worst := Worst(Run(f)); worst == Problem {
				t.Errorf("the gap %s makes a %s", p, worst)
			}
		}
	}
	f := sound()
	f.Gaps[PartPools] = Gap{Why: "Services are not served", Moot: true}
	if b := bad(f); len(b) != 0 {
		t.Errorf("what is not asked for: %+v", b)
	}
}
