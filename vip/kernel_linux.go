package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/lb"
)

var (
	// errAbsent: a refresh found no address to refresh.
	errAbsent = errors.New("the address is not on the link")
	// errExists: the address to be created is there already.
	errExists = errors.New("the address is on the link already")
)

// kernel is one netlink socket, opened in the network namespace of the
// calling thread, with what it has learned of the links since.
type kernel struct {
	sockets map[int]*nl.SocketHandle
	close   func()
	links   map[string]found
}

// found is what a look for a link by its name gave.
type found struct {
	index int
	err   error
}

// openKernel opens the socket; call close when done.
func openKernel() (*kernel, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %v", err)
	}
	// An answer is a matter of microseconds; without a limit a lost one would
	// hang the fence.
	limit := unix.NsecToTimeval(int64(time.Second))
	if err := errors.Join(s.SetSendTimeout(&limit), s.SetReceiveTimeout(&limit)); err != nil {
		s.Close()
		return nil, fmt.Errorf("limit the netlink socket to a second: %v", err)
	}
	return &kernel{
		sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}},
		close:   s.Close,
		links:   map[string]found{},
	}, nil
}

// create adds the address with the lifetime, in whole seconds; errExists when
// the link has it already.
func (k *kernel) create(a lb.Address, lft lb.Instant) error {
	err := k.write(a, lft, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0)
	if errors.Is(err, unix.EEXIST) {
		return errExists
	}
	return err
}

// refresh gives an address that is there a new lifetime and our mark, and
// never creates one: errAbsent.
//
// NLM_F_REPLACE alone is not enough for that: for want of NLM_F_CREATE the
// kernel still creates, both in inet_rtm_newaddr and inet6_rtm_newaddr
// ("userspace already relies on not having to provide this"). IFA_F_MCAUTOJOIN
// closes the gap: only the creating branch joins the address as a multicast
// group, which fails with EINVAL for a unicast address before anything is
// added, while the branch that modifies takes no notice (IPv6 lists the
// address with "autojoin" from then on). So presence and write are one step,
// and an agent that was frozen between the two revives nothing.
func (k *kernel) refresh(a lb.Address, lft lb.Instant) error {
	err := k.write(a, lft, unix.NLM_F_REPLACE, unix.IFA_F_MCAUTOJOIN)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if found, dumpErr := k.find(a); dumpErr == nil && found == nil {
		return errAbsent
	}
	return err
}

// write sends one RTM_NEWADDR: /32 or /128, no prefix route, no duplicate
// address detection, never a source address (preferred lifetime 0), ours.
func (k *kernel) write(a lb.Address, lft lb.Instant, how int, flags uint32) error {
	req, err := k.addrRequest(unix.RTM_NEWADDR, how, a, hostBits(a.IP))
	if err != nil {
		return err
	}
	flags |= unix.IFA_F_NOPREFIXROUTE
	if a.IP.Is6() {
		flags |= unix.IFA_F_NODAD
	}
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags)))
	cache := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: uint32(lft / second)}}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, cache.Serialize()))
	// Kernels before 5.18 skip an attribute they do not know.
	req.AddData(nl.NewRtAttr(ifaProto, []byte{ourProto}))
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return explain(err, a)
}

// remove deletes the address; one that is not there, or whose link is gone,
// is no error.
func (k *kernel) remove(a lb.Address) error {
	return k.removeAs(a, hostBits(a.IP))
}

// removeAs deletes the address with the prefix length with which it was found.
func (k *kernel) removeAs(a lb.Address, bits int) error {
	req, err := k.addrRequest(unix.RTM_DELADDR, 0, a, bits)
	var missing linkMissing
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return explain(err, a)
}

// addrRequest begins a message about the address (struct ifaddrmsg).
func (k *kernel) addrRequest(proto, how int, a lb.Address, bits int) (*nl.NetlinkRequest, error) {
	index, err := k.linkIndex(a.Link)
	if err != nil {
		return nil, err
	}
	family := unix.AF_INET6
	if a.IP.Is4() {
		family = unix.AF_INET
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen, msg.Scope = uint32(index), uint8(bits), unix.RT_SCOPE_UNIVERSE
	req := nl.NewNetlinkRequest(proto, how|unix.NLM_F_ACK)
	req.Sockets = k.sockets
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.IP.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.IP.AsSlice()))
	return req, nil
}

// explain turns the refusals that people meet into a way out.
func explain(err error, a lb.Address) error {
	switch {
	case err == nil, errors.Is(err, unix.EEXIST), errors.Is(err, unix.EINVAL):
		return err
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %v: give the agent the capability NET_ADMIN", a, err)
	case a.IP.Is6() && errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: %v: IPv6 is off on the link, set net.ipv6.conf.%s.disable_ipv6=0", a, err, a.Link)
	default:
		return fmt.Errorf("%s: %v", a, err)
	}
}

// dump lists every address of every link. A listing that changed underway is
// asked for again, at most twice.
func (k *kernel) dump() ([]ifAddr, error) {
	var msgs [][]byte
	var err error
	for range 3 {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.Sockets = k.sockets
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		msgs, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	// Still interrupted: what was listed is true, something may be missing.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %v", err)
	}
	var all []ifAddr
	for _, m := range msgs {
		if a, ok := parseIfAddr(m); ok {
			all = append(all, a)
		}
	}
	return all, nil
}

// find gives the very address on its link, or nil.
func (k *kernel) find(a lb.Address) (*ifAddr, error) {
	index, err := k.linkIndex(a.Link)
	if err != nil {
		return nil, err
	}
	all, err := k.dump()
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.index == index && x.ip == a.IP && x.bits == hostBits(a.IP) {
			return &x, nil
		}
	}
	return nil, nil
}

// marks says whether this kernel keeps IFA_PROTO: it lists it only where it
// is set, so one address that has it is enough to know.
func marks(all []ifAddr) bool {
	for _, a := range all {
		if a.proto != 0 {
			return true
		}
	}
	return false
}

// linkIndex is the index of the link, asked once per kernel value and not
// kept longer: links may be made anew under the same name.
func (k *kernel) linkIndex(name string) (int, error) {
	if f, asked := k.links[name]; asked {
		return f.index, f.err
	}
	var f found
	if link, err := linkNamed(name); err == nil {
		f.index = link.Attrs().Index
	} else {
		f.err = err
	}
	k.links[name] = f
	return f.index, f.err
}
