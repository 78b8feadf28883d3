package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/election"
	"mooring.dev/mooring/haproxy"
	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/ipam"
	"mooring.dev/mooring/internal/kube"
	"mooring.dev/mooring/internal/lb"
)

// Conditions of a Service.
const (
	conditionAddress  = "mooring.dev/AddressAssigned"
	conditionAccepted = "mooring.dev/SettingsAccepted"
	conditionServed   = "mooring.dev/Served"
)

// reloadGap gathers new and changed Services into one reload of their HAProxy.
const reloadGap = time.Second

// verdicts writes what the controller decides into the cluster.
type verdicts struct {
	n        *node
	services *kube.StatusWriter
	pools    *kube.PoolStatusWriter

	mu sync.Mutex
	// wrong is what cannot be used of the pools' specifications.
	wrong map[string][]lb.Issue
	// modeless: the API server dropped ipMode at the last write.
	modeless bool
}

// connectServices prepares everything for LoadBalancer Services, where this node
// serves any.
func (n *node) connectServices() error {
	if !n.cfg.Services.Enabled {
		return nil
	}
	proxy, err := haproxy.New(haproxy.Options{
		Dir: filepath.Join(n.cfg.RunDir, "haproxy-services"), Log: n.log, Changed: n.onServicesProxy,
		ReloadGap: reloadGap,
	})
	if err != nil {
		return err
	}
	v := &verdicts{n: n}
	n.services = newServices(n, proxy, v)
	api := n.servers.RESTConfig(0)
	n.serviceWatcher, err = kube.NewServiceWatcher(api, kube.ServicesOptions{
		Mode: kube.ClassMode(n.cfg.Services.Class), Accepted: n.cfg.Services.AcceptedClasses, Log: n.log,
		Changed: func(c kube.Changed) {
			n.services.onService(c.Key, c.Service)
			if c.Service == nil {
				n.services.controller.SetLeft(c.Key, c.Left.UID, c.Left.Addresses)
			}
		},
		Pools: func(pools []lb.Pool, wrong map[string][]lb.Issue) {
			v.setWrong(wrong)
			n.services.onPools(pools)
		},
		Synced: n.services.onSynced,
	})
	if err != nil {
		return err
	}
	n.services.certificates, err = kube.NewCertificates(api, kube.CertificatesOptions{
		Changed: n.services.onCertificate, Log: n.log,
	})
	if err != nil {
		return err
	}
	if v.services, err = kube.NewStatusWriter(api, n.serviceWatcher.Service, time.Now); err != nil {
		return err
	}
	// One of its own: it writes about a Service while the controller may do so too.
	if n.services.conditions, err = kube.NewStatusWriter(api, n.serviceWatcher.Service, time.Now); err != nil {
		return err
	}
	v.pools, err = kube.NewPoolStatusWriter(api, n.serviceWatcher.Pool, time.Now)
	return err
}

// serveServices starts their tasks.
func (n *node) serveServices(ctx context.Context, g *errgroup.Group) {
	if n.services == nil {
		return
	}
	g.Go(func() error { return n.serviceWatcher.Run(ctx) })
	g.Go(func() error { return n.services.run(ctx) })
	g.Go(func() error { return n.services.serveFronts(ctx) })
	g.Go(func() error { return n.services.certificates.Run(ctx) })
	g.Go(func() error { return n.services.proxy.Run(ctx) })
	g.Go(func() error { return n.services.shifts.redirects.Run(ctx) })
	g.Go(func() error { return n.services.tellServed(ctx) })
	g.Go(func() error {
		return election.Lead(ctx, election.Role{
			Config: n.servers.RESTConfig(0), Namespace: n.cfg.Namespace, Name: election.ControllerLease, Node: n.cfg.Node,
		}, n.services.controller.Lead)
	})
}

// onServicesProxy takes the state of the Services' HAProxy.
func (n *node) onServicesProxy(s lb.ProxyState) {
	if n.services != nil {
		n.services.deliver(election.Health{OK: s.Serving || !n.services.fronted.Load()})
		n.services.holdBack(s.Pending)
		n.complain("services-skipped", n.services.skipped(s.Skipped))
		knock(n.services.unsaid)
		if n.services.shifts.wanted.Load() {
			knock(n.services.fronts) // the redirects follow what HAProxy serves
		}
	}
}

func (v *verdicts) setWrong(wrong map[string][]lb.Issue) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong = wrong
}

// Service writes one Service's status and tells what its owner should know.
func (v *verdicts) Service(ctx context.Context, d agent.Verdict) error {
	if d.Left {
		return orGone(v.services.Leave(ctx, d.Key, d.UID, len(d.Addresses) > 0,
			conditionAddress, conditionAccepted, conditionServed))
	}
	if d.Unread {
		return v.unread(ctx, d)
	}
	s := kube.ServiceStatus{Key: d.Key, UID: d.UID, Addresses: d.Addresses, Mode: kube.ModeVIP}
	if d.Proxy {
		s.Mode = kube.ModeProxy
	}
	s.Insist = d.Insist
	s.Conditions = append(s.Conditions, addressCondition(d), acceptedCondition(d))
	kept, err := v.services.Set(ctx, s)
	if errors.Is(err, kube.ErrGone) {
		v.services.Forget(d.Key)
		return nil
	}
	if err == nil && d.Proxy && len(d.Addresses) > 0 {
		v.learned(kept)
	}
	if err == nil && !d.Again {
		v.tell(d)
	}
	return orGone(err)
}

// orGone is nil where the Service is gone: then there is nothing to say of it.
func orGone(err error) error {
	if errors.Is(err, kube.ErrGone) {
		return nil
	}
	return err
}

// learned says once whether the API server keeps ipMode.
func (v *verdicts) learned(kept bool) {
	v.mu.Lock()
	changed := v.modeless == kept
	v.modeless = !kept
	v.mu.Unlock()
	if !changed {
		return
	}
	text, reason := "the API server keeps ipMode: kube-proxy leaves proxied Services to HAProxy", "IPModeKept"
	if !kept {
		text, reason = "the API server does not keep ipMode (Kubernetes before 1.30, or an admission policy): connections "+
			"to proxied Services are redirected to HAProxy before kube-proxy takes them", "IPModeNotKept"
	}
	v.n.log.Info(text)
	v.n.reporter.Report(kube.Note{Type: kube.Normal, Reason: reason, Message: text})
}

// unread says on a Service that it waits for the pools to be read.
func (v *verdicts) unread(ctx context.Context, d agent.Verdict) error {
	c := kube.Condition{Type: conditionAddress, Reason: string(ipam.PoolsNotLoaded), Message: poolsUnread}
	news, err := v.services.Add(ctx, d.Key, d.UID, c)
	if news {
		v.n.reporter.Report(kube.Note{About: kube.AboutService(d.Key, d.UID), Type: kube.Warning, Reason: c.Reason,
			Message: c.Message})
	}
	if errors.Is(err, kube.ErrGone) {
		return nil
	}
	return err
}

// poolsUnread is what to do when the AddressPools cannot be read.
const poolsUnread = "the AddressPools cannot be read; install their kind " +
	"(mooring manifest addresspools | kubectl apply -f -) and the agents' right to read them (mooring manifest rbac-services); the agent's log has the API server's answer"

// addressCondition says whether the Service has what it asks for.
func addressCondition(d agent.Verdict) kube.Condition {
	c := kube.Condition{Type: conditionAddress, True: d.Refused == nil, Reason: "Assigned"}
	switch {
	case d.Refused != nil:
		c.Reason, c.Message = string(d.Refused.Reason), d.Refused.Text
		if len(d.Addresses) > 0 {
			c.Message += "; it keeps " + joined(d.Addresses)
		}
	default:
		c.Message = fmt.Sprintf("%s from pool %s", joined(d.Addresses), d.Pool)
	}
	return c
}

// acceptedCondition says which of its settings are not used.
func acceptedCondition(d agent.Verdict) kube.Condition {
	if len(d.Issues) == 0 {
		return kube.Condition{Type: conditionAccepted, True: true, Reason: "AllInUse", Message: "all settings are in use"}
	}
	var all []string
	for _, i := range d.Issues {
		all = append(all, i.Field+": "+i.Problem)
	}
	return kube.Condition{Type: conditionAccepted, Reason: "NotUsed", Message: strings.Join(all, "; ")}
}

// joined lists addresses.
func joined(addrs []netip.Addr) string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return strings.Join(out, ", ")
}

// tell writes Events: they are what `kubectl describe` shows first.
func (v *verdicts) tell(d agent.Verdict) {
	about := kube.AboutService(d.Key, d.UID)
	if d.Refused != nil {
		v.n.reporter.Report(kube.Note{About: about, Type: kube.Warning, Reason: string(d.Refused.Reason),
			Message: d.Refused.Text})
	} else if len(d.Addresses) > 0 {
		v.n.reporter.Report(kube.Note{About: about, Type: kube.Normal, Reason: "AddressAssigned",
			Message: fmt.Sprintf("%s from pool %s", joined(d.Addresses), d.Pool)})
	}
	for _, f := range d.Foreign {
		v.n.reporter.Report(kube.Note{About: about, Type: kube.Warning, Reason: "AddressInUse",
			Message: fmt.Sprintf("%s is not given: the host with MAC %s, which is no node of ours, answers for it; take it "+
				"from that host, or out of pool %s", f.Addr, f.MAC, f.Pool)})
	}
	for _, i := range d.Lost {
		v.n.reporter.Report(kube.Note{About: about, Type: kube.Warning, Reason: "AddressLost", Message: i.Problem})
	}
	for _, i := range d.Issues {
		v.n.reporter.Report(kube.Note{About: about, Type: kube.Warning, Reason: "SettingNotUsed",
			Message: i.Field + ": " + i.Problem})
	}
}

// Pools writes the pools' numbers, and what of them other hosts have.
func (v *verdicts) Pools(ctx context.Context, all []ipam.Stats, foreign []ipam.Foreign) error {
	v.mu.Lock()
	wrong := v.wrong
	v.mu.Unlock()
	var faults []error
	for _, p := range all {
		c := kube.Condition{Type: v1alpha1.ConditionReady, True: true, Reason: "InUse",
			Message: "the whole specification is in use"}
		if issues := wrong[p.Pool]; len(issues) > 0 {
			c = acceptedCondition(agent.Verdict{Issues: issues})
			c.Type = v1alpha1.ConditionReady
		}
		var quarantined []v1alpha1.Quarantined
		for _, f := range foreign {
			if f.Pool == p.Pool {
				quarantined = append(quarantined, v1alpha1.Quarantined{Address: f.Addr.String(), MAC: f.MAC})
			}
		}
		err := v.pools.Set(ctx, kube.PoolStatus{
			Name: p.Pool, Size: p.Size, Used: p.Used, Free: p.Free, Conditions: []kube.Condition{c}, Quarantined: quarantined,
		})
		if err != nil && !errors.Is(err, kube.ErrGone) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}
