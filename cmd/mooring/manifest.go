package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/manifests"
)

// order is the command line of `mooring manifest`.
type order struct {
	name, out, config string
	site              manifests.Site
	// For the agent's file.
	vips, link, bind string
	services         bool
	given            map[string]bool // the flags that were set
}

// cmdManifest prints what is embedded in the binary, so that an air-gapped site
// has the manifests that belong to the version it runs.
func cmdManifest(_ context.Context, args []string, out io.Writer) error {
	o := order{given: make(map[string]bool)}
	fs := flags("manifest", "prints one of "+strings.Join(manifests.Names(), ", ")+"\n"+
		"or several: "+strings.Join(manifests.Sets(), ", ")+"; kustomize, the agent's file config, or the list")
	fs.StringVar(&o.site.Image, "image", "", "the `IMAGE` to name in place of "+manifests.Image)
	fs.StringVar(&o.site.PullPolicy, "pull-policy", "", "Never, IfNotPresent or Always")
	fs.StringVar(&o.site.Namespace, "namespace", "", "the `NAMESPACE` of Leases and agents in place of mooring-system")
	fs.StringVar(&o.bind, "metrics-bind", "", "where agents serve metrics, `ADDRESS:PORT`")
	fs.StringVar(&o.config, "config", "", "take namespace, metrics and paths from the agent's `FILE`")
	fs.StringVar(&o.vips, "vip", "", "config: the API server's virtual `IPs`, separated by commas")
	fs.StringVar(&o.link, "interface", "", "config: the `INTERFACE` that announces them")
	fs.BoolVar(&o.services, "services", false, "config: serve Services of type LoadBalancer")
	fs.StringVar(&o.out, "out", "", "write files into this `DIR` in place of printing")
	if err := parse(fs, args, 1); err != nil {
		return err
	}
	fs.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	o.name = fs.Arg(0)
	files, err := o.files()
	if errors.Is(err, errUsage) || o.name == "" {
		fs.Usage()
	}
	if err != nil {
		return err
	}
	return o.deliver(files, out)
}

// manifestFile is a file to print or write.
type manifestFile struct{ name, text string }

// deliver prints the files as one stream, or writes them.
func (o order) deliver(files []manifestFile, out io.Writer) error {
	for i, f := range files {
		if o.out != "" {
			if err := os.MkdirAll(o.out, 0o755); err != nil {
				return err
			}
			path := filepath.Join(o.out, f.name)
			if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
				return err
			}
			fmt.Fprintln(out, path)
			continue
		}
		if i > 0 {
			fmt.Fprintln(out, "---")
		}
		if _, err := fmt.Fprint(out, f.text); err != nil {
			return err
		}
	}
	return nil
}

// files are what the name stands for, for this site.
func (o order) files() ([]manifestFile, error) {
	if err := o.combine(); err != nil {
		return nil, err
	}
	switch o.name {
	case "list":
		var text strings.Builder
		for _, n := range manifests.Names() {
			fmt.Fprintf(&text, "%-22s %s\n", n, about(n))
		}
		return []manifestFile{{"list", text.String()}}, nil
	case "config":
		text, err := o.agentFile()
		return []manifestFile{{"mooring.yaml", text}}, err
	}
	var out []manifestFile
	names := manifests.Expand(o.name)
	if o.name == "kustomize" {
		out = append(out, manifestFile{"kustomization.yaml", manifests.Kustomization()})
		names = manifests.Expand(manifests.All)
		if o.out == "" {
			names = nil // a stream of all is what `all` prints
		}
	}
	site, err := o.resolve()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		text, err := site.Render(n)
		if err != nil {
			return nil, err
		}
		out = append(out, manifestFile{fileName(n), text})
	}
	return out, nil
}

// combine refuses flags that would be silently without effect or contradict each
// other. An image is allowed with everything: scripts name it always.
func (o order) combine() error {
	var errs []error
	for _, f := range []string{"vip", "interface", "services"} {
		if o.given[f] && o.name != "config" {
			errs = append(errs, fmt.Errorf("--%s is said in the agent's file: mooring manifest config --%s … > %s",
				f, f, defaultConfig))
		}
	}
	for _, f := range []string{"namespace", "metrics-bind"} {
		if o.given[f] && o.config != "" {
			errs = append(errs, fmt.Errorf("--%s and --config: the file says it", f))
		}
	}
	if o.name == "config" && o.config != "" {
		errs = append(errs, errors.New("config makes the agent's file; --config reads one: mooring config check FILE"))
	}
	return errors.Join(errs...)
}

// resolve takes what the agent's file says, or the flag for metrics.
func (o order) resolve() (manifests.Site, error) {
	s := o.site
	if o.bind != "" {
		bind, err := netip.ParseAddrPort(o.bind)
		if err != nil {
			return s, fmt.Errorf("--metrics-bind %q: want ADDRESS:PORT, 0.0.0.0:9441", o.bind)
		}
		s.Metrics = bind
	}
	if o.config == "" {
		return s, nil
	}
	cfg, err := config.Load(o.config)
	if err != nil {
		return s, err
	}
	s.Namespace, s.Metrics, s.KeyFile = cfg.Namespace, cfg.Metrics.Bind, cfg.Hello.KeyFile
	s.Kubeconfig, s.RunDir, s.StateDir = cfg.Kubeconfig, cfg.RunDir, cfg.StateDir
	return s, nil
}

// linkForm is an interface's name as kernels take it (dev_valid_name), without what
// YAML would take for something else.
var linkForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,14}$`)

// agentFile is /etc/mooring/mooring.yaml for this site, checked as the agent does.
func (o order) agentFile() (string, error) {
	if _, err := o.resolve(); err != nil {
		return "", err
	}
	if err := o.site.Check(); err != nil {
		return "", err
	}
	if o.vips == "" && (!o.services || o.link == "") {
		return "", errors.New("config needs --vip; a node for Services alone --services and --interface")
	}
	if o.link != "" && !linkForm.MatchString(o.link) {
		return "", fmt.Errorf("--interface %q is no name of an interface", o.link)
	}
	var ips []string
	for s := range strings.SplitSeq(o.vips, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil && o.vips != "" {
			return "", fmt.Errorf("--vip %q: want addresses without prefix length, separated by commas", o.vips)
		}
		ips = append(ips, fmt.Sprintf("%q", ip))
	}
	text := "# The agent's configuration; mooring config reference explains every field.\n" +
		"apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\nkubeconfig: /etc/kubernetes/mooring.conf\n"
	add := func(on bool, line string) {
		if on {
			text += line + "\n"
		}
	}
	add(o.link != "", "interface: "+o.link)
	add(o.site.Namespace != "", "namespace: "+o.site.Namespace)
	add(o.bind != "", fmt.Sprintf("metrics: {bind: %q}", o.bind))
	add(o.vips != "", "apiServer: {vips: ["+strings.Join(ips, ", ")+"]}")
	add(o.services, "services: {enabled: true}")
	_, err := config.Parse("config", []byte(text))
	return text, err
}

// fileName completes a name that was given without its extension.
func fileName(name string) string {
	for _, n := range manifests.Names() {
		if n == name || strings.TrimSuffix(n, filepath.Ext(n)) == name {
			return n
		}
	}
	return name
}

// about tells what a file is, in a few words.
func about(name string) string {
	switch filepath.Ext(name) {
	case ".service":
		return "systemd unit"
	case ".json":
		return "Grafana dashboard"
	}
	return strings.Join(manifests.Kinds(name), ", ")
}
