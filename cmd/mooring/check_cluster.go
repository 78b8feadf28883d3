package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/election/hello"
	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/manifests"
)

// logIn reads the agent's kubeconfig and the operator's.
func (x *exam) logIn(operator string) (func(), error) {
	c := check.Credentials{File: x.cfg.Kubeconfig}
	open := func(path string, never []netip.Addr) (*kube.Servers, error) {
		return kube.NewServers(kube.ServersOptions{
			Kubeconfig: path, Never: never, Log: slog.New(slog.DiscardHandler), Now: boottime,
		})
	}
	own, err := open(x.cfg.Kubeconfig, x.cfg.APIServer.VIPs)
	switch {
	case err != nil:
		c.Fault, c.Missing = err.Error(), errors.Is(err, fs.ErrNotExist)
	default:
		end, err := own.Expires()
		if err != nil {
			c.Fault = err.Error()
		} else if !end.IsZero() {
			c.Left = time.Until(end)
		}
	}
	var other *kube.Servers
	if operator != "" {
		// An operator's may well lead to the VIP.
		if other, err = open(operator, nil); err != nil {
			c.File, c.Fault, c.Missing = operator, err.Error(), false
		}
	}
	return func() {
		x.facts.Credentials, x.servers, x.reader = c, own, own
		if other != nil {
			x.reader = other
		}
	}, nil
}

// survey is what reads the cluster.
func (x *exam) survey() (*kube.Surveyor, error) {
	if x.reader == nil {
		return nil, errNoCredentials
	}
	return kube.NewSurveyor(x.reader.RESTConfig(0))
}

// anyServers are the agent's, else the operator's.
func (x *exam) anyServers() (*kube.Servers, error) {
	switch {
	case x.servers != nil:
		return x.servers, nil
	case x.reader != nil:
		return x.reader, nil
	}
	return nil, errNoCredentials
}

// lookServers asks each API server that the configuration, the last run or the
// cluster names.
func (x *exam) lookServers(ctx context.Context) (func(), error) {
	s, err := x.anyServers()
	if err != nil {
		return nil, err
	}
	known := addrsOf(x.site.seeds())
	if survey, err := x.survey(); err == nil {
		quick, cancel := context.WithTimeout(ctx, 2*time.Second)
		more, _ := survey.Servers(quick) // without an answer those that are known
		cancel()
		known = append(known, more...)
	}
	s.Set(known)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var out []check.Server
	for _, l := range s.Look(ctx) {
		v := check.Server{Addr: l.Addr, Local: l.Local, Code: l.Code, Ahead: l.Ahead, Within: l.Within, Dated: l.Dated}
		if l.Err != nil {
			v.Fault = l.Err.Error()
		}
		out = append(out, v)
	}
	return func() { x.facts.Servers = out }, nil
}

// readMembers learns who may hold the VIPs: from the agent, from the Leases, or from
// the configuration and the last run.
func (x *exam) readMembers(ctx context.Context) (func(), error) {
	members := x.site.candidates()
	if x.agent != nil && len(x.agent.Members) > 0 {
		members = x.agent.Members
	} else if x.reader != nil {
		if all, err := election.ReadMembers(ctx, x.reader.RESTConfig(0), x.cfg.Namespace, time.Now()); err == nil &&
			len(all) > 0 {
			members = all
		}
	}
	return func() { x.members = members }, nil
}

// agentsGroup is to whom the manifests give rights.
const agentsGroup = "mooring:agents"

// readRights asks for each right of the manifests. Without the agent's own credentials
// an operator's ask about the agent.
func (x *exam) readRights(ctx context.Context) (func(), error) {
	if x.reader == nil {
		return nil, errNoCredentials
	}
	r := check.Rights{Denied: map[string][]string{}}
	config, as := x.reader.RESTConfig(0), &kube.Who{
		Name: "mooring:node:" + x.cfg.Node, Groups: []string{agentsGroup, "system:authenticated"},
	}
	if x.servers != nil {
		config, as = x.servers.RESTConfig(0), nil
		who, err := kube.WhoAmI(ctx, config)
		if err != nil {
			return nil, err
		}
		r.User, r.Groups = who.Name, who.Groups
	} else {
		r.User, r.Groups = as.Name, as.Groups
	}
	files := []string{"rbac"}
	if x.cfg.Services.Enabled {
		files = append(files, "rbac-services")
	}
	for _, file := range files {
		all, err := x.rightsOf(file)
		if err != nil {
			return nil, err
		}
		denied, err := kube.Denied(ctx, config, all, as)
		if err != nil {
			return nil, err
		}
		r.Asked += len(all)
		for _, d := range denied {
			r.Denied[file] = append(r.Denied[file], d.String())
		}
	}
	return func() { x.facts.Rights = r }, nil
}

// rightsOf are those of a manifest, in the configuration's namespace, without those
// that a key file makes needless.
func (x *exam) rightsOf(file string) ([]kube.Right, error) {
	text, err := manifests.Get(file, "")
	if err != nil {
		return nil, err
	}
	all, err := kube.Rights(text)
	if err != nil {
		return nil, err
	}
	if x.cfg.Hello.KeyFile != "" {
		all = slices.DeleteFunc(all, func(r kube.Right) bool { return r.Resource == "secrets" })
	}
	for i := range all {
		if all[i].Namespace == "mooring-system" {
			all[i].Namespace = x.cfg.Namespace
		}
	}
	return all, nil
}

func (x *exam) readNamespace(ctx context.Context) (func(), error) {
	s, err := x.survey()
	if err != nil {
		return nil, err
	}
	has, err := s.HasNamespace(ctx, x.cfg.Namespace)
	return func() { x.facts.NamespaceMissing = !has }, err
}

func (x *exam) readNode(ctx context.Context) (func(), error) {
	s, err := x.survey()
	if err != nil {
		return nil, err
	}
	has, err := s.HasNode(ctx, x.cfg.Node)
	return func() { x.facts.NodeMissing = !has }, err
}

// readKey reads the hellos' keys as the agent does; none is ever shown.
func (x *exam) readKey(ctx context.Context) (func(), error) {
	k := check.Key{Where: x.cfg.Hello.KeyFile}
	var text string
	if k.Where != "" {
		data, err := os.ReadFile(k.Where)
		if k.Missing = errors.Is(err, fs.ErrNotExist); err != nil && !k.Missing {
			return nil, err
		}
		text = string(data)
	} else {
		k.Where = "Secret " + x.cfg.Namespace + "/" + keySecret
		s, err := x.survey()
		if err != nil {
			return nil, err
		}
		var there bool
		if text, there, err = s.HelloKeys(ctx, x.cfg.Namespace, keySecret); err != nil {
			return nil, err
		}
		k.Missing = !there
	}
	if !k.Missing {
		keys, err := hello.ParseKeys(text)
		k.Keys, k.Fault = len(keys), complaintOf(err)
	}
	return func() { x.facts.Key = k }, nil
}

func (x *exam) readCertificate(ctx context.Context) (func(), error) {
	if len(x.cfg.APIServer.VIPs) == 0 {
		return nil, moot("there is no VIP of the API server")
	}
	s, err := x.anyServers()
	if err != nil {
		return nil, err
	}
	_, ips, err := s.CertificateNames(ctx)
	if err != nil {
		return nil, err
	}
	c := check.Certificate{Server: s.At()}
	for _, ip := range x.cfg.APIServer.VIPs {
		if !slices.Contains(ips, ip) {
			c.Missing = append(c.Missing, ip)
		}
	}
	return func() { x.facts.Certificate = c }, nil
}

func (x *exam) readPools(ctx context.Context) (func(), error) {
	if !x.cfg.Services.Enabled {
		return nil, moot("Services are not served")
	}
	s, err := x.survey()
	if err != nil {
		return nil, err
	}
	n, known, err := s.Pools(ctx)
	return func() { x.facts.Pools = check.Pools{Missing: !known, Count: n} }, err
}

// readKubeProxy asks kube-proxy itself, on this node, and reads its configuration.
func (x *exam) readKubeProxy(ctx context.Context) (func(), error) {
	k := check.KubeProxy{Mode: ownMode(ctx), Told: "kube-proxy itself"}
	var c kube.ProxyConfig
	var there bool
	s, err := x.survey()
	if err == nil {
		c, there, err = s.KubeProxy(ctx)
	}
	if err != nil && k.Mode == "" {
		return nil, err
	}
	if there {
		k.Stated, k.StrictARP = true, c.IPVS.StrictARP
		if k.Mode == "" {
			k.Mode, k.Told = c.Mode, "ConfigMap kube-system/kube-proxy"
		}
	}
	k.Absent = err == nil && !there
	return func() { x.facts.KubeProxy = k }, nil
}

// ownMode is what a kube-proxy on this node answers (its metricsBindAddress, by
// default), "" for none.
func ownMode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/proxyMode", nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	answer := make([]byte, 32)
	n, _ := resp.Body.Read(answer)
	mode := strings.TrimSpace(string(answer[:n]))
	if !slices.Contains([]string{"iptables", "nftables", "ipvs"}, mode) {
		return ""
	}
	return mode
}

// readWorkloads lists what may be another load balancer or a network of its own.
func (x *exam) readWorkloads(ctx context.Context) (func(), error) {
	s, err := x.survey()
	if err != nil {
		return nil, err
	}
	all, err := s.DaemonSets(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := s.StaticPods(ctx)
	if err != nil {
		return nil, err
	}
	cilium, there, err := s.Cilium(ctx)
	if err != nil {
		return nil, err
	}
	if all = append(all, pods...); there {
		all = append(all, cilium)
	}
	out := make([]check.Workload, len(all))
	for i, w := range all {
		out[i] = check.Workload(w)
	}
	return func() { x.facts.Workloads = out }, nil
}

// lookNeighbours tries the other nodes' port for peers.
func (x *exam) lookNeighbours(ctx context.Context) (func(), error) {
	if !x.cfg.Services.Enabled {
		return nil, moot("Services are not served")
	}
	var out []check.Neighbour
	for _, m := range x.members {
		if all := addressesOf(m); m.Node != x.cfg.Node && m.Live && len(all) > 0 {
			out = append(out, check.Neighbour{Node: m.Node, Addr: netip.AddrPortFrom(all[0], x.cfg.Services.PeersPort)})
		}
	}
	var tried sync.WaitGroup
	for i := range out {
		tried.Go(func() {
			d := net.Dialer{Timeout: time.Second}
			conn, err := d.DialContext(ctx, "tcp", out[i].Addr.String())
			if err != nil {
				out[i].Fault, out[i].Refused = err.Error(), errors.Is(err, syscall.ECONNREFUSED)
				return
			}
			conn.Close()
		})
	}
	tried.Wait()
	return func() { x.facts.Neighbours = out }, nil
}
