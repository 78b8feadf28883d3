package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// Reason is why a Service does not have what it asks for; it is a condition's
// reason, so the words stay.
type Reason string

// The reasons of Assign.
const (
	// Invalid: one of the Service's Issues is Fatal.
	Invalid Reason = "InvalidService"
	// NoClusterIPs: the address family cannot be known.
	NoClusterIPs Reason = "NoClusterIPs"
	// NotDualStack: RequireDualStack with cluster IPs of one family.
	NotDualStack Reason = "NotDualStack"
	// FamilyMismatch: the addresses asked for are not of the Service's families.
	FamilyMismatch Reason = "FamilyMismatch"
	// PoolsNotLoaded: SetPools was not called yet; the status must stay as it is.
	PoolsNotLoaded Reason = "PoolsNotLoaded"
	// NoPools: there is no pool at all.
	NoPools Reason = "NoPools"
	// NoPoolFits: pools exist, none of them is for this Service.
	NoPoolFits Reason = "NoPoolFits"
	// NamespaceUnknown: a pool chooses by labels of a namespace not seen yet.
	NamespaceUnknown Reason = "NamespaceUnknown"
	// UnknownPool: the pool asked for does not exist.
	UnknownPool Reason = "UnknownPool"
	// PoolForbidden: the pool asked for, or that of the address, is not for it.
	PoolForbidden Reason = "PoolForbidden"
	// PoolDisagrees: the address asked for is not in the pool asked for.
	PoolDisagrees Reason = "PoolDisagrees"
	// AddressNotInPool: no pool, or no single one, has the addresses asked for.
	AddressNotInPool Reason = "AddressNotInPool"
	// AddressAvoided: it ends in .0 or .255 and its pool leaves those out.
	AddressAvoided Reason = "AddressAvoided"
	// AddressInUse: another Service has it and the two may not share it.
	AddressInUse Reason = "AddressInUse"
	// AddressQuarantined: a host that is none of ours answers for it.
	AddressQuarantined Reason = "AddressQuarantined"
	// NoFamilyInPool: no pool that fits has ranges of the families needed.
	NoFamilyInPool Reason = "NoFamilyInPool"
	// PoolExhausted: pools fit, and have nothing free.
	PoolExhausted Reason = "PoolExhausted"
)

// Waits says whether a released address or a changed pool can mend it; the other
// reasons end with a change of the Service.
func (r Reason) Waits() bool {
	switch r {
	case Invalid, NoClusterIPs, NotDualStack, FamilyMismatch, PoolsNotLoaded:
		return false
	default:
		return true
	}
}

// Refusal is the error of Assign.
type Refusal struct {
	Reason Reason
	// Text says what is wrong and what to do, on one line.
	Text string
}

// Error returns the text.
func (r *Refusal) Error() string { return r.Text }

// refuse makes a Refusal.
func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// quoted is a name that a user wrote, safe and short enough for a message.
func quoted(name string) string {
	const longest = 63
	if len(name) > longest {
		return fmt.Sprintf("%q…", name[:longest])
	}
	return fmt.Sprintf("%q", name)
}

// list joins at most five names for a message.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// clashKind is why two Services may not be on one address.
type clashKind uint8

const (
	noClash clashKind = iota
	// keyClash: one of them has no shared key, or another one.
	keyClash
	// backendClash: Local beside Cluster, or beside Local of another selector.
	backendClash
	// portClash: both have one port and protocol.
	portClash
)

// clash is what stands between a Service and an address; a value, since most are
// never told to anyone.
type clash struct {
	kind clashKind
	with lb.ServiceKey
	port port
}

// refusal says it for people.
func (c clash) refusal(addr netip.Addr) *Refusal {
	switch c.kind {
	case portClash:
		return refuse(AddressInUse, "%s/%d on %s belongs to Service %s; choose another port or address",
			c.port.protocol, c.port.number, addr, c.with)
	case backendClash:
		return refuse(AddressInUse, "%s is used by Service %s, which differs in externalTrafficPolicy, or in its selector "+
			"under Local; make both equal, or choose another address", addr, c.with)
	default:
		return refuse(AddressInUse, "%s is used by Service %s, which does not share it; choose another address, or "+
			"annotate both with the same mooring.dev/shared-key", addr, c.with)
	}
}
