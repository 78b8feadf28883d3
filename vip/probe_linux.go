package vip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const (
	probeRounds = 3
	// probeGap is the time between two probes and after the last.
	probeGap = 20 * time.Millisecond
)

// Probe asks the links who has the addresses, three times in a row, 20 ms apart
// (Options.ProbeGap). For a watched one it asks as a host does that wants to
// take it: ARP probes from 0.0.0.0 (RFC 5227 §2.1.1), neighbour solicitations
// from :: (RFC 4862 §5.4.2). For others it asks as an ordinary neighbour, from
// the link's own address: a host that is just taking its own would give it up.
// Over IPv6 it does not ask for those while the link has none. It returns every answerer's MAC once, never one of this
// node's own, and is back at once when each address had an answer, else 20 ms
// after the third probe. Another host's probe for the same address is no answer.
// Answers are sorted; they are valid also beside an error, which names the
// addresses that could not be asked for.
func (l *Links) Probe(ctx context.Context, addrs []lb.Address) ([]lb.Answer, error) {
	return l.probe(ctx, addrs, probeRounds, allAnswered)
}

// ProbeOnce is Probe with one round, for calls in a row: its sockets stay open
// for the next one. It is back as soon as each watched address among addrs and
// one of the others, the witnesses, had an answer.
func (l *Links) ProbeOnce(ctx context.Context, addrs []lb.Address) ([]lb.Answer, error) {
	return l.probe(ctx, addrs, 1, enoughAnswered(l.watch()))
}

// allAnswered says whether each address had an answer.
func allAnswered(asked, silent map[lb.Address]bool) bool { return len(silent) == 0 }

// enoughAnswered says whether each watched address had an answer and, if others
// were asked for, one of them.
func enoughAnswered(watched []lb.Address) func(asked, silent map[lb.Address]bool) bool {
	return func(asked, silent map[lb.Address]bool) bool {
		witnesses, heard := 0, 0
		for a := range asked {
			if slices.Contains(watched, a) {
				if silent[a] {
					return false
				}
				continue
			}
			witnesses++
			if !silent[a] {
				heard++
			}
		}
		return witnesses == 0 || heard > 0
	}
}

// probe asks in so many rounds, until enough have answered.
func (l *Links) probe(ctx context.Context, addrs []lb.Address, rounds int,
	enough func(asked, silent map[lb.Address]bool) bool) ([]lb.Answer, error) {
	for _, a := range addrs {
		// Routers are usually known by their link-local address (RFC 4861 §6.3.4).
		if a.IP.IsLinkLocalUnicast() && a.IP.Zone() == "" {
			continue
		}
		if err := placeable(a.IP); err != nil {
			return nil, fmt.Errorf("probe %s: %w", a, err)
		}
	}
	p, err := l.askers.take(plainAll(addrs))
	if err != nil {
		return nil, err
	}
	watched := l.watch()
	p.begin(enough)
	faults := []error{p.missing}
	for range rounds {
		if err := p.ask(watched); err != nil {
			faults = append(faults, err)
		}
		if !p.wait(ctx, l.askers.gap) {
			break
		}
	}
	answers := p.answers()
	l.askers.put(p, len(faults) == 1 && !p.nameless)
	return answers, errors.Join(append(faults, ctx.Err())...)
}

// asker is the open sockets for one list of addresses, and what they hear.
type asker struct {
	key     string
	own     map[string]bool // MACs of this node
	ears    []*ear
	from    []ifAddr  // what ordinary questions may come from
	missing error     // the addresses for which no socket could be opened
	opened  time.Time // of the monotonic clock: how long sockets serve
	asked   map[lb.Address]bool
	// nameless: for a question the link had no address of its own yet.
	nameless bool

	mu     sync.Mutex
	enough func(asked, silent map[lb.Address]bool) bool
	full   bool                // enough have answered
	done   chan struct{}       // closed then
	silent map[lb.Address]bool // asked for and not yet answered
	heard  map[string]lb.Answer
	broken bool // a socket failed
}

// openAsker opens a socket for each place of the addresses and listens.
func openAsker(key string, addrs []lb.Address) (*asker, error) {
	own, err := ownMACs()
	if err != nil {
		return nil, err
	}
	from, err := sources()
	if err != nil {
		return nil, err
	}
	p := &asker{key: key, own: own, from: from, opened: time.Now(), asked: map[lb.Address]bool{}}
	var faults []error
	for at, ips := range byPlace(addrs) {
		e, err := listen(at.link, ips)
		if err != nil {
			faults = append(faults, fmt.Errorf("probe %v: %w", ips, err))
			continue
		}
		p.ears = append(p.ears, e)
		for _, ip := range ips {
			p.asked[lb.Address{IP: ip, Link: at.link}] = true
		}
	}
	p.missing = errors.Join(faults...)
	for _, e := range p.ears {
		go p.listen(e)
	}
	return p, nil
}

// listen notes answers until the socket is closed or fails.
func (p *asker) listen(e *ear) {
	for {
		c, asks, err := e.next()
		p.mu.Lock()
		switch {
		case err != nil:
			p.broken = true
		case !asks && !p.own[string(c.MAC)] && p.heard != nil:
			p.heard[c.IP.String()+c.MAC.String()] = lb.Answer{IP: c.IP, MAC: c.MAC}
			delete(p.silent, lb.Address{IP: c.IP, Link: c.Link})
			p.check()
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// check closes done once enough have answered. The caller holds the lock.
func (p *asker) check() {
	if !p.full && p.enough(p.asked, p.silent) {
		p.full = true
		close(p.done)
	}
}

// begin forgets what was heard before: a late answer says nothing of now.
func (p *asker) begin(enough func(asked, silent map[lb.Address]bool) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enough, p.full, p.done = enough, false, make(chan struct{})
	p.silent, p.heard = maps.Clone(p.asked), map[string]lb.Answer{}
	if len(p.silent) == 0 {
		p.check() // nobody to wait for
	}
}

// ask sends one probe for each address, also one that has had an answer:
// another host may have it too, and its first answer may have been lost.
func (p *asker) ask(watched []lb.Address) error {
	var faults []error
	for _, e := range p.ears {
		for ip := range e.ips {
			frame, err := p.question(e.ifi, ip, watched)
			if err == nil && frame != nil {
				err = transmit(e.conn, frame)
			}
			if err != nil {
				faults = append(faults, fmt.Errorf("probe %s dev %s: %v", ip, e.ifi.Name, err))
			}
		}
	}
	return errors.Join(faults...)
}

// wait takes answers for one gap. False says that there is nothing to wait
// for any more.
func (p *asker) wait(ctx context.Context, gap time.Duration) bool {
	timer := time.NewTimer(gap)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-p.done:
		return false
	case <-timer.C:
		return true
	}
}

// answers lists what was heard, by IP, then by MAC.
func (p *asker) answers() []lb.Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.heard), func(x, y lb.Answer) int {
		return cmp.Or(x.IP.Compare(y.IP), slices.Compare(x.MAC, y.MAC))
	})
}

// close ends the readers.
func (p *asker) close() {
	for _, e := range p.ears {
		e.conn.Close()
	}
}

// key names a list of addresses.
func key(addrs []lb.Address) string {
	b := make([]byte, 0, 32*len(addrs))
	for _, a := range addrs {
		b = append(netip.Addr.AppendTo(a.IP, b), ' ')
		b = append(append(b, a.Link...), '\n')
	}
	return string(b)
}
