package agent

import (
	"net/netip"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// TestControllerTellsUnread: while the pools are not known who waits for an address is
// told so, once and not at once; who has one is left alone.
func TestControllerTellsUnread(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		defer k.lead(t)()
		k.put("a", as)
		k.put("has", func(s *lb.Service) { s.Has = []netip.Addr{netip.MustParseAddr("192.0.2.3")} })
		time.Sleep(unreadAfter / 2)
		k.expect(t, "")
		time.Sleep(unreadAfter)
		k.expect(t, "shop/a [] unread")
		k.put("b", as)
		k.put("a", as)
		k.expect(t, "shop/b [] unread")
		k.put("a", func(s *lb.Service) { s.UID = "another" })
		k.expect(t, "shop/a [] unread")
		k.pools(9)
		k.c.Synced()
		k.expect(t, "shop/a [192.0.2.1]; shop/b [192.0.2.2]; shop/has [192.0.2.3]")
		k.put("c", as)
		time.Sleep(2 * unreadAfter)
		k.expect(t, "shop/c [192.0.2.4]")
	})
}

// TestControllerReadsInTime: pools that are read soon are no news.
func TestControllerReadsInTime(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		defer k.lead(t)()
		k.put("a", as)
		time.Sleep(unreadAfter / 2)
		k.pools(9)
		k.c.Synced()
		time.Sleep(2 * unreadAfter)
		k.expect(t, "shop/a [192.0.2.1]")
	})
}
