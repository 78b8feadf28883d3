// Package v1alpha1 is the API group mooring.dev in version v1alpha1: what an
// operator writes for LoadBalancer Services.
//
// +kubebuilder:object:generate=true
// +groupName=mooring.dev
package v1alpha1

// The deep copies and the CRD are generated from the types and their markers.
//go:generate go tool -modfile=../tool.mod controller-gen object paths=.
//go:generate sh -c "go tool -modfile=../tool.mod controller-gen crd paths=. output:crd:stdout > ../../manifests/addresspools.yaml"
