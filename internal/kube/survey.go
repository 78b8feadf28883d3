package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// Surveyor reads once, for `mooring check`, what a cluster has. It changes nothing.
type Surveyor struct {
	config *rest.Config
	core   coreclient.CoreV1Interface
	apps   appsclient.AppsV1Interface
}

// NewSurveyor connects to nothing.
func NewSurveyor(config *rest.Config) (*Surveyor, error) {
	core, err := coreclient.NewForConfig(config)
	apps, also := appsclient.NewForConfig(config)
	if err := errors.Join(err, also); err != nil {
		return nil, fmt.Errorf("client for a look at the cluster: %w", err)
	}
	return &Surveyor{config, core, apps}, nil
}

// Forbidden says whether an API server refused for want of a right.
func Forbidden(err error) bool { return apierrors.IsForbidden(err) }

// Servers are the API servers that the cluster itself lists.
func (s *Surveyor) Servers(ctx context.Context) ([]netip.AddrPort, error) {
	c, err := discoveryclient.NewForConfig(s.config)
	if err != nil {
		return nil, err
	}
	list, err := c.EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discovery.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, slice := range list.Items {
		for _, p := range slice.Ports {
			for _, e := range slice.Endpoints {
				for _, text := range e.Addresses {
					if ip, err := netip.ParseAddr(text); err == nil && p.Port != nil {
						out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(*p.Port)))
					}
				}
			}
		}
	}
	return out, nil
}

// HasNode says whether the cluster has a Node of the name.
func (s *Surveyor) HasNode(ctx context.Context, name string) (bool, error) {
	_, err := s.core.Nodes().Get(ctx, name, metav1.GetOptions{})
	return err == nil, ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// HasNamespace says whether a Lease could be made in the namespace: a dry run asks,
// since agents may not read Namespaces.
func (s *Surveyor) HasNamespace(ctx context.Context, name string) (bool, error) {
	c, err := coordinationclient.NewForConfig(s.config)
	if err != nil {
		return false, err
	}
	try := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{GenerateName: "check-"}}
	_, err = c.Leases(name).Create(ctx, try, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err == nil, ignoreNotFound(err)
}

// HelloKeys are the keys of the Secret as Keys reads them, one a line, "" without any
// that fits; false is that there is no such Secret.
func (s *Surveyor) HelloKeys(ctx context.Context, namespace, name string) (text string, found bool, err error) {
	secret, err := s.core.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", false, ignoreNotFound(err)
	}
	k := &Keys{o: KeysOptions{Log: slog.New(slog.DiscardHandler)}}
	text, _ = k.read(secret.Data)
	return text, true, nil
}

// Pools counts the AddressPools; false is that the cluster does not know the type.
func (s *Surveyor) Pools(ctx context.Context) (n int, known bool, err error) {
	c, err := newPools(s.config)
	if err != nil {
		return 0, false, err
	}
	list, err := c.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, false, ignoreNotFound(err)
	}
	return len(list.Items), true, nil
}

// ProxyConfig is what counts of a KubeProxyConfiguration.
type ProxyConfig struct {
	// Mode is iptables, nftables, ipvs or "", the default.
	Mode string `json:"mode"`
	IPVS struct {
		StrictARP bool `json:"strictARP"`
	} `json:"ipvs"`
}

// KubeProxy reads ConfigMap kube-system/kube-proxy, as kubeadm and k0s write it; false
// is that there is none.
func (s *Surveyor) KubeProxy(ctx context.Context) (c ProxyConfig, found bool, err error) {
	m, err := s.core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err != nil {
		return c, false, ignoreNotFound(err)
	}
	for _, name := range []string{"config.conf", "config.yaml"} {
		if text := m.Data[name]; text != "" {
			if err := yaml.Unmarshal([]byte(text), &c); err != nil {
				return c, false, fmt.Errorf("ConfigMap kube-system/kube-proxy, %s: %w", name, err)
			}
			return c, true, nil
		}
	}
	return c, false, nil
}

// Workload is an object that may belong to another load balancer or to a network.
type Workload struct {
	// Kind is DaemonSet, Pod or ConfigMap.
	Kind, Namespace, Name string
	// Images are those of its containers; Words their arguments, and their variables
	// or the ConfigMap's entries as name=value.
	Images, Words []string
}

// most bounds a list that is looked through once.
const most = 1000

// DaemonSets lists those of all namespaces.
func (s *Surveyor) DaemonSets(ctx context.Context) ([]Workload, error) {
	list, err := s.apps.DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: most})
	if err != nil {
		return nil, err
	}
	var out []Workload
	for i := range list.Items {
		d := &list.Items[i]
		out = append(out, workload("DaemonSet", d.ObjectMeta, d.Spec.Template.Spec))
	}
	return out, nil
}

// StaticPods lists those of kube-system, which kubelets run from files.
func (s *Surveyor) StaticPods(ctx context.Context) ([]Workload, error) {
	list, err := s.core.Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{Limit: most})
	if err != nil {
		return nil, err
	}
	var out []Workload
	for i := range list.Items {
		if p := &list.Items[i]; p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			out = append(out, workload("Pod", p.ObjectMeta, p.Spec))
		}
	}
	return out, nil
}

// Cilium reads ConfigMap kube-system/cilium-config; false is that there is none.
func (s *Surveyor) Cilium(ctx context.Context) (Workload, bool, error) {
	m, err := s.core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, "cilium-config", metav1.GetOptions{})
	if err != nil {
		return Workload{}, false, ignoreNotFound(err)
	}
	w := Workload{Kind: "ConfigMap", Namespace: m.Namespace, Name: m.Name}
	for _, name := range slices.Sorted(maps.Keys(m.Data)) {
		w.Words = append(w.Words, name+"="+m.Data[name])
	}
	return w, true, nil
}

func workload(kind string, meta metav1.ObjectMeta, spec corev1.PodSpec) Workload {
	w := Workload{Kind: kind, Namespace: meta.Namespace, Name: meta.Name}
	for _, c := range spec.Containers {
		w.Images = append(w.Images, c.Image)
		w.Words = append(append(w.Words, c.Command...), c.Args...)
		for _, e := range c.Env {
			w.Words = append(w.Words, e.Name+"="+e.Value)
		}
	}
	return w
}
