package election

import (
	"slices"
	"strings"
	"time"
)

// Bootstrap: the VIP comes up before the first API server does, so that a
// cluster's first node can be installed through it and a site that was dark
// comes back by itself.

// tryBootstrap asks the wire, when no API server has answered since the start
// and nobody is heard to hold.
func (m *Machine) tryBootstrap() {
	if m.reached || m.phase != Standby || m.shutdown {
		return
	}
	m.due.set(onBoot, m.now+bootAgain)
	if m.boot || !m.carrier || m.doubt.asking || m.summon.active || m.deferTo() != "" {
		return
	}
	m.boot = true
	m.do(Probe{})
}

// deferTo names a candidate that should rather come up first: one that is heard
// and was the last holder or ranks better, or one that claims already.
func (m *Machine) deferTo() string {
	if c := m.claimant("", -1); c != "" {
		return c
	}
	mine := m.bootRank(m.cfg.Self)
	for _, name := range m.names {
		if m.peers[name].up() && m.bootRank(name) < mine {
			return name
		}
	}
	return ""
}

// bootRank orders candidates at bootstrap: the last holder, then by rank.
func (m *Machine) bootRank(node string) int {
	if m.past && node == m.known.Holder {
		return -1
	}
	for i, c := range Ranked(m.cfg.Group, m.members) {
		if c.Node == node {
			return i
		}
	}
	return len(m.members)
}

// onRival notes a host that asks for the VIP as one does who wants to take it.
func (m *Machine) onRival(mac string) {
	if len(m.rivals) > 16 {
		clear(m.rivals)
	}
	m.rivals[mac] = m.now
}

// rival says whether somebody better asks for the VIP too: unknown against
// unknown, the lower MAC comes first.
func (m *Machine) rival() bool {
	for mac, at := range m.rivals {
		if m.now-at > time.Second {
			continue
		}
		switch owner := ownerOf(m.members, mac); {
		case owner == m.cfg.Self:
		case owner != "":
			if m.bootRank(owner) < m.bootRank(m.cfg.Self) {
				return true
			}
		case m.cfg.MAC != "" && strings.Compare(mac, m.cfg.MAC) < 0:
			return true
		}
	}
	return false
}

// bootProbed holds provisionally when nobody answers and nobody better asks. A
// node that knows of others and hears none of them is the one cut off.
func (m *Machine) bootProbed(ev Probed) {
	m.boot = false
	others := slices.ContainsFunc(m.members, func(c Member) bool { return c.Node != m.cfg.Self })
	switch {
	case m.reached || !m.carrier || m.deferTo() != "":
	case ev.Err != "":
		m.complain(NoWitness, Note{Detail: ev.Err})
	case len(ev.Answers) > 0:
	case m.rival():
	case others && !ev.Witness && !m.othersUp(""):
		m.complain(NoWitness, Note{Detail: "neither gateway nor another candidate answers"})
	default:
		m.began, m.byEvidence = m.now, false
		m.base = m.known
		r := Record{Holder: m.cfg.Self, Cause: CauseBootstrap}
		m.say(Claims, Note{Cause: CauseBootstrap})
		m.becomeProvisional(r)
	}
}
