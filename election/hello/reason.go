package hello

// Reason is why a datagram was not taken, or not made. It is an error without
// detail, so that refusing costs nothing and reasons can be counted.
type Reason uint8

// The reasons: of the codec, of the Detector, of the loop.
const (
	_          Reason = iota
	ErrShort          // no room for a header and a MAC
	ErrLong           // more than MaxSize bytes
	ErrVersion        // another protocol, or another major version of this one
	ErrKey            // sealed with a key that this node does not have
	ErrMAC            // not sealed with the key it names
	ErrFormat         // sealed, and malformed all the same
	ErrTiming         // interval, floor or multiplier out of bounds
	ErrEcho           // from a run that has not heard this run of ours yet
	ErrRetired        // from a run that another one has followed
	ErrReplay         // had before, or too old to tell
	ErrHops           // TTL or hop limit below 255: it passed a router (RFC 5082)
	ErrSource         // from an address of no peer
	ErrNode           // from a peer's address under another name
	reasons           // how many there are
)

// words name the reasons in counters (slug) and tell them to people (text).
var words = [reasons]struct{ slug, text string }{
	{"", "no reason"},
	{"short", "too short for a hello"},
	{"long", "longer than a hello may be"},
	{"version", "no hello, or of a version that this agent does not speak: run one release on all nodes"},
	{"key", "sealed with a key that this node does not have: give all nodes the same key file"},
	{"mac", "its authentication code is wrong: damaged, or forged"},
	{"format", "authentic but malformed: run one release on all nodes"},
	{"timing", "its interval, floor or multiplier is out of bounds (10ms to 10s, 2 to 10)"},
	{"echo", "it has not heard this agent yet: allow the port in its firewall if this lasts"},
	{"retired", "from an earlier run of the peer's agent: late, or replayed"},
	{"replay", "had before, or out of order by far: duplicated, or replayed"},
	{"hops", "its TTL is below 255, so that it is not from this link"},
	{"source", "from an address of no known peer"},
	{"node", "from a peer's address under another node's name"},
}

// Error tells the reason and what to do.
func (r Reason) Error() string {
	if r >= reasons {
		return words[0].text
	}
	return words[r].text
}

// Slug is the reason's short name, in counters.
func (r Reason) Slug() string {
	if r >= reasons {
		return ""
	}
	return words[r].slug
}
