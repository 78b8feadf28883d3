package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring.dev/mooring/internal/lb"
)

func TestServersChangeWithoutReload(t *testing.T) {
	b, _ := newBench(t, 3)
	p := b.proxy()
	b.watch(p)
	b.set(p, without(b.cfg, "cp3"))
	_, worker := b.pids()
	conn := b.pki.dial(t, vip)

	b.set(p, b.cfg)
	for range 4 {
		b.pki.dial(t, vip)
	}
	if got := b.spread(9); got["cp3"] == 0 {
		t.Errorf("the new server has no connection: %v", got)
	}
	b.inStep()
	eventually(t, 2*time.Second, "three are up", func() bool { return len(b.seen.last().Up) == 3 })

	b.set(p, without(b.cfg, "cp1", "cp2"))
	if got := b.spread(6); got["cp3"] != 6 {
		t.Errorf("removed servers still serve: %v", got)
	}
	b.inStep()
	if _, err := askOver(conn); err != nil {
		t.Error("a connection to a removed server broke:", err)
	}
	// And back, while HAProxy may still have it in maintenance.
	b.set(p, b.cfg)
	eventually(t, 2*time.Second, "three are up again", func() bool { return len(b.seen.last().Up) == 3 })
	if got := b.spread(12); len(got) != 3 {
		t.Errorf("spread: %v", got)
	}
	if _, w := b.pids(); w != worker {
		t.Errorf("a reload happened: worker %d, then %d", worker, w)
	}
}

// inStep checks that the file has exactly the running servers.
func (b *bench) inStep() {
	b.t.Helper()
	text, err := os.ReadFile(b.cfg.file(fileConfig))
	if err != nil {
		b.t.Fatal(err)
	}
	w, err := status(context.Background(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	live := 0
	for _, s := range w.servers["be_apiserver"] {
		if !s.maint() {
			live++
			if n := strings.Count(string(text), "  server "+s.name+" "); n != 2 {
				b.t.Errorf("%s is %d times in the file", s.name, n)
			}
		}
	}
	if n := strings.Count(string(text), "\n  server "); n != 2*live {
		b.t.Errorf("%d server lines, %d servers", n, live)
	}
}

func TestReloadLosesNoRequest(t *testing.T) {
	b, _ := newBench(t, 2)
	p := b.proxy()
	b.watch(p)
	b.set(p, b.cfg)
	_, worker := b.pids()
	kept := b.pki.dial(t, vip)

	var asked, failed atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				asked.Add(1)
				if _, err := b.pki.get(vip, "/name"); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	for port := range uint16(3) {
		next := b.cfg.normal()
		f := &next.Frontends[0]
		f.Binds = append(f.Binds, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.10"), 8000+port))
		begin := time.Now()
		b.set(p, next)
		t.Logf("reload took %v", time.Since(begin))
		if _, err := b.pki.get(fmt.Sprintf("192.0.2.10:%d", 8000+port), "/name"); err != nil {
			t.Error("new bind:", err)
		}
	}
	cancel()
	wg.Wait()
	if failed.Load() > 0 || asked.Load() == 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
	}
	if _, err := askOver(kept); err != nil {
		t.Error("a connection over the reload broke:", err)
	}
	if _, w := b.pids(); w == worker {
		t.Error("no reload happened")
	}
	if lock, _ := tryLock(b.cfg.file(fileLock)); lock != nil {
		t.Error("the lock was lost in the reload")
	}
	if slices.ContainsFunc(b.seen.list, func(s lb.ProxyState) bool { return !s.Serving }) {
		t.Errorf("a reload was reported as an outage: %+v", b.seen.list)
	}
}

func TestRefusedReloadKeepsTheOld(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.set(p, b.cfg)
	_, worker := b.pids()
	other := listen(t, "192.0.2.10:8100")
	next := b.cfg.normal()
	f := &next.Frontends[0]
	f.Binds = append(f.Binds, netip.MustParseAddrPort("192.0.2.10:8100"))
	st, err := p.Set(within(t, 20*time.Second), next)
	var taken *PortTakenError
	if !errors.As(err, &taken) || st.Serving || st.Why == "" {
		t.Errorf("%+v, %v", st, err)
	}
	// The same past the look at the ports: HAProxy's own refusal.
	want, err := p.prepare(next)
	if err != nil {
		t.Fatal(err)
	}
	before, err := showProc(context.Background(), b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.write(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	_, _ = ask(context.Background(), b.cfg.file(fileMaster), "reload")
	if err := p.awaitReload(context.Background(), want, before); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("awaitReload: %v", err)
	}
	b.spread(2)
	if _, w := b.pids(); w != worker {
		t.Error("the worker changed")
	}
	if st, err := p.Set(within(t, 20*time.Second), b.cfg); err != nil || !st.Serving {
		t.Errorf("the way back: %+v %v", st, err)
	}
	other.Close()
	b.set(p, next)
}

func TestUnusableConfigurationChangesNothing(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.set(p, b.cfg)
	_, worker := b.pids()
	bad := b.cfg.normal()
	bad.Frontends[0].Check.CAFile = b.pki.caFile + ".missing"
	if st, err := p.Set(within(t, 10*time.Second), bad); err == nil || !st.Serving {
		t.Errorf("missing CA: %+v, %v", st, err)
	}
	empty := b.cfg.Dir + "/empty.crt"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad.Frontends[0].Check.CAFile = empty
	if st, err := p.Set(within(t, 10*time.Second), bad); err == nil || !st.Serving ||
		!strings.Contains(err.Error(), "refuses") {
		t.Errorf("empty CA: %+v, %v", st, err)
	}
	bad.Frontends[0].Check.CAFile = "/x\nglobal"
	var field *FieldError
	if _, err := p.Set(within(t, 10*time.Second), bad); !errors.As(err, &field) {
		t.Errorf("hostile CA: %v", err)
	}
	b.set(p, b.cfg)
	if _, w := b.pids(); w != worker {
		t.Error("the worker changed")
	}
}

func TestRenewedCertificateIsLoaded(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.set(p, b.cfg)
	_, worker := b.pids()
	pem, err := os.ReadFile(b.pki.clientFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.pki.clientFile, append(pem, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	b.set(p, b.cfg)
	if _, w := b.pids(); w == worker {
		t.Error("the new file was not loaded")
	}
}

func TestRuntimeRefusalFallsBackToReload(t *testing.T) {
	b, _ := newBench(t, 2)
	p := b.proxy()
	b.set(p, without(b.cfg, "cp1", "cp2"))
	_, worker := b.pids()
	// A worker that had no server has not loaded the CA file, and HAProxy does
	// not load files for a server that is added.
	b.set(p, b.cfg)
	b.inStep()
	if got := b.spread(4); len(got) != 2 {
		t.Errorf("spread: %v", got)
	}
	if _, w := b.pids(); w == worker {
		t.Error("there was no reload")
	}
}

func TestRuntimeRefusalsAreSeen(t *testing.T) {
	b, _ := newBench(t, 1)
	p := b.proxy()
	b.set(p, b.cfg)
	_, worker := b.pids()
	bad := []change{{action: actAdd, backend: "be_apiserver", server: "s-x", attributes: "127.0.0.1:1 nonsense"}}
	if err := applyChanges(context.Background(), b.cfg.file(fileStats), bad); err == nil {
		t.Error("a refusal was not seen")
	}
	evil := []change{{action: actDelete, backend: "be_apiserver", server: "s-x;shutdown frontend fe_apiserver"}}
	if err := applyChanges(context.Background(), b.cfg.file(fileStats), evil); err == nil {
		t.Error("a second command was let through")
	}
	if _, w := b.pids(); w != worker {
		t.Error("the worker changed")
	}
}
