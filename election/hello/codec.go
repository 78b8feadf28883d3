package hello

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"mooring.dev/mooring/election"
)

// Limits of a datagram: it fits any link's MTU (RFC 8200 §5: 1280) unfragmented.
const (
	MaxSize   = 1200 // bytes of UDP payload
	MaxGroups = 32
	maxName   = 253 // bytes of a DNS subdomain (RFC 1123)
	// MaxTotal is how many groups a node can speak of, in as many datagrams.
	MaxTotal = 4096
)

// Bounds of the timing, on both sides.
const (
	MinInterval   = 10 * time.Millisecond
	MaxInterval   = 10 * time.Second
	MinMultiplier = 2
	MaxMultiplier = 10
)

// The datagram, big endian:
//
//	 0  magic "MH"       2  version       3  flags (1: after, 2: more)
//	 4  key ID (4)
//	 8  incarnation (8) 16  echo (8)     24  sequence (8)
//	32  interval, µs (4) 36  floor, µs (4) 40  multiplier  41  number of groups
//	42  node: length (1), name; with the flag "after" a group's name likewise
//	    per group: length of the rest (2); name: length (1), name; phase (1);
//	    flags (1: healthy, 2: API); transitions (8); then type (1), length (1),
//	    value: 1 from, 2 to, 3 forwards
//	    HMAC-SHA256 over all before it (32)
//
// What a later release may add without breaking this one: a higher low nibble of
// the version, flags, and types at the end of a group. All of these are passed
// over. Anything else needs another high nibble, which is refused.
const (
	atVersion     = 2
	atFlags       = 3
	atKey         = 4
	atIncarnation = 8
	atEcho        = 16
	atSequence    = 24
	atInterval    = 32
	atFloor       = 36
	atMultiplier  = 40
	atGroups      = 41
	headerSize    = 42

	magic   = "MH"
	version = 0x10

	flagAfter = 1
	flagMore  = 2

	flagHealthy = 1
	flagAPI     = 2
	knownTypes  = 3
	groupFixed  = 2 + 1 + 1 + 1 + 8 // with the length of its rest, without the name
)

// Message is one hello.
type Message struct {
	Node string
	// Incarnation names the run of the sender's agent, never 0; Echo is the run of
	// the receiver that the sender heard last, 0 for none.
	Incarnation, Echo uint64
	// Sequence rises within an incarnation.
	Sequence uint64
	// Interval is how often the sender wants to send, Floor how often it can take a
	// hello at most. In whole microseconds; constant within an incarnation, as a
	// lower Floor would shorten the receiver's patience before its peer knows.
	Interval, Floor time.Duration
	// Multiplier is how many intervals of silence mean that the sender is down.
	Multiplier uint8
	// Groups are sorted by name, each at most once. They are all of those after the
	// name After, "" for from the first on; More says that further ones follow, of
	// which another datagram speaks.
	Groups []Group
	After  string
	More   bool
}

// Group is what a node says of one group.
type Group struct {
	Name string
	Say  election.Say
}

// Encode appends the message, sealed, to dst. It refuses what Decode would.
func Encode(dst []byte, m Message, key Key) ([]byte, error) {
	if err := m.check(); err != nil {
		return dst, err
	}
	start := len(dst)
	var flags byte
	if m.After != "" {
		flags |= flagAfter
	}
	if m.More {
		flags |= flagMore
	}
	dst = append(dst, magic...)
	dst = append(dst, version, flags)
	dst = append(dst, key.id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, m.Incarnation)
	dst = binary.BigEndian.AppendUint64(dst, m.Echo)
	dst = binary.BigEndian.AppendUint64(dst, m.Sequence)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Interval/time.Microsecond))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Floor/time.Microsecond))
	dst = append(dst, m.Multiplier, byte(len(m.Groups)))
	dst = appendName(dst, m.Node)
	if m.After != "" {
		dst = appendName(dst, m.After)
	}
	for i := range m.Groups {
		dst = appendGroup(dst, &m.Groups[i])
	}
	mac := key.mac(dst[start:])
	return append(dst, mac[:]...), nil
}

// appendName appends a name with its length.
func appendName(dst []byte, name string) []byte {
	return append(append(dst, byte(len(name))), name...)
}

// appendGroup appends a group with its length.
func appendGroup(dst []byte, g *Group) []byte {
	var flags byte
	if g.Say.Healthy {
		flags |= flagHealthy
	}
	if g.Say.API {
		flags |= flagAPI
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(g.size()-2))
	dst = appendName(dst, g.Name)
	dst = append(dst, byte(g.Say.Phase), flags)
	dst = binary.BigEndian.AppendUint64(dst, uint64(g.Say.Transitions))
	for i, node := range [knownTypes]string{g.Say.From, g.Say.To, g.Say.Forwards} {
		if node != "" {
			dst = appendName(append(dst, byte(i+1)), node)
		}
	}
	return dst
}

// size is the group's length in the datagram.
func (g *Group) size() int {
	n := groupFixed + len(g.Name)
	for _, node := range [knownTypes]string{g.Say.From, g.Say.To, g.Say.Forwards} {
		if node != "" {
			n += 2 + len(node)
		}
	}
	return n
}

// check says why the message cannot be sent.
func (m *Message) check() error {
	if !validName(m.Node) {
		return fmt.Errorf("node name %q: %w", m.Node, errName)
	}
	if m.Incarnation == 0 {
		return fmt.Errorf("incarnation 0 means none: %w", ErrFormat)
	}
	if !timely(m.Interval, m.Floor, m.Multiplier) {
		return ErrTiming
	}
	if len(m.Groups) > MaxGroups {
		return fmt.Errorf("%d groups, at most %d: %w", len(m.Groups), MaxGroups, ErrLong)
	}
	if m.After != "" && !validName(m.After) {
		return fmt.Errorf("group %q: %w", m.After, errName)
	}
	size := MaxSize - room(m.Node, m.After)
	last := m.After
	for i := range m.Groups {
		if err := m.Groups[i].check(); err != nil {
			return err
		}
		if m.Groups[i].Name <= last {
			return fmt.Errorf("group %q is not in order: %w", m.Groups[i].Name, ErrFormat)
		}
		last = m.Groups[i].Name
		size += m.Groups[i].size()
	}
	if size > MaxSize {
		return fmt.Errorf("%d bytes, at most %d: %w", size, MaxSize, ErrLong)
	}
	return nil
}

// check says why the group cannot be sent.
func (g *Group) check() error {
	if !validName(g.Name) {
		return fmt.Errorf("group %q: %w", g.Name, errName)
	}
	for _, node := range [knownTypes]string{g.Say.From, g.Say.To, g.Say.Forwards} {
		if node != "" && !validName(node) {
			return fmt.Errorf("group %s, node name %q: %w", g.Name, node, errName)
		}
	}
	if g.Say.Phase > election.Draining || g.Say.Transitions < 0 {
		return fmt.Errorf("group %s: phase %d, transitions %d: %w", g.Name, g.Say.Phase, g.Say.Transitions, ErrFormat)
	}
	return nil
}

// errName tells what a name must look like.
var errName = fmt.Errorf("a name is 1 to %d of a-z, 0-9, '-' and '.', with a letter or digit at both ends", maxName)

// validName says whether the name could be a DNS subdomain as Kubernetes
// has them for nodes and Leases.
func validName[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := i > 0 && i < len(s)-1
		if !alnum && (!inner || c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// timely says whether the values are within their bounds.
func timely(interval, floor time.Duration, multiplier uint8) bool {
	in := func(d time.Duration) bool { return d >= MinInterval && d <= MaxInterval }
	return in(interval) && in(floor) && multiplier >= MinMultiplier && multiplier <= MaxMultiplier
}

// Decode opens a datagram sealed with any of the keys. The error is a Reason.
func Decode(b []byte, keys []Key) (Message, error) {
	var m Message
	if err := m.decode(b, keys); err != nil {
		return Message{}, err
	}
	return m, nil
}

// decode is Decode into a message used before: what it says again is not
// allocated again. After an error the message is void.
func (m *Message) decode(b []byte, keys []Key) error {
	switch {
	case len(b) > MaxSize:
		return ErrLong
	case len(b) < headerSize+1+macSize:
		return ErrShort
	case string(b[:len(magic)]) != magic || b[atVersion]>>4 != version>>4:
		return ErrVersion
	}
	text, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if err := open(text, mac, [idSize]byte(b[atKey:]), keys); err != nil {
		return err
	}
	// From here on it is authentic: what is wrong is a mistake of a peer's release.
	m.Incarnation = binary.BigEndian.Uint64(b[atIncarnation:])
	m.Echo = binary.BigEndian.Uint64(b[atEcho:])
	m.Sequence = binary.BigEndian.Uint64(b[atSequence:])
	m.Interval = time.Duration(binary.BigEndian.Uint32(b[atInterval:])) * time.Microsecond
	m.Floor = time.Duration(binary.BigEndian.Uint32(b[atFloor:])) * time.Microsecond
	m.Multiplier = b[atMultiplier]
	if !timely(m.Interval, m.Floor, m.Multiplier) {
		return ErrTiming
	}
	r := reader{b: text[headerSize:]}
	m.Node = r.name(m.Node)
	m.After, m.More = "", b[atFlags]&flagMore != 0
	if b[atFlags]&flagAfter != 0 {
		m.After = r.name("")
	}
	m.decodeGroups(&r, int(b[atGroups]))
	if r.bad || len(r.b) > 0 || m.Incarnation == 0 {
		return ErrFormat
	}
	return nil
}

// decodeGroups reads n groups.
func (m *Message) decodeGroups(r *reader, n int) {
	if n > MaxGroups {
		r.bad = true
		return
	}
	// The groups beyond len are those of an earlier message: their strings serve.
	m.Groups = slices.Grow(m.Groups[:0], n)[:n]
	last := m.After
	for i := 0; i < n && !r.bad; i++ {
		one := reader{b: r.take(int(r.u16()))}
		one.group(&m.Groups[i])
		r.bad = r.bad || one.bad || m.Groups[i].Name <= last
		last = m.Groups[i].Name
	}
}

// reader takes a datagram apart. After a mistake it is bad and gives zeros.
type reader struct {
	b   []byte
	bad bool
}

// take gives the next n bytes.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// name gives the next name; if it is old, without a new string.
func (r *reader) name(old string) string {
	b := r.take(int(r.u8()))
	if !validName(b) {
		r.bad = true
		return ""
	}
	if string(b) == old {
		return old
	}
	return string(b)
}

// group reads a group to the reader's end.
func (r *reader) group(g *Group) {
	g.Name = r.name(g.Name)
	phase, flags, transitions := r.u8(), r.u8(), r.u64()
	if phase > byte(election.Draining) || transitions > math.MaxInt64 {
		r.bad = true
	}
	old := g.Say
	g.Say = election.Say{Phase: election.Phase(phase), Transitions: int64(transitions),
		Healthy: flags&flagHealthy != 0, API: flags&flagAPI != 0}
	// The types, in any order, each at most once.
	for !r.bad && len(r.b) > 0 {
		switch r.u8() {
		case 1:
			r.node(&g.Say.From, old.From)
		case 2:
			r.node(&g.Say.To, old.To)
		case 3:
			r.node(&g.Say.Forwards, old.Forwards)
		default:
			r.take(int(r.u8())) // of a later release
		}
	}
}

// node reads a node's name, which may stand in a group once.
func (r *reader) node(to *string, old string) {
	if *to != "" {
		r.bad = true
		return
	}
	*to = r.name(old)
}
