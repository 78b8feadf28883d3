// Package lb is the vocabulary that every room speaks: addresses, frontends,
// backends, what is wanted of the host and why. It holds values and pure
// functions only and imports nothing but the standard library.
package lb
