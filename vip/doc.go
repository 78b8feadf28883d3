// Package vip puts virtual IPs on this node's links with a lifetime that the
// kernel enforces, announces them to the neighbours and hears who else claims
// them.
package vip
