// Package ipam gives Services their addresses out of pools. It is values in and
// values out: no clock, I/O, log or lock; who calls it owns it.
package ipam
