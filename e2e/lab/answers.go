package lab

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"time"
)

// AnswerReport is what the wire said about one address while it was asked for
// again and again.
type AnswerReport struct {
	IP       netip.Addr
	Every    time.Duration // between two questions
	End      time.Time
	Asked    []time.Time // when each question was put
	Frames   []Frame     // every frame about the address, questions of the report's own excepted
	Missed   int         // frames the observer lost; more than 0 makes the rest a guess
	observer string      // MAC of who asks
	names    map[string]string
}

// Holding is a time in which one host, and only it, answered.
type Holding struct {
	MAC  string
	Name string // of the host in the lab, "" for a stranger
	From time.Time
	To   time.Time // when another one's or nobody's time began
}

// answered is one question and whose answers it got, in order of arrival.
type answered struct {
	at   time.Time
	macs []string
	last time.Time // of its latest first answer
}

// questions attributes each answer to the newest question before it. Answers that
// come more than window after their question, or that were given to somebody else,
// do not count. Window 0 means: until the next question.
func (r AnswerReport) questions(window time.Duration) []answered {
	out := make([]answered, len(r.Asked))
	for i, at := range r.Asked {
		out[i].at = at
	}
	for _, f := range r.Frames {
		if f.Kind != Reply || f.Dst.String() != r.observer {
			continue
		}
		i := sort.Search(len(out), func(i int) bool { return out[i].at.After(f.At) }) - 1
		if i < 0 || window > 0 && f.At.Sub(out[i].at) > window {
			continue
		}
		if mac := f.MAC.String(); !contains(out[i].macs, mac) {
			out[i].macs, out[i].last = append(out[i].macs, mac), f.At
		}
	}
	return out
}

// contains keeps a host that answers twice from counting as two.
func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// TwoHolders is the total time in which one question had answers of two or more
// hosts, in steps of the interval: clients choose at random then. Only answers
// within window of the question count, 0 means all until the next question.
func (r AnswerReport) TwoHolders(window time.Duration) time.Duration {
	var total time.Duration
	for _, c := range r.Contested(window) {
		total += c.Duration()
	}
	return total
}

// Contested are the times that TwoHolders adds up.
func (r AnswerReport) Contested(window time.Duration) []Gap {
	var out []Gap
	open := false
	qs := r.questions(window)
	for i, q := range qs {
		two := len(q.macs) > 1
		if two && !open {
			out = append(out, Gap{From: q.at})
		}
		if two {
			out[len(out)-1].To = r.until(qs, i)
		}
		open = two
	}
	return out
}

// until is when the question after i was put, or the end.
func (r AnswerReport) until(qs []answered, i int) time.Time {
	if i+1 < len(qs) {
		return qs[i+1].at
	}
	return r.End
}

// Silence is the longest time without an answer: from the first unanswered
// question to the next answered one, or to the end.
func (r AnswerReport) Silence() time.Duration {
	var longest time.Duration
	var since time.Time
	for _, q := range r.questions(0) {
		switch {
		case len(q.macs) == 0 && since.IsZero():
			since = q.at
		case len(q.macs) > 0 && !since.IsZero():
			longest, since = max(longest, q.at.Sub(since)), time.Time{}
		}
	}
	if !since.IsZero() {
		longest = max(longest, r.End.Sub(since))
	}
	return longest
}

// Holders is who answered when. A question with answers of several hosts or of
// none ends a holding and begins none.
func (r AnswerReport) Holders() []Holding {
	var out []Holding
	qs := r.questions(0)
	open := false
	for i, q := range qs {
		if len(q.macs) != 1 {
			open = false
			continue
		}
		if !open || out[len(out)-1].MAC != q.macs[0] {
			out, open = append(out, Holding{MAC: q.macs[0], Name: r.names[q.macs[0]], From: q.at}), true
		}
		out[len(out)-1].To = r.until(qs, i)
	}
	return out
}

// Announcements are the unasked-for claims of the address, oldest first, those of
// one host if mac is not empty.
func (r AnswerReport) Announcements(mac string) []Frame {
	var out []Frame
	for _, f := range r.Frames {
		if f.Kind == Announcement && (mac == "" || f.MAC.String() == mac) {
			out = append(out, f)
		}
	}
	return out
}

// String is a short story for a test's log.
func (r AnswerReport) String() string {
	if len(r.Asked) == 0 {
		return r.IP.String() + ": nobody asked"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: asked %d times in %s; silence %s, two holders %s", r.IP, len(r.Asked),
		ms(r.End.Sub(r.Asked[0])), ms(r.Silence()), ms(r.TwoHolders(0)))
	for _, h := range r.Holders() {
		who := h.Name
		if who == "" {
			who = h.MAC
		}
		fmt.Fprintf(&b, "; %s +%s…+%s", who, ms(h.From.Sub(r.Asked[0])), ms(h.To.Sub(r.Asked[0])))
	}
	fmt.Fprintf(&b, "; %d announcements", len(r.Announcements("")))
	if r.Missed > 0 {
		fmt.Fprintf(&b, "; the observer LOST %d frames", r.Missed)
	}
	return b.String()
}
