package election

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a Lease of ours carries beside its spec.
const (
	// labelKind tells a group's Lease from a member's.
	labelKind   = "mooring.dev/lease"
	kindGroup   = "group"
	kindMember  = "member"
	memberName  = "node-"
	annTerm     = "mooring.dev/term"    // holder/transitions, proves that the spec was written by an agent
	annFrom     = "mooring.dev/from"    // the node that hands over
	annCause    = "mooring.dev/cause"   // why this term began
	annMACs     = "mooring.dev/macs"    // of a member's announcing links
	annAddrs    = "mooring.dev/addrs"   // of a member on these links
	annLeaving  = "mooring.dev/leaving" // a member whose agent is ending
	annPriority = "mooring.dev/priority"
	annDrain    = "mooring.dev/drain" // a member whose operator wants it empty
	annPools    = "mooring.dev/pools" // whose addresses a member can announce
	memberEvery = 10 * time.Second
	memberDead  = 6 * memberEvery
)

// toView reads a group's Lease. nil is a Lease that does not exist.
func toView(l *coordination.Lease, candidate func(node string) bool) View {
	if l == nil {
		return View{}
	}
	v := View{Exists: true, Record: Record{UID: string(l.UID), Version: l.ResourceVersion}}
	s := l.Spec
	if s.HolderIdentity == nil || *s.HolderIdentity == "" || s.LeaseTransitions == nil {
		return v
	}
	v.Record.Holder, v.Record.Transitions = *s.HolderIdentity, int64(*s.LeaseTransitions)
	v.Record.From, v.Record.Cause = l.Annotations[annFrom], Cause(l.Annotations[annCause])
	if s.LeaseDurationSeconds != nil {
		v.Record.Lease = time.Duration(*s.LeaseDurationSeconds) * time.Second
	}
	v.Sound = v.Record.Transitions >= 0 && l.Annotations[annTerm] == termOf(v.Record)
	v.Candidate = candidate(v.Record.Holder)
	return v
}

// termOf is the annotation that an agent writes beside the spec: an edit of
// the spec alone does not agree with it.
func termOf(r Record) string { return fmt.Sprintf("%s/%d", r.Holder, r.Transitions) }

// encode writes a record into a copy of base, or into a new Lease.
func encode(base *coordination.Lease, name string, r Record, lease time.Duration, now time.Time) *coordination.Lease {
	l := &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: name}}
	if base != nil {
		l = base.DeepCopy()
	}
	stamp := meta.NewMicroTime(now)
	acquired := &stamp
	if v := toView(base, func(string) bool { return true }); v.Sound && v.Record.term(r) && base.Spec.AcquireTime != nil {
		acquired = base.Spec.AcquireTime
	}
	seconds, transitions := int32(lease/time.Second), int32(r.Transitions)
	l.Spec = coordination.LeaseSpec{
		HolderIdentity: &r.Holder, LeaseDurationSeconds: &seconds, LeaseTransitions: &transitions,
		RenewTime: &stamp, AcquireTime: acquired,
	}
	l.Labels = with(l.Labels, labelKind, kindGroup)
	l.Annotations = with(l.Annotations, annTerm, termOf(r))
	l.Annotations = with(l.Annotations, annFrom, r.From)
	l.Annotations = with(l.Annotations, annCause, string(r.Cause))
	return l
}

// with sets a key, or removes it when the value is empty.
func with(m map[string]string, k, v string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	if v == "" {
		delete(m, k)
	} else {
		m[k] = v
	}
	return m
}

// toMember reads a member's Lease; false when it is none.
func toMember(l *coordination.Lease) (Member, bool) {
	node, ok := strings.CutPrefix(l.Name, memberName)
	if !ok || l.Labels[labelKind] != kindMember {
		return Member{}, false
	}
	// Nonsense is the lowest priority: such a node holds last.
	priority, _ := strconv.Atoi(l.Annotations[annPriority])
	drain := l.Annotations[annDrain] != ""
	return Member{
		Node: node, MACs: words(l.Annotations[annMACs]), Addrs: words(l.Annotations[annAddrs]),
		Live: l.Annotations[annLeaving] == "" && !drain, Priority: min(max(priority, 0), 255), Drain: drain,
		Pools: words(l.Annotations[annPools]),
	}, true
}

// words splits at commas and drops what is empty.
func words(s string) []string {
	if s == "" {
		return nil
	}
	return slices.DeleteFunc(strings.Split(s, ","), func(w string) bool { return w == "" })
}

// encodeMember writes a member's Lease. identity names the agent, not only the
// node, so that a second agent of one name is noticed.
func encodeMember(base *coordination.Lease, m Member, identity string, now time.Time) *coordination.Lease {
	l := &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: memberName + m.Node}}
	if base != nil {
		l = base.DeepCopy()
	}
	stamp, seconds := meta.NewMicroTime(now), int32(3*memberEvery/time.Second)
	l.Spec = coordination.LeaseSpec{HolderIdentity: &identity, LeaseDurationSeconds: &seconds, RenewTime: &stamp}
	l.Labels = with(l.Labels, labelKind, kindMember)
	l.Annotations = with(l.Annotations, annMACs, strings.Join(m.MACs, ","))
	l.Annotations = with(l.Annotations, annAddrs, strings.Join(m.Addrs, ","))
	l.Annotations = with(l.Annotations, annPools, strings.Join(m.Pools, ","))
	l.Annotations = with(l.Annotations, annPriority, strconv.Itoa(m.Priority))
	leaving := ""
	if !m.Live {
		leaving = "true"
	}
	l.Annotations = with(l.Annotations, annLeaving, leaving)
	return l
}
