package agent

import (
	"maps"
	"slices"
	"time"
)

// unreadAfter is how long the pools may take to be read before that is told: an API
// server that starts is no news.
const unreadAfter = 10 * time.Second

// tellUnread says to each Service without an address, once, that the pools are not
// known. Nothing is decided before they are, which may be never: their kind may not be
// installed.
func (t *tenure) tellUnread() {
	if t.unread == nil {
		return
	}
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if t.c.synced {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(t.c.services)) {
		s := t.c.services[key]
		if len(s.Has) == 0 && t.unread[key] != s.UID {
			t.unread[key] = s.UID
			t.writer.service(Verdict{Key: key, UID: s.UID, Unread: true})
		}
	}
}
