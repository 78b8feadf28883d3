package scenarios

import (
	"strings"
	"testing"
	"time"
)

// TestServiceAddressInUse: an address that another host has is given to nobody; a
// Service that asks for it is told whose it is, and gets it once that host is gone.
func TestServiceAddressInUse(t *testing.T) {
	t.Parallel()
	s := open(t, "nftables")
	const first, next = "10.99.0.210", "10.99.0.211"
	s.Client().Exec("ip", "addr", "add", first+"/32", "dev", "eth0")
	s.publish("any", "ipFamilies: [IPv4]", "{port: 80, targetPort: 8080}", s.pods...)
	if got := s.address("any"); got != next {
		t.Errorf("it got %s, want %s", got, next)
	}
	s.serves(next + ":80")
	s.Eventually(10*time.Second, "an Event says whose the address is", func() bool {
		out := s.Kubectl("get", "events", "-o", "jsonpath={.items[*].note}{.items[*].message}")
		return strings.Contains(out, first+" is not given") && strings.Contains(out, s.Client().MAC())
	})
	s.Eventually(10*time.Second, "the pool says so", func() bool {
		out := s.Kubectl("get", "addresspool", "lan", "-o", "jsonpath={.status.quarantined}")
		return strings.Contains(out, first) && strings.Contains(out, s.Client().MAC())
	})

	s.publish("certain", "ipFamilies: [IPv4], loadBalancerIP: "+first, "{port: 80, targetPort: 8080}", s.pods...)
	s.Eventually(10*time.Second, "the condition says why it waits", func() bool {
		return strings.Contains(s.Kubectl("get", "svc", "certain", "-o", "jsonpath={.status.conditions}"), "AddressQuarantined")
	})
	if got := s.ingress("certain"); len(got) != 0 {
		t.Errorf("status: %+v", got)
	}
	s.Client().Exec("ip", "addr", "del", first+"/32", "dev", "eth0")
	took := s.Eventually(75*time.Second, "it has the address", func() bool {
		got := s.ingress("certain")
		return len(got) == 1 && got[0].IP == first
	})
	t.Logf("given %s after the other host was gone", took)
	s.serves(first + ":80")
}
