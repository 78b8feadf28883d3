package hello

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestMAC compares our HMAC with the standard library's at all lengths.
func TestMAC(t *testing.T) {
	k := keyOf(t, secretA)
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, MaxSize)
	for i := range text {
		text[i] = byte(rng.Uint32())
	}
	for n := range len(text) + 1 {
		h := hmac.New(sha256.New, k.secret[:])
		h.Write(text[:n])
		if got := k.mac(text[:n]); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("differs at %d bytes", n)
		}
	}
}

// TestParseKeys: order, comments, and errors that name the line and the way out.
func TestParseKeys(t *testing.T) {
	a, b := keyOf(t, secretA), keyOf(t, secretB)
	for _, c := range []struct {
		text string
		want []Key
		err  string
	}{
		{secretA, []Key{a}, ""},
		{"# new\n" + secretB + "\n\n  " + secretA + "\t\r\n", []Key{b, a}, ""},
		{secretA + "\n" + secretA, []Key{a}, ""},
		{"", nil, "no hello key: make one with"},
		{"# only a comment", nil, "no hello key"},
		{secretA + "\nshort", nil, "line 2: the hello key is 5 bytes, at least 16"},
		{"0123456789abcde", nil, "15 bytes"},
		{"  0123456789abcde  ", nil, "15 bytes"},
		{"0123456789abcdef", []Key{keyOf(t, "0123456789abcdef")}, ""},
		{strings.Join(strings.Split("0123456789abcdef0\n0123456789abcdef1\n0123456789abcdef2\n0123456789abcdef3\n0123456789abcdef4\n"+
			"0123456789abcdef5\n0123456789abcdef6\n0123456789abcdef7\n0123456789abcdef8", "\n"), "\n"), nil, "9 hello keys, at most 8"},
	} {
		got, err := ParseKeys(c.text)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: error %v, want %q", c.text, err, c.err)
		}
		if len(got) != len(c.want) {
			t.Errorf("%q: %d keys, want %d", c.text, len(got), len(c.want))
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%q: key %d is another", c.text, i)
			}
		}
	}
}

// TestErrorsKeepTheSecret: a key never stands in an error.
func TestErrorsKeepTheSecret(t *testing.T) {
	_, err := ParseKeys("hunter2")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

// TestSameID: two keys with one ID are both tried.
func TestSameID(t *testing.T) {
	a, b := keyOf(t, secretA), keyOf(t, secretB)
	b.id = a.id
	datagram := encoded(t, sample(), b)
	if _, err := Decode(datagram, []Key{a, b}); err != nil {
		t.Error(err)
	}
	if _, err := Decode(datagram, []Key{a}); err != ErrMAC {
		t.Errorf("error %v", err)
	}
}
