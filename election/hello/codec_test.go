package hello

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"mooring.dev/mooring/election"
)

// keyOf derives a key or ends the test.
func keyOf(t testing.TB, text string) Key {
	t.Helper()
	k, err := NewKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	secretA = "correct horse battery staple"
	secretB = "another secret of some length"
)

// sample is a message that uses all fields.
func sample() Message {
	return Message{Node: "cp-1.example", Incarnation: 7, Echo: 9, Sequence: 11,
		Interval: 50 * time.Millisecond, Floor: 10 * time.Millisecond, Multiplier: 3,
		Groups: []Group{
			{"apiserver", election.Say{Phase: election.Holding, Transitions: 12, Healthy: true, API: true}},
			{"pool-0", election.Say{Phase: election.Draining, Transitions: 1 << 40, From: "cp-2", To: "cp-3", Forwards: "cp-4"}},
			{"pool-1", election.Say{}},
		}}
}

// encoded is the message's datagram.
func encoded(t testing.TB, m Message, k Key) []byte {
	t.Helper()
	b, err := Encode(nil, m, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// resealed is a datagram whose text was changed, with a MAC that fits again.
func resealed(text []byte, k Key) []byte {
	mac := k.mac(text)
	return append(bytes.Clone(text), mac[:]...)
}

// TestRoundTrip: what is encoded is decoded, behind whatever stood in dst.
func TestRoundTrip(t *testing.T) {
	k := keyOf(t, secretA)
	small := Message{Node: "n", Incarnation: 1, Interval: MaxInterval, Floor: MinInterval, Multiplier: MaxMultiplier}
	part := sample()
	part.After, part.More = "a", true
	for _, m := range []Message{sample(), small, part} {
		b, err := Encode([]byte("before"), m, k)
		if err != nil || !bytes.HasPrefix(b, []byte("before")) {
			t.Fatalf("%q, %v", b, err)
		}
		got, err := Decode(b[len("before"):], []Key{keyOf(t, secretB), k})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Groups) == 0 {
			got.Groups = nil
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("got  %+v\nwant %+v", got, m)
		}
	}
}

// TestWire: the bytes themselves, so that releases understand each other.
func TestWire(t *testing.T) {
	m := sample()
	m.Groups = m.Groups[1:2]
	k := keyOf(t, secretA)
	b := encoded(t, m, k)
	want := "MH\x10\x00" + string(k.id[:]) +
		"\x00\x00\x00\x00\x00\x00\x00\x07" + "\x00\x00\x00\x00\x00\x00\x00\x09" + "\x00\x00\x00\x00\x00\x00\x00\x0b" +
		"\x00\x00\xc3\x50" + "\x00\x00\x27\x10" + "\x03" + "\x01" + "\x0ccp-1.example" +
		"\x00\x23" + "\x06pool-0" + "\x03" + "\x00" + "\x00\x00\x01\x00\x00\x00\x00\x00" +
		"\x01\x04cp-2" + "\x02\x04cp-3" + "\x03\x04cp-4"
	if text := string(b[:len(b)-macSize]); text != want {
		t.Errorf("got  %q\nwant %q", text, want)
	}
	// The MAC is HMAC-SHA256 as everybody else computes it.
	h := hmac.New(sha256.New, k.secret[:])
	h.Write([]byte(want))
	if !bytes.Equal(b[len(b)-macSize:], h.Sum(nil)) {
		t.Error("the MAC is not HMAC-SHA256")
	}
	if got := fmt.Sprintf("%x", k.id); got != "894521cf" {
		t.Errorf("key ID %s: a changed derivation cuts old releases off", got)
	}
}

// TestRefused: each way to be wrong has its reason.
func TestRefused(t *testing.T) {
	k := keyOf(t, secretA)
	good := encoded(t, sample(), k)
	text := good[:len(good)-macSize]
	at := func(i int, v byte) func() []byte {
		return func() []byte {
			b := bytes.Clone(text)
			b[i] = v
			return resealed(b, k)
		}
	}
	node := headerSize + 1
	group := node + len("cp-1.example")
	phase := group + 2 + 1 + len("apiserver")
	for _, c := range []struct {
		name string
		make func() []byte
		want Reason
	}{
		{"empty", func() []byte { return nil }, ErrShort},
		{"a header only", func() []byte { return good[:headerSize] }, ErrShort},
		{"too long", func() []byte { return make([]byte, MaxSize+1) }, ErrLong},
		{"another magic", at(0, 'X'), ErrVersion},
		{"another major version", at(atVersion, 0x20), ErrVersion},
		{"another key", func() []byte { return encoded(t, sample(), keyOf(t, secretB)) }, ErrKey},
		{"a flipped bit", func() []byte { b := bytes.Clone(good); b[atSequence] ^= 1; return b }, ErrMAC},
		{"a flipped MAC bit", func() []byte { b := bytes.Clone(good); b[len(b)-1] ^= 1; return b }, ErrMAC},
		{"cut off", func() []byte { return good[:len(good)-1] }, ErrMAC},
		{"appended to", func() []byte { return append(bytes.Clone(good), 0) }, ErrMAC},
		{"sealed with trailing bytes", func() []byte { return resealed(append(bytes.Clone(text), 0), k) }, ErrFormat},
		{"sealed but cut off", func() []byte { return resealed(text[:len(text)-1], k) }, ErrFormat},
		{"no incarnation", at(atIncarnation+7, 0), ErrFormat},
		{"an interval of 1.5 ms", func() []byte {
			b := bytes.Clone(text)
			binary.BigEndian.PutUint32(b[atInterval:], 1500)
			return resealed(b, k)
		}, ErrTiming},
		{"a floor of an hour", at(atFloor, 0xff), ErrTiming},
		{"multiplier 1", at(atMultiplier, 1), ErrTiming},
		{"multiplier 11", at(atMultiplier, 11), ErrTiming},
		{"more groups than there are", at(atGroups, 4), ErrFormat},
		{"fewer groups than there are", at(atGroups, 2), ErrFormat},
		{"too many groups", at(atGroups, MaxGroups+1), ErrFormat},
		{"one group more than allowed", func() []byte {
			m := sample()
			m.Groups = many(MaxGroups, "g")
			b := encoded(t, m, k)
			g := Group{Name: "h"}
			b = appendGroup(b[:len(b)-macSize], &g)
			b[atGroups]++
			return resealed(b, k)
		}, ErrFormat},
		{"an upper-case name", at(node, 'C'), ErrFormat},
		{"a name with a slash", at(node+1, '/'), ErrFormat},
		{"a name that ends with a dot", at(group-1, '.'), ErrFormat},
		{"an empty name", func() []byte {
			b := append(bytes.Clone(text[:headerSize]), 0)
			return resealed(append(b, text[group:]...), k)
		}, ErrFormat},
		{"a group beyond the end", at(group, 0xff), ErrFormat},
		{"a group shorter than its fields", at(group+1, 3), ErrFormat},
		{"an unknown phase", at(phase, 4), ErrFormat},
		{"negative transitions", at(phase+2, 0x80), ErrFormat},
		{"groups out of order", at(group+3, 'z'), ErrFormat},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Decode(c.make(), []Key{k})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if !reflect.DeepEqual(m, Message{}) {
				t.Errorf("a refused datagram gave %+v", m)
			}
		})
	}
	if _, err := Decode(good, nil); !errors.Is(err, ErrKey) {
		t.Errorf("without a key: %v", err)
	}
}

// withType is a datagram of one group with more types at its end.
func withType(k Key, extra string) []byte {
	m := Message{Node: "n1", Incarnation: 1, Interval: MinInterval, Floor: MinInterval, Multiplier: 3,
		Groups: []Group{{"g", election.Say{To: "n2"}}}}
	b, _ := Encode(nil, m, k)
	text := append(b[:len(b)-macSize:len(b)-macSize], extra...)
	at := headerSize + 1 + len(m.Node)
	binary.BigEndian.PutUint16(text[at:], uint16(len(text)-at-2))
	return resealed(text, k)
}

// TestLaterReleases: what a later minor version may add is passed over, what
// nobody may send is not.
func TestLaterReleases(t *testing.T) {
	k := keyOf(t, secretA)
	for extra, want := range map[string]error{
		"":                        nil,
		"\xc8\x00":                nil, // a type of tomorrow, empty
		"\xc8\x03abc\x04\x01\xff": nil,
		"\xc8\x03abc\x01\x02n3":   nil,       // and one of today behind it
		"\xc8\x03ab":              ErrFormat, // longer than the group
		"\xc8":                    ErrFormat, // without a length
		"\x02\x02n3":              ErrFormat, // twice
		"\x01\x00":                ErrFormat, // an empty name
		"\x01\x02N3":              ErrFormat, // no name
	} {
		m, err := Decode(withType(k, extra), []Key{k})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", extra, err, want)
		}
		if want == nil && m.Groups[0].Say.To != "n2" {
			t.Errorf("%q: got %+v", extra, m)
		}
	}
	b := encoded(t, sample(), k)
	b[atVersion], b[atFlags] = 0x1f, 0xff&^(flagAfter|flagMore)
	flags := headerSize + 1 + len("cp-1.example") + 2 + 1 + len("apiserver") + 1
	b[flags] |= 0xf0
	m, err := Decode(resealed(b[:len(b)-macSize], k), []Key{k})
	if err != nil || !reflect.DeepEqual(m, sample()) {
		t.Errorf("minor version and flags of tomorrow: %+v, %v", m, err)
	}
}

// TestEncodeRefuses: nothing leaves that no peer would take.
func TestEncodeRefuses(t *testing.T) {
	long := strings.Repeat("x", maxName)
	for name, spoil := range map[string]func(*Message){
		"an empty name":             func(m *Message) { m.Node = "" },
		"a long name":               func(m *Message) { m.Node = long + "x" },
		"a name with a zero":        func(m *Message) { m.Node = "a\x00b" },
		"a name in capitals":        func(m *Message) { m.Groups[0].Say.To = "N1" },
		"a bad group name":          func(m *Message) { m.Groups[0].Name = "-a" },
		"no incarnation":            func(m *Message) { m.Incarnation = 0 },
		"a short interval":          func(m *Message) { m.Interval = MinInterval - 1 },
		"a long floor":              func(m *Message) { m.Floor = MaxInterval + 1 },
		"a high multiplier":         func(m *Message) { m.Multiplier = 11 },
		"groups out of order":       func(m *Message) { m.Groups[1].Name = "a" },
		"a bad bound":               func(m *Message) { m.After = "-" },
		"a group before its bound":  func(m *Message) { m.After = m.Groups[0].Name },
		"a group twice":             func(m *Message) { m.Groups[1].Name = m.Groups[0].Name },
		"a phase of tomorrow":       func(m *Message) { m.Groups[0].Say.Phase = 4 },
		"negative transitions":      func(m *Message) { m.Groups[0].Say.Transitions = -1 },
		"more groups than allowed":  func(m *Message) { m.Groups = many(MaxGroups+1, "g") },
		"more bytes than a hello's": func(m *Message) { m.Groups = many(9, strings.Repeat("g", 120)) },
	} {
		m := sample()
		spoil(&m)
		if b, err := Encode([]byte("x"), m, keyOf(t, secretA)); err == nil || string(b) != "x" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// many are n groups in order whose names begin alike.
func many(n int, name string) []Group {
	var out []Group
	for i := range n {
		out = append(out, Group{Name: fmt.Sprintf("%s%04d", name, i)})
	}
	return out
}

// TestAllocations: a hello that says what the last one said costs no memory, on
// neither side.
func TestAllocations(t *testing.T) {
	k := keyOf(t, secretA)
	keys := []Key{keyOf(t, secretB), k}
	out, m, want := make([]byte, 0, MaxSize), Message{}, sample()
	b := encoded(t, want, k)
	for name, f := range map[string]func() error{
		"encode": func() error { _, err := Encode(out, want, k); return err },
		"decode": func() error { return m.decode(b, keys) },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestDecodeReused: nothing of an earlier message shines through.
func TestDecodeReused(t *testing.T) {
	k := keyOf(t, secretA)
	var m Message
	for _, next := range []Message{sample(), {Node: "b", Incarnation: 2, Interval: MinInterval, Floor: MinInterval,
		Multiplier: 2, Groups: []Group{{"apiserver", election.Say{}}}}, sample()} {
		if err := m.decode(encoded(t, next, k), []Key{k}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m, next) {
			t.Errorf("got  %+v\nwant %+v", m, next)
		}
	}
}

// FuzzDecode: whatever comes, Decode does not panic, and what it takes is what
// Encode makes. Half of the input is sealed, or nothing would pass the MAC.
func FuzzDecode(f *testing.F) {
	k := keyOf(f, secretA)
	good := encoded(f, sample(), k)
	f.Add(good[:len(good)-macSize], true)
	f.Add(good, false)
	f.Add(withType(k, "\xc8\x03abc")[:80], true)
	f.Add([]byte(magic), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			if len(b) > MaxSize-macSize {
				b = b[:MaxSize-macSize]
			}
			if len(b) >= headerSize {
				b = bytes.Clone(b)
				copy(b[atKey:], k.id[:])
			}
			b = resealed(b, k)
		}
		m, err := Decode(b, []Key{k})
		if err != nil {
			if r, ok := err.(Reason); !ok || r.Error() == "" || r.Slug() == "" {
				t.Fatalf("error %#v is no reason", err)
			}
			return
		}
		again, err := Decode(encoded(t, m, k), []Key{k})
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, again, m)
		}
	})
}

// BenchmarkCodec: what one hello costs.
func BenchmarkCodec(b *testing.B) {
	k := keyOf(b, secretA)
	m := sample()
	datagram := encoded(b, m, k)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		out := make([]byte, 0, MaxSize)
		for b.Loop() {
			_, _ = Encode(out, m, k)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		var got Message
		keys := []Key{k}
		for b.Loop() {
			_ = got.decode(datagram, keys)
		}
	})
}
