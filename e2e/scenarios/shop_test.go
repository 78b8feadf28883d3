package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"mooring.dev/mooring/e2e/lab"
)

// pool is where Services get their addresses, on the nodes' own subnet.
const pool = `apiVersion: mooring.dev/v1alpha1
kind: AddressPool
metadata: {name: lan}
spec: {addresses: ["10.99.0.210-10.99.0.219", "fd99::210-fd99::219"]}
`

// withServices makes an agent serve Services too.
func withServices(cfg string) string { return cfg + "services: {enabled: true}\n" }

// alone makes an agent serve Services and nothing else.
func alone(cfg string) string {
	return regexp.MustCompile(`(?m)^apiServer: .*\n`).ReplaceAllString(withServices(cfg), "")
}

// shop is a world with kube-proxy, a pool and a web pod on each node.
type shop struct {
	*world
	pods []*lab.Host
	// webs are the pods' servers.
	webs []*lab.Process
	kube kubernetes.Interface
}

// open boots a shop; mode is kube-proxy's.
func open(t *testing.T, mode string) *shop {
	t.Helper()
	s := openWith(t, mode, withServices)
	s.settle()
	return s
}

// openWith is open with agents of another configuration, which it does not wait for.
func openWith(t *testing.T, mode string, edit func(string) string) *shop {
	t.Helper()
	s := &shop{world: bare(t)}
	s.kube = s.Kube()
	s.Eventually(10*time.Second, "the pool is accepted", func() bool {
		_, err := s.TryKubectl([]byte(pool), "apply", "--server-side", "-f", "-")
		return err == nil
	})
	for _, n := range s.All() {
		s.StartKubeProxy(n, mode)
		s.startAgent(n, edit)
		pod := n.Pod("web-" + n.Name())
		s.webs = append(s.webs, pod.Web(8080))
		s.pods = append(s.pods, pod)
	}
	return s
}

// publish makes a Service of the pods with these ports and EndpointSlices for it,
// as a controller manager would.
func (s *shop) publish(name, spec string, ports string, pods ...*lab.Host) {
	s.t.Helper()
	s.Apply(fmt.Appendf(nil,
		"apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: LoadBalancer, %s, ports: [%s]}\n",
		name, spec, ports))
	s.endpoints(name, pods...)
}

const (
	v4 = "ipFamilies: [IPv4]"
	// web80 is the usual list of ports.
	web80 = "{port: 80, targetPort: 8080}"
)

// ending is what a slice says of a pod that ends and still serves.
const ending = "{ready: false, serving: true, terminating: true}"

// endpoints replaces the Service's EndpointSlice.
func (s *shop) endpoints(name string, pods ...*lab.Host) {
	s.t.Helper()
	s.slice(name, "IPv4", pods, nil)
}

// slice writes the Service's EndpointSlice of a family; says has what is not ready.
func (s *shop) slice(name, family string, pods []*lab.Host, says map[*lab.Host]string) {
	s.t.Helper()
	var eps []string
	for _, p := range pods {
		ip, says := p.IP(), says[p]
		if family == "IPv6" {
			ip = p.IP6()
		}
		if says == "" {
			says = "{ready: true}"
		}
		eps = append(eps, fmt.Sprintf("{addresses: [%q], nodeName: %s, conditions: %s}", ip,
			strings.TrimPrefix(p.Name(), "web-"), says))
	}
	s.Apply(fmt.Appendf(nil, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[4]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports:
- {name: "", port: 8080, protocol: TCP}
- {name: web, port: 8080, protocol: TCP}
- {name: alt, port: 8080, protocol: TCP}
- {name: udp, port: 8080, protocol: UDP}
endpoints: [%[2]s]
`, name, strings.Join(eps, ", "), family, strings.ToLower(family)))
}

// service is the Service as it is.
func (s *shop) service(name string) *corev1.Service {
	s.t.Helper()
	svc, err := s.kube.CoreV1().Services("default").Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return svc
}

// patch edits a Service by a merge patch; where is "" or "status".
func (s *shop) patch(name, text string, where ...string) {
	s.t.Helper()
	_, err := s.kube.CoreV1().Services("default").Patch(s.t.Context(), name, types.MergePatchType, []byte(text),
		metav1.PatchOptions{}, where...)
	if err != nil {
		s.t.Fatalf("patch of Service %s by %.200s: %v", name, text, err)
	}
}

// annotate sets one of our annotations of a Service, or with "" removes it.
func (s *shop) annotate(name, key, value string) {
	s.t.Helper()
	var v any = value
	if value == "" {
		v = nil
	}
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{"mooring.dev/" + key: v}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.patch(name, string(text))
}

// ingress is what a Service's status shows: addresses with their ipMode.
func (s *shop) ingress(name string) []struct{ IP, IPMode string } {
	s.t.Helper()
	var out []struct{ IP, IPMode string }
	for _, in := range s.service(name).Status.LoadBalancer.Ingress {
		mode := ""
		if in.IPMode != nil {
			mode = string(*in.IPMode)
		}
		out = append(out, struct{ IP, IPMode string }{in.IP, mode})
	}
	return out
}

// address waits for the Service's first address.
func (s *shop) address(name string) string {
	s.t.Helper()
	s.Eventually(10*time.Second, "Service "+name+" has an address", func() bool { return len(s.ingress(name)) > 0 })
	return s.ingress(name)[0].IP
}

// says returns the message of a Service's condition of ours, and whether it is true;
// "" if there is none.
func (s *shop) says(name, condition string) (message string, is bool) {
	s.t.Helper()
	for _, c := range s.service(name).Status.Conditions {
		if c.Type == "mooring.dev/"+condition {
			return c.Message, c.Status == metav1.ConditionTrue
		}
	}
	return "", false
}

// told says whether an Event about the object has the reason and the words.
func (s *shop) told(object, reason, words string) bool {
	s.t.Helper()
	list, err := s.kube.EventsV1().Events("").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Regarding.Name == object && e.Reason == reason && strings.Contains(e.Note, words) {
			return true
		}
	}
	return false
}

// get asks a Service as a client does: who answered, and whose address it saw.
func (s *shop) get(addr string) (server, client string, err error) {
	return s.getFrom(s.Client(), addr)
}

// getFrom is get from another host.
func (s *shop) getFrom(h *lab.Host, addr string) (server, client string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return "", "", err
	}
	resp, err := h.HTTP(2 * time.Second).Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	server, client, _ = strings.Cut(string(body), " ")
	return server, client, err
}

// serves waits until the address answers, and returns how long that took: in the first
// seconds of its HAProxy's life a new Service waits.
func (s *shop) serves(addr string) time.Duration {
	s.t.Helper()
	return s.Eventually(20*time.Second, addr+" answers", func() bool {
		_, _, err := s.get(addr)
		return err == nil
	})
}

// refuses waits until nobody answers at the address any more.
func (s *shop) refuses(addr string) {
	s.t.Helper()
	s.Eventually(10*time.Second, addr+" does not answer any more", func() bool {
		_, _, err := s.get(addr)
		return err != nil
	})
}

// requests asks an address again and again.
func (s *shop) requests(addr string) *lab.Probe {
	return s.Client().Requests("http://"+addr+"/", 20*time.Millisecond)
}

// onOne waits until exactly one node has the address on its link and returns it.
func (s *shop) onOne(addr string) *lab.Node {
	s.t.Helper()
	s.Eventually(10*time.Second, "one node holds "+addr, func() bool { return len(s.Holders(addr)) == 1 })
	return s.Holders(addr)[0]
}

// onOneOf waits until one of the nodes, and none besides, holds the address.
func (s *shop) onOneOf(addr string, nodes ...string) *lab.Node {
	s.t.Helper()
	s.Eventually(20*time.Second, fmt.Sprintf("one of %v alone holds %s", nodes, addr), func() bool {
		h := s.Holders(addr)
		return len(h) == 1 && slices.Contains(nodes, h[0].Name())
	})
	return s.Holders(addr)[0]
}

// away waits until nobody holds the address.
func (s *shop) away(addr string) {
	s.t.Helper()
	s.Eventually(10*time.Second, addr+" is gone", func() bool { return len(s.Holders(addr)) == 0 })
}

// datagram asks a Service over UDP: who answered, and whose address it saw.
func (s *shop) datagram(addr string) (server, client string, err error) {
	out, err := s.Client().Ask(addr)
	server, client, _ = strings.Cut(out, " ")
	return server, client, err
}

// secret makes a Secret of type kubernetes.io/tls for a name, or replaces it.
func (s *shop) secret(name, host string) {
	s.t.Helper()
	crt, key := lab.SelfSigned(s.t, host)
	s.Apply(fmt.Appendf(nil,
		"apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: %q\n  tls.key: %q\n",
		name, crt, key))
}

// servedName is the name in the certificate that a client meets; the pods answer
// behind it.
func (s *shop) servedName(addr string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return s.Client().Handshake(ctx, addr)
}
