package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes and values of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctTupleOrig   = 1
	ctStatus      = 3
	ctProtoInfo   = 4
	ctFilter      = 25
	tupleIP       = 1
	tupleSrc4     = 1
	tupleDst4     = 2
	tupleSrc6     = 3
	tupleDst6     = 4
	tupleProto    = 2
	protoInfoTCP  = 1
	tcpInfoState  = 1
	filterFlags   = 1
	filterIPDst   = 1 << 1
	seenReply     = 1 << 1
	ctGet         = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctSynReceived = 2
	ctLastAck     = 6
)

// ownFlows lists the established TCP connections of this node to the VIP, at
// most limit of them: those of its sockets, and those that conntrack has, which
// sees what the client calls the port also where DNAT leads to another. An error
// beside them says that some may be missing.
func ownFlows(ip netip.Addr, limit int) ([]flow, error) {
	all := map[flow]bool{}
	note := func(f flow) {
		if len(all) < limit {
			all[f] = true
		}
	}
	sockets, err := socketsOf(localIs, ip)
	for _, s := range sockets {
		note(flow{client: s.remote, vip: s.local})
	}
	faults := []error{err, trackedFlows(ip, note)}
	if len(all) == limit {
		faults = append(faults, fmt.Errorf("%s has %d connections or more: those beyond end", ip, limit))
	}
	out := make([]flow, 0, len(all))
	for f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(x, y flow) int { return x.client.Compare(y.client) })
	return out, errors.Join(faults...)
}

// trackedFlows visits the flows that conntrack knows to the IP and that both
// sides have spoken in. A kernel without conntrack has none.
func trackedFlows(ip netip.Addr, visit func(flow)) error {
	req := nl.NewNetlinkRequest(ctGet, unix.NLM_F_DUMP)
	if ip.Is6() {
		req.AddRawData([]byte{unix.AF_INET6, unix.NFNETLINK_V0, 0, 0})
	} else {
		// Kernels since 5.8 leave out the others. Not for IPv6, whose comparison
		// is the wrong way round in 6.18 (ctnetlink_filter_match_tuple).
		const nested = unix.NLA_F_NESTED
		req.AddRawData([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0})
		req.AddRawData(attr(ctTupleOrig|nested, attr(tupleIP|nested, attr(tupleDst4, ip.AsSlice()))))
		req.AddRawData(attr(ctFilter|nested, attr(filterFlags, binary.NativeEndian.AppendUint32(nil, filterIPDst))))
	}
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if f, ok := parseTracked(msg); ok && f.vip.Addr() == ip {
			visit(f)
		}
		return true
	})
	if err == nil || errors.Is(err, netlink.ErrDumpInterrupted) || noConntrack(err) {
		return nil
	}
	return fmt.Errorf("list the flows that conntrack knows: %v: those through DNAT may end", err)
}

// noConntrack: the subsystem is not there (nfnetlink_rcv_msg).
func noConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// parseTracked reads a conntrack entry: its original direction. False for what
// is not TCP, not spoken by both sides, or over.
func parseTracked(msg []byte) (flow, bool) {
	if len(msg) < nl.SizeofNfgenmsg {
		return flow{}, false
	}
	var f flow
	var tcp, answered, open bool
	sound := eachAttr(msg[nl.SizeofNfgenmsg:], func(kind uint16, v []byte) {
		switch kind {
		case ctTupleOrig:
			f, tcp = parseTuple(v)
		case ctStatus:
			answered = len(v) == 4 && binary.BigEndian.Uint32(v)&seenReply != 0
		case ctProtoInfo:
			within(v, protoInfoTCP, func(tcp []byte) {
				within(tcp, tcpInfoState, func(s []byte) {
					open = len(s) == 1 && s[0] >= ctSynReceived && s[0] <= ctLastAck
				})
			})
		}
	})
	return f, sound && tcp && answered && open
}

// parseTuple reads CTA_TUPLE_ORIG and says whether it is a whole one of TCP.
func parseTuple(b []byte) (flow, bool) {
	var src, dst netip.Addr
	var sport, dport uint16
	var tcp bool
	sound := eachAttr(b, func(kind uint16, v []byte) {
		switch kind {
		case tupleIP:
			_ = eachAttr(v, func(kind uint16, v []byte) {
				switch kind {
				case tupleSrc4, tupleSrc6:
					src, _ = netip.AddrFromSlice(v)
				case tupleDst4, tupleDst6:
					dst, _ = netip.AddrFromSlice(v)
				}
			})
		case tupleProto:
			within(v, 1, func(v []byte) { tcp = len(v) == 1 && v[0] == unix.IPPROTO_TCP })
			within(v, 2, func(v []byte) { sport = port16(v) })
			within(v, 3, func(v []byte) { dport = port16(v) })
		}
	})
	f := flow{netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)}
	return f, sound && tcp && src.IsValid() && dst.IsValid() && sport != 0 && dport != 0
}

// within visits the attributes of the kind in b.
func within(b []byte, want uint16, visit func([]byte)) {
	_ = eachAttr(b, func(kind uint16, v []byte) {
		if kind == want {
			visit(v)
		}
	})
}

// port16 reads a port, 0 when it is none.
func port16(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
