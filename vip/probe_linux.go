package vip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

const (
	probeRounds = 3
	// probeGap is the time between two probes and after the last.
	probeGap = 20 * time.Millisecond
)

// Probe asks the links who has the addresses, as a host does that wants to
// take one: ARP probes from 0.0.0.0 (RFC 5227 §2.1.1), neighbour
// solicitations from :: (RFC 4862 §5.4.2), three in a row, 20 ms apart. It
// returns every answerer's MAC once, never one of this node's own, and is
// back at once when each address had an answer, else 20 ms after the third
// probe. Another host's probe for the same address is no answer. Answers are
// sorted; they are valid also beside an error, which names the addresses that
// could not be asked for.
func (l *Links) Probe(ctx context.Context, addrs []lb.Address) ([]lb.Answer, error) {
	own, err := ownMACs()
	if err != nil {
		return nil, err
	}
	p := &probe{own: own, silent: map[lb.Address]bool{}, heard: map[string]lb.Answer{}}
	defer p.close()
	var faults []error
	for _, a := range addrs {
		// Routers are usually known by their link-local address (RFC 4861 §6.3.4).
		if a.IP.IsLinkLocalUnicast() && a.IP.Zone() == "" {
			continue
		}
		if err := placeable(a.IP); err != nil {
			return nil, fmt.Errorf("probe %s: %w", a, err)
		}
	}
	for at, ips := range byPlace(plainAll(addrs)) {
		if err := p.open(at.link, ips); err != nil {
			faults = append(faults, err)
		}
	}
	p.listen()
	for range probeRounds {
		if err := p.ask(); err != nil {
			faults = append(faults, err)
		}
		if len(p.silent) == 0 || !p.wait(ctx) {
			break
		}
	}
	return p.answers(), errors.Join(append(faults, ctx.Err())...)
}

// probe is one call of Probe under way.
type probe struct {
	own    map[string]bool
	ears   []*ear
	claims chan lb.Claim
	quit   chan struct{}
	silent map[lb.Address]bool // asked for and not yet answered
	heard  map[string]lb.Answer
}

// open adds one socket; its addresses count as silent from now on.
func (p *probe) open(link string, ips []netip.Addr) error {
	e, err := listen(link, ips)
	if err != nil {
		return fmt.Errorf("probe %v: %w", ips, err)
	}
	p.ears = append(p.ears, e)
	for _, ip := range ips {
		p.silent[lb.Address{IP: ip, Link: link}] = true
	}
	return nil
}

// listen starts one reader per socket; they end when close closes them.
func (p *probe) listen() {
	p.claims, p.quit = make(chan lb.Claim), make(chan struct{})
	for _, e := range p.ears {
		go func() {
			for {
				c, err := e.next()
				if err != nil {
					return
				}
				select {
				case p.claims <- c:
				case <-p.quit:
					return
				}
			}
		}()
	}
}

// close ends the readers.
func (p *probe) close() {
	if p.quit != nil {
		close(p.quit)
	}
	for _, e := range p.ears {
		e.conn.Close()
	}
}

// ask sends one probe for each address, also one that has had an answer:
// another host may have it too, and its first answer may have been lost.
func (p *probe) ask() error {
	var faults []error
	for _, e := range p.ears {
		for ip := range e.ips {
			build := arpProbe
			if ip.Is6() {
				build = nsProbe
			}
			frame, err := build(e.ifi.HardwareAddr, ip)
			if err == nil {
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
func (p *probe) wait(ctx context.Context) bool {
	gap := time.NewTimer(probeGap)
	defer gap.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-gap.C:
			return true
		case c := <-p.claims:
			if p.own[string(c.MAC)] {
				continue
			}
			p.heard[c.IP.String()+c.MAC.String()] = lb.Answer{IP: c.IP, MAC: c.MAC}
			delete(p.silent, lb.Address{IP: c.IP, Link: c.Link})
			if len(p.silent) == 0 {
				return false
			}
		}
	}
}

// answers lists what was heard, by IP, then by MAC.
func (p *probe) answers() []lb.Answer {
	return slices.SortedFunc(maps.Values(p.heard), func(x, y lb.Answer) int {
		return cmp.Or(x.IP.Compare(y.IP), slices.Compare(x.MAC, y.MAC))
	})
}
