package hello

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	idSize  = 4
	macSize = sha256.Size
	// minSecret is the shortest text taken for a secret, in bytes.
	minSecret = 16
	// maxKeys bounds what a datagram can cost: each key is tried.
	maxKeys = 8
)

// howKey tells people how to make a key.
const howKey = "make one with: head -c 32 /dev/urandom | base64"

// Key seals datagrams and opens them. The zero Key is none.
type Key struct {
	id     [idSize]byte
	secret [sha256.Size]byte
}

// NewKey derives a key from a secret text, at least 16 bytes after trimming
// white space.
func NewKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if len(text) < minSecret {
		return Key{}, fmt.Errorf("the hello key is %d bytes, at least %d are needed: %s", len(text), minSecret, howKey)
	}
	secret := sha256.Sum256([]byte("mooring hello key\x00" + text))
	return keyFrom(secret[:]), nil
}

// keyFrom completes a derived secret, a SHA-256. The ID is a hash of it under
// another label: it tells nothing of the secret beyond what a MAC does.
func keyFrom(secret []byte) Key {
	var k Key
	copy(k.secret[:], secret)
	id := sha256.Sum256(append([]byte("mooring hello key ID\x00"), k.secret[:]...))
	copy(k.id[:], id[:])
	return k
}

// ParseKeys reads one secret per line; empty lines and those that begin with
// "#" are comments. The first key seals, all of them open: to rotate, add the
// new one below on all nodes, then put it first on all, then remove the old one.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := NewKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %v", i+1, err)
		}
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	switch {
	case len(keys) == 0:
		// No error shows what was read: it may be a secret with a slip.
		return nil, errors.New("no hello key: " + howKey)
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("%d hello keys, at most %d are tried: remove those that no node uses any more", len(keys), maxKeys)
	}
	return keys, nil
}

// mac is HMAC-SHA256 (RFC 2104) over text, at most MaxSize bytes. crypto/hmac
// would allocate its state for each datagram, and kept, it is not a value.
func (k *Key) mac(text []byte) [macSize]byte {
	const block = sha256.BlockSize
	var inner [block + MaxSize]byte
	var outer [block + macSize]byte
	for i := range block {
		inner[i], outer[i] = 0x36, 0x5c
		if i < len(k.secret) {
			inner[i] ^= k.secret[i]
			outer[i] ^= k.secret[i]
		}
	}
	// H(K ^ opad, H(K ^ ipad, text)), the key padded to a block with zeros.
	n := copy(inner[block:], text)
	digest := sha256.Sum256(inner[:block+n])
	copy(outer[block:], digest[:])
	return sha256.Sum256(outer[:])
}

// open finds out whether one of the keys sealed the text.
func open(text, mac []byte, id [idSize]byte, keys []Key) error {
	// The ID saves MACs; it is not believed, and two keys may share one.
	err := ErrKey
	for i := range keys {
		if keys[i].id != id {
			continue
		}
		want := keys[i].mac(text)
		if subtle.ConstantTimeCompare(want[:], mac) == 1 {
			return nil
		}
		err = ErrMAC
	}
	return err
}
