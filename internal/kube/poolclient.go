package kube

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/api/v1alpha1"
)

// pools is the API of AddressPools.
type pools = gentype.ClientWithList[*v1alpha1.AddressPool, *v1alpha1.AddressPoolList]

// newPools makes a client for AddressPools. It connects to nothing.
func newPools(config *rest.Config) (*pools, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("client for AddressPools: %w", err)
	}
	c := rest.CopyConfig(config)
	gv := v1alpha1.GroupVersion
	c.APIPath, c.GroupVersion = "/apis", &gv
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// Custom resources have no protobuf.
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, ""
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client for AddressPools: %w", err)
	}
	return gentype.NewClientWithList(
		"addresspools", client, runtime.NewParameterCodec(scheme), "",
		func() *v1alpha1.AddressPool { return &v1alpha1.AddressPool{} },
		func() *v1alpha1.AddressPoolList { return &v1alpha1.AddressPoolList{} },
	), nil
}

// installPools adds to an error what to do when the kind is not known.
func installPools(err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w; install the kind: mooring manifest addresspools | kubectl apply -f -", err)
	}
	return err
}
