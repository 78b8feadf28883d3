package agent

import (
	"context"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/lb"
)

// Wire asks who has addresses, on the links of this node.
type Wire interface {
	// Ask returns, of those addresses that this node has a link for, the MAC of a host
	// that answers and is none of the cluster's, "" where none answers. What could not be
	// asked for is left out. It takes some 60 ms, however many they are.
	Ask(context.Context, []netip.Addr) map[netip.Addr]string
}

const (
	// proofs bounds how many addresses in a row a Service is refused for the sake of
	// other hosts in one look: a router that answers for a whole subnet must not cost it a
	// whole pool.
	proofs = 8
	// absolveMost is how many quarantined addresses are asked for at a time.
	absolveMost = 64
)

// held is a verdict that waits for the wire.
type held struct {
	s    *lb.Service
	v    Verdict
	news bool
}

// hold keeps a verdict back if it gives the Service an address that was not its own:
// neither its status nor an earlier verdict has it.
func (t *tenure) hold(s *lb.Service, v Verdict, news bool) bool {
	t.held = slices.DeleteFunc(t.held, func(h held) bool {
		same := h.s.Key == s.Key
		news = news || same && h.news
		return same
	})
	said := t.said[s.Key].Addresses
	fresh := func(ip netip.Addr) bool { return !slices.Contains(s.Has, ip) && !slices.Contains(said, ip) }
	if t.c.opt.Wire == nil || !slices.ContainsFunc(v.Addresses, fresh) {
		return false
	}
	t.held = append(t.held, held{s, v, news})
	return true
}

// prove asks for the addresses of the verdicts held back. Those that no other host
// has are said; the others' Services are assigned anew.
func (t *tenure) prove(ctx context.Context) {
	for range proofs {
		if len(t.held) == 0 {
			return
		}
		asked := t.held
		t.held = nil
		foreign := t.c.opt.Wire.Ask(ctx, addressesOf(asked))
		var again []held
		for _, h := range asked {
			if t.contest(h, foreign) {
				again = append(again, h)
			} else {
				t.conclude(h.s, h.v, h.news)
			}
		}
		for _, h := range again {
			t.alloc.Release(h.s.Key)
		}
		for _, h := range again {
			t.assign(h.s, h.news)
		}
	}
	// Whoever is to hold one of these asks again, and tells.
	for _, h := range t.held {
		t.conclude(h.s, h.v, h.news)
	}
	t.held = nil
}

// addressesOf lists what verdicts give, each once.
func addressesOf(all []held) []netip.Addr {
	var out []netip.Addr
	for _, h := range all {
		for _, ip := range h.v.Addresses {
			if !slices.Contains(h.s.Has, ip) {
				out = append(out, ip)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// contest puts the addresses of a verdict that another host has into quarantine, and
// says whether there are any.
func (t *tenure) contest(h held, foreign map[netip.Addr]string) bool {
	found := false
	for _, ip := range h.v.Addresses {
		mac := foreign[ip]
		if mac == "" || slices.Contains(h.s.Has, ip) {
			continue
		}
		found = true
		t.alloc.Quarantine(ip, mac)
		t.contested[h.s.Key] = append(t.contested[h.s.Key], ipam.Foreign{Addr: ip, MAC: mac, Pool: h.v.Pool})
		t.c.opt.Log.Warn("address not given, another host has it", "service", h.s.Key, "address", ip, "mac", mac)
	}
	return found
}

// absolve asks whether hosts that had our addresses are gone, and gives these free.
func (t *tenure) absolve(ctx context.Context) {
	list := t.alloc.Quarantined()
	if len(list) == 0 || t.c.opt.Wire == nil {
		return
	}
	var asked []netip.Addr
	for range min(len(list), absolveMost) {
		t.turn = (t.turn + 1) % len(list)
		asked = append(asked, list[t.turn].Addr)
	}
	answers := t.c.opt.Wire.Ask(ctx, asked)
	for _, ip := range asked {
		if mac, known := answers[ip]; known && mac == "" {
			t.alloc.Absolve(ip)
		}
	}
	t.settle(ctx, nil)
}
