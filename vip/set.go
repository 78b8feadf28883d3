package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"mooring.dev/mooring/internal/lb"
)

// Set makes the links hold the wanted addresses for another ValidLft and lets
// go of all others that this Share put there. It is idempotent. The returned
// state is what was reached, also beside an error; the error joins one fault
// per address and each says the way out.
//
// Addresses no longer wanted fall silent before they are deleted. One that is
// there is refreshed, which never creates it; one that is not, also one that
// was deleted by hand, is created and, unless Quiet or Mute, announced at once as far
// as the rate allows; Run sends the rest. Past NotAfter, before or after the
// writes, every address is deleted and the state says Late, without an error.
//
// Copies that are on their links are muted and put on lo before they are deleted
// from the links; what fails there keeps nothing from being deleted. An address
// that is created ends the connections of this node's own programs to it: they
// were to another node and would wait for ever, since the kernel drops what
// comes from an address of its own.
func (l Share) Set(ctx context.Context, want lb.Holding) (lb.Held, error) {
	want, err := plain(want)
	if err != nil {
		return lb.Held{}, err
	}
	// Before and after, since the lock is never to be held while nft runs: a
	// fence must not wait.
	before := l.copyOut(ctx, want)
	held, err := l.hold(ctx, want)
	after := l.copyIn(ctx, held.Have)
	fresh := make([]netip.Addr, len(held.Added))
	for i, a := range held.Added {
		fresh[i] = a.IP
	}
	l.drains.say(resetSockets(remoteIs, fresh...))
	if len(fresh) > 0 {
		select {
		case l.taken <- fresh:
		default: // so many at once that the first round will find these too
		}
	}
	return held, errors.Join(before, err, after)
}

// hold writes the addresses on the links.
func (l Share) hold(ctx context.Context, want lb.Holding) (lb.Held, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, err := openKernel()
	if err != nil {
		return lb.Held{}, err
	}
	defer k.close()
	steps := diff(l.heldBy(l.owner), want.Addresses, l.finder(k, want.Addresses))
	if l.late(want) {
		return l.letGo(k, want)
	}
	begun := l.now()
	held, err := l.write(ctx, k, steps, want)
	held.Begun = begun
	if l.late(want) {
		return l.letGo(k, want)
	}
	settle(ctx, held.Added)
	l.tell(want, held)
	return held, err
}

// tell gives the announcer what was reached.
func (l Share) tell(want lb.Holding, held lb.Held) {
	if want.Mute {
		l.announcer.drop(held.Have...)
		for _, a := range held.Have {
			l.muted[a] = true
		}
		return
	}
	var fresh []lb.Address
	if !want.Quiet {
		fresh = held.Added
	}
	for _, a := range held.Have {
		if l.muted[a] && !slices.Contains(fresh, a) {
			fresh = append(fresh, a)
		}
	}
	for _, a := range held.Have {
		delete(l.muted, a)
	}
	l.announcer.keep(held.Have, fresh, held.Begun+want.ValidLft)
}

// late says whether the wish is void.
func (l *Links) late(want lb.Holding) bool { return want.NotAfter != 0 && l.now() >= want.NotAfter }

// letGo deletes everything held or wanted: who was frozen past NotAfter does
// not know any more what is there, nor who has it now.
func (l Share) letGo(k *kernel, want lb.Holding) (lb.Held, error) {
	var faults []error
	for _, a := range union(l.heldBy(l.owner), want.Addresses) {
		if err := l.removeOne(k, a); err != nil {
			faults = append(faults, err)
		}
	}
	return lb.Held{Late: true}, errors.Join(faults...)
}

// write does the steps. Deletions are done even when ctx has ended, since
// letting go never waits.
func (l Share) write(ctx context.Context, k *kernel, steps []step, want lb.Holding) (lb.Held, error) {
	var held lb.Held
	var faults []error
	for _, s := range steps {
		if s.do == remove {
			if err := l.removeOne(k, s.addr); err != nil {
				faults = append(faults, err)
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			faults = append(faults, fmt.Errorf("%s left undone: %w", s, err))
			break
		}
		added, err := l.addOne(k, s, want)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", s, err))
			continue
		}
		l.held[s.addr] = l.owner
		held.Have = append(held.Have, s.addr)
		if added {
			held.Added = append(held.Added, s.addr)
		}
	}
	slices.SortFunc(held.Have, compareAddresses)
	slices.SortFunc(held.Added, compareAddresses)
	return held, errors.Join(faults...)
}

// removeOne silences and deletes one address. One that could not be deleted
// stays held, so that the next Set tries again.
func (l Share) removeOne(k *kernel, a lb.Address) error {
	if owner, held := l.held[a]; held && owner != l.owner {
		return nil // another's by now
	}
	l.announcer.drop(a)
	delete(l.muted, a)
	if err := k.remove(a); err != nil {
		l.held[a] = l.owner
		return fmt.Errorf("remove: %w", err)
	}
	delete(l.held, a)
	return nil
}

// addOne refreshes or creates one address and says whether it was created.
// The kernel may differ from what was listed a moment ago, so each of the two
// falls back to the other, once.
func (l Share) addOne(k *kernel, s step, want lb.Holding) (added bool, err error) {
	a := s.addr
	if s.do == replace {
		if err := l.removeOther(k, a); err != nil {
			return false, err
		}
	}
	if s.do == refresh {
		err := k.refresh(a, want.ValidLft)
		if !errors.Is(err, errAbsent) {
			return false, err
		}
		// Deleted by hand. The caller's Set will delete it if the wish is
		// void by now, but it is not to appear at all.
		if l.late(want) {
			return false, nil
		}
	}
	err = k.create(a, want.ValidLft)
	if errors.Is(err, errExists) {
		return false, k.refresh(a, want.ValidLft)
	}
	return err == nil, err
}

// removeOther removes an IPv6 address of the same IP with another prefix
// length, beside which the kernel takes none of ours.
func (l *Links) removeOther(k *kernel, a lb.Address) error {
	index, err := k.linkIndex(a.Link)
	if err != nil {
		return err
	}
	all, err := k.dump()
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.index == index && x.ip == a.IP {
			return k.removeAs(a, x.bits)
		}
	}
	return nil
}

// finder says in which form a wanted address is on its link now. The kernel
// is asked only when an address is wanted that is not held, so not at every
// refresh.
func (l Share) finder(k *kernel, want []lb.Address) func(lb.Address) form {
	mine := l.heldBy(l.owner)
	unknown := slices.ContainsFunc(want, func(a lb.Address) bool { return !mine[a] })
	var all []ifAddr
	if unknown {
		var err error
		if all, err = k.dump(); err != nil {
			// Not fatal: creation tells too.
			l.log.Warn("could not list addresses", "err", err)
		}
	}
	return func(a lb.Address) form {
		index, err := k.linkIndex(a.Link)
		if err != nil {
			return absent
		}
		return formOf(a, index, all)
	}
}

// formOf looks for the address among all on the link with the index.
func formOf(a lb.Address, index int, all []ifAddr) form {
	found := absent
	for _, x := range all {
		switch {
		case x.index != index || x.ip != a.IP:
		case x.bits == hostBits(a.IP):
			return hostForm
		case a.IP.Is6():
			found = otherForm
		}
	}
	return found
}
