// Package hello tells nodes of each other in small authenticated UDP datagrams:
// it is the failure detector, and the channel by which they agree while the API
// is away.
package hello
