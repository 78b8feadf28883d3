// Package kube is the way to Kubernetes: one HTTP transport over all API
// servers that never passes through a virtual IP, the backends read from the
// EndpointSlice of the API server, and Events about this node.
package kube
