package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/internal/lb"
	"mooring.dev/mooring/vip"
)

// askAgent reads the running agent's status, and which process it is.
func (x *exam) askAgent(ctx context.Context) (func(), error) {
	body, err := ask(ctx, x.path, http.MethodGet, "/status")
	if err != nil {
		return nil, errAgentAway
	}
	var r report
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("the agent's answer is not a status (another version?): %v", err)
	}
	pid := listenerOf(x.runFile(socketName))
	return func() {
		x.agent, x.pid = &r, pid
		a := &x.facts.Agent
		a.Version, a.Ours, a.State, a.Holder = r.Version, version, r.State, r.Holder
		a.Complaints, a.Precedence = r.Complaints, r.Hello.Precedence
		for _, p := range r.Peers {
			a.Peers = append(a.Peers, check.Peer{Node: p.Node, State: p.State})
		}
		if text, some := strings.CutPrefix(refusals(r.Hello), "; refused of "); some {
			a.Refused = strings.Split(text, ", ")
		}
		x.facts.Site.Fresh = false
	}, nil
}

// listenerOf is the process that listens on a unix socket, 0 if it is not visible
// (unix(7), SO_PEERCRED).
func listenerOf(socket string) int {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// lookLinks puts each VIP on its link as an agent would.
func (x *exam) lookLinks(context.Context) (func(), error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("this node's links: %v", err)
	}
	here, err := vip.Look()
	if err != nil {
		return nil, err
	}
	var links check.Links
	for _, l := range all {
		links.Names = append(links.Names, l.Name)
	}
	for _, ip := range x.cfg.APIServer.VIPs {
		links.VIPs = append(links.VIPs, x.place(ip, all, here))
	}
	links.OnIPVS = onIPVS(x.cfg.APIServer.VIPs)
	return func() { x.facts.Links = links }, nil
}

// place judges one VIP's link.
func (x *exam) place(ip netip.Addr, all []net.Interface, here vip.Inventory) check.Placed {
	p := check.Placed{IP: ip, Link: x.cfg.Interface}
	var err error
	if p.Link == "" {
		p.Link, err = here.LinkFor(ip)
	}
	if err == nil {
		err = vip.Check([]lb.Address{{IP: ip, Link: p.Link}}, x.cfg.APIServer.AllowOutsideSubnet)
	}
	if err == nil {
		_, err = vip.MACs(p.Link)
	}
	if err != nil {
		p.Fault = err.Error()
		return p
	}
	p.Gateways = gatewaysOf(p.Link, ip)
	for _, l := range all {
		switch {
		case l.Name == p.Link:
			p.Up, p.Carrier, p.MTU = l.Flags&net.FlagUp != 0, l.Flags&net.FlagRunning != 0, l.MTU
		case l.Flags&net.FlagUp != 0 && here.Has(l.Name) && here.Covers(l.Name, ip):
			p.Beside = append(p.Beside, l.Name)
		}
		if l.Name != p.Link && len(p.Gateways) == 0 && p.Elsewhere == "" && len(gatewaysOf(l.Name, ip)) > 0 {
			p.Elsewhere = l.Name
		}
	}
	return p
}

// gatewaysOf are the link's default routers of the address's family.
func gatewaysOf(link string, like netip.Addr) []netip.Addr {
	all, err := vip.Gateways(link)
	if err != nil {
		return nil // the link itself is judged
	}
	return slices.DeleteFunc(all, func(ip netip.Addr) bool { return ip.Is4() != like.Is4() })
}

// onIPVS are those that kube-proxy has put on its link.
func onIPVS(vips []netip.Addr) []netip.Addr {
	l, err := net.InterfaceByName("kube-ipvs0")
	if err != nil {
		return nil
	}
	addrs, err := l.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && slices.Contains(vips, p.Addr().Unmap()) {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// lookWire asks who has the VIPs, and for gateways and witnesses.
func (x *exam) lookWire(ctx context.Context) (func(), error) {
	if !capable(unix.CAP_NET_RAW) {
		return nil, errNotRoot
	}
	var w check.Wire
	asked := map[netip.Addr]bool{}
	var questions []lb.Address
	ask := func(ip netip.Addr, link string) {
		if a := (lb.Address{IP: ip, Link: link}); !slices.Contains(questions, a) {
			questions = append(questions, a)
		}
	}
	for _, p := range x.facts.Links.VIPs {
		if p.Fault != "" {
			continue
		}
		ask(p.IP, p.Link)
		for _, ip := range append(slices.Clone(p.Gateways), x.cfg.Witnesses...) {
			if ip = ip.WithZone(""); ip.Is4() == p.IP.Is4() {
				ask(ip, p.Link)
				asked[ip] = true
			}
		}
	}
	if len(questions) == 0 {
		return nil, moot("no VIP can be asked for")
	}
	answers, err := vip.New(vip.Options{Now: boottime, ProbeGap: 100 * time.Millisecond}).Survey(ctx, questions)
	w.Fault = complaintOf(err)
	w.Known = len(x.members) > 0
	w.Candidates = x.candidates()
	for ip := range asked {
		w.Asked = append(w.Asked, ip)
	}
	slices.SortFunc(w.Asked, netip.Addr.Compare)
	for _, a := range answers {
		switch {
		case slices.Contains(x.cfg.APIServer.VIPs, a.IP):
			w.Claims = append(w.Claims, check.Claim{IP: a.IP, MAC: a.MAC.String(), Node: x.owner(a.MAC.String())})
		case !slices.Contains(w.Answered, a.IP):
			w.Answered = append(w.Answered, a.IP)
		}
	}
	return func() { x.facts.Wire = w }, nil
}

// owner is the candidate with a hardware address.
func (x *exam) owner(mac string) string {
	for _, m := range x.members {
		if slices.Contains(m.MACs, mac) {
			return m.Node
		}
	}
	return ""
}

// candidates counts who may hold the VIPs, 0 if that is not known.
func (x *exam) candidates() int {
	live := 0
	for _, m := range x.members {
		if m.Live || m.Node == x.cfg.Node {
			live++
		}
	}
	if live > 0 && !slices.ContainsFunc(x.members, func(m election.Member) bool { return m.Node == x.cfg.Node }) {
		live++ // this node, before its first start
	}
	return live
}
