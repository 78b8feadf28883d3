package vip

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// Survey is Probe that hears out all who answer: Probe is back when each address
// had one answer, and a second host's may come later.
func (l *Links) Survey(ctx context.Context, addrs []lb.Address) ([]lb.Answer, error) {
	return l.probe(ctx, addrs, probeRounds, func(_, _ map[lb.Address]bool) bool { return false })
}

// TryRules has nft and the kernel judge rules such as hand-overs need, on the link,
// and more ones, and changes nothing (nft -c). The error says what is missing.
func TryRules(ctx context.Context, link, more string) error {
	// Documentation's addresses (RFC 5737, RFC 3849), which no site has.
	four, to := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	six, seven := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	const mac = "02:00:00:00:00:01"
	rules := armRules(forwarded{IP: four, Link: link, To: to, MACs: mac}, second, nil, 16) +
		armRules(forwarded{IP: six, Link: link, To: seven, MACs: mac}, second, nil, 16) +
		muteRules([]copied{{IP: four, Link: link, Own: to, Until: second}, {IP: six, Link: link, Until: second}}, 0)
	return nft(ctx, rules+more, nftLimit, "-c")
}

// Ruleset runs nft with a question ("list", …) and returns its answer.
func Ruleset(ctx context.Context, question ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nft", question...)
	cmd.WaitDelay = 100 * time.Millisecond
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", nftFault(ctx, err, strings.TrimSpace(said.String()), nftLimit)
	}
	return string(out), nil
}
