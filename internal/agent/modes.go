package agent

import (
	"maps"
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// askAgain is the pace at which is asked again what was answered in the negative: an API
// server that drops ipMode may have been upgraded, a host that has one of our
// addresses may be gone. To the API server the question is a write that changes
// nothing as long as the answer is no.
const askAgain = time.Minute

// insist asks with one of the Services concerned.
func (t *tenure) insist() {
	for _, key := range slices.Sorted(maps.Keys(t.modeless)) {
		if t.again(key, true) {
			return
		}
	}
}

// again says a Service's verdict for the sake of its mode; false if there is none.
func (t *tenure) again(key lb.ServiceKey, insist bool) bool {
	v, ok := t.said[key]
	if !ok || !v.Proxy {
		return false
	}
	v.Again, v.Insist, v.Lost, v.Foreign = true, insist, nil, nil
	t.writer.service(v)
	return true
}

// modes takes notice of whether a Service's ipMode is as it was said. One that is
// lost is said again unless it is being said, in case that somebody edited it; when
// the API server keeps one that it did not keep before, the others are.
func (t *tenure) modes(s *lb.Service, said bool) {
	had := t.modeless[s.Key]
	if s.Modeless {
		t.modeless[s.Key] = true
		if !had && !said {
			t.again(s.Key, false)
		}
		return
	}
	delete(t.modeless, s.Key)
	if !had || s.DataPath != lb.DataPathProxy || len(s.Has) == 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(t.modeless)) {
		t.again(key, false)
	}
}
