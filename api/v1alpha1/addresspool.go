package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionReady is the condition of an AddressPool that says whether all of its
// specification is in use; its message lists what is not, and why.
const ConditionReady = "Ready"

// DefaultShards is spec.announce.l2.shards when nothing is said.
const DefaultShards = 8

// AddressPool is a set of addresses for Services of type LoadBalancer.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=addresspools,singular=addresspool,shortName=pool
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Used",type=integer,JSONPath=`.status.used`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AddressPoolSpec `json:"spec"`
	// +optional
	Status AddressPoolStatus `json:"status,omitempty"`
}

// AddressPoolSpec says which addresses there are and who may have them.
type AddressPoolSpec struct {
	// addresses are prefixes ("192.0.2.0/28"), ranges ("192.0.2.10-192.0.2.20") and
	// single addresses, IPv4 and IPv6. An IPv4 prefix has at least 8 bits, an IPv6
	// prefix at least 48. A Service of two families gets both from one pool.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	Addresses []AddressRange `json:"addresses"`

	// autoAssign also serves Services that ask for neither the pool nor an address.
	//
	// +kubebuilder:default=true
	// +optional
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// avoidBuggyIPs leaves out IPv4 addresses that end in .0 or .255, for the sake of
	// old clients that take them for the network's own.
	//
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// priority orders pools, the least first; 0 comes after all others.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	Priority int32 `json:"priority,omitempty"`

	// namespaces whose Services may have the addresses, by name. With neither
	// namespaces nor selectors the pool is everybody's.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +listType=set
	// +optional
	Namespaces []string `json:"namespaces,omitempty"`

	// namespaceSelectors are the same by label; any one that matches is enough.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// serviceSelectors choose Services by label; any one that matches is enough.
	// Given together with namespaces both must match.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// announce is how the network learns where the addresses are.
	//
	// +optional
	Announce Announce `json:"announce,omitempty"`
}

// AddressRange is a prefix, a range "from-to" of one family, or one address.
//
// +kubebuilder:validation:MaxLength=80
// +kubebuilder:validation:XValidation:rule="isCIDR(self) || isIP(self) || self.contains('-') && isIP(self.substring(0, self.indexOf('-'))) && isIP(self.substring(self.indexOf('-') + 1)) && ip(self.substring(0, self.indexOf('-'))).family() == ip(self.substring(self.indexOf('-') + 1)).family()",message="use a prefix such as 192.0.2.0/28, an address, or a range FROM-TO of one family, without blanks"
// +kubebuilder:validation:XValidation:rule="!self.matches('^[0-9]{1,3}([.][0-9]{1,3}){3}-[0-9]{1,3}([.][0-9]{1,3}){3}$') || [self.replace('-', '.').split('.')].all(n, int(n[0]) * 16777216 + int(n[1]) * 65536 + int(n[2]) * 256 + int(n[3]) <= int(n[4]) * 16777216 + int(n[5]) * 65536 + int(n[6]) * 256 + int(n[7]))",message="the range runs backwards; put the smaller address first"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 8 : 48)",message="the prefix is too large; use at least /8 for IPv4 and /48 for IPv6"
// +kubebuilder:validation:XValidation:rule="isCIDR(self) ? cidr(self).ip().isGlobalUnicast() : isIP(self) ? ip(self).isGlobalUnicast() : !self.contains('-') || (!isIP(self.substring(0, self.indexOf('-'))) || ip(self.substring(0, self.indexOf('-'))).isGlobalUnicast()) && (!isIP(self.substring(self.indexOf('-') + 1)) || ip(self.substring(self.indexOf('-') + 1)).isGlobalUnicast())",message="loopback, link-local, multicast, broadcast and unspecified addresses cannot be announced"
type AddressRange string

// Announce is how the network learns where the addresses of a pool are.
type Announce struct {
	// l2 answers ARP and neighbour solicitations on one node at a time.
	//
	// +optional
	L2 *L2 `json:"l2,omitempty"`
}

// L2 is announcement on the local link.
type L2 struct {
	// interfaces that may announce; none means the one in whose subnet the address is.
	//
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9._@:-]{1,15}$`
	// +listType=set
	// +optional
	Interfaces []string `json:"interfaces,omitempty"`

	// nodeSelector are the nodes that may announce; none means all.
	//
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// shards is the number of groups over which the addresses are spread; a group moves
	// from node to node as one, and costs one Lease.
	//
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	// +optional
	Shards int32 `json:"shards,omitempty"`
}

// AddressPoolStatus is what the agents say about a pool.
type AddressPoolStatus struct {
	// size, used and free count addresses; more than 2^63-1 are shown as that.
	//
	// +optional
	Size int64 `json:"size"`
	// +optional
	Used int64 `json:"used"`
	// +optional
	Free int64 `json:"free"`

	// conditions: Ready.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// quarantined are addresses that another host answers for. They are given to
	// nobody as long as it does.
	//
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=address
	// +optional
	Quarantined []Quarantined `json:"quarantined,omitempty"`
}

// Quarantined is an address that a foreign host has.
type Quarantined struct {
	Address string `json:"address"`
	// mac is the hardware address that answered.
	//
	// +optional
	MAC string `json:"mac,omitempty"`
}

// AddressPoolList is a list of AddressPools.
//
// +kubebuilder:object:root=true
type AddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AddressPool `json:"items"`
}

// Auto is spec.autoAssign with its default.
func (s *AddressPoolSpec) Auto() bool { return s.AutoAssign == nil || *s.AutoAssign }
