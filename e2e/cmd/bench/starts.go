package main

import (
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// foreign measures how long a stranger's claim goes unreported. The stranger
// says once that it has the VIP, and answers nobody.
func foreign(b *bench) sample {
	b.gather(row{})
	holder, stranger := b.Holder(vip), b.Host("stranger")
	stranger.Exec("sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1")
	answers := b.wire.AnswersEvery(vip, asks)
	agent := b.agents[holder.Name()]
	before := strings.Count(agent.Log(), stranger.MAC())
	begun := time.Now()
	claim := stranger.Spawn("arping", "arping", "-c", "1", "-A", "-I", "eth0", "-s", vip, vip)
	b.Eventually(10*time.Second, "the holder reports the stranger's MAC", func() bool {
		return strings.Count(agent.Log(), stranger.MAC()) > before
	})
	reported := time.Now()
	time.Sleep(2 * time.Second)
	report := answers.Stop()
	claim.Kill()
	s := sample{TCP: -1, Two: report.TwoHolders(0)}
	if f := report.Announcements(stranger.MAC()); len(f) > 0 {
		s.Outage, begun = reported.Sub(f[0].At), f[0].At
	}
	s.Moved = len(since(report.Announcements(holder.MAC()), begun)) == 0 || b.Holder(vip).Name() != holder.Name()
	return s
}

// since leaves out what came before.
func since(frames []lab.Frame, at time.Time) (out []lab.Frame) {
	for _, f := range frames {
		if f.At.After(at) {
			out = append(out, f)
		}
	}
	return out
}

// controlPlaneOff leaves agents, HAProxy and keepalived alone with each other.
func controlPlaneOff(b *bench) {
	b.gather(row{})
	for _, n := range b.All() {
		n.APIServer().Kill()
		n.Etcd().Kill()
	}
}

// controlPlaneOn undoes it.
func controlPlaneOn(b *bench) {
	for _, n := range b.All() {
		n.Etcd().Start()
		n.APIServer().Start()
	}
	b.AwaitReady()
	b.Settle()
}

// coldStart cuts the power of all nodes and gives it back to all at once.
func coldStart(b *bench) sample {
	for _, n := range b.All() {
		n.Kill()
	}
	answers := b.wire.AnswersEvery(vip, asks)
	begun := time.Now()
	for _, n := range b.All() {
		n.Boot()
	}
	b.Eventually(20*time.Second, "somebody holds", func() bool { return b.Holder(vip) != nil })
	took := time.Since(begun)
	moved := false
	first := b.Holder(vip)
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		h := b.Holders(vip)
		moved = moved || len(h) != 1 || h[0].Name() != first.Name()
	}
	r := answers.Stop()
	return sample{Outage: took, TCP: -1, Two: r.TwoHolders(0), Moved: moved}
}
