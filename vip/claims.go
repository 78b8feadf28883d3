package vip

import (
	"net/netip"

	"mooring.dev/mooring/internal/lb"
)

const (
	// claimGap is the shortest time between two reports of one claimant.
	claimGap = second / 10
	// claimMax bounds what is remembered: a flood of invented MACs must not
	// become a flood of reports.
	claimMax = 256
)

// claimant is one MAC that says it has one IP.
type claimant struct {
	ip  netip.Addr
	mac string
}

// claims remembers who was reported when.
type claims map[claimant]lb.Instant

// news says whether the claim is to be reported now, and then remembers it.
func (c claims) news(claim lb.Claim, now lb.Instant) bool {
	who := claimant{claim.IP, string(claim.MAC)}
	if last, known := c[who]; known && now-last < claimGap {
		return false
	}
	if len(c) >= claimMax {
		for k, last := range c {
			if now-last >= claimGap {
				delete(c, k)
			}
		}
		if len(c) >= claimMax {
			return false
		}
	}
	c[who] = now
	return true
}
