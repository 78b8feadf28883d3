package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// services is what a Proxy remembers to serve Services quickly. All of it belongs
// to whoever has the turn.
type services struct {
	// cache has the blocks of the last wish, by frontend.
	cache map[string]*block
	// refused are blocks that HAProxy itself would not take.
	refused map[*block]refusal
	// certs are the files as last read.
	certs map[string]*tlsFile
	// live is what the worker surely runs, because this Proxy made it so: what
	// changes is found by comparing wishes, and only the servers touched are asked
	// for. It is nil when it is not known: after adoption, errors and, to notice
	// what others did, once a minute. Then all servers are asked for.
	live *wish
	// began is when the worker began to serve, reloaded the last reload's begin.
	began, reloaded time.Time
	// exporter says whether the binary has one, nil while that is not known.
	exporter *bool
}

// refusal is HAProxy's word on a block with its certificate as it was then.
type refusal struct {
	why  error
	file *tlsFile
}

// forget makes the next change look at everything.
func (p *Proxy) forget() { p.live = nil }

// errOther says that the worker runs something else than was thought.
var errOther = errors.New("haproxy: HAProxy runs another configuration than it was given")

// prepareServices makes ready what can be served of c, a Config of Services.
func (p *Proxy) prepareServices(c Config, limit uint64) (*wish, error) {
	c.Metrics = c.Metrics && p.exports()
	ready := compile(c, p.cache)
	p.cache = ready.cache
	certs := p.loadCerts(ready)
	for b, r := range p.refused {
		if ready.cache[b.given.Name] != b || certs[b.f.Front.TLS] != r.file {
			delete(p.refused, b)
		}
	}
	ready.drop(func(b *block) error { return p.refused[b].why })
	if err := p.dropTaken(ready); err != nil {
		return nil, err
	}
	whole := ready.config()
	most, err := FitMaxConn(whole, limit)
	if err != nil {
		return nil, err
	}
	ready.cfg.MaxConn = most
	want := ready.wish()
	want.certs = certs
	return want, nil
}

// dropTaken leaves out frontends on whose address another process listens. Only
// addresses that are new are looked at.
func (p *Proxy) dropTaken(c *compiled) error {
	bound := map[netip.AddrPort]bool{}
	if p.live != nil {
		for _, a := range append(p.live.cfg.binds(), p.live.cfg.extraBinds()...) {
			bound[a] = true
		}
	}
	var fresh []netip.AddrPort
	whole := c.config()
	extra := whole.extraBinds()
	for _, a := range append(whole.binds(), extra...) {
		if !bound[a] {
			fresh = append(fresh, a)
		}
	}
	taken := portsTaken(fresh, func() []int { return running(c.cfg) })
	for _, a := range extra {
		if err := taken[a]; err != nil {
			return err
		}
		if !bound[a] && bindMissing(a) {
			// HAProxy would not start for it, and nothing would be served.
			return fmt.Errorf("haproxy: %s, for peers, is no address of this host (yet); "+
				"give one that is, or none", a)
		}
	}
	c.drop(func(b *block) error {
		for _, a := range b.f.Binds {
			if err := taken[a]; err != nil {
				return shifted(b.f, a, err)
			}
		}
		return nil
	})
	return nil
}

// changeServices brings the running HAProxy to want with as little as it takes
// and returns what was reached: want, or what of it can be had before a reload.
//
// The file is written before the socket is used, each time: 1 MB for 1,000 x 10
// takes 3 ms, so there is never a stale file for a restart, and no second writer
// in the background to argue about.
func (p *Proxy) changeServices(ctx context.Context, want *wish) (*wish, error) {
	live := p.live
	if live == nil {
		return p.meet(ctx, want)
	}
	if live.id == want.id {
		err := p.bring(ctx, want, want.unlike(live), live)
		if err == nil {
			p.reloadIn(0)
			return want, nil
		}
		if ctx.Err() != nil {
			return want, err
		}
		p.log.Warn("changing at run time failed, looking at everything", "err", err)
		return p.meet(ctx, want)
	}
	return p.reloadWhenDue(ctx, want, live)
}

// meet is changeServices for a worker of which nothing is known.
func (p *Proxy) meet(ctx context.Context, want *wish) (*wish, error) {
	id, err := workerID(ctx, want.cfg)
	if err != nil {
		return want, err
	}
	if id == want.id {
		if err = p.bring(ctx, want, want.blocks, nil); err == nil {
			p.reloadIn(0)
		}
		if err == nil || ctx.Err() != nil {
			return want, err
		}
		p.log.Warn("changing at run time failed, reloading instead", "err", err)
	}
	// Of what runs only the name is known. It serves what its former agent gave it
	// until the reload.
	unknown := &wish{cfg: want.cfg, id: id, skipped: want.skipped, unknown: true}
	for _, b := range want.blocks {
		unknown.pending = append(unknown.pending, b.f.Name)
	}
	return p.reloadWhenDue(ctx, want, unknown)
}

// bring changes servers and certificates of the running worker to those of
// want, whose structure it has. blocks are those to be looked at, live what runs,
// nil if it is not known.
func (p *Proxy) bring(ctx context.Context, want *wish, blocks []*block, live *wish) error {
	// Not known until it is known again.
	p.live = nil
	if live == nil || len(blocks) > 0 {
		// Its structure is what runs, so HAProxy has nothing to check in it.
		if err := writeChanged(want.cfg.file(fileConfig), want.content()); err != nil {
			return err
		}
		if err := adjust(ctx, want, blocks); err != nil {
			return err
		}
	}
	var former map[string]*tlsFile
	if live != nil {
		former = live.certs
		if former == nil {
			former = map[string]*tlsFile{}
		}
	}
	if err := p.swapCerts(ctx, want, former); err != nil {
		return err
	}
	p.live = want
	return nil
}

// adjust changes the servers of some blocks and looks whether it worked.
func adjust(ctx context.Context, want *wish, blocks []*block) error {
	have, err := look(ctx, want, blocks)
	if err != nil {
		return err
	}
	list := serviceChanges(have, blocks)
	if len(list) == 0 {
		return nil
	}
	refused, err := carryOut(ctx, want.cfg, list)
	if err != nil {
		return err
	}
	// No refusal is no proof, and not every refusal matters.
	if have, err = look(ctx, want, blocks); err != nil {
		return err
	}
	if left := serviceChanges(have, blocks); !settled(left) {
		return fmt.Errorf("haproxy: %d servers are not as wanted, such as %s/%s: %s",
			len(left), left[0].backend, left[0].server, strings.Join(refused, "; "))
	}
	return nil
}

// carryOut sends changes in batches and returns HAProxy's first refusals.
func carryOut(ctx context.Context, c Config, list []change) ([]string, error) {
	var commands []string
	for _, one := range list {
		if err := one.check(); err != nil {
			return nil, err
		}
		commands = append(commands, one.commands())
	}
	var refused []string
	for _, line := range lines(commands) {
		answer, err := exchange(ctx, bulkTime, c.file(fileStats), line+";quit\n")
		if err != nil {
			return refused, err
		}
		const show = 3
		if no := refusals(answer); len(refused) < show {
			refused = append(refused, no[:min(len(no), show)]...)
		}
	}
	return refused, nil
}

// few is up to how many blocks are asked for one by one.
const few = 100

// look asks for the servers of some blocks, and whether it is want that runs.
func look(ctx context.Context, want *wish, blocks []*block) (standings, error) {
	commands := []string{"show info"}
	if len(blocks) > few {
		commands = append(commands, "show servers state")
	} else {
		for _, b := range blocks {
			for _, section := range b.sections() {
				commands = append(commands, "show servers state "+section)
			}
		}
	}
	have := standings{}
	for i, line := range lines(commands) {
		answer, err := exchange(ctx, bulkTime, want.cfg.file(fileStats), line+";quit\n")
		if err != nil {
			return nil, err
		}
		if i == 0 {
			if id, err := description(answer); err != nil || id != want.id {
				return nil, errors.Join(errOther, err)
			}
		}
		if err := parseStandings(answer, have); err != nil && len(blocks) > 0 {
			return nil, err
		}
	}
	return have, nil
}

// workerID asks the worker which configuration it was started with.
func workerID(ctx context.Context, c Config) (string, error) {
	text, err := ask(ctx, c.file(fileStats), "show info")
	if err != nil {
		return "", err
	}
	return description(text)
}

// writeLists writes the files that blocks refer to. Their names have a digest of
// the content, so what is there is right.
func writeLists(blocks []*block) error {
	for _, b := range blocks {
		for name, content := range b.lists {
			if _, err := os.Stat(name); err == nil {
				continue
			}
			if err := writeAtomic(name, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepLists removes the lists that no block needs any more.
func sweepLists(c Config, blocks []*block) {
	needed := map[string]bool{}
	for _, b := range blocks {
		for name := range b.lists {
			needed[name] = true
		}
	}
	names, _ := filepath.Glob(c.file(listPrefix + "*.lst"))
	for _, name := range names {
		if !needed[name] {
			// One that stays is a small waste and is tried again.
			_ = os.Remove(name)
		}
	}
}

// patience is how long something may take that grows with the servers: base, and
// 1 ms for each.
func patience(c Config, base time.Duration) time.Duration {
	for _, f := range c.Frontends {
		if f.Front != nil {
			base += time.Duration(len(f.Backends)+1) * time.Millisecond
		}
	}
	return base
}

// servicesState is stateOf for Services. A frontend that waits or that cannot be
// served does not take the others' Serving away.
func servicesState(w worker, want wish) lb.ProxyState {
	st := lb.ProxyState{Serving: w.id == want.id, Pending: want.pending}
	if !st.Serving {
		st.Why = "HAProxy still runs its former configuration"
	}
	if len(want.skipped) > 0 {
		st.Skipped = make(map[string]string, len(want.skipped))
		for name, err := range want.skipped {
			st.Skipped[name] = err.Error()
		}
	}
	return st
}
