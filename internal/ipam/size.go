package ipam

import (
	"encoding/binary"
	"math"
	"net/netip"

	"mooring.dev/mooring/internal/lb"
)

// endless is the size from which a range is said to have MaxInt64 addresses, as
// MetalLB's counters say it.
const endless = 1 << 62

// count is the number of addresses of a range, MaxInt64 for 2^62 and more.
func count(r lb.Range) uint64 {
	fromHigh, fromLow := halves(r.From)
	toHigh, toLow := halves(r.To)
	low := toLow - fromLow
	if toLow < fromLow {
		toHigh-- // borrowed
	}
	if toHigh != fromHigh || low >= endless-1 {
		return math.MaxInt64
	}
	return low + 1
}

// halves are the two 64-bit words of an address.
func halves(addr netip.Addr) (high, low uint64) {
	b := addr.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// buggy is the number of addresses of an IPv4 range that end in .0 or .255.
func buggy(r lb.Range) uint64 {
	upTo := func(n uint64) uint64 { return (n+255)>>8 + n>>8 } // of those below n
	from, to := r.From.As4(), r.To.As4()
	return upTo(uint64(binary.BigEndian.Uint32(to[:]))+1) - upTo(uint64(binary.BigEndian.Uint32(from[:])))
}
