package haproxy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// configError says that HAProxy or the lint refuses a configuration.
type configError struct{ text string }

func (e *configError) Error() string { return e.text }

// keepFile writes the configuration unless it is there already.
func (p *Proxy) keepFile(ctx context.Context, want *wish) error {
	if have, err := os.ReadFile(want.cfg.file(fileConfig)); err == nil && string(have) == want.text {
		return nil
	}
	return p.write(ctx, want)
}

// write checks the configuration and puts it in its place: an unusable one
// never replaces a usable one.
func (p *Proxy) write(ctx context.Context, want *wish) error {
	if err := Lint(want.text); err != nil {
		return &configError{err.Error()}
	}
	name := want.cfg.file(fileConfig)
	if err := writeAtomic(name+".new", want.text); err != nil {
		return err
	}
	defer os.Remove(name + ".new")
	if err := p.check(ctx, name+".new", execTime); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("haproxy: %s cannot be written: %w", name, err)
	}
	return nil
}

const refusesConfig = "haproxy: HAProxy refuses the configuration: "

// check runs `haproxy -c`.
func (p *Proxy) check(ctx context.Context, name string, limit time.Duration) error {
	binary, err := p.program()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-c", "-f", name)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("haproxy: checking the configuration took too long: %w", ctx.Err())
	}
	if err != nil {
		return &configError{refusesConfig + onlyAlerts(string(out))}
	}
	return nil
}

// alerts are the lines of HAProxy's log that say what went wrong, from an
// offset on.
func alerts(name string, offset int64) string {
	text, err := readFrom(name, offset)
	if err != nil {
		return "see " + name
	}
	return onlyAlerts(string(text))
}

// onlyAlerts picks the ALERT lines out of what HAProxy prints, or the end of it
// if there are none.
func onlyAlerts(text string) string {
	const most = 600
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "[ALERT]") {
			out = append(out, strings.TrimSpace(strings.TrimPrefix(line, "[ALERT]")))
		}
	}
	all := strings.Join(out, "; ")
	if all == "" {
		all = strings.TrimSpace(text)
	}
	if len(all) > most {
		all = "…" + all[len(all)-most:]
	}
	return all
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}
