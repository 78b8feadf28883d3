// Package lab grows a real Kubernetes control plane out of network namespaces,
// breaks it on request, and measures what a client and the wire saw of it.
//
// A lab is a switch (a bridge in a namespace of its own), N nodes on it, each
// with a real etcd and a real kube-apiserver, and a client that has nothing but
// the virtual IP. Nothing is simulated but the cables:
//
//	l := lab.New(t)
//	l.Nodes(3)                                  // n1, n2, n3 at 10.99.0.11.. and fd99::11..
//	l.Start()                                   // PKI, etcd ×3, kube-apiserver ×3, until all say /readyz
//	for _, n := range l.All() {
//		n.StartAgent(n.AgentConfig("10.99.0.200"))
//	}
//	w := l.Wire()
//	answers := w.Answers("10.99.0.200")         // asks for the VIP every 100 ms, notes who answers
//	probe := l.Client().Probe("10.99.0.200:6443", 10*time.Millisecond)
//
//	l.Eventually(5*time.Second, "somebody holds the VIP", func() bool { return l.Holder("10.99.0.200") != nil })
//	l.Holder("10.99.0.200").Kill()              // the power cord
//	l.Eventually(5*time.Second, "somebody else does", func() bool { return l.Holder("10.99.0.200") != nil })
//
//	if r := probe.Stop(); r.Longest > time.Second { t.Errorf("clients waited: %s", r) }
//	if r := answers.Stop(); r.TwoHolders(0) > 0 { t.Errorf("two owners: %s", r) }
//
// Ways to break things: [Node.Kill] and [Node.Boot] (power), [Host.CutLink] with
// [CarrierLoss], [SilentCut], [Mute] or [Deaf] and [Host.HealLink] (cable, switch
// path, one direction of it), [Lab.TwoLinks] to cut clients and API apart,
// [Node.Freeze] and [Node.Thaw] (a stalled machine whose kernel still answers),
// the same on one [Process], and [Lab.StopAPI] (every API server hung or dead).
//
// Ways to look: [Host.Probe] (connections), [Host.UDPProbe] (datagrams of one flow,
// and which node answered), [Host.Requests] (HTTPS), [Host.Watch], [Host.Upgraded]
// and [Host.Download] (connections that live long), [Wire.Answers] (who answers ARP).
//
// Whatever happens to the test, its namespaces and processes go away: Cleanup
// does it when the test ends, a small watchdog process does it when the test
// binary dies (panic, Ctrl-C, SIGKILL), and the next lab sweeps what both missed.
// The logs of a failed lab are kept and their directory is named.
//
// The lab needs root, iproute2 and a Go tool chain; it builds its Kubernetes once
// and keeps it in the user's cache directory ([ClusterBinary]).
package lab
