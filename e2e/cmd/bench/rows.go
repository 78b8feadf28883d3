package main

import (
	"strings"
	"syscall"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// rows are the faults, in an order that leaves little to mend between them. The
// targets are those of the design.
func rows() []row {
	return []row{
		{name: "link-cut", title: "node power-off / link cut, healed after 6 s", peers: true,
			target: "≤ 180 ms median, ≤ 300 ms max", prepare: (*bench).notLeader, fault: cutBoth(6 * time.Second)},
		{name: "link-cut-leader", title: "the same, etcd's leader on that node", target: "≤ 210 ms",
			fault: cutLeader},
		{name: "link-cut-fast", title: "link cut, hello 20 ms × 3", peers: true, target: "≤ 90 ms median",
			prepare: fast, fault: cutBoth(5 * time.Second), after: normal},
		{name: "move", title: "`mooring move`, there and back", target: "0 failed, 0 broken; two MACs ≤ 0.5 s a move",
			streams: 10 * time.Second, fault: moveThereAndBack},
		{name: "drain", title: "`mooring drain`, undone", target: "0 failed, 0 broken; two MACs ≤ 0.5 s",
			streams: 10 * time.Second, fault: drain},
		{name: "sigterm", title: "SIGTERM of the agent, restarted", peers: true, streams: 14 * time.Second,
			target: "0 failed, 0 broken; two MACs ≤ 0.5 s", fault: term},
		{name: "rolling", title: "rolling restart of all agents", streams: 20 * time.Second,
			target: "0 failed, 0 broken", fault: rolling},
		{name: "sigkill-restart", title: "SIGKILL of the agent, restarted after 2 s", peers: true,
			target: "0 failed, no move, never two MACs", fault: killAndRestart},
		{name: "sigkill", title: "SIGKILL of the agent, not restarted for 8 s", peers: true,
			target: "≤ 300 ms at the fence; never two MACs", fault: kill},
		{name: "sigstop", title: "SIGSTOP of the agent 6 s, SIGCONT", peers: true,
			target: "≤ 300 ms at the fence; never two MACs", fault: stop},
		{name: "partition-vip", title: "VIP link partitioned 10 s, healed", peers: true,
			target: "≤ 180 ms; one holder ≤ 1 s after", fault: cut(10*time.Second, lab.VIPLink)},
		{name: "partition-api", title: "API link partitioned 10 s, healed",
			target: "0 failed; one holder ≤ 1 s after", fault: cut(10*time.Second, lab.APILink)},
		{name: "api-own", title: "the holder's own API server down", target: "nothing moves, 0 failed", fault: ownAPI},
		{name: "api-all", title: "all API servers down (hung and killed in turns)", target: "the VIP stays, also when they return",
			fault: allAPI()},
		{name: "api-then-power-off", title: "API outage 5 s, then the holder's link cut", target: "≤ 1 s",
			fault: apiThenCut()},
		{name: "lease", title: "Lease deleted or scribbled on every second", target: "nothing moves, 0 failed",
			fault: vandal},
		{name: "foreign", title: "a foreign host claims the VIP", target: "reported ≤ 1 s with its MAC; defended",
			own: foreign},
		{name: "hello-blocked", title: "hellos of the holder blocked for 20 s", target: "nothing moves, 0 failed",
			fault: blocked},
		{name: "cold-start", title: "all nodes powered on together, API down: time to one holder",
			target: "≤ 3 s, 20 of 20", runs: func(n int) int { return 2 * n }, prepare: controlPlaneOff, own: coldStart,
			after: controlPlaneOn},
	}
}

// cut takes the links of the holder for a time.
func cut(d time.Duration, links ...lab.Link) func(*bench, *run) {
	return func(b *bench, r *run) {
		r.node.CutLink(lab.SilentCut, links...)
		time.Sleep(d)
		r.node.HealLink(links...)
		b.oneAfter(r)
	}
}

// cutBoth pulls all cables of the holder: to the others its power is off.
func cutBoth(d time.Duration) func(*bench, *run) {
	return func(b *bench, r *run) {
		r.node.CutLink(lab.CarrierLoss)
		time.Sleep(d)
		away := b.Holder(vip)
		r.node.HealLink()
		b.oneAfter(r)
		if h := b.Holder(vip); h != nil && h.Name() == r.node.Name() && away != nil {
			r.moved = true // back to the node that was away
		}
	}
}

// oneAfter waits for one holder after a heal, and for the dust to settle.
func (b *bench) oneAfter(r *run) {
	r.healed = b.Eventually(10*time.Second, "one holder after the heal", func() bool { return len(b.Holders(vip)) == 1 })
	time.Sleep(2 * time.Second)
}

// notLeader makes sure that n1, which is to be cut, does not lead etcd: its etcd
// sleeps for longer than an election. Cut off once, it stays a follower.
func (b *bench) notLeader() {
	for range 5 {
		if at := b.Leader(); at != nil && at.Name() != b.Node(1).Name() {
			return
		}
		b.Node(1).Etcd().Freeze()
		time.Sleep(2 * time.Second)
		b.Node(1).Etcd().Thaw()
		b.AwaitReady()
	}
	b.Fatalf("n1's etcd does not stop leading")
}

// cutLeader moves the VIP to the node whose etcd leads and cuts that.
func cutLeader(b *bench, r *run) {
	b.Eventually(10*time.Second, "an etcd leads", func() bool { return b.Leader() != nil })
	r.node = b.Leader()
	b.moveTo(r.node)
	time.Sleep(2 * time.Second)
	r.at = time.Now()
	cutBoth(6*time.Second)(b, r)
}

// fast and normal change the hellos of all agents.
func fast(b *bench) {
	b.edit = func(cfg string) string { return cfg + "hello: {interval: 20ms, multiplier: 3}\n" }
	b.restartAll()
}

func normal(b *bench) {
	b.edit = nil
	b.restartAll()
}

func (b *bench) restartAll() {
	for _, n := range b.All() {
		b.restart(n)
		b.Settle()
	}
}

// restart is what a supervisor does at an upgrade.
func (b *bench) restart(n *lab.Node) {
	b.agents[n.Name()].Term()
	b.ended(n)
	b.startAgent(n)
}

// ended waits for the agent.
func (b *bench) ended(n *lab.Node) {
	b.Eventually(10*time.Second, "the agent of "+n.Name()+" has ended", func() bool { return !b.agents[n.Name()].Alive() })
}

func moveThereAndBack(b *bench, r *run) {
	b.moveTo(b.Node(2))
	time.Sleep(1500 * time.Millisecond)
	b.moveTo(r.node)
	time.Sleep(1500 * time.Millisecond)
}

func drain(b *bench, r *run) {
	r.node.Exec(b.Bin, "drain", r.node.Name(), "--config", b.Config(r.node))
	b.awaitMove(r)
	r.node.Exec(b.Bin, "drain", "--undo", r.node.Name(), "--config", b.Config(r.node))
	time.Sleep(2 * time.Second)
}

// awaitMove waits until another node alone holds.
func (b *bench) awaitMove(r *run) {
	b.Eventually(15*time.Second, "another node alone holds", func() bool {
		h := b.Holders(vip)
		return len(h) == 1 && h[0].Name() != r.node.Name()
	})
	time.Sleep(1500 * time.Millisecond)
}

// term ends the agent and its peers politely, all at once.
func term(b *bench, r *run) {
	b.agents[r.node.Name()].Term()
	for _, k := range b.peers {
		k.procs[r.node.Name()].Term()
	}
	b.ended(r.node)
	time.Sleep(4 * time.Second)
	b.bringBack(r.node)
}

// bringBack starts what was ended.
func (b *bench) bringBack(n *lab.Node) {
	b.startAgent(n)
	for _, k := range b.peers {
		k.start(b, n, 150)
	}
}

func rolling(b *bench, _ *run) {
	b.restartAll()
	time.Sleep(time.Second)
}

func killAndRestart(b *bench, r *run) {
	b.killAll(r.node)
	time.Sleep(2 * time.Second)
	b.bringBack(r.node)
	time.Sleep(5 * time.Second)
	r.moved = b.Holder(vip) == nil || b.Holder(vip).Name() != r.node.Name()
}

// killAll ends agent and peers without a last word.
func (b *bench) killAll(n *lab.Node) {
	for _, k := range b.peers {
		k.signal(n, syscall.SIGKILL)
	}
	b.agents[n.Name()].Kill()
}

func kill(b *bench, r *run) {
	b.killAll(r.node)
	time.Sleep(8 * time.Second)
	b.bringBack(r.node)
	time.Sleep(2 * time.Second)
}

func stop(b *bench, r *run) {
	b.agents[r.node.Name()].Freeze()
	for _, k := range b.peers {
		k.signal(r.node, syscall.SIGSTOP)
	}
	time.Sleep(6 * time.Second)
	b.agents[r.node.Name()].Thaw()
	for _, k := range b.peers {
		k.signal(r.node, syscall.SIGCONT)
	}
	time.Sleep(3 * time.Second)
}

func ownAPI(b *bench, r *run) {
	r.node.APIServer().Kill()
	time.Sleep(b.outage)
	b.sameHolder(r)
	r.node.APIServer().Start()
	b.AwaitReady(r.node)
	b.sameHolder(r)
}

// sameHolder notes a move where none may be.
func (b *bench) sameHolder(r *run) {
	h := b.Holders(vip)
	r.moved = r.moved || len(h) != 1 || h[0].Name() != r.node.Name()
}

// allAPI alternates between hung and killed servers.
func allAPI() func(*bench, *run) {
	how := lab.Killed
	return func(b *bench, r *run) {
		how = lab.Hung + lab.Killed - how
		b.StopAPI(how)
		time.Sleep(b.outage)
		b.sameHolder(r)
		b.StartAPI()
		time.Sleep(3 * time.Second)
		b.sameHolder(r)
	}
}

// apiThenCut lets the fault proper begin at the cut.
func apiThenCut() func(*bench, *run) {
	how := lab.Killed
	return func(b *bench, r *run) {
		how = lab.Hung + lab.Killed - how
		b.StopAPI(how)
		time.Sleep(5 * time.Second)
		r.at = time.Now()
		r.node.CutLink(lab.SilentCut)
		time.Sleep(6 * time.Second)
		r.node.HealLink()
		b.oneAfter(r)
		b.StartAPI()
	}
}

// vandal does to the Lease what people with kubectl can.
func vandal(b *bench, r *run) {
	patches := []string{"", `{"spec":{"holderIdentity":"nonsense","leaseTransitions":99}}`, `{"spec":null}`,
		`{"metadata":{"annotations":{"mooring.dev/term":"x"}},"spec":{"leaseTransitions":0}}`}
	for end, i := time.Now().Add(b.outage), 0; time.Now().Before(end); i++ {
		lease := []string{"lease", "apiserver", "-n", "mooring-system"}
		var err error
		if patch := patches[i%len(patches)]; patch == "" {
			_, err = b.TryKubectl(nil, append([]string{"delete"}, lease...)...)
		} else {
			_, err = b.TryKubectl(nil, append(append([]string{"patch"}, lease...), "--type=merge", "-p", patch)...)
		}
		if err != nil && !strings.Contains(err.Error(), "NotFound") {
			b.Logf("vandal: %v", err)
		}
		time.Sleep(time.Second)
		b.sameHolder(r)
	}
}

func blocked(b *bench, r *run) {
	r.node.Exec("nft", "add table inet firewall; "+
		"add chain inet firewall in { type filter hook input priority -10; }; "+
		"add chain inet firewall out { type filter hook output priority -10; }; "+
		"add rule inet firewall in udp dport 7444 drop; add rule inet firewall out udp dport 7444 drop")
	time.Sleep(20 * time.Second)
	b.sameHolder(r)
	r.node.Exec("nft", "delete table inet firewall")
	time.Sleep(2 * time.Second)
	b.sameHolder(r)
}
