package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// The grammar of text that goes on to others. It names what is allowed: in what
// HAProxy reads, a blank, a quote, a semicolon or the end of a line is a command.
var (
	reLabel     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	reSharedKey = regexp.MustCompile(`^[A-Za-z0-9._/:@+=-]{1,128}$`)
	rePath      = regexp.MustCompile(`^/[A-Za-z0-9/._~?=&-]{0,254}$`)
	reStatus    = regexp.MustCompile(`^([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?$`)
	// reLabelValue is a label's value as Kubernetes defines it, not empty.
	reLabelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

// maxPrefixes bounds a list of prefixes: each costs time at every connection.
const maxPrefixes = 4096

// value is what an annotation may hold. kind and allowed are for the table in
// the documentation; read puts the text into a Service, or says with the text
// quoted what is wrong with it. What of a list can be used is put there all the same.
type value struct {
	kind, allowed string
	read          func(s *lb.Service, text string) (wrong string)
}

// quoted shows a value in a message: its beginning, in printable ASCII.
func quoted(text string) string {
	const show = 40
	if len(text) > show {
		return strconv.QuoteToASCII(clip(text, show)) + "..."
	}
	return strconv.QuoteToASCII(text)
}

// oneOf is a word out of a list.
func oneOf[T ~string](at func(*lb.Service) *T, words ...T) value {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return value{"word", "`" + strings.Join(list, "`, `") + "`", func(s *lb.Service, text string) string {
		if !slices.Contains(words, T(text)) {
			return quoted(text) + " is unknown; use " + strings.Join(list, ", ")
		}
		*at(s) = T(text)
		return ""
	}}
}

// number is a decimal number from 1.
func number(most int, at func(*lb.Service) *int) value {
	return value{"number", fmt.Sprintf("1 to %d", most), func(s *lb.Service, text string) string {
		n, err := strconv.Atoi(text)
		// One spelling: Atoi also takes a sign and leading zeros.
		if err != nil || strconv.Itoa(n) != text || n < 1 || n > most {
			return fmt.Sprintf("%s is not a number from 1 to %d", quoted(text), most)
		}
		*at(s) = n
		return ""
	}}
}

// duration is a time with its unit.
func duration(least, most time.Duration, at func(*lb.Service) *time.Duration) value {
	span := short(least) + " to " + short(most)
	return value{"duration", span, func(s *lb.Service, text string) string {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			return fmt.Sprintf("%s is not a duration from %s; write it as 500ms, 30s or 5m", quoted(text), span)
		}
		// HAProxy counts milliseconds.
		*at(s) = d.Truncate(time.Millisecond)
		return ""
	}}
}

// short prints a duration without its zeros: 1h, not 1h0m0s.
func short(d time.Duration) string {
	text := d.String()
	for _, zeros := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zeros) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// matching is text of a grammar.
func matching(re *regexp.Regexp, at func(*lb.Service) *string, kind, allowed string) value {
	return value{kind, allowed, func(s *lb.Service, text string) string {
		if !re.MatchString(text) {
			return quoted(text) + " is not a " + kind + " that can be used: " + strings.ReplaceAll(allowed, "`", "")
		}
		*at(s) = text
		return ""
	}}
}

// named is the name of an object (RFC 1123 subdomain).
func named(at func(*lb.Service) *string, kind string) value {
	return value{kind, "lower case letters, digits, `-` and `.`", func(s *lb.Service, text string) string {
		if !subdomain(text) {
			return quoted(text) + " is not the " + kind + ": lower case letters, digits, - and ., without a namespace"
		}
		*at(s) = text
		return ""
	}}
}

// subdomain says whether a text is a DNS name in lower case (RFC 1123).
func subdomain(text string) bool {
	if len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if !reLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// readAddresses takes at most one of each family.
func readAddresses(s *lb.Service, text string) string {
	var list []netip.Addr
	for item := range strings.SplitSeq(text, ",") {
		a, wrong := requested(strings.TrimSpace(item))
		if wrong != "" {
			return wrong
		}
		if slices.ContainsFunc(list, func(b netip.Addr) bool { return lb.FamilyOf(a) == lb.FamilyOf(b) }) {
			return quoted(text) + " names two addresses of one family; a Service has at most one of each"
		}
		list = append(list, a)
	}
	s.Addresses = list
	return ""
}

// requested parses an address that a Service may ask for.
func requested(text string) (a netip.Addr, wrong string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, quoted(text) + " is not an IP address"
	case a.Zone() != "":
		return a, quoted(text) + " has a zone; write the address without it"
	case a.Is4In6():
		return a, quoted(text) + " is IPv4 in IPv6 form; write " + a.Unmap().String()
	case !a.IsGlobalUnicast():
		// kube-vip asks with 0.0.0.0 for an address from DHCP.
		return a, quoted(text) + " cannot be announced; ask for a unicast address of an AddressPool"
	}
	return a, ""
}

// readDataPath refuses what the data path cannot carry.
func readDataPath(s *lb.Service, text string) string {
	p := lb.DataPath(text)
	if p != lb.DataPathProxy && p != lb.DataPathDirect {
		return quoted(text) + " is unknown; use proxy or direct"
	}
	if p == lb.DataPathProxy && !onlyTCP(s.Ports) {
		return "proxy carries TCP only and the Service has other ports, so it is served directly; " +
			"split it in two with one mooring.dev/shared-key"
	}
	s.DataPath = p
	return ""
}

// onlyTCP says whether HAProxy can carry all ports.
func onlyTCP(ports []lb.ServicePort) bool {
	return !slices.ContainsFunc(ports, func(p lb.ServicePort) bool { return p.Protocol != lb.TCP })
}

// readCheck also sets what holds without further annotations.
func readCheck(s *lb.Service, text string) string {
	c := &s.Front.Check
	switch c.Kind = lb.CheckKind(text); c.Kind {
	case lb.CheckTCP:
		return ""
	case lb.CheckHTTP, lb.CheckHTTPS:
		c.Path, c.StatusFrom, c.StatusTo = "/", 200, 399
		return ""
	}
	c.Kind = ""
	return quoted(text) + " is unknown; use tcp, http or https"
}

func readHost(s *lb.Service, text string) string {
	if _, err := netip.ParseAddr(text); err == nil || !subdomain(text) {
		return quoted(text) + " is not a DNS name such as web.example"
	}
	s.Front.Check.Host = text
	return ""
}

func readStatus(s *lb.Service, text string) string {
	m := reStatus.FindStringSubmatch(text)
	if m == nil || m[2] != "" && m[2] < m[1] {
		return quoted(text) + " is not an HTTP status or a range of them, such as 200 or 200-399"
	}
	c := &s.Front.Check
	c.StatusFrom, _ = strconv.Atoi(m[1])
	c.StatusTo, _ = strconv.Atoi(cmp.Or(m[2], m[1]))
	return ""
}

func readPort(s *lb.Service, text string) string {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
		return quoted(text) + " is not a port from 1 to 65535"
	}
	s.Front.Check.Port = uint16(n)
	return ""
}

func readSendProxy(s *lb.Service, text string) string {
	version := map[string]int{"v1": 1, "v2": 2}[text]
	if version == 0 {
		return quoted(text) + " is unknown; use v1 or v2"
	}
	s.Front.SendProxy = version
	return ""
}

// readAcceptProxy leaves out what it cannot read: who is not listed is refused.
func readAcceptProxy(s *lb.Service, text string) (wrong string) {
	s.Front.AcceptProxy, wrong = prefixes(strings.Split(text, ","))
	return wrong
}

// prefixes parses a list, sorted and without duplicates, and says what of it
// cannot be used.
func prefixes(list []string) (out []netip.Prefix, wrong string) {
	bad := 0
	for _, text := range list {
		p, ok := onePrefix(strings.TrimSpace(text))
		if ok {
			out = append(out, p)
			continue
		}
		if bad++; bad == 1 {
			wrong = quoted(text) + " is not a prefix such as 192.0.2.0/24 or 2001:db8::/32 and lets nobody in"
		}
	}
	if bad > 1 {
		wrong += fmt.Sprintf("; nor are %d more of the list", bad-1)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	if out = slices.Compact(out); len(out) > maxPrefixes {
		wrong = fmt.Sprintf("has %d prefixes, of which the first %d count; merge them", len(out), maxPrefixes)
		out = out[:maxPrefixes]
	}
	return out, wrong
}

// onePrefix parses a prefix, or an address as the prefix with it alone. Bits
// beyond the length do not count, as in Kubernetes.
func onePrefix(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if a, alone := netip.ParseAddr(text); alone == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	// IPv4 in IPv6 form would match no IPv4 client.
	return p.Masked(), err == nil && !p.Addr().Is4In6()
}
