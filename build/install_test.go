package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeMooring stands for the binary: install.sh is tested here, what it prints in
// the binary's own module, and both together in TestBundle.
const fakeMooring = `#!/bin/sh
case "$1 $2" in
"version "|"config check") [ -z "$FAKE_BAD" ] || { echo "$3:3: bad" >&2; exit 1; } ;;
"manifest config") shift 2; echo "config $*" ;;
manifest*) shift; echo "kind: Pod"; echo "$1 $2 $3 $4 $5 $6 $(cat "$7")" ;;
"--help ") ;;
*) echo "unexpected $*" >&2; exit 9 ;;
esac
`

// site is a bundle, a node's file system and the programs of a node.
type site struct {
	t                 *testing.T
	bundle, root, bin string
	shell             []string
	env               []string
}

// newSite makes an unpacked bundle with fakes, for one shell.
func newSite(t *testing.T, shell ...string) *site {
	t.Helper()
	s := &site{t: t, bundle: t.TempDir(), root: t.TempDir(), bin: t.TempDir(), shell: shell}
	all := make(tree)
	all.put("bin/mooring", 0o755, []byte(fakeMooring))
	all.put("image/mooring.tar", 0o644, []byte("image"))
	all.put("image/name", 0o644, []byte("localhost/mooring:v1\n"))
	all.put("install.sh", 0o755, installer)
	all.put("manifests/static-pod.yaml", 0o644, []byte("kind: Pod\n"))
	all.put("manifests/haproxy-services.yaml", 0o644, []byte("kind: Pod\n"))
	all.put("manifests/rbac.yaml", 0o644, []byte("kind: Role\n"))
	all.put("SHA256SUMS", 0o644, sums(all))
	if err := all.extract(s.bundle); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ctr", "k3s", "k0s"} {
		text := "#!/bin/sh\necho " + name + " \"$@\" >> " + filepath.Join(s.bin, "log") + "\n"
		if err := os.WriteFile(filepath.Join(s.bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// run runs install.sh and returns what it said.
func (s *site) run(args ...string) (string, error) {
	s.t.Helper()
	argv := append(append([]string{}, s.shell...), filepath.Join(s.bundle, "install.sh"))
	cmd := exec.Command(argv[0], append(argv[1:], args...)...)
	cmd.Env = append([]string{"PATH=" + s.bin + ":" + os.Getenv("PATH")}, s.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// must is run for what has to work, below the root.
func (s *site) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(append(args, "--root", s.root)...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// files lists the node's files.
func (s *site) files() string {
	var out []string
	_ = filepath.WalkDir(s.root, func(p string, d os.DirEntry, _ error) error {
		if !d.IsDir() {
			out = append(out, strings.TrimPrefix(p, s.root))
		}
		return nil
	})
	return strings.Join(out, " ")
}

func (s *site) wantFiles(want ...string) {
	s.t.Helper()
	if got := s.files(); got != strings.Join(want, " ") {
		s.t.Errorf("the node has %s\nwant %s", got, strings.Join(want, " "))
	}
}

// shells are those of this machine that a node may have.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	out := make(map[string][]string)
	for name, argv := range map[string][]string{
		"dash": {"dash"}, "busybox": {"busybox", "sh"}, "bash": {"bash", "--posix"},
	} {
		if _, err := exec.LookPath(argv[0]); err == nil {
			out[name] = argv
		}
	}
	if len(out) == 0 {
		t.Skip("no shell")
	}
	return out
}

func TestInstall(t *testing.T) {
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, shell...)
			const pod = "/etc/kubernetes/manifests/mooring.yaml"
			out := s.must("--profile", "kubeadm", "--vip", "192.0.2.10", "--interface", "eth0", "--dry-run")
			s.wantFiles("")
			if !strings.Contains(out, "writing:   "+s.root+pod) {
				t.Errorf("a dry run says\n%s", out)
			}
			s.must("--profile", "kubeadm", "--vip", "192.0.2.10", "--interface", "eth0")
			want := []string{pod, "/etc/mooring/mooring.yaml", "/usr/local/bin/mooring"}
			s.wantFiles(want...)
			text, _ := os.ReadFile(s.root + pod)
			for _, part := range []string{
				"static-pod.yaml --image localhost/mooring:v1 --pull-policy Never --config", "--vip 192.0.2.10 --interface eth0",
			} {
				if !strings.Contains(string(text), part) {
					t.Errorf("the pod is\n%s\nwant %s", text, part)
				}
			}
			before, _ := os.Stat(s.root + pod)
			out = s.must("--profile", "kubeadm", "--vip", "192.0.2.99")
			after, _ := os.Stat(s.root + pod)
			if !os.SameFile(before, after) || strings.Contains(out, "writing") || !strings.Contains(out, "are not used") {
				t.Errorf("a second run does something:\n%s", out)
			}
			s.must("--profile", "kubeadm", "--uninstall")
			s.wantFiles("/etc/mooring/mooring.yaml")
			s.must("--profile", "kubeadm", "--uninstall", "--purge")
			s.wantFiles("")
		})
	}
}

// TestProfiles: where each distribution has its files.
func TestProfiles(t *testing.T) {
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, shell...)
			s.must("--profile", "k3s", "--vip", "192.0.2.10", "--services")
			s.wantFiles("/etc/mooring/mooring.yaml", "/usr/local/bin/mooring", "/var/lib/rancher/k3s/agent/images/mooring.tar",
				"/var/lib/rancher/k3s/agent/pod-manifests/mooring-haproxy-services.yaml",
				"/var/lib/rancher/k3s/agent/pod-manifests/mooring.yaml")
			s.must("--profile", "k3s", "--uninstall", "--purge")
			s.must("--profile", "k0s", "--vip", "192.0.2.10", "--manifests", "/etc/k0s/pods")
			s.wantFiles("/etc/k0s/pods/mooring.yaml", "/etc/mooring/mooring.yaml", "/usr/local/bin/mooring",
				"/var/lib/k0s/images/mooring.tar")
		})
	}
}

// TestLoads: with a runtime that can be asked the image is imported, by a dry run
// that touches nothing else.
func TestLoads(t *testing.T) {
	sock := listen(t)
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			for profile, want := range map[string]string{
				"kubeadm": "ctr", "k3s": "k3s ctr", "k0s": "k0s ctr",
			} {
				s := newSite(t, shell...)
				s.env = []string{"MOORING_SOCK=" + sock}
				out, err := s.run("--profile", profile, "--vip", "192.0.2.10", "--dry-run")
				if err != nil || !strings.Contains(out, "would run: "+want+" -n k8s.io images import image/mooring.tar\n") {
					t.Errorf("%s: %v\n%s", profile, err, out)
				}
			}
		})
	}
}

// TestInstallRefuses: before anything is changed, with a reason.
func TestInstallRefuses(t *testing.T) {
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ args, env, says string }{
				{"", "", "--profile is missing"},
				{"--profile rke2", "", "want kubeadm, k0s or k3s"},
				{"--profile k3s", "", "--vip is missing"},
				{"--profile k3s --vip", "", "--vip needs a value"},
				{"--profile k3s --vipp 192.0.2.10", "", "what is --vipp for?"},
				{"--profile k3s --purge", "", "--purge goes with --uninstall"},
				{"--profile k3s --uninstall --vip 192.0.2.10", "", "takes no settings"},
				{"--profile k3s --vip 192.0.2.10 --manifests here", "", "want an absolute path"},
				{"--profile k3s --vip 192.0.2.10", "FAKE_BAD=1", "does not run here"},
			} {
				s := newSite(t, shell...)
				if c.env != "" {
					s.env = []string{c.env}
				}
				out, err := s.run(append(strings.Fields(c.args), "--root", s.root)...)
				if c.args == "--profile k3s --vip" {
					out, err = s.run(strings.Fields(c.args)...)
				}
				if err == nil || !strings.Contains(out, c.says) || s.files() != "" {
					t.Errorf("%s: %v, node %s\n%s", c.args, err, s.files(), out)
				}
			}
			s := newSite(t, shell...)
			if err := os.WriteFile(filepath.Join(s.bundle, "image/mooring.tar"), []byte("imagf"), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := s.run("--profile", "k3s", "--vip", "192.0.2.10", "--root", s.root)
			if err == nil || !strings.Contains(out, "damaged or incomplete") || s.files() != "" {
				t.Errorf("a damaged bundle: %v\n%s", err, out)
			}
			if out, err = newSite(t, shell...).run("--profile", "kubeadm", "--vip", "192.0.2.10"); err == nil ||
				!strings.Contains(out, "containerd does not run") {
				t.Errorf("no containerd: %v\n%s", err, out)
			}
		})
	}
}
