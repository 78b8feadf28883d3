package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// block is one Service's frontend made ready. It is never changed, and used again
// as long as the wish for its frontend is the same: with thousands of frontends
// only those that differ are validated, rendered and compared.
type block struct {
	// given is the frontend as it was asked for, f the same with its lists sorted.
	given, f lb.Frontend
	at       site
	// bad is why it cannot be served, a *FieldError; nothing below is set then.
	bad error
	// text is its sections, lists the files that they refer to, content by name.
	text  string
	lists map[string]string
	// structure is a digest of what needs a reload: all but the servers.
	structure [sha256.Size]byte
}

// newBlock validates and renders a frontend, which nobody may change any more.
func newBlock(at site, given lb.Frontend) *block {
	b := &block{given: given, at: at}
	if b.bad = validateService("Frontend", b.given); b.bad != nil {
		return b
	}
	b.f = (Config{Frontends: []lb.Frontend{b.given}}).normal().Frontends[0]
	b.text, b.lists = renderService(at, b.f)
	fixed := b.f
	fixed.Backends = []lb.Backend{{Name: "x", Addr: netip.AddrPortFrom(netip.IPv6Loopback(), 1)}}
	text, _ := renderService(at, fixed)
	if ids, moved := serverIDs(b.f.Backends); moved {
		text += fmt.Sprint(ids)
	}
	b.structure = sha256.Sum256([]byte(text))
	return b
}

// of says that the block is what newBlock would make.
func (b *block) of(at site, f lb.Frontend) bool {
	g := b.given
	return b.at == at && g.Name == f.Name && slices.Equal(g.Binds, f.Binds) &&
		slices.Equal(g.Backends, f.Backends) && reflect.DeepEqual(g.Front, f.Front)
}

// copied is c with lists of its own, so that the caller may change his.
func (c Config) copied() Config {
	c.Peers, c.Frontends = slices.Clone(c.Peers), slices.Clone(c.Frontends)
	for i, f := range c.Frontends {
		c.Frontends[i] = cloneFrontend(f)
	}
	return c
}

func cloneFrontend(f lb.Frontend) lb.Frontend {
	f.Binds, f.Backends = slices.Clone(f.Binds), slices.Clone(f.Backends)
	front := *f.Front
	front.Sources, front.AcceptProxy = slices.Clone(front.Sources), slices.Clone(front.AcceptProxy)
	f.Front = &front
	return f
}

// sections are the backends that have the block's servers.
func (b *block) sections() []string {
	if b.f.Front.Check.Kind == "" {
		return []string{backendName(b.f.Name)}
	}
	return []string{backendName(b.f.Name), fallbackName(b.f.Name)}
}

// compiled is a Config of Services made ready: the frontends that can be served,
// and why the others cannot.
type compiled struct {
	// cfg has no frontends; they are in blocks, sorted by name.
	cfg     Config
	blocks  []*block
	skipped map[string]error
	// cache has all blocks, also of frontends that are skipped.
	cache map[string]*block
}

// compile makes c ready, with the blocks of an earlier one where they still fit.
// A frontend that is not valid or conflicts with another is left out; of two that
// want one name or address the first by name stays. It is pure.
func compile(c Config, former map[string]*block) *compiled {
	out := &compiled{cfg: c, skipped: map[string]error{}, cache: make(map[string]*block, len(c.Frontends))}
	out.cfg.service, out.cfg.Frontends = true, nil
	out.cfg.MaxConn, out.cfg.Threads = c.defaults()
	out.cfg.Peers = slices.Clone(c.Peers)
	slices.SortFunc(out.cfg.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	at := site{dir: c.Dir, peers: len(c.Peers) > 0}
	list := slices.Clone(c.Frontends)
	slices.SortStableFunc(list, func(a, b lb.Frontend) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range list {
		b := former[f.Name]
		if b == nil || !b.of(at, f) {
			b = newBlock(at, f)
		}
		if out.cache[f.Name] != nil {
			out.skipped[f.Name] = errors.New("haproxy: another frontend has its name; the first one is served")
			continue
		}
		out.cache[f.Name] = b
		out.blocks = append(out.blocks, b)
	}
	out.dropBad()
	return out
}

// drop leaves a frontend out.
func (c *compiled) drop(reason func(*block) error) {
	c.blocks = slices.DeleteFunc(c.blocks, func(b *block) bool {
		err := reason(b)
		if err != nil {
			c.skipped[b.given.Name] = err
		}
		return err != nil
	})
}

// dropBad leaves out what is not valid, alone or beside the others.
func (c *compiled) dropBad() {
	c.drop(func(b *block) error { return b.bad })
	taken, backends := map[netip.AddrPort]string{}, 0
	whole := c.config()
	for _, a := range whole.extraBinds() {
		taken[unmap(a)] = "HAProxy itself"
	}
	c.drop(func(b *block) error {
		for i, a := range b.f.Binds {
			if who, ok := taken[a]; ok || slices.Contains(b.f.Binds[:i], a) {
				return fieldErr("Frontend.Binds", a.String(), "is bound twice, also by "+who)
			}
		}
		if backends += len(b.f.Backends); backends > MaxServiceBackends {
			backends -= len(b.f.Backends)
			return fieldErr("Frontend.Backends", fmt.Sprint(len(b.f.Backends)),
				fmt.Sprintf("all frontends together may have %d", MaxServiceBackends))
		}
		for _, a := range b.f.Binds {
			taken[a] = b.f.Name
		}
		return nil
	})
	c.dropLoops()
}

// dropLoops leaves out frontends with a backend that HAProxy itself listens on:
// it would connect to itself until no descriptor is left.
func (c *compiled) dropLoops() {
	vips := map[netip.Addr]bool{}
	for _, b := range c.blocks {
		for _, a := range b.f.Binds {
			vips[a.Addr()] = true
		}
	}
	c.drop(func(b *block) error {
		for _, s := range b.f.Backends {
			if vips[s.Addr.Addr()] {
				return fieldErr("Frontend.Backends", s.Addr.String(),
					"is an address that is balanced itself, connections would go in a circle; use the pod's own address")
			}
		}
		return nil
	})
}

// config is the Config with the frontends that are left.
func (c *compiled) config() Config {
	out := c.cfg
	out.Frontends = make([]lb.Frontend, len(c.blocks))
	for i, b := range c.blocks {
		out.Frontends[i] = b.f
	}
	return out
}

// wish seals what is left.
func (c *compiled) wish() *wish {
	w := &wish{cfg: c.config(), blocks: c.blocks, skipped: c.skipped}
	w.id = servicesID(w.cfg, w.blocks)
	w.head = servicesHead(w.cfg, w.id)
	return w
}

// servicesHead is the part of the file before the blocks.
func servicesHead(c Config, id string) string {
	var b strings.Builder
	b.WriteString(renderGlobal(c, id))
	renderOwn(&b, c)
	return b.String()
}

// servicesID is structureID for Services.
func servicesID(c Config, blocks []*block) string {
	sum := sha256.New()
	sum.Write([]byte(servicesHead(c, "")))
	for _, b := range blocks {
		sum.Write(b.structure[:])
	}
	return "mooring-" + c.Name + "-" + hex.EncodeToString(sum.Sum(nil)[:8])
}

// content is the whole of haproxy.cfg.
func (w *wish) content() string {
	if !w.cfg.service {
		return w.text
	}
	return textOf(w.head, w.blocks)
}

func textOf(head string, blocks []*block) string {
	size := len(head)
	for _, b := range blocks {
		size += len(b.text)
	}
	var out strings.Builder
	out.Grow(size)
	out.WriteString(head)
	for _, b := range blocks {
		out.WriteString(b.text)
	}
	return out.String()
}

// unlike lists the blocks of w that another wish has not or has with other text.
func (w *wish) unlike(other *wish) []*block {
	former := other.byName()
	var out []*block
	for _, b := range w.blocks {
		if f := former[b.f.Name]; f != b && (f == nil || f.text != b.text) {
			out = append(out, b)
		}
	}
	return out
}

func (w *wish) byName() map[string]*block {
	out := make(map[string]*block, len(w.blocks))
	for _, b := range w.blocks {
		out[b.f.Name] = b
	}
	return out
}

// within is what of w can be had without a reload while live runs: live with the
// servers of w where the frontend has the same structure. What else is new or
// different in w is pending. A frontend that w has no more goes on until then.
func (w *wish) within(live *wish) *wish {
	out := *live
	out.blocks, out.skipped = slices.Clone(live.blocks), w.skipped
	wanted, running := w.byName(), live.byName()
	for i, b := range live.blocks {
		if n := wanted[b.f.Name]; n != nil && n.structure == b.structure {
			out.blocks[i] = n
		}
	}
	out.pending = nil
	for _, b := range w.blocks {
		if f := running[b.f.Name]; f == nil || f.structure != b.structure {
			out.pending = append(out.pending, b.f.Name)
		}
	}
	out.cfg.Frontends = make([]lb.Frontend, len(out.blocks))
	for i, b := range out.blocks {
		out.cfg.Frontends[i] = b.f
	}
	return &out
}
