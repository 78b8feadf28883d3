package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mooring.dev/mooring/e2e/lab"
)

const (
	// frames is announce.rate while a holder dies.
	frames = 1000
	// deathLimit is when a client that is not served ends the play.
	deathLimit = 30 * time.Second
)

// death ends the holder of many addresses, all of one group on one interface, whose
// clients know its hardware address and nothing else.
func (b *scale) death() {
	b.Title(fmt.Sprintf("The holder of %d addresses dies", b.services))
	rate := func(cfg string) string { return cfg + fmt.Sprintf("announce: {rate: %d}\n", frames) }
	b.run(nil) // the groups are other ones from here on
	b.pool(1)
	b.populate(population{n: b.services})
	for range b.runs {
		b.run(rate, b.All()...)
		b.awaitAddresses(2 * time.Minute)
		b.awaitAnswers(time.Minute)
		time.Sleep(5 * time.Second) // until the agents have heard each other for a while
		b.awaitAnswers(time.Minute)
		b.kill()
	}
	b.run(nil)
	b.pool(8)
}

// kill measures one death.
func (b *scale) kill() {
	holder := b.Holder(b.addrs[b.there.name(0)])
	wire := b.Wire()
	defer wire.Stop()
	holder.CutLink(lab.CarrierLoss)
	begun := time.Now()
	took := b.served(begun)
	time.Sleep(5 * time.Second)
	all := wire.Frames("")
	for _, n := range b.All() {
		if n.Name() == holder.Name() {
			continue
		}
		var at []time.Time
		for _, f := range all {
			ours := f.Kind == lab.Announcement && strings.HasPrefix(f.IP.String(), subnet+".")
			if ours && f.MAC.String() == n.MAC() && f.At.After(begun) {
				at = append(at, f.At)
			}
		}
		if len(at) > b.there.n/2 {
			what := fmt.Sprintf("announcements of %d addresses in the busiest second", b.there.n)
			b.add(figure{What: what, Target: fmt.Sprintf("≤ %d, announce.rate", frames), Format: "%.0f"},
				float64(busiest(at, time.Second)))
		}
	}
	for _, p := range []float64{50, 100} {
		target := ""
		if p == 100 {
			target = "≤ 2000 ms"
		}
		what := fmt.Sprintf("holder of %d addresses dies: its warm clients are served again, p%.0f", b.there.n, p)
		b.add(figure{What: what, Target: target, Format: "%.0f ms"}, percentile(millis(took), p))
	}
	holder.HealLink()
	b.off(holder)
	time.Sleep(5 * time.Second)
}

// connects says whether a client gets a connection. Requests by the thousand would
// measure the machine that all nodes share.
func (b *scale) connects(address string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := b.dial(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// served asks every Service at once until it answers, and returns when each did.
func (b *scale) served(begun time.Time) []time.Duration {
	type answer struct {
		name string
		took time.Duration
	}
	done := make(chan answer, b.there.n)
	for i := range b.there.n {
		go func() {
			name := b.there.name(i)
			for time.Since(begun) < deathLimit {
				if b.connects(b.addrs[name]+":80", 250*time.Millisecond) {
					done <- answer{name, time.Since(begun)}
					return
				}
				time.Sleep(20 * time.Millisecond) // a refusal comes at once
			}
			done <- answer{name, -1}
		}()
	}
	var out []time.Duration
	var silent []string
	for range b.there.n {
		a := <-done
		if a.took < 0 {
			silent = append(silent, a.name)
		}
		out = append(out, a.took)
	}
	if len(silent) > 0 {
		slices.Sort(silent)
		b.Fatalf("%d Services do not answer %s after their holder's death, such as %s", len(silent), deathLimit, silent[0])
	}
	return out
}
