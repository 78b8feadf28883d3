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

// slugs name the reasons in counters, texts tell them to people.
var (
	slugs = [reasons]string{"", "short", "long", "version", "key", "mac", "format", "timing",
		"echo", "retired", "replay", "hops", "source", "node"}
	texts = [reasons]string{
		"no reason",
		"too short for a hello",
		"longer than a hello may be",
		"no hello, or of a version that this agent does not speak: run one release on all nodes",
		"sealed with a key that this node does not have: give all nodes the same key file",
		"its authentication code is wrong: damaged, or forged",
		"authentic but malformed: run one release on all nodes",
		"its interval, floor or multiplier is out of bounds (10ms to 10s, 2 to 10)",
		"it has not heard this agent yet: allow the port in its firewall if this lasts",
		"from an earlier run of the peer's agent: late, or replayed",
		"had before, or out of order by far: duplicated, or replayed",
		"its TTL is below 255, so that it is not from this link",
		"from an address of no known peer",
		"from a peer's address under another node's name",
	}
)

// Error tells the reason and what to do.
func (r Reason) Error() string {
	if r >= reasons {
		return texts[0]
	}
	return texts[r]
}

// Slug is the reason's short name, in counters.
func (r Reason) Slug() string {
	if r >= reasons {
		return ""
	}
	return slugs[r]
}
