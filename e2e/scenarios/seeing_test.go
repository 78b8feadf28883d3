package scenarios

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

// seeing is a shop that is looked at.
type seeing struct{ *shop }

// asks runs a sub-command of the binary on a node, with its configuration.
func (s *seeing) asks(n *lab.Node, args ...string) (string, error) {
	return n.Try(append([]string{lab.Mooring(s.t)}, append(args, "--config", n.Dir()+"/agent.yaml")...)...)
}

// says waits until an answer has all the words.
func (s *seeing) says(n *lab.Node, args []string, words ...string) {
	s.t.Helper()
	var out, missing string
	defer func() {
		if missing != "" {
			s.t.Logf("%v misses %q:\n%s", args, missing, out)
		}
	}()
	s.Eventually(10*time.Second, fmt.Sprintf("mooring %v says all of %q", args, words), func() bool {
		var err error
		if out, err = s.asks(n, args...); err != nil {
			return false
		}
		for _, w := range words {
			if missing = w; !strings.Contains(out, w) {
				return false
			}
		}
		missing = ""
		return true
	})
}

// condition is the status, reason and message of a condition of a Service, "" for none.
func (s *seeing) condition(name, kind string) string {
	s.t.Helper()
	return s.Kubectl("get", "svc", name, "-o",
		fmt.Sprintf(`jsonpath={range .status.conditions[?(@.type=="mooring.dev/%s")]}{.status} {.reason} {.message}{end}`,
			kind))
}

// events are the reasons and messages of those about a Service.
func (s *seeing) events(name string) string {
	s.t.Helper()
	return s.Kubectl("get", "events", "--field-selector", "involvedObject.kind=Service,involvedObject.name="+name, "-o",
		`jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// scrape is what a node's agent has of its Services' HAProxy.
func (s *seeing) scrape(n *lab.Node, query string) string {
	s.t.Helper()
	resp, err := n.HTTP(2 * time.Second).Get("http://127.0.0.1:9441/metrics/services" + query)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%d, %v: %s", resp.StatusCode, err, text)
	}
	return string(text)
}

// TestSeeingServices: metrics by the Service's name, what explain says on the holder and
// elsewhere, a planned move that loses nothing, a port that is taken, and what stays on
// a Service that is not ours any more: nothing.
func TestSeeingServices(t *testing.T) {
	s := &seeing{open(t, "nftables")}
	s.publish("shop", "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
	s.Kubectl("annotate", "svc", "shop", "mooring.dev/check=http")
	addr := s.address("shop")
	s.serves(addr + ":80")
	holder := s.onOne(addr)
	s.seen(holder, addr)
	s.moved(holder, addr)
	s.taken(s.onOne(addr))
	s.left()
	s.poolless()
}

// seen: metrics and explanations.
func (s *seeing) seen(holder *lab.Node, addr string) {
	t, other := s.t, s.other(holder)
	explain := []string{"explain", "service", "default/shop"}
	s.says(holder, explain, addr+" from pool lan", "is held by "+holder.Name()+" since", "may be held by n1, n2, n3",
		"this node is Holding", "leastconn, check by http for /", s.pods[0].IP()+":8080 on n1  HAProxy: UP, check L7OK",
		"clients of "+addr+" port 80/TCP: answered\n")
	s.says(other, explain, "is held by "+holder.Name(), "this node is Standby", "run this on "+holder.Name())
	s.says(other, []string{"status", "services"}, "default/shop  "+addr+"  "+holder.Name())
	out, err := s.asks(holder, append(explain, "-o", "json")...)
	var all []struct {
		Ports []struct {
			Servers []struct{ Status, Check string }
		}
		Clients []struct{ Meets string }
	}
	if json.Unmarshal([]byte(out), &all) != nil || err != nil || len(all) != 1 || len(all[0].Ports[0].Servers) != 3 ||
		all[0].Clients[0].Meets != "answered" {
		t.Errorf("as JSON: %v\n%s", err, out)
	}
	out, _ = s.asks(holder, explain...)
	t.Log(out)

	// A reload begins the counts anew.
	requests := regexp.MustCompile(`(?m)^haproxy_frontend_sessions_total\{proxy="fe_default_shop_80"\} ([1-9].*)$`)
	text := ""
	s.Eventually(10*time.Second, "metrics of the Service count its client", func() bool {
		_, _, err := s.get(addr + ":80")
		text = s.scrape(holder, "?scope=frontend&scope=backend")
		return err == nil && requests.MatchString(text) &&
			strings.Contains(text, `haproxy_backend_active_servers{proxy="be_default_shop_80"} 3`)
	})
	t.Log(requests.FindString(text))
}

// moved: under load, there and back, and what is refused.
func (s *seeing) moved(holder *lab.Node, addr string) {
	t, move := s.t, []string{"move", "service", "default/shop"}
	time.Sleep(2 * time.Second) // until the agents have heard each other for a while
	requests := s.Client().Requests("http://"+addr+"/", 10*time.Millisecond)
	from := holder
	for _, to := range []*lab.Node{s.other(holder), holder} {
		s.Eventually(20*time.Second, "moved to "+to.Name(), func() bool {
			out, err := s.asks(from, append(move, "--to", to.Name())...)
			t.Log(strings.TrimSpace(out), err)
			if err != nil && !strings.Contains(err.Error(), "does not serve all of it yet") {
				t.Fatal(err) // its HAProxy began some seconds ago
			}
			return err == nil && strings.Contains(out, "moved to "+to.Name())
		})
		s.Eventually(5*time.Second, to.Name()+" alone holds", func() bool {
			h := s.Holders(addr)
			return len(h) == 1 && h[0].Name() == to.Name()
		})
		time.Sleep(time.Second)
		from = to
	}
	noneLost(t, "requests through two moves of the Service", requests.Stop())
	s.says(holder, []string{"explain", "service", "default/shop"}, "its last move: Holding", "(move)")

	out := s.other(holder)
	s.Kubectl("label", "node", out.Name(), "node.kubernetes.io/exclude-from-external-load-balancers=")
	s.Eventually(10*time.Second, "a move to an excluded node is refused", func() bool {
		_, err := s.asks(holder, append(move, "--to", out.Name())...)
		return err != nil && strings.Contains(err.Error(), "may not announce pool lan")
	})
	s.Kubectl("label", "node", out.Name(), "node.kubernetes.io/exclude-from-external-load-balancers-")
	for _, c := range []struct {
		on       *lab.Node
		to, says string
	}{
		{holder, "n9", `no agent runs on a node "n9": known are n1, n2, n3`},
		{holder, holder.Name(), "holds " + addr + " already"},
		{s.other(holder), "", "run this on " + holder.Name()},
	} {
		_, err := s.asks(c.on, append(move, "--to", c.to)...)
		wantError(t, err, c.says)
	}
}

// taken: a port that a process on the holder has is told, and when that is over.
func (s *seeing) taken(holder *lab.Node) {
	t := s.t
	other := holder.Web(81)
	ports := func(port int) {
		s.Kubectl("patch", "svc", "shop", "--type=merge", "-p", fmt.Sprintf(
			`{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080},{"name":"more","port":%d,"targetPort":8080}]}}`, port))
	}
	ports(81)
	s.Eventually(10*time.Second, "the condition says that a port is taken", func() bool {
		c := s.condition("shop", "Served")
		return strings.HasPrefix(c, "False NotServed on "+holder.Name()+", which holds it, port 81 is not served: ")
	})
	t.Log(s.condition("shop", "Served"))
	s.Eventually(5*time.Second, "an Event says so", func() bool {
		return strings.Contains(s.events("shop"),
			"NotServed: on ")
	})
	if _, _, err := s.get(s.address("shop") + ":80"); err != nil {
		t.Errorf("the other port: %v", err)
	}
	s.says(holder, []string{"explain", "service", "default/shop"}, "port 81/TCP: not served (")
	other.Kill()
	ports(82) // or within a minute
	s.Eventually(10*time.Second, "the condition is over", func() bool {
		return strings.HasPrefix(s.condition("shop", "Served"), "True Served ")
	})
	s.Eventually(5*time.Second, "an Event says so", func() bool {
		return regexp.MustCompile(`(?m)^Served: `).MatchString(s.events("shop"))
	})
	if got := s.events("shop"); strings.Count(got, "NotServed: ") != 1 {
		t.Errorf("said more than once:\n%s", got)
	}
}

// left: nothing of ours stays on a Service that changes its type, or its class by our
// configuration.
func (s *seeing) left() {
	kind := func(to string) {
		s.Kubectl("patch", "svc", "shop", "--type=merge", "-p", `{"spec":{"type":"`+to+`"}}`)
	}
	clean := func() bool { return s.condition("shop", "AddressAssigned")+s.condition("shop", "Served") == "" }
	kind("ClusterIP")
	s.Eventually(10*time.Second, "the conditions of a Service of another type are gone", clean)
	kind("LoadBalancer")
	addr := s.address("shop") // another one, if there is any that was never used
	s.Eventually(5*time.Second, "and with its condition", func() bool {
		return strings.HasPrefix(s.condition("shop", "AddressAssigned"), "True ")
	})
	s.again()
	s.Eventually(30*time.Second, "address and conditions of a Service of another class are gone", func() bool {
		return clean() && len(s.ingress("shop")) == 0
	})
	s.Eventually(10*time.Second, "and nobody holds it", func() bool { return len(s.Holders(addr)) == 0 })
}

// again starts the agents anew, for Services of our class only.
func (s *seeing) again() {
	for _, n := range s.All() {
		s.agent(n).Term()
		s.Eventually(10*time.Second, "the agent has ended", func() bool { return !s.agent(n).Alive() })
		s.startAgent(n, func(cfg string) string { return cfg + "services: {enabled: true, class: only-class}\n" })
	}
}

// poolless: without any pool the Event has the very command that mends it.
func (s *seeing) poolless() {
	s.Kubectl("delete", "addresspool", "lan")
	s.Apply([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: first}\n" +
		"spec: {type: LoadBalancer, loadBalancerClass: mooring.dev/lb, ports: [{port: 80}]}\n"))
	yaml := regexp.MustCompile(`NoPools: .* echo '(.*)' \| kubectl apply -f -`)
	s.Eventually(10*time.Second, "an Event says what to apply", func() bool { return yaml.MatchString(s.events("first")) })
	if got := s.Kubectl("get", "svc", "first"); !strings.Contains(got, "<pending>") {
		s.t.Errorf("it is not pending:\n%s", got)
	}
	s.t.Log(s.events("first"))
	s.Apply([]byte(yaml.FindStringSubmatch(s.events("first"))[1]))
	if got := s.address("first"); !strings.HasPrefix(got, "192.0.2.") {
		s.t.Errorf("it has %s", got)
	}

	s.Kubectl("delete", "crd", "addresspools.mooring.dev")
	s.again()
	s.Apply([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: second}\n" +
		"spec: {type: LoadBalancer, loadBalancerClass: mooring.dev/lb, ports: [{port: 80}]}\n"))
	s.Eventually(30*time.Second, "an Event says what to install", func() bool {
		return strings.Contains(s.events("second"), "PoolsNotLoaded: ")
	})
	if got := s.condition("second", "AddressAssigned"); !strings.Contains(got,
		"mooring manifest addresspools | kubectl apply -f -") {
		s.t.Errorf("its condition: %s", got)
	}
	s.says(s.Node(1),
		[]string{"explain", "service", "default/second"}, "has no address yet: the AddressPools cannot be read")
}
