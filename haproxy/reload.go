package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// change brings the running HAProxy to want, with as little as it takes.
func (p *Proxy) change(ctx context.Context, want *wish) error {
	p.forget()
	w, err := status(ctx, want.cfg)
	if err != nil {
		return err
	}
	if w.id != want.id {
		return p.reload(ctx, want)
	}
	list := changes(w, want.cfg)
	// The file first: whoever restarts HAProxy in between starts the new set.
	if err := p.keepFile(ctx, want); err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	err = applyChanges(ctx, want.cfg.file(fileStats), list)
	if err == nil {
		// What the client reports is not proof: it takes a broken answer for a
		// complete one.
		if w, err = status(ctx, want.cfg); err == nil && settled(changes(w, want.cfg)) {
			return nil
		}
	}
	p.log.Warn("changing servers at run time failed, reloading instead", "err", err)
	return p.reload(ctx, want)
}

// reload makes the master start a new worker and waits for the outcome.
func (p *Proxy) reload(ctx context.Context, want *wish) error {
	c := want.cfg
	if err := checkPorts(append(c.binds(), c.extraBinds()...), running(c)); err != nil {
		return err
	}
	if err := p.keepFile(ctx, want); err != nil {
		return err
	}
	return p.renew(ctx, want, true)
}

// renew makes the master start a worker with the file that is there. checked says
// that there are health checks whose results are worth keeping.
func (p *Proxy) renew(ctx context.Context, want *wish, checked bool) error {
	c := want.cfg
	before, err := showProc(ctx, c)
	if err != nil {
		return err
	}
	if checked {
		if err := saveStates(ctx, c); err != nil {
			return err
		}
	}
	logged := fileSize(c.file(fileLog))
	// HAProxy 2.6 answers with nothing, later ones with the outcome; `show
	// proc` tells it for all.
	_, _ = ask(ctx, c.file(fileMaster), "reload")
	err = p.awaitReload(ctx, want, before)
	if err == nil {
		p.log.Info("reloaded HAProxy", "configuration", want.id)
		return nil
	}
	return fmt.Errorf("haproxy: the reload failed (%w), the former configuration goes on serving: %s", err,
		alerts(c.file(fileLog), logged))
}

// saveStates writes the new worker's first view of the servers; without it, it
// takes all for up.
func saveStates(ctx context.Context, c Config) error {
	text, err := exchange(ctx, patience(c, answerTime), c.file(fileStats), "show servers state;quit\n")
	if err != nil {
		// Better a reload that takes all servers for up than none.
		return nil
	}
	return writeAtomic(c.file(fileStates), strings.TrimLeft(text, "\n"))
}

// awaitReload waits until another worker serves want, or the master has given
// up. The master's socket is silent in between.
func (p *Proxy) awaitReload(ctx context.Context, want *wish, before master) error {
	ctx, cancel := context.WithTimeout(ctx, patience(want.cfg, reloadTime))
	defer cancel()
	for {
		if proc, _, _ := p.current(); !proc.alive() {
			return errors.New("HAProxy ended")
		}
		now, err := showProc(ctx, want.cfg)
		if err == nil && now.failed > before.failed {
			return errors.New("HAProxy refused it")
		}
		if err == nil && now.worker != before.worker {
			if w, err := status(ctx, want.cfg); err == nil && w.id == want.id {
				return nil
			}
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func showProc(ctx context.Context, c Config) (master, error) {
	text, err := ask(ctx, c.file(fileMaster), "show proc")
	if err != nil {
		return master{}, err
	}
	return parseProc(text)
}
