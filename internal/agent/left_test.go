package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mooring.dev/mooring/internal/lb"
)

// TestControllerLeaves: what is ours goes from a Service that is not ours any more, once,
// also when that was told before this node led; addresses only if they are of our pools.
func TestControllerLeaves(t *testing.T) {
	inCluster(t, func(t *testing.T, k *cluster) {
		k.pools(4)
		k.c.Synced()
		leave := func(name, uid string, addrs ...string) {
			var list []netip.Addr
			for _, a := range addrs {
				list = append(list, netip.MustParseAddr(a))
			}
			k.put(name, nil)
			k.c.SetLeft(lb.ServiceKey("shop/"+name), uid, list)
		}
		leave("early", "u0")
		leave("clean", "u9")
		leave("clean", "") // it was cleaned by whoever led
		stop := k.lead(t)
		k.expect(t, "shop/early [] left u0")
		k.put("a", as)
		k.expect(t, "shop/a [192.0.2.1]")
		leave("a", "a")
		k.expect(t, "shop/a [] left a")
		leave("b", "u1", "192.0.2.2")
		k.expect(t, "shop/b [192.0.2.2] left u1")
		leave("c", "u2", "192.0.2.2", "198.51.100.7")
		k.expect(t, "shop/c [] left u2") // another load balancer's
		stop()
		leave("d", "u3")
		k.put("d", as) // ours again
		for i := range 2 * maxLeft {
			leave(fmt.Sprint("x", i), "u4")
		}
		if k.c.mu.Lock(); len(k.c.left) != maxLeft {
			t.Errorf("%d are remembered", len(k.c.left))
		}
		k.c.mu.Unlock()
		defer k.lead(t)()
		if got := k.took(); !strings.HasPrefix(got, "shop/d [192.0.2.1]; shop/x0 [] left u4; ") {
			t.Errorf("written %.100s", got)
		}
	})
}
