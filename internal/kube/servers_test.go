package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// addrPorts parses addresses.
func addrPorts(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range texts {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

// client is what client-go makes of the configuration.
func client(t *testing.T, s *Servers, hedge time.Duration) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(s.RESTConfig(hedge))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get asks the way client-go does and returns "CODE BODY".
func get(t *testing.T, s *Servers, c *http.Client, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.RESTConfig(0).Host+"/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.ProtoMajor != 2 {
		t.Errorf("answer by %s, want HTTP/2", resp.Proto)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// pair starts a first API server, known by address, and another one, known by
// the name kubernetes, and the way to both.
func pair(t *testing.T) (*Servers, *apiserver, *apiserver) {
	t.Helper()
	noLeak(t)
	ca := newAuthority(t)
	a := newAPIServer(t, ca, "127.0.0.1:0", "127.0.0.1")
	b := newAPIServer(t, ca, "127.0.0.1:0", "kubernetes")
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://"+a.addr, "{}")))
	if err != nil {
		t.Fatal(err)
	}
	s.Set(addrPorts(b.addr))
	t.Cleanup(running(t, s))
	return s, a, b
}

// eventually waits for something that takes real time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestStoppedAndBack: the first server's process ends and starts again.
func TestStoppedAndBack(t *testing.T) {
	s, a, b := pair(t)
	c := client(t, s, 0)
	a.does(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a") })
	b.does(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "b") })
	if got := get(t, s, c, time.Second); got != "200 a" {
		t.Fatal(got)
	}
	a.stop()
	begun := time.Now()
	if got := get(t, s, c, 5*time.Second); got != "200 b" {
		t.Fatal(got)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the other server answered after %s", took)
	}
	eventually(t, "the stopped server is suspect", func() bool { return suspects(s) == a.addr })
	if why := s.State()[0].Why; !strings.Contains(why, "connection refused") {
		t.Errorf("why: %q", why)
	}
	a.start()
	eventually(t, "the server is well again", func() bool { return suspects(s) == "" })
	if got := get(t, s, c, time.Second); got != "200 a" {
		t.Error(got)
	}
}

// TestSilentServer: TCP connects, nothing more (a stopped process).
func TestSilentServer(t *testing.T) {
	noLeak(t)
	ca := newAuthority(t)
	b := newAPIServer(t, ca, "127.0.0.1:0", "kubernetes")
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://"+silent(t), "{}")))
	if err != nil {
		t.Fatal(err)
	}
	s.Set(addrPorts(b.addr))
	t.Cleanup(running(t, s))
	begun := time.Now()
	if got := get(t, s, client(t, s, 20*ms), 5*time.Second); got != "200 127.0.0.1:0" {
		t.Error(got)
	}
	if took := time.Since(begun); took > time.Second/2 {
		t.Errorf("a hedged request took %s", took)
	}
	begun = time.Now()
	if got := get(t, s, client(t, s, 0), 5*time.Second); got != "200 127.0.0.1:0" {
		t.Error(got)
	}
	if took := time.Since(begun); took > handshake+time.Second {
		t.Errorf("a request took %s", took)
	}
	eventually(t, "the silent server is suspect", func() bool { return suspects(s) != "" })
}

// TestHangsWithWatchOpen: established connections stay, answers stop coming.
func TestHangsWithWatchOpen(t *testing.T) {
	s, a, _ := pair(t)
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	a.does(func(w http.ResponseWriter, r *http.Request) {
		if isWatch(r) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	c := client(t, s, 0)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.addr+"/api?watch=true", nil)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := get(t, s, c, 200*ms); !strings.Contains(got, context.DeadlineExceeded.Error()) {
		t.Error(got)
	}
	begun := time.Now()
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the watch ended with %v", err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the watch was cut after %s", took)
	}
	if got := get(t, s, c, 200*ms); got != "200 127.0.0.1:0" {
		t.Errorf("the next request: %s", got)
	}
}

// TestWrongCertificate: a stranger on an API server's address gets nothing.
func TestWrongCertificate(t *testing.T) {
	noLeak(t)
	ca, stranger := newAuthority(t), newAuthority(t)
	a := newAPIServer(t, ca, "127.0.0.1:0", "kubernetes") // not valid for its address
	b := newAPIServer(t, stranger, "127.0.0.1:0", "kubernetes")
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://"+a.addr, "{}")))
	if err != nil {
		t.Fatal(err)
	}
	s.Set(addrPorts(b.addr))
	got := get(t, s, client(t, s, 0), 5*time.Second)
	for _, want := range []string{a.addr + ": tls: failed to verify", b.addr + ": tls: failed to verify"} {
		if !strings.Contains(got, want) {
			t.Errorf("error %q lacks %q", got, want)
		}
	}
	if a.count()+b.count() != 0 {
		t.Error("a request got through")
	}
}

// TestCredentials: a client certificate from files, replaced while running,
// and a token from a file reach all servers.
func TestCredentials(t *testing.T) {
	noLeak(t)
	ca := newAuthority(t)
	a := newAPIServer(t, ca, "127.0.0.1:0", "127.0.0.1")
	path := kubeconfig(t, ca, "https://"+a.addr, "{client-certificate: u.crt, client-key: u.key, tokenFile: token}")
	dir := filepath.Dir(path)
	login := func(cn string) {
		_, _, cert, key := issue(t, ca, cn)
		write(t, filepath.Join(dir, "u.crt"), cert)
		write(t, filepath.Join(dir, "u.key"), key)
	}
	login("mooring:node:n1")
	write(t, filepath.Join(dir, "token"), []byte("secret"))
	s, err := NewServers(options(t, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running(t, s))
	if got := get(t, s, client(t, s, 0), time.Second); !strings.HasPrefix(got, "200") {
		t.Fatal(got)
	}
	if a.peer != "mooring:node:n1" || a.auth != "Bearer secret" {
		t.Errorf("the server saw %q %q", a.peer, a.auth)
	}
	login("mooring:node:n2")
	a.does(func(w http.ResponseWriter, r *http.Request) { // as when the first one has expired
		if r.TLS.PeerCertificates[0].Subject.CommonName != "mooring:node:n2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	time.Sleep(1100 * ms) // client-go reads the files once a second at most
	if got := get(t, s, client(t, s, 0), time.Second); got != "401 " {
		t.Errorf("the old certificate: %s", got)
	}
	if got := get(t, s, client(t, s, 0), time.Second); got != "200 " {
		t.Errorf("the new certificate: %s", got)
	}
	both := string(s.ClientPEM())
	if strings.Count(both, "BEGIN CERTIFICATE") != 1 || strings.Count(both, "BEGIN PRIVATE KEY") != 1 {
		t.Errorf("ClientPEM: %q", both)
	}
	if string(s.CAPEM()) != string(ca.pem) {
		t.Error("CAPEM is not the CA")
	}
	if tokenOnly, err := NewServers(options(t, kubeconfig(t, ca, "https://"+a.addr, "{token: x}"))); err != nil {
		t.Error(err)
	} else if tokenOnly.ClientPEM() != nil {
		t.Error("ClientPEM without a certificate")
	}
}

// TestVIPIsNeverDialled: neither by the list, nor by the kubeconfig, nor by a
// host name that leads to it.
func TestVIPIsNeverDialled(t *testing.T) {
	noLeak(t)
	ca := newAuthority(t)
	vip := newAPIServer(t, ca, "127.0.0.1:0", "127.0.0.1", "localhost", "kubernetes")
	o := options(t, kubeconfig(t, ca, "https://"+vip.addr, "{}"))
	o.Never = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	if _, err := NewServers(o); err == nil || !strings.Contains(err.Error(), "virtual IP itself") {
		t.Errorf("kubeconfig with the VIP: %v", err)
	}
	_, port, _ := net.SplitHostPort(vip.addr)
	o.Kubeconfig = kubeconfig(t, ca, "https://localhost:"+port, "{}")
	s, err := NewServers(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(addrPorts(vip.addr, "[::ffff:127.0.0.1]:"+port))
	if n := len(s.State()); n != 1 {
		t.Errorf("%d servers, the VIP is among them", n)
	}
	if got := get(t, s, client(t, s, 20*ms), 5*time.Second); !strings.Contains(got, "is a virtual IP") {
		t.Error(got)
	}
	if _, err := s.AnonymousReadyz(t.Context()); err == nil {
		t.Error("AnonymousReadyz asked the VIP")
	}
	if _, _, err := s.CertificateNames(t.Context()); err == nil {
		t.Error("CertificateNames asked the VIP")
	}
	if vip.count() != 0 {
		t.Error("a request reached the VIP")
	}
}

func TestSet(t *testing.T) {
	ca := newAuthority(t)
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://127.0.0.1:6443", "{}")))
	if err != nil {
		t.Fatal(err)
	}
	s.own = func() []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.11")}
	}
	stories := []struct {
		name string
		set  []netip.AddrPort
		want []string
	}{
		{"none", nil, []string{"127.0.0.1:6443"}},
		{"sorted, without duplicates", addrPorts("10.0.0.13:6443", "10.0.0.12:6443", "[::ffff:10.0.0.13]:6443"),
			[]string{"127.0.0.1:6443", "10.0.0.12:6443", "10.0.0.13:6443"}},
		{"the first once more", addrPorts("127.0.0.1:6443"), []string{"127.0.0.1:6443"}},
		{"this node's own address is the first once more", addrPorts("10.0.0.11:6443", "10.0.0.12:6443"),
			[]string{"127.0.0.1:6443", "10.0.0.12:6443"}},
		{"another port is another server", addrPorts("10.0.0.11:7443"), []string{"127.0.0.1:6443", "10.0.0.11:7443"}},
		{"nonsense", []netip.AddrPort{{}}, []string{"127.0.0.1:6443"}},
	}
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			s.Set(story.set)
			var got []string
			for _, v := range s.State() {
				got = append(got, v.Addr)
			}
			if diff := cmp.Diff(story.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	s.Set(addrPorts("10.0.0.12:6443"))
	s.accuse(s.list[1], "test")
	s.Set(addrPorts("10.0.0.12:6443", "10.0.0.13:6443"))
	if suspects(s) != "10.0.0.12:6443" {
		t.Errorf("Set forgot a suspicion: %q", suspects(s))
	}
}

// TestRemovedServer: watches on a server that is no member any more end.
func TestRemovedServer(t *testing.T) {
	s, _ := fakes(t, in(0, 200), in(0, 200))
	s.list[0].suspect = true
	who, ended := openWatch(t, s)
	if who != "b" {
		t.Fatal(who)
	}
	s.Set(nil)
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestAnonymousReadyz(t *testing.T) {
	s, a, _ := pair(t)
	for code, want := range map[int]string{
		200: "true <nil>", 500: "true <nil>", 401: "false <nil>", 403: "false <nil>",
		404: "false " + a.addr + " answers /readyz with 404 Not Found; is this an API server?",
	} {
		a.does(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" || len(r.TLS.PeerCertificates) > 0 || r.Header.Get("Authorization") != "" {
				code = http.StatusTeapot
			}
			w.WriteHeader(code)
		})
		ok, err := s.AnonymousReadyz(t.Context())
		if got := fmt.Sprint(ok, err); got != want {
			t.Errorf("%d: %s, want %s", code, got, want)
		}
	}
	a.stop()
	if _, err := s.AnonymousReadyz(t.Context()); err == nil {
		t.Error("no error from a stopped server")
	}
}

func TestCertificateNames(t *testing.T) {
	noLeak(t)
	ca := newAuthority(t)
	a := newAPIServer(t, ca, "127.0.0.1:0", "kubernetes", "api.example", "192.0.2.10", "2001:db8::10")
	s, err := NewServers(options(t, kubeconfig(t, ca, "https://"+a.addr, "{}")))
	if err != nil {
		t.Fatal(err)
	}
	names, ips, err := s.CertificateNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names, ips); got != "[kubernetes api.example] [192.0.2.10 2001:db8::10]" {
		t.Error(got)
	}
	other := newAuthority(t)
	s, err = NewServers(options(t, kubeconfig(t, other, "https://"+a.addr, "{}")))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.CertificateNames(t.Context()); err == nil {
		t.Error("believed a certificate of another cluster")
	}
}
