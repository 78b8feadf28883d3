package check

import (
	"net/netip"
	"time"
)

// Part is facts that are gathered together, and may be missing together.
type Part string

// The parts, each of which has a field of Facts.
const (
	PartLinks       Part = "links"
	PartWire        Part = "wire"
	PartProcess     Part = "process"
	PartSysctls     Part = "sysctls"
	PartRules       Part = "rules"
	PartPorts       Part = "ports"
	PartHAProxy     Part = "haproxy"
	PartAgent       Part = "agent"
	PartNeighbours  Part = "neighbours"
	PartCredentials Part = "credentials"
	PartServers     Part = "servers"
	PartRights      Part = "rights"
	PartNamespace   Part = "namespace"
	PartNode        Part = "node"
	PartKey         Part = "key"
	PartCertificate Part = "certificate"
	PartPools       Part = "pools"
	PartKubeProxy   Part = "kube-proxy"
	PartWorkloads   Part = "workloads"
	PartPrograms    Part = "programs"
)

// Gap is why a part is missing, and the way to see it.
type Gap struct {
	Why, Fix string
	// Moot: there is nothing to see, for a reason that another check tells.
	Moot bool
}

// Facts are everything that was found. A part in Gaps was not; its field is empty.
type Facts struct {
	Gaps map[Part]Gap

	Site        Site
	Links       Links
	Wire        Wire
	Process     Process
	Sysctls     map[string]string // "net/ipv4/ip_forward" → "1"; what is not there is missing
	Rules       Rules
	Ports       []Port
	HAProxy     HAProxy
	Agent       Agent
	Neighbours  []Neighbour
	Credentials Credentials
	Servers     []Server
	Rights      Rights
	Key         Key
	// NamespaceMissing: the Leases cannot be made for want of their namespace.
	NamespaceMissing bool
	// NodeMissing: the cluster has no Node of this name.
	NodeMissing bool
	Certificate Certificate
	Pools       Pools
	KubeProxy   KubeProxy
	Workloads   []Workload
	Programs    []Program
}

// Site is what the configuration says.
type Site struct {
	// File is its path. Faults are what is wrong with it, one a line; the rest is
	// defaults then, and there are no VIPs.
	File   string
	Faults []string
	// Missing: there is no such file.
	Missing bool
	Node    string
	VIPs    []netip.Addr
	// Port, Proxy, Hello, Peers and Metrics are the ports.
	Port, Proxy, Hello, Peers, Metrics uint16
	// Balance says that HAProxy spreads the API server's connections.
	Balance bool
	// Services of type LoadBalancer are served, with DefaultClass those without a class.
	Services, DefaultClass bool
	// Namespace holds the Leases; KeyFile the hello keys, "" means the Secret.
	Namespace, KeyFile, Kubeconfig string
	// Fresh: no agent has ever worked here.
	Fresh bool
}

// needsHAProxy says whether an agent of the site runs HAProxy.
func (s Site) needsHAProxy() bool { return s.Services || s.Balance && len(s.VIPs) > 0 }

// Links are this node's interfaces, and where the VIPs go.
type Links struct {
	// Names are all of them.
	Names []string
	VIPs  []Placed
	// OnIPVS are the VIPs that are on kube-ipvs0.
	OnIPVS []netip.Addr
}

// Placed is a VIP on its link.
type Placed struct {
	IP   netip.Addr
	Link string
	// Fault is why it cannot be put there, "" if it can.
	Fault string
	// Up and Carrier are the link's; MTU in bytes.
	Up, Carrier bool
	MTU         int
	// Gateways are default routers over the link, of the VIP's family.
	Gateways []netip.Addr
	// Elsewhere is the link of the node's default route where that is another one.
	Elsewhere string
	// Beside are other links in the VIP's subnet.
	Beside []string
}

// Wire is who answered on the VIPs' links.
type Wire struct {
	// Claims are the hosts that answered for a VIP, without this node.
	Claims []Claim
	// Fault is what could not be asked for, "" if everything was.
	Fault string
	// Known says whether the candidates' hardware addresses are known.
	Known bool
	// Asked and Answered are the gateways and configured witnesses.
	Asked, Answered []netip.Addr
	// Candidates counts the nodes that may hold the VIPs; 0 is not known.
	Candidates int
}

// Claim is a host that says that it has a VIP.
type Claim struct {
	IP  netip.Addr
	MAC string
	// Node is the candidate that has the MAC, "" for none that is known.
	Node string
}

// Process is what a process may: the running agent, else this one.
type Process struct {
	// Agent says that it is the running agent.
	Agent bool
	PID   int
	// Lacks are the capabilities that an agent needs and the process has not, as
	// NET_ADMIN.
	Lacks []string
	// Precedence says that the kernel grants the highest niceness; Why why not.
	Precedence bool
	Why        string
	// Files is the hard limit of open files.
	Files uint64
	// Unwritable are directories of the configuration that cannot be written, with
	// the reason.
	Unwritable []string
}

// Rules are this node's packet filter and translation.
type Rules struct {
	// Fault is why the kernel does not take rules such as the agent's, "" if it does.
	Fault string
	// Mode is kube-proxy's as its rules show it: iptables, nftables, ipvs, or "".
	Mode string
	// Drops are input chains that drop by default, as nft names them: "inet filter
	// input". Opened are the agents' ports that their tables accept by number.
	Drops  []string
	Opened map[uint16]bool
}

// Port is one that is to be used, and who listens there now.
type Port struct {
	// Use is what for: APIServer, Proxy, Hello, Peers, Metrics.
	Use      Use
	Protocol string // TCP or UDP
	Number   uint16
	By       []Listener
}

// Use is what a port is for.
type Use string

// The uses, by the fields of the configuration.
const (
	UseAPIServer Use = "apiServer.port"
	UseProxy     Use = "apiServer.proxyPort"
	UseHello     Use = "hello.port"
	UsePeers     Use = "services.peersPort"
	UseMetrics   Use = "metrics.bind"
)

// Listener is who has a port.
type Listener struct {
	At netip.AddrPort
	// PID and Command are 0 and "" where the process is not visible.
	PID     int
	Command string
	// Ours: it belongs to an agent with this configuration.
	Ours bool
}

// HAProxy is the program.
type HAProxy struct {
	// Missing is why it cannot be run, "" if it can.
	Missing string
	// Version is as 2.6.12; Major and Minor its branch.
	Version      string
	Major, Minor int
	// Status is the program's own word about its branch's support.
	Status string
	// Lacks are the features that it was built without and that are needed.
	Lacks []string
	// Budgets are the connections that fit into the limit of open files.
	Budgets []Budget
}

// Budget is how many connections a HAProxy can have.
type Budget struct {
	// For is "the API server" or "Services"; Setting its field.
	For, Setting string
	// Wanted is configured, 0 is as many as fit; Most what fits.
	Wanted, Most int
	// Fault: not even the least fits.
	Fault string
}

// Agent is the running agent's own word.
type Agent struct {
	// Version is the agent's, Ours the one of this program.
	Version, Ours string
	State, Holder string
	Complaints    []string
	// Precedence says that its hellos have it.
	Precedence bool
	Peers      []Peer
	// Refused counts datagrams that were not believed, as "n2: key 12".
	Refused []string
}

// Peer is another candidate as the agent hears it.
type Peer struct {
	Node string
	// State is unknown, up, late or down.
	State string
}

// Neighbour is a port of another node that was tried from here.
type Neighbour struct {
	Node string
	Addr netip.AddrPort
	// Fault is why there was no connection, "" if there was. Refused: the node
	// answered that nobody listens.
	Fault   string
	Refused bool
}

// Credentials are what the agent logs in with.
type Credentials struct {
	// File is the kubeconfig; Fault what is wrong with it, Missing that it is not there.
	File, Fault string
	Missing     bool
	// Left is how long the client certificate is still valid, less than 0 if it has
	// expired; 0 without one.
	Left time.Duration
}

// Server is one API server.
type Server struct {
	// Addr is host:port; Local the kubeconfig's.
	Addr  string
	Local bool
	// Code is its answer to /readyz, 0 for none, Fault why there was none.
	Code  int
	Fault string
	// Ahead is how much its clock is ahead of this node's, Within how exactly that is
	// known; Dated that it said a time.
	Ahead, Within time.Duration
	Dated         bool
}

// Rights are what the API server grants to the agent's user.
type Rights struct {
	User   string
	Groups []string
	// Denied are the rights of the manifests that it has not, by manifest.
	Denied map[string][]string
	// Asked counts all.
	Asked int
}

// Key is what the hellos are signed with.
type Key struct {
	// Where is the file or the Secret; Missing that it is not there; Fault what is
	// wrong with it.
	Where, Fault string
	Missing      bool
	Keys         int
}

// Certificate is the API server's.
type Certificate struct {
	Server string
	// Missing are the VIPs that it does not name.
	Missing []netip.Addr
}

// Pools are the AddressPools.
type Pools struct {
	// Missing: their type is not installed.
	Missing bool
	Count   int
}

// KubeProxy is how the cluster's kube-proxy is configured. Its rules are in Rules.
type KubeProxy struct {
	// Mode is iptables, nftables, ipvs or "" (its default); Told who said so.
	Mode, Told string
	// StrictARP is its ipvs.strictARP; Stated that a configuration was read.
	StrictARP, Stated bool
	// Absent: the cluster has no configuration of kube-proxy where kubeadm has it.
	Absent bool
}

// Workload is a DaemonSet, a static pod or a ConfigMap of the cluster.
type Workload struct {
	// Kind is DaemonSet, Pod or ConfigMap.
	Kind, Namespace, Name string
	// Images are those of its containers.
	Images []string
	// Words are their arguments, and their variables or the ConfigMap's entries as
	// name=value.
	Words []string
}

// Program is a running process that matters.
type Program struct {
	PID     int
	Command string
}
