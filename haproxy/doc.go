// Package haproxy is the data plane of TCP frontends: it writes a
// configuration, keeps one HAProxy process that outlives the agent running
// it, and redirects a virtual IP's public port to it with a table of nftables.
package haproxy
