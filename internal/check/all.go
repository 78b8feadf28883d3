package check

// All is everything that is looked at, in the order of the report. docs/check.md has
// the same.
func All() []Check {
	out := ofNode()
	out = append(out, ofAgent()...)
	return append(out, ofCluster()...)
}

// ofNode are the checks of this node alone.
func ofNode() []Check {
	return []Check{
		{"configuration", "the agent's configuration file, as `mooring config check` does",
			"the agent does not start with a wrong file", nil, configuration},
		{"interface", "the link of each VIP: there, Ethernet, up, with carrier, in the VIP's subnet, no other link beside it",
			"the VIP is announced on this link, and neighbours ask for it there only", []Part{PartLinks}, interfaces},
		{"claims", "who answers for the VIPs on the wire: this node asks as an ordinary neighbour does",
			"with two hosts that have one address each client reaches one of them by chance",
			[]Part{PartLinks, PartWire}, claims},
		{"witness", "gateways and `witnesses` that answer on the VIPs' links, and how many candidates there are",
			"a node that hears nobody else cannot tell a dead holder from its own unplugged cable, and takes nothing over",
			[]Part{PartLinks, PartWire}, witnesses},
		{"capabilities", "NET_ADMIN, NET_RAW and NET_BIND_SERVICE of the running agent, else of this command",
			"addresses, ARP and rules need them", []Part{PartProcess}, capabilities},
		{"priority", "whether the kernel grants the highest niceness (SYS_NICE)",
			"without it hellos go six times slower, and a dead holder is noticed in 0.9 s instead of 0.15 s",
			[]Part{PartProcess}, priority},
		{"directories", "whether `runDir` and `stateDir` can be written",
			"a restarted agent finds there what it held, and a cold site whom it knows", []Part{PartProcess}, directories},
		{"arp", "sysctls of the VIPs' links that keep the kernel from answering, or make it answer too much",
			"the kernel itself answers for the VIP; after a failover neighbours must believe the announcement",
			[]Part{PartLinks, PartSysctls}, arp},
		{"return-path", "rp_filter, where answers to clients leave over another link than the VIP's",
			"a strict reverse path filter drops what clients send to the VIP, without a trace", []Part{PartLinks, PartSysctls},
			returnPath},
		{"forwarding", "ip_forward and its IPv6 sister, where Services are served",
			"Services with the data path direct are forwarded to pods", []Part{PartSysctls}, forwarding},
		{"nftables", "whether nft is there and the kernel takes the agent's kinds of rules (a dry run changes nothing)",
			"rules send the VIP's port to HAProxy, and keep connections alive through a planned move",
			[]Part{PartRules}, nftables},
		{"firewall", "input chains of nftables that drop by default and do not accept the agents' ports by number",
			"clients reach HAProxy at `apiServer.proxyPort`; nodes that do not hear each other wait for the Lease to run out",
			[]Part{PartRules}, firewall},
		{"ports", "who listens on `apiServer.port`, `apiServer.proxyPort`, `hello.port` (UDP), `services.peersPort` and " +
			"`metrics.bind`",
			"two programs on one port: one of them does not start, or both get half of the connections",
			[]Part{PartPorts}, ports},
		{"haproxy", "the program, its version and branch, and the features that the agent's configuration uses",
			"HAProxy spreads the connections over all API servers, and serves Services", []Part{PartHAProxy}, program},
		{"open-files", "how many connections fit into the limit of open files",
			"HAProxy exits when its limit is too low, and refuses connections above it", []Part{PartHAProxy}, openFiles},
	}
}

// ofAgent are the checks of what a running agent sees.
func ofAgent() []Check {
	return []Check{
		{"agent", "the running agent: its version, its complaints", "what an agent complains of keeps it from doing its work",
			[]Part{PartAgent}, agentSays},
		{"hello", "whether the agent hears the other candidates: firewalls, keys",
			"only who was heard before can be missed at once when it dies", []Part{PartAgent}, hello},
		{"peers-port", "TCP from here to the other nodes' `services.peersPort`, where Services are served",
			"the HAProxies tell each other there which server a client has, so that affinity outlives a move",
			[]Part{PartNeighbours}, neighbours},
	}
}

// ofCluster are the checks that ask API servers.
func ofCluster() []Check {
	return []Check{
		{"credentials", "the kubeconfig: direct to this node's API server, and how long its certificate is valid",
			"without credentials the agent cannot write who holds the VIP", []Part{PartCredentials}, credentials},
		{"api", "each API server's `/readyz`, by its own address",
			"the Lease in the API server is the authority on who holds the VIP",
			[]Part{PartServers}, api},
		{"clock", "this node's clock beside those of the API servers, by the Date of their answers",
			"certificates are not valid yet or no more, and logs of several nodes do not fit together; who holds a VIP does not depend on it",
			[]Part{PartServers}, clock},
		{"certificate", "whether the API server's certificate names the VIPs", "clients refuse a VIP that it does not name",
			[]Part{PartCertificate}, certificate},
		{"rights", "each right of the manifests rbac and, with Services, rbac-services (SelfSubjectAccessReview)",
			"the agent does its work without what it may not do, and complains", []Part{PartRights}, rights},
		{"namespace", "the namespace of the Leases (a dry run makes a Lease)",
			"the record of who holds the VIP is a Lease there",
			[]Part{PartNamespace}, namespace},
		{"node", "whether a Node has the configuration's node name",
			"taints that declare a node dead, labels that exclude it and Events go by this name", []Part{PartNode}, nodeName},
		{"key", "the hellos' keys, in `hello.keyFile` or the Secret mooring-hello",
			"agents believe only hellos that are signed with a key that they know", []Part{PartKey}, key},
		{"pools", "the AddressPools, where Services are served", "addresses of Services come out of them",
			[]Part{PartPools}, pools},
		{"kube-proxy", "its mode, by its own word, ConfigMap kube-system/kube-proxy and the kernel; strictARP with ipvs",
			"without strictARP every node answers ARP for all addresses on kube-ipvs0, that is for every Service", nil, kubeProxy},
		{"network", "Cilium and Calico in the place of kube-proxy, by their objects and links",
			"eBPF programs take connections to Services' addresses before the kernel's rules see them", nil, network},
		{"load-balancers", "others in the cluster and on this node: servicelb, MetalLB, kube-vip, keepalived, Cilium L2",
			"two load balancers of one Service or VIP take it from each other", nil, loadBalancers},
	}
}
