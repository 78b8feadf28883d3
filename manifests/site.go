package manifests

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Site is what differs from cluster to cluster. An empty field keeps what the
// files say.
type Site struct {
	// Image is REPOSITORY:TAG or REPOSITORY@DIGEST; PullPolicy is Never,
	// IfNotPresent or Always.
	Image, PullPolicy string
	// Namespace holds the Leases, a DNS-1123 label.
	Namespace string
	// Metrics is where the agents serve /metrics and what the kubelet asks.
	Metrics netip.AddrPort
	// Kubeconfig, RunDir and StateDir are paths on the node, the same in a pod.
	Kubeconfig, RunDir, StateDir string
	// KeyFile is hello.keyFile; pods find it below /etc/mooring only.
	KeyFile string
}

// What the files say where a Site says nothing.
const (
	defaultNamespace  = "mooring-system"
	defaultKubeconfig = "/etc/kubernetes/mooring.conf"
	defaultRunDir     = "/run/mooring"
	defaultStateDir   = "/var/lib/mooring"
	configDir         = "/etc/mooring/"
)

// The forms of what goes into YAML unquoted.
var (
	imageForm = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?` +
		`(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$`)
	labelForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	pathForm  = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)
)

// Check says everything that is wrong with a Site.
func (s Site) Check() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(s.Image != "" && !imageForm.MatchString(s.Image),
		"--image %q: want REPOSITORY:TAG or REPOSITORY@sha256:DIGEST", s.Image)
	wrong(!slices.Contains([]string{"", "Never", "IfNotPresent", "Always"}, s.PullPolicy),
		"--pull-policy %q: want Never, IfNotPresent or Always", s.PullPolicy)
	wrong(s.PullPolicy == "Always" && (s.Image == "" || strings.HasPrefix(s.Image, "localhost/")),
		"--pull-policy Always needs an --image in a registry")
	wrong(s.Namespace != "" && !labelForm.MatchString(s.Namespace),
		"--namespace %q: want lower-case letters, digits and dashes, at most 63", s.Namespace)
	for _, p := range []string{s.Kubeconfig, s.RunDir, s.StateDir} {
		wrong(p != "" && !pathForm.MatchString(p), "%q: a pod can mount a path of letters, digits, dots and dashes only", p)
	}
	wrong(s.KeyFile != "" && !strings.HasPrefix(s.KeyFile, configDir),
		"hello.keyFile %s is not mounted in a pod: put it below %s", s.KeyFile, configDir)
	return errors.Join(errs...)
}

// Places in the files which a Site changes.
var (
	imageLine  = regexp.MustCompile(`(?m)^(\s*(?:- )?image: )` + regexp.QuoteMeta(Image) + `$`)
	pullLine   = regexp.MustCompile(`(?m)^(\s*imagePullPolicy: )\w+$`)
	spaceLine  = regexp.MustCompile(`(?m)^(\s*(?:- )?(?:(?:namespace|name): )?)` + defaultNamespace + `$`)
	metricPort = regexp.MustCompile(`((?:port|Port): )9441\b`)
	probeHost  = regexp.MustCompile(`(httpGet: \{host: )127\.0\.0\.1,`)
)

// Render returns a file for this site. The error says what is wrong with the Site
// or lists the names there are.
func (s Site) Render(name string) (string, error) {
	if err := s.Check(); err != nil {
		return "", err
	}
	text, err := Get(name, "")
	if err != nil {
		return "", err
	}
	set := func(at *regexp.Regexp, value string) { text = at.ReplaceAllString(text, "${1}"+value) }
	if s.Image != "" {
		set(imageLine, s.Image)
	}
	if s.PullPolicy != "" {
		set(pullLine, s.PullPolicy)
	}
	if s.Namespace != "" {
		set(spaceLine, s.Namespace)
	}
	if s.Metrics.IsValid() {
		set(metricPort, fmt.Sprint(s.Metrics.Port()))
		// The kubelet asks on the node; any address includes loopback.
		if a := s.Metrics.Addr(); !a.IsUnspecified() {
			set(probeHost, fmt.Sprintf("%q,", a))
		}
	}
	for _, p := range [][2]string{
		{defaultKubeconfig, s.Kubeconfig}, {defaultRunDir, s.RunDir}, {defaultStateDir, s.StateDir},
	} {
		if p[1] != "" {
			text = strings.ReplaceAll(text, p[0], p[1])
		}
	}
	return text, nil
}

// The names that stand for several files.
const (
	CRDs       = "crds"
	All        = "all"
	Monitoring = "monitoring"
)

// Sets are the names that stand for several files.
func Sets() []string { return []string{All, CRDs, Monitoring} }

// Expand returns the files that a name stands for, in the order in which they are
// applied: All is what any cluster takes, without static pods (the kubelet's), and
// without Monitoring, which needs CRDs of others. Another name stands for itself.
func Expand(name string) []string {
	var out []string
	for _, n := range Names() {
		kinds := Kinds(n)
		crd := slices.Contains(kinds, "CustomResourceDefinition")
		monitoring := slices.Contains(kinds, "PodMonitor") || slices.Contains(kinds, "PrometheusRule")
		applied := len(kinds) > 0 && !slices.Contains(kinds, "Pod") && !monitoring
		if name == CRDs && crd || name == Monitoring && monitoring || name == All && applied {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return []string{name}
	}
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	return out
}

// rank orders files so that each finds what it needs: namespace, CRDs, rights, the
// rest.
func rank(name string) int {
	first := []string{"Namespace", "CustomResourceDefinition", "ClusterRole", "Role"}
	for i, kind := range first {
		if slices.Contains(Kinds(name), kind) {
			return min(i, 2)
		}
	}
	return len(first)
}

// kindLine is the kind of a document: at the start of a line, unlike those within.
var kindLine = regexp.MustCompile(`(?m)^kind: (\w+)$`)

// Kinds lists the kinds of a YAML file's documents, in order, each once; none for
// other files.
func Kinds(name string) []string {
	text, err := Get(name, "")
	if err != nil || !strings.HasSuffix(name, ".yaml") {
		return nil
	}
	var out []string
	for _, m := range kindLine.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(out, m[1]) {
			out = append(out, m[1])
		}
	}
	return out
}

// Kustomization is a base of what All stands for.
func Kustomization() string {
	text := "# A base: an overlay may change images, labels and patches.\n" +
		"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
	for _, n := range Expand(All) {
		text += "- " + n + "\n"
	}
	return text
}
