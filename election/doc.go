// Package election decides who holds a virtual IP: a pure state machine (the
// tables of ARCHITECTURE.md) and, beside it, the adapter that reads and writes
// the Lease through client-go's leader election.
package election
