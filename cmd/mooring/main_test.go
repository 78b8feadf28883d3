package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv tells the test binary that it runs in its own network namespace.
const insideEnv = "MOORING_TEST_IN_NETNS"

// TestMain runs the tests again in a new network namespace without a name, so
// that no agent of a test ever sees this host's links. It vanishes with the
// process, whatever happens. Under the name mooring the binary is the program.
func TestMain(m *testing.M) {
	helperCommand = nil // this program is another
	program := filepath.Base(os.Args[0]) == "mooring"
	if program || os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		testscript.Main(m, map[string]func(){"mooring": main})
	}
	// The child dies with the thread that started it, so keep that one.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

// TestScript runs the command lines of testdata/*.txtar. Each finds a
// configuration agent.yaml and a kubeconfig kube.conf that are right.
func TestScript(t *testing.T) {
	link(t)
	ca := authority(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			return writeSite(env.WorkDir, ca, "")
		},
	})
}

// link makes the node's link, node0, up and with carrier, 10.9.0.1/24.
func link(t testing.TB) netlink.Link {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err, netlink.LinkSetUp(lo))
	if l, err := netlink.LinkByName("node0"); err == nil {
		return l
	}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "node0"}, PeerName: "peer0"}))
	peer, err := netlink.LinkByName("peer0")
	must(t, err, netlink.LinkSetUp(peer))
	l, err := netlink.LinkByName("node0")
	must(t, err, netlink.LinkSetUp(l))
	addr, err := netlink.ParseAddr("10.9.0.1/24")
	must(t, err, netlink.AddrAdd(l, addr))
	return l
}

// writeSite writes a configuration whose API server is not there, agent.yaml,
// and its kubeconfig into a directory; more is added to the former.
func writeSite(dir string, ca []byte, more string) error {
	conf := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: agent}}]
users: [{name: agent, user: {token: none}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: %s}}]
`, base64.StdEncoding.EncodeToString(ca))
	yaml := fmt.Sprintf(`apiVersion: mooring.dev/v1alpha1
kind: AgentConfig
kubeconfig: %[1]s/kube.conf
node: n1
interface: node0
runDir: %[1]s/run
stateDir: %[1]s/state
apiServer: {vips: [10.9.0.10], balance: off}
%[2]s`, dir, more)
	return errors.Join(os.WriteFile(filepath.Join(dir, "kube.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(yaml), 0o600))
}

// authority makes a certificate authority, PEM.
func authority(t testing.TB) []byte {
	t.Helper()
	cert, _ := pair(t)
	return cert
}

// pair makes a certificate and its key, PEM.
func pair(t testing.TB) (certificate, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	must(t, err)
	secret, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

// must ends the test at the first error.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
