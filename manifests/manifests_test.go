package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"mooring.dev/mooring/api/v1alpha1"
)

// objects parses a manifest strictly: an unknown or doubled field fails.
func objects(t *testing.T, name string) []any {
	t.Helper()
	text, err := Get(name, "")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[schema.GroupVersionKind]func() any{
		corev1.SchemeGroupVersion.WithKind("Namespace"):   func() any { return new(corev1.Namespace) },
		corev1.SchemeGroupVersion.WithKind("Pod"):         func() any { return new(corev1.Pod) },
		rbacv1.SchemeGroupVersion.WithKind("Role"):        func() any { return new(rbacv1.Role) },
		rbacv1.SchemeGroupVersion.WithKind("RoleBinding"): func() any { return new(rbacv1.RoleBinding) },
		rbacv1.SchemeGroupVersion.WithKind("ClusterRole"): func() any { return new(rbacv1.ClusterRole) },
		rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"): func() any {
			return new(rbacv1.ClusterRoleBinding)
		},
		// Generated; TestCRD looks into it.
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}: func() any {
			return new(map[string]any)
		},
		// The Prometheus operator's; TestRules and TestPodMonitor look into them.
		{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"}:     func() any { return new(map[string]any) },
		{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule"}: func() any { return new(map[string]any) },
	}
	var out []any
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		make := kinds[meta.GroupVersionKind()]
		if make == nil {
			t.Fatalf("%s: unexpected %v", name, meta.GroupVersionKind())
		}
		o := make()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, o)
	}
	return out
}

func TestEveryYAMLParses(t *testing.T) {
	want := []string{
		"addresspools.yaml", "dashboard.json", "mooring.service", "namespace.yaml", "podmonitor.yaml",
		"prometheusrule.yaml", "rbac-check.yaml", "rbac-services.yaml", "rbac.yaml", "static-pod.yaml",
	}
	if diff := cmp.Diff(want, Names()); diff != "" {
		t.Error(diff)
	}
	for _, n := range Names() {
		if strings.HasSuffix(n, ".yaml") {
			objects(t, n)
		}
	}
}

func TestGet(t *testing.T) {
	pod, err := Get("static-pod", "registry.example/mooring@sha256:00")
	named := strings.Contains(pod, "image: registry.example/mooring@sha256:00\n")
	if err != nil || strings.Contains(pod, Image) || !named {
		t.Errorf("Get with an image: %v\n%s", err, pod)
	}
	if plain, err := Get("static-pod.yaml", ""); err != nil || !strings.Contains(plain, Image) {
		t.Errorf("Get without an image: %v", err)
	}
	if _, err := Get("static", ""); err == nil || !strings.Contains(err.Error(), "namespace.yaml") {
		t.Errorf("Get of an unknown name: %v", err)
	}
}

// TestRights spells out everything an agent may do, file by file. Whoever widens
// it changes this table knowingly.
func TestRights(t *testing.T) {
	read := []string{"get", "list", "watch"}
	for file, want := range map[string]map[string][]string{
		"rbac.yaml": {
			"mooring-system: leases.coordination.k8s.io": {"get", "list", "watch", "create", "update"},
			"mooring-system: secrets.":                   {"create"},
			"mooring-system: secrets./mooring-hello":     read,
			"everywhere: nodes.":                         read,
			// Neither approval nor signing: either makes anybody of anybody.
			"everywhere: certificatesigningrequests.certificates.k8s.io": {"create", "get"},
			"default: endpointslices.discovery.k8s.io":                   read,
			"default: events.":              {"create", "patch"},
			"default: events.events.k8s.io": {"create", "patch"},
		},
		// No Secrets, no right to change a Service or a pool, to delete anything.
		"rbac-services.yaml": {
			"everywhere: services.":                       read,
			"everywhere: services/status.":                {"patch"},
			"everywhere: namespaces.":                     read,
			"everywhere: endpointslices.discovery.k8s.io": read,
			"everywhere: addresspools.mooring.dev":        read,
			"everywhere: addresspools/status.mooring.dev": {"patch"},
			"everywhere: events.events.k8s.io":            {"create", "patch"},
		},
		// Optional, and for reading only.
		"rbac-check.yaml": {
			"everywhere: daemonsets.apps":                       {"list"},
			"kube-system: configmaps./kube-proxy,cilium-config": {"get"},
			"kube-system: pods.":                                {"list"},
		},
	} {
		if diff := cmp.Diff(want, granted(t, file)); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
}

// granted is what a file allows, all of it bound to the agents.
func granted(t *testing.T, file string) map[string][]string {
	t.Helper()
	got := make(map[string][]string)
	roles := make(map[string]bool)
	for _, o := range objects(t, file) {
		switch o := o.(type) {
		case *rbacv1.Role:
			roles["Role "+o.Namespace+"/"+o.Name] = true
			rights(t, o.Namespace, o.Rules, got)
		case *rbacv1.ClusterRole:
			roles["ClusterRole /"+o.Name] = true
			rights(t, "everywhere", o.Rules, got)
		case *rbacv1.RoleBinding:
			bound(t, roles, o.Namespace, o.RoleRef, o.Subjects)
		case *rbacv1.ClusterRoleBinding:
			bound(t, roles, "", o.RoleRef, o.Subjects)
		}
	}
	for role, idle := range roles {
		if idle {
			t.Errorf("%s is bound to nobody", role)
		}
	}
	return got
}

// TestCRD: what users rely on, and that the CRD is as new as the types.
func TestCRD(t *testing.T) {
	crd := *objects(t, "addresspools.yaml")[0].(*map[string]any)
	spec := crd["spec"].(map[string]any)
	names := spec["names"].(map[string]any)
	version := spec["versions"].([]any)[0].(map[string]any)
	got := []any{spec["group"], spec["scope"], names["kind"], names["plural"], names["shortNames"], version["name"], version["served"],
		version["storage"], version["subresources"]}
	want := []any{v1alpha1.GroupVersion.Group, "Cluster", "AddressPool", "addresspools", []any{"pool"}, v1alpha1.GroupVersion.Version, true,
		true, map[string]any{"status": map[string]any{}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	columns := ""
	for _, c := range version["additionalPrinterColumns"].([]any) {
		columns += c.(map[string]any)["name"].(string) + " "
	}
	if columns != "Addresses Used Free Auto Ready Age " {
		t.Errorf("kubectl get prints %s", columns)
	}
	root := version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	for path, want := range map[string]any{
		"spec.autoAssign.default": true, "spec.announce.l2.shards.default": float64(v1alpha1.DefaultShards),
		"spec.announce.l2.shards.minimum": 1., "spec.announce.l2.shards.maximum": 64.,
	} {
		at, key := path[:strings.LastIndex(path, ".")], path[strings.LastIndex(path, ".")+1:]
		if got := property(root, strings.Split(at, "."))[key]; got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	rules := property(root, []string{"spec", "addresses"})["items"].(map[string]any)["x-kubernetes-validations"].([]any)
	if len(rules) != 4 {
		t.Errorf("%d rules for an address", len(rules))
	}
	compare(t, "spec", reflect.TypeFor[v1alpha1.AddressPoolSpec](), property(root, []string{"spec"}))
	compare(t, "status", reflect.TypeFor[v1alpha1.AddressPoolStatus](), property(root, []string{"status"}))
}

// property is the schema of a field.
func property(schema map[string]any, path []string) map[string]any {
	for _, p := range path {
		schema, _ = schema["properties"].(map[string]any)[p].(map[string]any)
	}
	return schema
}

// compare finds fields that a type of ours has and its schema has not, or the
// other way round: the CRD was not generated anew.
func compare(t *testing.T, path string, of reflect.Type, schema map[string]any) {
	t.Helper()
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		if of.Kind() == reflect.Slice {
			schema, _ = schema["items"].(map[string]any)
		}
		of = of.Elem()
	}
	if of.PkgPath() != reflect.TypeFor[v1alpha1.AddressPool]().PkgPath() || of.Kind() != reflect.Struct {
		return
	}
	have, _ := schema["properties"].(map[string]any)
	if len(have) != of.NumField() {
		t.Errorf("%s has %d fields in the CRD and %d in the code; run go generate ./api/...", path, len(have), of.NumField())
	}
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if have[name] == nil {
			t.Errorf("%s.%s is not in the CRD; run go generate ./api/...", path, name)
			continue
		}
		compare(t, path+"."+name, f.Type, have[name].(map[string]any))
	}
}

// bound checks a binding: to the agents, of a role of the same namespace that
// stands before it.
func bound(t *testing.T, roles map[string]bool, namespace string, ref rbacv1.RoleRef, to []rbacv1.Subject) {
	t.Helper()
	role := ref.Kind + " " + namespace + "/" + ref.Name
	if !roles[role] || ref.APIGroup != rbacv1.GroupName {
		t.Errorf("a binding refers to %s, which does not stand before it, or is bound already", role)
	}
	roles[role] = false
	want := []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "mooring:agents"}}
	if diff := cmp.Diff(want, to); diff != "" {
		t.Errorf("%s: %s", role, diff)
	}
}

// rights adds what rules allow, as "WHERE: RESOURCE.GROUP" or "…/NAME", and
// refuses what is too much in any case.
func rights(t *testing.T, where string, rules []rbacv1.PolicyRule, got map[string][]string) {
	t.Helper()
	for _, r := range rules {
		all := strings.Join(slices.Concat(r.APIGroups, r.Resources, r.ResourceNames, r.Verbs), " ")
		if strings.Contains(all, "*") || len(r.NonResourceURLs) > 0 {
			t.Errorf("%v is too much", r)
		}
		for _, g := range r.APIGroups {
			for _, res := range r.Resources {
				key := where + ": " + res + "." + g
				if len(r.ResourceNames) > 0 {
					key += "/" + strings.Join(r.ResourceNames, ",")
				}
				got[key] = append(got[key], r.Verbs...)
			}
		}
	}
}

func TestNamespace(t *testing.T) {
	ns := objects(t, "namespace.yaml")[0].(*corev1.Namespace)
	if ns.Name != "mooring-system" {
		t.Errorf("namespace %s", ns.Name)
	}
}

// TestStaticPod checks what the agent's life depends on.
func TestStaticPod(t *testing.T) {
	pod := objects(t, "static-pod.yaml")[0].(*corev1.Pod)
	s := pod.Spec
	if !s.HostNetwork || s.HostPID || s.HostIPC {
		t.Error("wants the host's network and nothing else of the host's namespaces")
	}
	if s.PriorityClassName != "system-node-critical" || pod.Namespace != "kube-system" {
		t.Errorf("priority class %q in %s", s.PriorityClassName, pod.Namespace)
	}
	if len(s.Containers) != 1 || len(s.InitContainers) != 0 {
		t.Fatal("wants one container")
	}
	c := s.Containers[0]
	if c.Image != Image || c.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("image %s, pull %s", c.Image, c.ImagePullPolicy)
	}
	if len(c.Env)+len(c.EnvFrom) != 0 {
		t.Error("a static pod cannot read Secrets, and the file holds all settings")
	}
	privileges(t, c.SecurityContext)
	probes(t, c)
	mounts(t, s, c)
}

// privileges checks that the agent has what it needs and no more.
func privileges(t *testing.T, sc *corev1.SecurityContext) {
	t.Helper()
	want := &corev1.Capabilities{
		Add:  []corev1.Capability{"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SYS_NICE"},
		Drop: []corev1.Capability{"ALL"},
	}
	if diff := cmp.Diff(want, sc.Capabilities); diff != "" {
		t.Error(diff)
	}
	if !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation || sc.Privileged != nil {
		t.Error("wants a read-only root and no further privileges")
	}
}

// probes checks that the kubelet asks on loopback, where the metrics are served
// by default.
func probes(t *testing.T, c corev1.Container) {
	t.Helper()
	for path, list := range map[string][]*corev1.Probe{
		"/healthz": {c.StartupProbe, c.LivenessProbe}, "/readyz": {c.ReadinessProbe},
	} {
		for _, p := range list {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Host != "127.0.0.1" {
				t.Errorf("probe %v, want %s on loopback", p, path)
			}
		}
	}
}

// mounts checks that exactly the four directories and files are mounted.
func mounts(t *testing.T, s corev1.PodSpec, c corev1.Container) {
	t.Helper()
	host := make(map[string]string)
	for _, v := range s.Volumes {
		if v.HostPath == nil {
			t.Errorf("volume %s is not from the host", v.Name)
			continue
		}
		host[v.Name] = v.HostPath.Path
	}
	got := make(map[string]bool) // path → writable
	for _, m := range c.VolumeMounts {
		if host[m.Name] != m.MountPath {
			t.Errorf("%s is %s on the host; paths in the configuration must mean the same", m.MountPath, host[m.Name])
		}
		got[m.MountPath] = !m.ReadOnly
	}
	want := map[string]bool{
		"/etc/mooring": false, "/etc/kubernetes/mooring.conf": false, "/run/mooring": true, "/var/lib/mooring": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnit checks the unit's promises, and the whole with systemd where it is
// installed.
func TestUnit(t *testing.T) {
	unit, err := Get("mooring.service", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"Restart=always", "RestartSec=200ms", "StartLimitIntervalSec=0", "KillMode=process",
		"RuntimeDirectory=mooring", "RuntimeDirectoryPreserve=yes", "StateDirectory=mooring",
		"CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_NICE",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed; the unit was checked as text only")
		return
	}
	// The binary need not be installed where the test runs.
	text := strings.ReplaceAll(unit, "/usr/local/bin/mooring", "/bin/true")
	path := filepath.Join(t.TempDir(), "mooring.service")
	writeFile(t, path, text)
	out, err := exec.Command(verify, "verify", "--man=no", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), path) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
