package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

const (
	// inlineMost is how many prefixes stand in the configuration itself; HAProxy
	// takes 64 words a line.
	inlineMost = 8
	// maxPrefixes bounds one list.
	maxPrefixes = 4096
	// listPrefix begins the names of files with prefixes.
	listPrefix = "src-"
)

// source is the condition that a client's address is in prefixes: "src A B", or
// "src -f FILE" with the file's content. The name has a digest of the content, so
// a file never changes while a configuration refers to it, and equal lists share
// one.
func source(dir string, prefixes []netip.Prefix) (condition, file, content string) {
	list := canonical(prefixes)
	if len(list) <= inlineMost {
		var words []string
		for _, p := range list {
			words = append(words, p.String())
		}
		return "src " + strings.Join(words, " "), "", ""
	}
	var b strings.Builder
	for _, p := range list {
		b.WriteString(p.String() + "\n")
	}
	sum := sha256.Sum256([]byte(b.String()))
	file = path.Join(dir, listPrefix+hex.EncodeToString(sum[:8])+".lst")
	return "src -f " + file, file, b.String()
}

// canonical writes each prefix one way and sorts them.
func canonical(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		const mapped = 96
		if p.Addr().Is4In6() && p.Bits() >= mapped {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
		}
		out[i] = p.Masked()
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func validatePrefixes(at string, list []netip.Prefix) error {
	if len(list) > maxPrefixes {
		return fieldErr(at, fmt.Sprint(len(list)), fmt.Sprintf("use at most %d prefixes", maxPrefixes))
	}
	for i, p := range list {
		if !p.IsValid() || p.Addr().Zone() != "" {
			return fieldErr(fmt.Sprintf("%s[%d]", at, i), p.String(), "use ADDRESS/BITS, 10.0.0.0/8 for example")
		}
	}
	return nil
}
