package lb

import (
	"net"
	"net/netip"
	"time"
)

// Address is one virtual IP on one link of this node.
type Address struct {
	IP   netip.Addr
	Link string
}

// String prints the address as "IP dev LINK", as ip-address(8) would.
func (a Address) String() string { return a.IP.String() + " dev " + a.Link }

// Instant is a reading of CLOCK_BOOTTIME, in nanoseconds since boot. Unlike
// the monotonic clock it goes on while the machine is suspended
// (clock_gettime(2)), so a deadline in it also catches a frozen agent.
type Instant = time.Duration

// Holding is everything the address sink shall hold on the announcing links.
type Holding struct {
	// Addresses wanted, all others of ours are deleted.
	Addresses []Address
	// ValidLft is the lifetime given to the kernel at each write, in whole
	// seconds: without another write the kernel removes the address.
	ValidLft time.Duration
	// NotAfter is the instant after which this wish is void: checked before
	// and after the writes, a late one deletes the addresses. 0 is never.
	NotAfter Instant
	// Quiet asks for no announcement (adoption of addresses still alive).
	Quiet bool
	// Mute asks an old holder, which keeps the addresses while a hand-over ends,
	// for silence: also what is scheduled is not sent. The first wish without it
	// announces as if the addresses were new.
	Mute bool
	// Copies are VIPs that a hand-over has given to another node: each is taken
	// from its link and stays, mute, on lo for CopyFor, so that connections made
	// before the hand-over live on. A copy ends by its lifetime, whatever later
	// wishes say, or when its VIP is wanted in Addresses again.
	Copies  []Address
	CopyFor time.Duration
}

// Held is what the address sink reached.
type Held struct {
	// Begun is the instant just before the first write.
	Begun Instant
	// Have lists the addresses now on their links.
	Have []Address
	// Added lists those of Have that were created by this call.
	Added []Address
	// Late says that NotAfter passed and that nothing is held any more.
	Late bool
}

// Answer is a host that answered a probe for a virtual IP.
type Answer struct {
	IP  netip.Addr
	MAC net.HardwareAddr
}

// Claim is an ARP or neighbour advertisement frame by another host that says
// it has one of our virtual IPs.
type Claim struct {
	IP   netip.Addr
	Link string
	MAC  net.HardwareAddr
}

// LinkChange is a link that came up or went down.
type LinkChange struct {
	Link string
	Up   bool
}

// Forward sends frames for VIP of flows that this node does not know on to
// another node on the same link: the old holder, while a hand-over ends.
type Forward struct {
	VIP Address
	// To is the other node's own address on the link, of VIP's family.
	To netip.Addr
	// MACs are To's hardware addresses, comma-separated: a frame that comes from
	// there is never sent back.
	MACs string
	// Until is when the forwarding ends by itself: before the copy does to which
	// it leads, or frames would go to and fro.
	Until Instant
}
