package election

import (
	"fmt"
	"time"
)

// What a group of Services has otherwise than the API server's: its Lease is written
// only when it changes, and is as old as its holder's member Lease, which each node
// renews for all of its groups together.

// asServices makes the world's group one of Services.
func (w *world) asServices() {
	w.services = true
	w.cfg.Group, w.cfg.Lease, w.cfg.Renew = "services-lan-0", MemberLease, MemberRenew
}

// keepMember is elector.keepMember.
func (a *agent) keepMember() {
	n, begun, written := a.n, a.n.clock(), 0
	a.request(3*time.Second, func() {
		n.beat, n.beatAt = n.beat+1, n.w.now
		written = n.beat
		n.w.beaten(n)
	}, func(answered bool) {
		wait := time.Second
		if answered {
			wait = memberEvery
			a.el.putMember(n.name, written)
			if v := a.el.view; v.Exists && v.Record.Holder == n.name {
				a.deliver(Renewed{Begun: begun})
			}
		}
		a.later(wait, a.keepMember)
	})
}

// beaten tells the other nodes of a renewal.
func (w *world) beaten(by *node) {
	beat := by.beat
	for _, n := range w.nodes {
		if a := n.agent; a != nil && n != by && n.reaches() {
			a.reached(w.vary(3*ms), false, func() { a.el.putMember(by.name, beat) })
		}
	}
}

// putMember is site.putMember.
func (e *electorModel) putMember(node string, beat int) {
	if beat <= e.beats[node] {
		return
	}
	if e.beats == nil {
		e.beats = map[string]int{}
	}
	e.beats[node] = beat
	if e.synced && e.view.Exists && e.view.Record.Holder == node {
		e.a.deliver(Saw{View: e.dated(e.view), Via: ByWatch, Begun: e.a.n.clock()})
	}
}

// dated is leases.view: the record is as old as its holder's member Lease.
func (e *electorModel) dated(v View) View {
	if beat := e.beats[v.Record.Holder]; e.a.n.w.services && v.Sound && beat > 0 {
		v.Record.Beat = fmt.Sprint(beat)
	}
	return v
}

// relistMembers is the list of member Leases at a watch's beginning.
func (e *electorModel) relistMembers() {
	for _, n := range e.a.n.w.nodes {
		e.putMember(n.name, n.beat)
	}
}

// dating is elector.resolve: the holder's member Lease is read after the record.
func (e *electorModel) dating(v View, then func()) {
	holder := e.a.n.w.node(v.Record.Holder)
	if !e.a.n.w.services || holder == nil || holder == e.a.n {
		then()
		return
	}
	beat := 0
	e.a.request(readTimeout, func() { beat = holder.beat }, func(answered bool) {
		if answered {
			e.putMember(holder.name, beat)
		}
		then()
	})
}

// dates says whether a node that was without API servers since its hellos stopped
// coming could be known to live: by a renewal that it has written since.
func (w *world) dates(by, n *node) bool {
	if by.agent == nil || by.agent.m.peers[n.name] == nil || w.passes(by, n) && w.passes(n, by) {
		return true
	}
	silent := w.now - (by.clock() - by.agent.m.peers[n.name].since)
	wrote := w.wroteAt
	if w.services {
		wrote = n.beatAt
	}
	return n.apiless <= silent || wrote > silent+time.Second
}

// differ has a node take another for no candidate for a while, as it knows other
// endpoints of a Service with externalTrafficPolicy Local.
func (w *world) differ(n, about *node) {
	n.excludes = about
	w.tellMembers()
	w.after(w.upTo(10*time.Second), func() {
		n.excludes = nil
		w.tellMembers()
	})
}

// membersFor are the candidates as a node sees them.
func (w *world) membersFor(n *node) []Member {
	all := w.members()
	for i := range all {
		if n.excludes != nil && all[i].Node == n.excludes.name {
			all[i].Live, all[i].Drain = false, true
		}
	}
	return all
}
