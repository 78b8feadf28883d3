package haproxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	parser "github.com/haproxytech/client-native/v5/config-parser"
	"github.com/haproxytech/client-native/v5/config-parser/options"
)

// Lint reads a configuration with client-native's parser and writes it back:
// every line must be understood and none may get lost. It finds what `haproxy
// -c` accepts and what tools for HAProxy would drop silently, and it is a
// second reader of our own renderer. It knows nothing of files or ports.
func Lint(text string) error {
	// Lines that no parser of the library knows are thrown away instead of kept
	// verbatim, so that they show up as lost below.
	p, err := parser.New(options.Reader(strings.NewReader(text)), options.DisableUnProcessed)
	if err != nil {
		return fmt.Errorf("haproxy: the configuration cannot be parsed: %w", err)
	}
	left := directives(p.String())
	for key, n := range directives(text) {
		if left[key] < n && !reRateLimit.MatchString(key) {
			return fmt.Errorf("haproxy: the configuration has a line that is not understood: %q", key)
		}
	}
	return nil
}

// reRateLimit is the one line of ours that the library does not know, as
// directives writes it.
var reRateLimit = regexp.MustCompile(`^frontend fe_[a-z0-9_-]+: rate-limit [0-9]+ sessions$`)

// directives counts the lines of a configuration, each as "section: words in
// order of the alphabet": the parser may write options in another order.
func directives(text string) map[string]int {
	out := map[string]int{}
	section := ""
	for raw := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(raw)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if raw[0] != ' ' && raw[0] != '\t' {
			section = strings.Join(words, " ")
			out[section]++
			continue
		}
		slices.Sort(words[1:])
		out[section+": "+strings.Join(words, " ")]++
	}
	return out
}
