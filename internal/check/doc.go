// Package check judges what was found on a node and in its cluster: whether an
// agent can work there, and what to do where it cannot. Facts go in, findings come
// out; it asks nobody. What it looks at, and why, is the list of All.
package check
