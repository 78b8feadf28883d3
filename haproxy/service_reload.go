package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// tablesTime bounds the wait for a worker's lesson. It ends by itself 5 s after
	// a start and 10 s after a reload if nobody teaches (PEER_RESYNC_TIMEOUT,
	// peers.c); a shorter bound would start the next 10 s, for ever.
	tablesTime = 11 * time.Second
	// tablesLook is the pace of asking whether it has ended.
	tablesLook = 50 * time.Millisecond
	// refusedAgain is when a reload that failed is tried again.
	refusedAgain = 5 * time.Second
)

// reloadWait is how long a reload has to wait, 0 for not at all.
//
// Two things must not happen. Reloads in a row leave old workers behind, each with
// its memory and some of the clients: the first is at once, the next Options.
// ReloadGap after the last one's begin, whatever was asked for in between in one.
// And a worker hands its tables of clients to the next one only when it has got
// those of the one before (or, freshly started, those of another node). After a
// reload that takes some 0.1 s, and after a start up to 5 s without another node;
// it says so, and is asked instead of waiting for a fixed time. A worker reloaded
// before its lesson is over teaches nothing, and its successor waits 10 s in vain:
// so a worker that has tables is left alone that long, also for a Service without
// affinity. One without any has nothing to teach, and new Services need not wait.
func (p *Proxy) reloadWait(ctx context.Context, c Config) time.Duration {
	now := time.Now()
	if d := p.gap - now.Sub(p.reloaded); d > 0 {
		return d
	}
	if p.gap > 0 && now.Sub(p.reloaded) < mostGap {
		text, err := ask(ctx, c.file(fileMaster), "show proc")
		if d := stretch(p.gap, oldWorkers(text)) - now.Sub(p.reloaded); err == nil && d > 0 {
			// They may end earlier.
			return min(d, p.gap)
		}
	}
	if now.Sub(p.began) >= tablesTime {
		return 0
	}
	// Asked of the worker and not of the wish: it may be another agent's.
	text, err := ask(ctx, c.file(fileStats), "show peers;show table")
	if err != nil || !tablesThere(text) || tablesReady(text) {
		return 0
	}
	return tablesLook
}

const (
	// someWorkers is how many old workers cost nobody anything, mostGap the longest
	// time between two reloads.
	someWorkers = 8
	mostGap     = 2 * time.Minute
)

// stretch is the gap between reloads with so many old workers, which have long
// connections: twice as long for each from the eighth on, so that an hour of new
// Services (hard-stop-after) makes some 40 of them, 90 MB each at 1,000 Services,
// and cuts no connection (mworker-max-reloads).
func stretch(gap time.Duration, old int) time.Duration {
	for ; old >= someWorkers && gap < mostGap; old-- {
		gap *= 2
	}
	return min(gap, mostGap)
}

// oldWorkers counts the workers of former configurations in "show proc".
func oldWorkers(text string) int {
	_, old, _ := strings.Cut(text, "# old workers")
	old, _, _ = strings.Cut(old, "# programs")
	n := 0
	for line := range strings.SplitSeq(old, "\n") {
		if words := strings.Fields(line); len(words) > 1 && words[1] == "worker" {
			n++
		}
	}
	return n
}

// reloadWhenDue reloads, or says when Run shall, and gives until then what the
// running worker can have.
func (p *Proxy) reloadWhenDue(ctx context.Context, want, live *wish) (*wish, error) {
	if wait := p.reloadWait(ctx, want.cfg); wait > 0 {
		part, err := p.interim(ctx, want, live)
		p.reloadIn(wait)
		return part, err
	}
	p.reloadIn(0)
	want, err := p.reloadServices(ctx, want, live)
	if err == nil {
		return want, nil
	}
	// The former worker goes on, so its servers are kept up to date too.
	part, also := p.interim(ctx, want, live)
	if also != nil {
		err = errors.Join(err, also)
	}
	if ctx.Err() == nil {
		p.reloadIn(max(p.gap, refusedAgain))
	}
	return part, err
}

// interim gives what of want can be had without a reload.
func (p *Proxy) interim(ctx context.Context, want, live *wish) (*wish, error) {
	if live.unknown {
		return live, nil
	}
	part := want.within(live)
	// Certificates of frontends that go on may have changed; of others nothing is
	// known here.
	part.certs = map[string]*tlsFile{}
	for name, cert := range live.certs {
		part.certs[name] = cert
		if now := want.certs[name]; now != nil {
			part.certs[name] = now
		}
	}
	return part, p.bring(ctx, part, part.unlike(live), live)
}

// startServices runs a new HAProxy with what it takes of want, which is returned.
// The caller has the lock.
func (p *Proxy) startServices(ctx context.Context, want *wish, lock *os.File) (*wish, error) {
	p.forget()
	if err := writeAtomic(want.cfg.file(fileStates), "1\n"); err != nil {
		return want, err
	}
	name := want.cfg.file(fileConfig)
	// A file that is there already was checked when it was written.
	if have, err := os.ReadFile(name); err != nil || string(have) != want.content() {
		if want, err = p.checkBlocks(ctx, want, want.blocks); err != nil {
			return want, err
		}
		if err := writeAtomic(name, want.content()); err != nil {
			return want, err
		}
	}
	if err := writeLists(want.blocks); err != nil {
		return want, err
	}
	p.reloadIn(0)
	if err := p.run(ctx, want, lock); err != nil {
		return want, err
	}
	sweepLists(want.cfg, want.blocks)
	p.live = want
	return want, nil
}

// reloadServices starts a worker with want. What HAProxy refuses of it is left
// out, so the wish returned may be a smaller one.
func (p *Proxy) reloadServices(ctx context.Context, want, live *wish) (*wish, error) {
	fresh := want.blocks
	if !live.unknown {
		fresh = want.unlike(live)
	}
	want, err := p.checkBlocks(ctx, want, fresh)
	if err != nil {
		return want, err
	}
	p.live = nil
	if err := writeAtomic(want.cfg.file(fileConfig), want.content()); err != nil {
		return want, err
	}
	begun := time.Now()
	p.reloaded = begun
	if err := p.renew(ctx, want, want.checked()); err != nil {
		if !live.unknown {
			// What runs is what a restart shall start.
			err = errors.Join(err, writeAtomic(want.cfg.file(fileConfig), live.content()))
			p.live = live
		}
		return want, err
	}
	p.began = time.Now()
	sweepLists(want.cfg, want.blocks)
	if want.checked() {
		// The servers' state of the former worker came along, with what was drained
		// or switched off in it.
		if err := adjust(ctx, want, want.blocks); err != nil {
			return want, err
		}
	}
	p.live = want
	p.log.Info("Services reloaded", "frontends", len(want.blocks), "new", len(fresh), "took", time.Since(begun))
	return want, nil
}

// checked says that some block has a health check.
func (w *wish) checked() bool {
	return slices.ContainsFunc(w.blocks, func(b *block) bool { return b.f.Front.Check.Kind != "" })
}

// lintMost is up to how many blocks are read by the second parser too, which
// takes 0.3 ms and 34 KB for each.
const lintMost = 32

// checkBlocks has HAProxy look at some of want's blocks; the others were looked
// at before, and none depends on another. Blocks that it refuses are left out of
// the wish returned.
func (p *Proxy) checkBlocks(ctx context.Context, want *wish, blocks []*block) (*wish, error) {
	if err := writeLists(blocks); err != nil {
		return want, err
	}
	for {
		text := textOf(want.head, blocks)
		err := p.checkText(ctx, want.cfg, text, len(blocks) <= lintMost)
		var refused *configError
		if err == nil || !errors.As(err, &refused) {
			return want, err
		}
		guilty := culprits(err.Error(), want.head, blocks)
		if len(guilty) == 0 {
			guilty = p.triedAlone(ctx, want, blocks)
		}
		if len(guilty) == 0 {
			return want, err
		}
		for _, b := range guilty {
			p.log.Error("HAProxy refuses a frontend, it is left out", "frontend", b.f.Name, "err", err)
			why := cut(strings.TrimPrefix(err.Error(), refusesConfig))
			p.refused[b] = refusal{errors.New("haproxy: HAProxy refuses the frontend: " + why), want.certs[b.f.Front.TLS]}
		}
		blocks = withoutBlocks(blocks, guilty)
		want = p.withoutGuilty(want, guilty)
	}
}

// withoutGuilty is a wish without the blocks that HAProxy refused.
func (p *Proxy) withoutGuilty(want *wish, guilty []*block) *wish {
	rest := compiled{cfg: want.cfg, blocks: withoutBlocks(want.blocks, guilty), skipped: want.skipped}
	for _, b := range guilty {
		rest.skipped[b.f.Name] = p.refused[b].why
	}
	out := rest.wish()
	out.certs = want.certs
	return out
}

func withoutBlocks(list, guilty []*block) []*block {
	return slices.DeleteFunc(slices.Clone(list), func(b *block) bool { return slices.Contains(guilty, b) })
}

// aloneMost is how many blocks are tried one by one at most, 50 ms each.
const aloneMost = 32

// triedAlone finds the blocks that HAProxy refuses by themselves, when its words
// do not tell. If it refuses the rest of the file no block is guilty.
func (p *Proxy) triedAlone(ctx context.Context, want *wish, blocks []*block) []*block {
	if len(blocks) > aloneMost || p.checkText(ctx, want.cfg, want.head, true) != nil {
		return nil
	}
	var out []*block
	for _, b := range blocks {
		var refused *configError
		if err := p.checkText(ctx, want.cfg, textOf(want.head, []*block{b}), true); errors.As(err, &refused) {
			out = append(out, b)
		}
	}
	return out
}

// checkText runs `haproxy -c` on a text.
func (p *Proxy) checkText(ctx context.Context, c Config, text string, lint bool) error {
	if lint {
		if err := Lint(text); err != nil {
			return &configError{err.Error()}
		}
	}
	name := c.file(fileConfig) + ".new"
	if err := writeAtomic(name, text); err != nil {
		return err
	}
	defer os.Remove(name)
	return p.check(ctx, name, patience(c, execTime))
}

// culprits finds the blocks that an alert of HAProxy is about, by the numbers of
// lines in it ("parsing [FILE:12]"), or by the names of sections.
func culprits(alert, head string, blocks []*block) []*block {
	var out []*block
	line := strings.Count(head, "\n")
	for _, b := range blocks {
		last := line + strings.Count(b.text, "\n")
		if mentions(alert, line+1, last) || mentionsName(alert, b.f.Name) {
			out = append(out, b)
		}
		line = last
	}
	return out
}

// mentions says whether an alert has "…:N]" with N in from to last.
func mentions(alert string, from, last int) bool {
	for part := range strings.SplitSeq(alert, ".new:") {
		number, _, ok := strings.Cut(part, "]")
		if n, err := strconv.Atoi(number); ok && err == nil && n >= from && n <= last {
			return true
		}
	}
	return false
}

func mentionsName(alert, name string) bool {
	for _, section := range []string{frontendName(name), backendName(name), fallbackName(name)} {
		if strings.Contains(alert, fmt.Sprintf("'%s'", section)) {
			return true
		}
	}
	return false
}

// reloadIn tells Run when to look at the reload that waits; 0 is never.
func (p *Proxy) reloadIn(d time.Duration) {
	p.mu.Lock()
	p.due = time.Time{}
	if d > 0 {
		p.due = time.Now().Add(d)
	}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// dueAt is when Run shall look, zero for never.
func (p *Proxy) dueAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due
}
