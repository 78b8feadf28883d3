// Package manifests is what installs the agent: the files for Kubernetes and
// for systemd, as they are embedded into the binary.
package manifests
