package vip

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSurveyHearsAll: two hosts with one address both are told, which Probe, that is
// back with the first answer, need not hear.
func TestSurveyHearsAll(t *testing.T) {
	l := newLab(t)
	late := l.peers[1]
	l.peers[0].add("10.7.0.77/24")
	l.peers[0].add("fd07::77/64")
	// The second host answers the second question only.
	come := time.AfterFunc(100*time.Millisecond, func() {
		late.add("10.7.0.77/24")
		late.add("fd07::77/64")
	})
	defer come.Stop()
	asked := addrs(t, "10.7.0.77 "+l.link+", fd07::77 "+l.link)
	got, err := New(Options{Now: boottime, ProbeGap: 500 * time.Millisecond}).Survey(context.Background(), asked)
	must(t, err)
	heard := map[string]bool{}
	for _, a := range got {
		heard[a.IP.String()+" "+a.MAC.String()] = true
	}
	for _, p := range l.peers {
		for _, ip := range []string{"10.7.0.77", "fd07::77"} {
			if !heard[ip+" "+p.mac().String()] {
				t.Errorf("%s of %s was not heard: %v", ip, p.mac(), got)
			}
		}
	}
	if len(got) != 4 {
		t.Errorf("%d answers, want 4: %v", len(got), got)
	}
}

// TestTryRules: a dry run leaves nothing, and says what is missing.
func TestTryRules(t *testing.T) {
	l := newLab(t)
	before := ruleset(t)
	must(t, TryRules(t.Context(), l.link, "table inet more {\n chain c {\n }\n}\n"))
	if after := ruleset(t); after != before {
		t.Errorf("the dry run left\n%s", after)
	}
	if err := TryRules(t.Context(), l.link, "nonsense\n"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("nonsense: %v", err)
	}
	// The kernel is asked, not nft alone: it knows the links.
	if err := TryRules(t.Context(), "gone7", ""); err == nil {
		t.Error("a link that is not there is taken")
	}
	t.Setenv("PATH", t.TempDir())
	if err := TryRules(t.Context(), l.link, ""); err == nil || !strings.Contains(err.Error(),
		"install the package nftables") {
		t.Errorf("without nft: %v", err)
	}
	if _, err := Ruleset(t.Context(), "list", "ruleset"); err == nil || !strings.Contains(err.Error(), "install") {
		t.Errorf("a question without nft: %v", err)
	}
}

// ruleset is what nft itself prints.
func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").Output()
	must(t, err)
	asked, err := Ruleset(t.Context(), "list", "ruleset")
	must(t, err)
	if asked != string(out) {
		t.Errorf("Ruleset gives %q, nft %q", asked, out)
	}
	return asked
}
