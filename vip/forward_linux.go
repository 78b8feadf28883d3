package vip

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"mooring.dev/mooring/internal/lb"
)

// Forward makes exactly these forwards of the owner's stand; nil removes them. Frames for a VIP
// of TCP connections that did not begin at this node go to the node To on the
// same link, the old holder, until Until (0, and more than an hour from now, is
// an hour), except those that come from there. Connections of its own that are established to a VIP are known from
// the first frame on. It is idempotent and runs nft only for a change, which
// leaves alone the VIPs that stay. An error says what to install or to mend;
// then the kernel has what it had before.
//
// Forward may be called before the address is on its link, and should be: until
// then frames of old connections are answered with a reset.
func (l Share) Forward(ctx context.Context, want []lb.Forward) error {
	plain, err := plainForwards(want, l.now())
	if err != nil {
		return err
	}
	d := l.drains
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.end()
	if err := d.sync(ctx); err != nil {
		return err
	}
	return d.stand(ctx, d.read().beside(l.owner, plain))
}

// Forwards lists the forwards that stand, also those that a predecessor of this
// boot left, in order.
func (l *Links) Forwards() []lb.Forward {
	now := l.now()
	var out []lb.Forward
	for _, f := range l.drains.read().Forwards {
		if f.Until > now {
			out = append(out, lb.Forward{VIP: f.vip(), To: f.To, MACs: f.MACs, Until: f.Until})
		}
	}
	return out
}

// stand makes the forwards stand. The caller has the turn.
func (d *drains) stand(ctx context.Context, want []forwarded) error {
	b := d.read()
	c := compareForwards(b, want)
	if c.empty() {
		return nil
	}
	if !forwardTableStands() {
		c = change{arm: want} // somebody removed all: a part would look like a whole
	}
	rules := d.rulesFor(c)
	if len(want) == 0 {
		rules = dropTable("netdev", forwardTable)
	}
	// Whoever reads the book after a crash in between, and Run after an error,
	// removes what is new, or may be.
	for _, f := range c.arm {
		if !b.names(f.vip()) {
			b.Loose = append(b.Loose, f)
		}
	}
	d.write(b)
	err := nft(ctx, rules, d.ruling)
	if errors.Is(err, exec.ErrNotFound) && len(want) == 0 {
		err = nil // without nft there is no table of ours
	}
	if err != nil {
		return fmt.Errorf("frames of established connections are not forwarded: %w", err)
	}
	b.Forwards, b.Loose = want, nil
	d.write(b)
	return nil
}

// rulesFor renders the change. A new chain begins with the flows that this node
// has already; they may be of a time when it held the VIP before.
func (d *drains) rulesFor(c change) string {
	rules := d.disarm(c.disarm)
	for _, f := range c.aim {
		rules += armRules(f, f.Until-d.now(), nil, d.size)
	}
	for _, f := range c.arm {
		own, err := ownFlows(f.IP, d.size)
		d.say(err)
		rules += armRules(f, f.Until-d.now(), own, d.size)
	}
	return rules
}
