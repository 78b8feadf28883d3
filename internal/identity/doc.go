// Package identity makes and judges the client certificate by which an agent is
// known to the API server. It is PURE: no clock, no files; randomness is crypto/rand's.
package identity
