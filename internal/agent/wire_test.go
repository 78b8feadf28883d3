package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/lb"
)

// neighbours are hosts with addresses, by MAC; the wire of this node reaches those
// below 192.0.2.100.
type neighbours struct {
	mu    sync.Mutex
	macs  map[string]string
	asked []string
}

func (n *neighbours) Ask(_ context.Context, addrs []netip.Addr) map[netip.Addr]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, strings.ReplaceAll(strings.Trim(fmt.Sprint(addrs), "[]"), "192.0.2", ""))
	out := map[netip.Addr]string{}
	for _, ip := range addrs {
		if ip.Less(netip.MustParseAddr("192.0.2.100")) {
			out[ip] = n.macs[ip.String()]
		}
	}
	return out
}

// took is what was asked for since the last call, question by question.
func (n *neighbours) took() string {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	out := strings.Join(n.asked, "|")
	n.asked = nil
	return out
}

// set has an address answered by a MAC from now on, by nobody if it is "".
func (n *neighbours) set(ip, mac string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.macs[ip] = mac
}

const foreignMAC = "02:00:00:00:00:99"

// onWire is a story with a wire on which other hosts have some addresses.
func onWire(t *testing.T, f func(t *testing.T, k *cluster, n *neighbours), taken ...string) {
	inCluster(t, func(t *testing.T, k *cluster) {
		n := &neighbours{macs: map[string]string{}}
		for _, ip := range taken {
			n.macs[ip] = foreignMAC
		}
		k.c.opt.Wire = n
		k.c.Synced()
		f(t, k, n)
	})
}

// TestNewAddressIsAskedFor: what another host has is given to nobody; who has an
// address is not asked about it again.
func TestNewAddressIsAskedFor(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(9)
		k.put("a", as)
		defer k.lead(t)()
		k.expect(t, "shop/a [192.0.2.3] foreign=192.0.2.1,192.0.2.2")
		if got := n.took(); got != ".1|.2|.3" {
			t.Errorf("asked for %s", got)
		}
		k.put("a", func(s *lb.Service) { s.Ports[0].Port = 81 })
		k.put("b", as)
		k.expect(t, "shop/b [192.0.2.4]")
		if got := n.took(); got != ".4" {
			t.Errorf("then asked for %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := fmt.Sprint(k.quarantined()); got != "[{192.0.2.1 "+foreignMAC+" lan} {192.0.2.2 "+foreignMAC+" lan}]" {
			t.Errorf("the pool's quarantine: %s", got)
		}
	}, "192.0.2.1", "192.0.2.2")
}

// TestAddressIsAskedForOnce: also while the status is still being written, and the
// holder may have it already.
func TestAddressIsAskedForOnce(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.block = make(chan struct{})
		k.pools(9)
		k.put("a", as)
		defer k.lead(t)()
		k.expect(t, "")
		k.put("a", func(s *lb.Service) { s.Ports[0].Port = 81 })
		k.expect(t, "")
		if got := n.took(); got != ".1" {
			t.Errorf("asked for %s", got)
		}
		close(k.block)
		k.took()
	})
}

// TestManyNewAddresses: they are asked for together, and no two Services get one.
func TestManyNewAddresses(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(20)
		for i := range 5 {
			k.put(fmt.Sprint("s", i), as)
		}
		defer k.lead(t)()
		k.expect(t, "shop/s0 [192.0.2.1]; shop/s1 [192.0.2.6] foreign=192.0.2.2; shop/s2 [192.0.2.3]; "+
			"shop/s3 [192.0.2.7] foreign=192.0.2.4; shop/s4 [192.0.2.5]")
		if got := n.took(); got != ".1 .2 .3 .4 .5|.6 .7" {
			t.Errorf("asked for %s", got)
		}
	}, "192.0.2.2", "192.0.2.4")
}

// TestAskedForAddressOfAnotherHost: whoever asks for a certain address waits until the
// other host is gone, which is looked for once a minute.
func TestAskedForAddressOfAnotherHost(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(9)
		k.put("a", func(s *lb.Service) { s.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.5")} })
		defer k.lead(t)()
		k.expect(t, "shop/a [] AddressQuarantined foreign=192.0.2.5")
		time.Sleep(askAgain + time.Second)
		k.expect(t, "")
		n.set("192.0.2.5", "")
		time.Sleep(askAgain)
		k.expect(t, "shop/a [192.0.2.5]")
		if got := n.took(); got != ".5|.5|.5|.5" {
			t.Errorf("asked for %s", got)
		}
		time.Sleep(askAgain)
		if got := n.took(); got != "" {
			t.Errorf("and still asked for %s", got)
		}
	}, "192.0.2.5")
}

// TestWhoHasAnAddressKeepsIt: also with another host on it, and under another leader.
func TestWhoHasAnAddressKeepsIt(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(9)
		k.put("a", func(s *lb.Service) { s.Has = []netip.Addr{netip.MustParseAddr("192.0.2.5")} })
		defer k.lead(t)()
		k.expect(t, "shop/a [192.0.2.5]")
		if got := n.took(); got != "" {
			t.Errorf("asked for %s", got)
		}
	}, "192.0.2.5")
}

// TestWireOutOfReach: what this node cannot ask for is given all the same.
func TestWireOutOfReach(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(150)
		k.put("a", func(s *lb.Service) { s.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.120")} })
		defer k.lead(t)()
		k.expect(t, "shop/a [192.0.2.120]")
	}, "192.0.2.120")
}

// TestWireAnswersForAll: a router that answers for a whole subnet costs a Service some
// addresses, and not the whole pool in one go.
func TestWireAnswersForAll(t *testing.T) {
	var all []string
	for i := range 50 {
		all = append(all, fmt.Sprint("192.0.2.", i+1))
	}
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(50)
		k.put("a", as)
		defer k.lead(t)()
		if got := k.took(); !strings.HasPrefix(got, "shop/a [192.0.2.") || strings.Contains(got, ";") {
			t.Errorf("written %q", got)
		}
		if asked := len(n.asked); asked > 2*proofs {
			t.Errorf("asked %d times", asked)
		}
	}, all...)
}

// TestQuarantineIsAskedInTurns: more than can be asked for at once all have their turn.
func TestQuarantineIsAskedInTurns(t *testing.T) {
	onWire(t, func(t *testing.T, k *cluster, n *neighbours) {
		k.pools(98)
		for i := range 98 {
			ip := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
			n.set(ip.String(), foreignMAC)
			k.put(fmt.Sprint("s", i), func(s *lb.Service) { s.Addresses = []netip.Addr{ip} })
		}
		defer k.lead(t)()
		k.took()
		n.took()
		seen := map[string]bool{}
		for range 2 {
			time.Sleep(askAgain)
			for _, ip := range strings.Fields(n.took()) {
				seen[ip] = true
			}
		}
		if len(seen) != 98 {
			t.Errorf("%d of 98 asked for: %v", len(seen), slices.Collect(func(yield func(string) bool) {
				for ip := range seen {
					yield(ip)
				}
			}))
		}
	})
}

// quarantined is what the pools' status says last.
func (k *cluster) quarantined() []ipam.Foreign {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.foreign
}
