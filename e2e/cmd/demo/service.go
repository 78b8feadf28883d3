package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// What a user writes; the EndpointSlice is what a controller manager makes of pods.
const (
	pool = `apiVersion: mooring.dev/v1alpha1
kind: AddressPool
metadata: {name: lan}
spec: {addresses: [10.99.0.210-10.99.0.219]}`
	shop = `apiVersion: v1
kind: Service
metadata: {name: shop, annotations: {mooring.dev/tls-secret: shop-tls, mooring.dev/check: tcp}}
spec: {type: LoadBalancer, ports: [{name: https, port: 443, targetPort: 8080}]}`
	allowed = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: shop-tls}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [shop-tls], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: shop-tls}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: shop-tls}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "mooring:agents"}]`
)

// service shows a Service from its creation through a pod's and a node's death.
func (d *show) service() {
	var endpoints []string
	var pods []*lab.Process
	for _, n := range d.All() {
		pod := n.Pod("shop-" + n.Name())
		pods = append(pods, pod.Web(8080))
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [%s], nodeName: %s, conditions: {ready: true}}", pod.IP(),
			n.Name()))
	}
	crt, key := lab.SelfSigned(d, "shop.example")
	fmt.Printf("    $ kubectl apply -f pool.yaml -f shop-tls.yaml -f shop.yaml\n")
	d.Eventually(10*time.Second, "the pool is accepted", func() bool {
		_, err := d.TryKubectl([]byte(pool), "apply", "--server-side", "-f", "-")
		return err == nil
	})
	d.Apply([]byte(allowed), fmt.Appendf(nil,
		"apiVersion: v1\nkind: Secret\nmetadata: {name: shop-tls}\ntype: kubernetes.io/tls\nstringData: {tls.crt: %q, tls.key: %q}", crt, key),
		[]byte(shop), fmt.Appendf(nil, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: https, port: 8080, protocol: TCP}]
endpoints: [%s]`, strings.Join(endpoints, ", ")))
	var addr string
	took := d.Eventually(20*time.Second, "the Service has an address", func() bool {
		addr = d.Kubectl("get", "svc", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
		return addr != ""
	})
	took += d.Eventually(20*time.Second, "it answers over TLS", func() bool { return d.handshake(addr) })
	d.Logf("%s:443 answers with a certificate for shop.example, %.1f s after it was asked for", addr, took.Seconds())

	probe := d.Client().Probe(addr+":443", 10*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	pods[0].Kill()
	d.Logf("a pod is killed")
	time.Sleep(2 * time.Second)
	r := probe.Stop()
	d.Logf("connections: %d, lost %d", r.Sent, r.Failed)
	if !d.handshake(addr) {
		d.Fatalf("the Service does not answer after a pod's death")
	}

	holder := d.Holder(addr)
	probe = d.Client().Probe(addr+":443", 10*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	d.Logf("%s, which holds %s, loses power", holder.Name(), addr)
	holder.Kill()
	d.Eventually(20*time.Second, "another node holds it", func() bool { return d.Holder(addr) != nil })
	d.Logf("%s holds it", d.Holder(addr).Name())
	time.Sleep(2 * time.Second)
	r = probe.Stop()
	d.Logf("client: no connection for %d ms", r.Longest.Milliseconds())
	n := d.Holder(addr)
	fmt.Printf("    %s$ mooring explain service default/shop\n", n.Name())
	for _, line := range strings.Split(strings.TrimSpace(n.Exec(d.Bin, "explain", "service", "default/shop", "--config",
		d.Config(n))), "\n") {
		fmt.Println("    " + line)
	}
	if !d.handshake(addr) {
		d.Fatalf("the Service does not answer after its holder's death")
	}
}

// handshake says whether the shop answers a client over TLS.
func (d *show) handshake(addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	name, err := d.Client().Handshake(ctx, addr+":443")
	return err == nil && name == "shop.example"
}
