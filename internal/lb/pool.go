package lb

import "net/netip"

// Pool is a set of addresses for Services, and who may have them.
type Pool struct {
	Name string
	// Ranges are not empty, in the order of the specification; they may overlap.
	Ranges []Range
	// AutoAssign: also for Services that name neither the pool nor an address.
	AutoAssign bool
	// AvoidBuggy leaves out IPv4 addresses that end in .0 or .255.
	AvoidBuggy bool
	// Priority orders pools, the least first; 0 is after all others.
	Priority int
	// Namespaces by name and by label, and Services by label, to which the pool
	// belongs; of each kind any one match is enough, and both kinds must match where
	// both are given. None at all: it is everybody's.
	Namespaces         []string
	NamespaceSelectors []Selector
	ServiceSelectors   []Selector
	// Shards is the number of groups over which its addresses are spread.
	Shards int
	// Interfaces are the links that may announce, none listed means the one in whose
	// subnet the address is; NodeSelector are the nodes that may, empty means all.
	Interfaces   []string
	NodeSelector Selector
}

// Range is all addresses from From to To, both included, of one family.
type Range struct {
	From, To netip.Addr
}

// Selector chooses by labels, as metav1.LabelSelector does: every entry of Labels
// and every requirement must hold. The zero value chooses everything.
type Selector struct {
	Labels       map[string]string
	Requirements []Requirement
}

// Requirement is one matchExpressions entry.
type Requirement struct {
	Key string
	// Operator is In, NotIn, Exists or DoesNotExist.
	Operator string
	Values   []string
}
