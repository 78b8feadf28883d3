package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"mooring.dev/mooring/internal/lb"
)

// ports takes over the ports that can be served, each with its endpoints.
func (d *draft) ports(svc *corev1.Service, all []*discovery.EndpointSlice) {
	for i, p := range svc.Spec.Ports {
		field := fmt.Sprintf("spec.ports[%d]", i)
		out := lb.ServicePort{Name: p.Name, Protocol: lb.Protocol(cmp.Or(p.Protocol, corev1.ProtocolTCP))}
		switch {
		case p.Name != "" && !reLabel.MatchString(p.Name):
			d.add(field+".name", quoted(p.Name)+" is not the name of a port; the port is not served", false)
			continue
		case !slices.Contains([]lb.Protocol{lb.TCP, lb.UDP, lb.SCTP}, out.Protocol):
			d.add(field+".protocol", quoted(string(p.Protocol))+" is unknown; use TCP, UDP or SCTP", false)
			continue
		case p.Port < 1 || p.Port > 65535:
			d.add(field+".port", fmt.Sprintf("%d is not a port from 1 to 65535", p.Port), false)
			continue
		}
		out.Port = uint16(p.Port)
		var odd string
		out.Endpoints, odd = endpoints(all, out, svc.Spec.PublishNotReadyAddresses)
		if odd != "" {
			d.add(field, "has the endpoint "+quoted(odd)+
				", which is not the address of a pod and gets no connections", false)
		}
		d.s.Ports = append(d.s.Ports, out)
	}
}

// endpoints are those of all slices for one port, of both families, sorted by
// address, each once; odd is one that is not used. publish counts all as ready
// (spec.publishNotReadyAddresses).
func endpoints(all []*discovery.EndpointSlice, p lb.ServicePort, publish bool) (out []lb.Endpoint, odd string) {
	for _, s := range all {
		number, ok := targetPort(s.Ports, p)
		if !ok || s.AddressType == discovery.AddressTypeFQDN {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			// All of them are the same pod; kube-proxy takes the first too
			// (kubernetes/kubernetes#106267).
			a, ok := podAddress(e.Addresses[0])
			if !ok {
				// The least, so that the order of the slices does not matter.
				if odd == "" || e.Addresses[0] < odd {
					odd = e.Addresses[0]
				}
				continue
			}
			// nil ready is ready, nil serving is as ready (KEP-1672).
			ready := deref(e.Conditions.Ready, true)
			out = append(out, lb.Endpoint{
				Addr: netip.AddrPortFrom(a, number), Node: deref(e.NodeName, ""), Zone: deref(e.Zone, ""),
				Ready: ready || publish, Serving: deref(e.Conditions.Serving, ready) || publish,
				Terminating: deref(e.Conditions.Terminating, false),
			})
		}
	}
	slices.SortFunc(out, func(a, b lb.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(fitness(b), fitness(a)), cmp.Compare(a.Node, b.Node))
	})
	// A pod that moves from one slice to another is in both for a moment.
	return slices.CompactFunc(out, func(a, b lb.Endpoint) bool { return a.Addr == b.Addr }), odd
}

// fitness orders what two slices say of one pod: the better counts.
func fitness(e lb.Endpoint) int {
	switch {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

// targetPort is the pods' port for a Service's port: slices name their ports as
// the Service does, and a named target port may be another number in each slice.
func targetPort(ports []discovery.EndpointPort, p lb.ServicePort) (uint16, bool) {
	for _, q := range ports {
		number := deref(q.Port, 0)
		same := deref(q.Name, "") == p.Name && lb.Protocol(deref(q.Protocol, corev1.ProtocolTCP)) == p.Protocol
		if same && number > 0 && number <= 65535 {
			return uint16(number), true
		}
	}
	return 0, false
}

// podAddress parses the address of a pod. The API server refuses loopback and
// link-local ones in slices too: they would be this node's own, or a cloud's.
func podAddress(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err == nil && a.Zone() == "" && a.Unmap().IsGlobalUnicast()
}
