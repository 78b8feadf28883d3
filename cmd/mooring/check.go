package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"mooring.dev/mooring/election"
	"mooring.dev/mooring/internal/check"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/kube"
)

// exam is one run of `mooring check`: what was found, and what finds the rest.
type exam struct {
	path string
	cfg  config.Config
	site *node // finds links, API servers and candidates as an agent does; it never runs

	facts check.Facts
	// agent is the running agent's word, nil without one; pid its process, 0 where
	// that is not visible.
	agent *report
	pid   int
	// servers are reached with the agent's credentials, reader with the operator's if
	// given, else the same; both are nil without any.
	servers, reader *kube.Servers
	members         []election.Member
}

// cmdCheck looks at everything and judges it; a problem is an error.
func cmdCheck(ctx context.Context, args []string, out io.Writer) error {
	fs := flags("check", "looks at this node and its cluster: what would keep an agent from working, and the way out; "+
		"before the first start and afterwards; it changes nothing")
	path := fs.String("config", defaultConfig, "the agent's configuration `FILE`")
	operator := fs.String("kubeconfig", "",
		"a `FILE` with more rights than the agent's, for example /etc/kubernetes/admin.conf")
	format := fs.String("o", "table", "output: table or json")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	if *format != "json" && *format != "table" {
		fmt.Fprintf(fs.Output(), "mooring check: -o %s: write table or json\n", *format)
		return errUsage
	}
	begun := time.Now()
	x := newExam(*path)
	for _, round := range x.rounds(*operator) {
		x.gather(ctx, round, os.Stderr)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	r := checkReport{
		Node: x.cfg.Node, Version: version, Agent: x.agent != nil, Took: time.Since(begun).Round(10 * time.Millisecond).Seconds(),
		Findings: check.Run(&x.facts),
	}
	r.Worst = check.Worst(r.Findings)
	print := printCheck
	if *format == "json" {
		print = jsonCheck
	}
	if err := print(out, r); err != nil {
		return err
	}
	if n := check.Count(r.Findings, check.Problem); n > 0 {
		return fmt.Errorf("%s found", counted(n, "problem"))
	}
	return nil
}

// newExam reads the configuration; a wrong one leaves the defaults, so that the
// rest is looked at all the same.
func newExam(path string) *exam {
	x := &exam{path: path, facts: check.Facts{Gaps: map[check.Part]check.Gap{}}}
	cfg, err := config.Load(path)
	if err != nil {
		x.facts.Site.Faults, x.facts.Site.Missing = faultsOf(err), errors.Is(err, os.ErrNotExist)
		if cfg, err = config.Parse("defaults", []byte(config.Minimal())); err != nil {
			panic(err) // it is embedded, and tested
		}
		cfg.APIServer.VIPs = nil
	}
	x.cfg = cfg
	x.site = &node{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	_, err = os.Stat(memoryOf(cfg).Path)
	s := &x.facts.Site
	s.File, s.Node, s.VIPs, s.Namespace = path, cfg.Node, cfg.APIServer.VIPs, cfg.Namespace
	s.Port, s.Proxy, s.Hello, s.Peers = cfg.APIServer.Port, cfg.APIServer.ProxyPort, cfg.Hello.Port, cfg.Services.PeersPort
	s.Metrics, s.KeyFile, s.Kubeconfig = cfg.Metrics.Bind.Port(), cfg.Hello.KeyFile, cfg.Kubeconfig
	s.Balance, s.Services = cfg.APIServer.Balance == config.BalanceHAProxy, cfg.Services.Enabled
	s.DefaultClass, s.Fresh = cfg.Services.Class == config.ClassDefault, errors.Is(err, os.ErrNotExist)
	return x
}

// rounds are what is gathered at the same time; each needs what the one before found.
func (x *exam) rounds(operator string) [][]gatherer {
	const local, remote = 3 * time.Second, 6 * time.Second
	return [][]gatherer{
		{
			{check.PartAgent, local, x.askAgent},
			{check.PartCredentials, local, func(context.Context) (func(), error) { return x.logIn(operator) }},
		},
		{
			{check.PartLinks, local, x.lookLinks},
			{check.PartServers, remote, x.lookServers},
			{partMembers, remote, x.readMembers},
			{check.PartProcess, local, x.lookProcess},
			{check.PartSysctls, local, x.lookSysctls},
			{check.PartRules, local, x.lookRules},
			{check.PartPorts, local, x.lookPorts},
			{check.PartHAProxy, local, x.lookHAProxy},
			{check.PartPrograms, local, x.lookPrograms},
			{check.PartRights, remote, x.readRights},
			{check.PartNamespace, remote, x.readNamespace},
			{check.PartNode, remote, x.readNode},
			{check.PartKey, remote, x.readKey},
			{check.PartCertificate, remote, x.readCertificate},
			{check.PartPools, remote, x.readPools},
			{check.PartKubeProxy, remote, x.readKubeProxy},
			{check.PartWorkloads, remote, x.readWorkloads},
		},
		{
			{check.PartWire, local, x.lookWire},
			{check.PartNeighbours, local, x.lookNeighbours},
		},
	}
}

// partMembers is no part of the facts; others are made with it.
const partMembers check.Part = "members"

// runFile is a file in the run directory.
func (x *exam) runFile(name string) string { return filepath.Join(x.cfg.RunDir, name) }
