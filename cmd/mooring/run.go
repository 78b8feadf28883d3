package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"

	"mooring.dev/mooring/internal/agent"
	"mooring.dev/mooring/internal/config"
	"mooring.dev/mooring/internal/lb"
)

// boottime reads CLOCK_BOOTTIME (clock_gettime(2)).
func boottime() lb.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the kernel has had this clock since 2.6.39
	}
	return lb.Instant(ts.Nano())
}

// cmdAgent prepares what all configurations of this process share: the lock,
// the log and the registry.
func cmdAgent(ctx context.Context, args []string, _ io.Writer) error {
	fs := flags("agent", "keeps this node's share of the cluster's addresses")
	path := fs.String("config", defaultConfig, "the configuration `FILE`")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	stamp := stampOf(*path) // before it is read: a change meanwhile is seen
	cfg, err := config.Load(*path)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(cfg.RunDir, 0o755), os.MkdirAll(cfg.StateDir, 0o755)); err != nil {
		return fmt.Errorf("runDir and stateDir must be writable: %v", err)
	}
	unlock, err := lockRun(cfg.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	level := new(slog.LevelVar)
	s := &supervisor{path: *path, stamp: stamp, log: newLog(cfg, level), level: level, registry: prometheus.NewRegistry()}
	s.configGood = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mooring_config_good", Help: "Actual: 1 while the configuration file is the one in use.",
	})
	s.registry.MustRegister(s.configGood, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s.run(ctx, cfg)
}

// lockRun makes sure that one agent alone works on a run directory.
func lockRun(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "agent.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("runDir: %v", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another agent runs on this node with runDir %s: stop it first, "+
			"or give this one a runDir of its own (%s is locked)", dir, path)
	}
	return func() { f.Close() }, nil
}

// newLog writes to standard error, where kubelet and journald look.
func newLog(cfg config.Config, level *slog.LevelVar) *slog.Logger {
	setLevel(level, cfg)
	opt := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opt)).With("node", cfg.Node)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opt)).With("node", cfg.Node)
}

// setLevel takes the configuration's level, which was checked.
func setLevel(level *slog.LevelVar, cfg config.Config) {
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		level.Set(slog.LevelInfo)
	}
}

// supervisor runs one node after the other in this process: a new
// configuration is a new node that adopts the addresses of the old one.
type supervisor struct {
	path       string
	log        *slog.Logger
	level      *slog.LevelVar
	registry   *prometheus.Registry
	configGood prometheus.Gauge
	// stamp tells the content of the file that was read last.
	stamp string
	// refused is what was wrong with the last reload, for `mooring status`.
	refused string
}

// run returns when ctx ended and the group was handed over.
func (s *supervisor) run(ctx context.Context, cfg config.Config) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var last *config.Config
	for {
		setLevel(s.level, cfg)
		s.configGood.Set(flag01(s.refused == ""))
		n, err := newNode(cfg, s)
		if err != nil && last != nil {
			// Sound as a file, but not on this host: a link is missing.
			s.refuse(err)
			cfg, last = *last, nil
			continue
		}
		if err != nil {
			return err
		}
		next, err := s.serveUntilChange(ctx, n, hup)
		if err != nil || next == nil {
			return err
		}
		last, cfg = &n.cfg, *next
	}
}

// refuse notes why a new configuration is not in force.
func (s *supervisor) refuse(err error) {
	s.refused = err.Error()
	s.configGood.Set(0)
	s.log.Error("configuration not taken over, the old one stays in force", "err", err)
}

// serveUntilChange runs n until it ends (nil) or a good new configuration is
// there. A bad one is said and the old one stays.
func (s *supervisor) serveUntilChange(ctx context.Context, n *node, hup <-chan os.Signal) (*config.Config, error) {
	run, reload := context.WithCancel(context.WithoutCancel(ctx))
	defer reload()
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx, run) }()
	poll := time.NewTicker(time.Second)
	defer poll.Stop()
	for {
		var next *config.Config
		select {
		case err := <-ended:
			return nil, err
		case <-hup:
			next = s.next(run, n)
		case <-poll.C:
			if stampOf(s.path) != s.stamp {
				next = s.next(run, n)
			}
		}
		if n.newCredentials() && next == nil {
			next = &n.cfg
		}
		if next == nil || ctx.Err() != nil {
			continue
		}
		reload()
		if err := <-ended; err != nil {
			return nil, err
		}
		return next, nil
	}
}

// next is another configuration that this host can have, or nil.
func (s *supervisor) next(ctx context.Context, n *node) *config.Config {
	s.stamp = stampOf(s.path)
	next, ok := s.read(n.cfg)
	if ok {
		if err := n.preflight(ctx, next); err != nil {
			s.refuse(err)
			ok = false
		}
	}
	n.refuse(s.refused)
	if !ok {
		return nil
	}
	s.log.Info("configuration changed, starting over with the addresses kept",
		"fields", strings.Join(next.Changed(n.cfg), " "))
	return &next
}

// read loads the file again; false keeps the old configuration.
func (s *supervisor) read(old config.Config) (config.Config, bool) {
	next, err := config.Load(s.path)
	if err == nil {
		if fields := next.NeedsRestart(old); len(fields) > 0 {
			err = fmt.Errorf("%s: %s take effect at the agent's next start only: restart it", s.path, strings.Join(fields, ", "))
		}
	}
	if err != nil {
		s.refuse(err)
		return next, false
	}
	s.refused = ""
	s.configGood.Set(1)
	return next, len(next.Changed(old)) > 0
}

// stampOf tells one content of a file from the next without reading it.
func stampOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "missing"
	}
	ino := uint64(0)
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		ino = sys.Ino
	}
	return fmt.Sprint(st.ModTime().UnixNano(), st.Size(), ino)
}

// flag01 is a gauge's yes or no.
func flag01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// memoryOf is where a node's last record is kept.
func memoryOf(cfg config.Config) agent.Disk {
	return agent.Disk{Path: filepath.Join(cfg.StateDir, "state.json"), Boot: agent.BootID()}
}
