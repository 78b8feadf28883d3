package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mooring.dev/mooring/internal/lb"
)

// Bounds of what a Service may ask for. HAProxy's timers are 31 bits of
// milliseconds, 24.8 days.
const (
	maxCount    = 1_000_000
	maxTimer    = 24 * 24 * time.Hour
	maxRises    = 1000
	leastPeriod = 100 * time.Millisecond
	mostPeriod  = time.Hour
)

// forServices says that some frontend is a Service's, or will be: peers are for
// nothing else.
func (c Config) forServices() bool {
	return c.service || len(c.Peers) > 0 || slices.ContainsFunc(c.Frontends, func(f lb.Frontend) bool { return f.Front != nil })
}

// validateServices is the strict form of what compile does: the first frontend,
// in the order given, that compile would leave out.
func (c Config) validateServices() error {
	for i, f := range c.Frontends {
		if err := validateService(fmt.Sprintf("Frontends[%d]", i), f); err != nil {
			return err
		}
	}
	skipped := compile(c, nil).skipped
	for i, f := range c.Frontends {
		if err := skipped[f.Name]; err != nil {
			return fieldErr(fmt.Sprintf("Frontends[%d]", i), f.Name, "conflicts with another: "+err.Error())
		}
	}
	return nil
}

// validateService checks everything of one Service's frontend that needs no look
// at the others.
func validateService(at string, f lb.Frontend) error {
	if err := validateListening(at, f); err != nil {
		return err
	}
	if err := validateBackends(at, f.Backends); err != nil {
		return err
	}
	at += ".Front"
	for _, check := range []func(string, lb.Front) error{
		validateChoices, validateSources, validateCounts, validateTimers, validateServiceCheck,
	} {
		if err := check(at, *f.Front); err != nil {
			return err
		}
	}
	return nil
}

// validateChoices checks what is one of a few words, and the file.
func validateChoices(at string, f lb.Front) error {
	switch f.Balance {
	case "", lb.LeastConn, lb.RoundRobin, lb.Source, lb.Random:
	default:
		return fieldErr(at+".Balance", string(f.Balance), "use leastconn, roundrobin, source or random")
	}
	if f.SendProxy < 0 || f.SendProxy > 2 {
		return fieldErr(at+".SendProxy", fmt.Sprint(f.SendProxy), "use 1 or 2, or 0 for none")
	}
	if f.TLS == "" {
		return nil
	}
	return checkFile(at+".TLS", f.TLS)
}

func validateSources(at string, f lb.Front) error {
	if err := validatePrefixes(at+".Sources", f.Sources); err != nil {
		return err
	}
	return validatePrefixes(at+".AcceptProxy", f.AcceptProxy)
}

func validateCounts(at string, f lb.Front) error {
	for _, n := range []struct {
		field string
		value int
	}{
		{"MaxConn", f.MaxConn}, {"ServerMaxConn", f.ServerMaxConn}, {"Rate", f.Rate}, {"RatePerClient", f.RatePerClient},
	} {
		if n.value < 0 || n.value > maxCount {
			return fieldErr(at+"."+n.field, fmt.Sprint(n.value), fmt.Sprintf("use 1 to %d, or 0 for no bound", maxCount))
		}
	}
	return nil
}

func validateTimers(at string, f lb.Front) error {
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"Affinity", f.Affinity}, {"ConnectTimeout", f.ConnectTimeout}, {"ClientTimeout", f.ClientTimeout},
		{"ServerTimeout", f.ServerTimeout}, {"SlowStart", f.SlowStart},
	} {
		if d.value < 0 || d.value > maxTimer {
			return fieldErr(at+"."+d.field, d.value.String(), "use up to "+maxTimer.String()+", or 0")
		}
	}
	return nil
}

func validateServiceCheck(at string, f lb.Front) error {
	c := f.Check
	at += ".Check"
	switch c.Kind {
	case "":
		// Nothing of it is written.
		return nil
	case lb.CheckTCP, lb.CheckHTTP, lb.CheckHTTPS:
	default:
		return fieldErr(at+".Kind", string(c.Kind), "use tcp, http or https")
	}
	if c.Path != "" && !reHTTPPath.MatchString(c.Path) {
		return fieldErr(at+".Path", c.Path,
			"use an absolute path such as /healthz, at most 255 bytes of A-Z a-z 0-9 / . _ ~ ? = & -")
	}
	if err := checkHostHeader(at+".Host", c.Host); err != nil {
		return err
	}
	return validateCheckNumbers(at, c)
}

// checkHostHeader accepts a DNS name or an IP address, or nothing.
func checkHostHeader(field, v string) error {
	if ip, err := netip.ParseAddr(v); err == nil && ip.Is4() || v == "" {
		return nil
	}
	return checkHost(field, v)
}

func validateCheckNumbers(at string, c lb.ServiceCheck) error {
	for _, n := range []struct {
		field string
		value int
	}{{"Fall", c.Fall}, {"Rise", c.Rise}} {
		if n.value < 0 || n.value > maxRises {
			return fieldErr(at+"."+n.field, fmt.Sprint(n.value), fmt.Sprintf("use 1 to %d, or 0 for the default", maxRises))
		}
	}
	if c.Interval != 0 && (c.Interval < leastPeriod || c.Interval > mostPeriod) {
		return fieldErr(at+".Interval", c.Interval.String(),
			fmt.Sprintf("use %v to %v, or 0 for the default", leastPeriod, mostPeriod))
	}
	if c.StatusFrom == 0 && c.StatusTo == 0 {
		return nil
	}
	if c.StatusFrom < 100 || c.StatusTo > 599 || c.StatusFrom > c.StatusTo {
		return fieldErr(at+".StatusFrom", fmt.Sprintf("%d-%d", c.StatusFrom, c.StatusTo), "use a range within 100-599")
	}
	return nil
}
