package vip

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	// ifaProto is IFA_PROTO of linux/if_addr.h (kernel ≥ 5.18): who put the
	// address there.
	ifaProto = 11
	// ourProto is the mark of our addresses, in the range the kernel leaves
	// to users (1–3 are its own).
	ourProto = 0x6d
	// markLft is the longest lifetime, in seconds, of an address taken for
	// ours on kernels without IFA_PROTO.
	markLft = 60
	// loopbackIndex is the index of lo in every network namespace.
	loopbackIndex = 1
)

// ifAddr is an address as the kernel lists it.
type ifAddr struct {
	index     int // of the link
	ip        netip.Addr
	bits      int // prefix length
	proto     uint8
	valid     uint32 // seconds, 2³²−1 is for ever
	preferred uint32 // seconds
	unproved  bool   // duplicate address detection runs or failed
}

// ours says whether the address carries our mark. Where the kernel knows no
// marks, the form has to do: a single address, never a source, short-lived.
func (a ifAddr) ours(marks bool) bool {
	if a.bits != hostBits(a.ip) {
		return false
	}
	if marks {
		return a.proto == ourProto
	}
	longest := uint32(markLft)
	if a.index == loopbackIndex {
		longest = uint32(drainMax / second) // a copy
	}
	return a.preferred == 0 && a.valid <= longest
}

// prefix is the subnet that comes with the address.
func (a ifAddr) prefix() netip.Prefix { return netip.PrefixFrom(a.ip, a.bits) }

// parseIfAddr reads the body of an RTM_NEWADDR message (rtnetlink(7)): struct
// ifaddrmsg, then attributes. Malformed messages give false.
func parseIfAddr(b []byte) (ifAddr, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return ifAddr{}, false
	}
	const forever = ^uint32(0)
	a := ifAddr{bits: int(b[1]), index: int(binary.NativeEndian.Uint32(b[4:])), valid: forever, preferred: forever,
		unproved: b[2]&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0}
	var local, other netip.Addr
	ok := eachAttr(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch {
		case kind == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case kind == unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(v)
		case kind == ifaProto && len(v) == 1:
			a.proto = v[0]
		case kind == unix.IFA_CACHEINFO && len(v) >= 8:
			a.preferred, a.valid = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
		}
	})
	// With a peer, IFA_ADDRESS is the other end; IPv6 without one has no
	// IFA_LOCAL.
	a.ip = local
	if !local.IsValid() {
		a.ip = other
	}
	return a, ok && a.ip.IsValid() && a.bits <= hostBits(a.ip)
}

// eachAttr calls visit for each attribute (netlink(7), struct nlattr) and
// says whether the lengths were sound.
func eachAttr(b []byte, visit func(kind uint16, value []byte)) bool {
	// The two highest bits of a type are flags (NLA_TYPE_MASK).
	const header, align, typeMask = unix.SizeofNlAttr, unix.NLA_ALIGNTO, 0x3fff
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			return false
		}
		visit(binary.NativeEndian.Uint16(b[2:])&typeMask, b[header:size])
		b = b[min(len(b), (size+align-1)&^(align-1)):]
	}
	return true
}
