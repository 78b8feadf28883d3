package haproxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child starts a process that lives until it is killed.
func child(t *testing.T) *process {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Release()
	t.Cleanup(func() {
		_ = p.signal(unix.SIGKILL)
		p.close()
	})
	return p
}

func TestProcessEnds(t *testing.T) {
	p := child(t)
	if !p.alive() {
		t.Fatal("not alive")
	}
	ended := make(chan error, 1)
	go func() { ended <- p.wait() }()
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the end was not noticed")
	}
	t.Logf("noticed after %v", time.Since(begin))
	// A zombie is not alive either.
	if p.alive() {
		t.Error("alive after its end")
	}
	if how := p.reap(); how != "it was killed" {
		t.Errorf("reap: %q", how)
	}
	if how := p.reap(); how != "" {
		t.Errorf("reaped twice: %q", how)
	}
	if err := p.signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to a process that has ended: %v", err)
	}
}

func TestProcessReleased(t *testing.T) {
	p := child(t)
	ended := make(chan error, 1)
	go func() { ended <- p.wait() }()
	time.Sleep(10 * time.Millisecond)
	p.release()
	if err := <-ended; err == nil {
		t.Error("wait returned as if the process had ended")
	}
	if !p.alive() {
		t.Error("release ended the process")
	}
	// Waiting again works.
	p.rearm()
	go func() { ended <- p.wait() }()
	_ = p.signal(unix.SIGKILL)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.reap()
}

func TestNoProcess(t *testing.T) {
	var none *process
	if none.alive() {
		t.Error("nil is alive")
	}
	c := Config{Dir: shortDir(t)}
	if _, err := find(context.Background(), c); !errors.Is(err, errNoProcess) {
		t.Errorf("find: %v", err)
	}
	// Another process that listens on the socket is not taken for HAProxy.
	l, err := net.Listen("unix", c.file(fileMaster))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if pid, err := listenerPID(context.Background(), c.file(fileMaster)); err != nil || pid != os.Getpid() {
		t.Errorf("listenerPID: %d %v", pid, err)
	}
	if _, err := find(context.Background(), c); !errors.Is(err, errNoProcess) {
		t.Errorf("find: %v", err)
	}
	if got := running(c); got != nil {
		t.Errorf("running: %v", got)
	}
}

func TestLockIsExclusive(t *testing.T) {
	name := shortDir(t) + "/lock"
	first, err := tryLock(name)
	if first == nil || err != nil {
		t.Fatal(err)
	}
	second, err := tryLock(name)
	if second != nil || err != nil {
		t.Fatal("locked twice", err)
	}
	first.Close()
	third, err := tryLock(name)
	if third == nil || err != nil {
		t.Fatal("not free after the end", err)
	}
	third.Close()
	if _, err := tryLock(name + "/x"); err == nil {
		t.Error("no error for a file that cannot be made")
	}
}

func TestLockOfAnotherProgram(t *testing.T) {
	needNetwork(t)
	dir := shortDir(t)
	p, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := tryLock(dir + "/" + fileLock)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := p.attach(within(t, 200*time.Millisecond), Config{Dir: dir}); err == nil ||
		!strings.Contains(err.Error(), "no HAProxy") {
		t.Errorf("attach: %v", err)
	}
}

// A hung program at the socket costs answerTime and not for ever.
func TestAskIsBounded(t *testing.T) {
	name := shortDir(t) + "/s"
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	if _, err := ask(context.Background(), name, "show info"); err == nil {
		t.Error("no error")
	}
	if took := time.Since(begin); took < answerTime || took > 3*answerTime {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin = time.Now()
	if _, err := ask(ctx, name, "show info"); err == nil || time.Since(begin) > answerTime/2 {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	if _, err := ask(context.Background(), name+"x", "show info"); err == nil {
		t.Error("no error without a socket")
	}
}

func TestLogIsBounded(t *testing.T) {
	name := shortDir(t) + "/log"
	if err := boundLog(name); err != nil {
		t.Errorf("no log: %v", err)
	}
	// The writer appends, as HAProxy does.
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write([]byte("first\n"))
	if err := boundLog(name); err != nil || fileSize(name) != 6 {
		t.Errorf("%v, %d bytes", err, fileSize(name))
	}
	f.Write(bytes.Repeat([]byte("x"), maxLog))
	f.Write([]byte("last\n"))
	if err := boundLog(name); err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("next\n"))
	now, _ := os.ReadFile(name)
	former, _ := os.ReadFile(name + ".1")
	if string(now) != "next\n" || len(former) != maxLog || !bytes.HasSuffix(former, []byte("last\n")) {
		t.Errorf("%d bytes now, %d before", len(now), len(former))
	}
}

func TestWriteAtomic(t *testing.T) {
	name := shortDir(t) + "/x"
	for _, content := range []string{"one", "two, longer", "3"} {
		if err := writeAtomic(name, content); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(name); string(got) != content {
			t.Errorf("%q", got)
		}
	}
	if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := writeAtomic(name+"/y", ""); err == nil {
		t.Error("no error")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, dir := range []string{"", "run", "/run/" + strings.Repeat("a", 80), "/run/a b", "/run/../x"} {
		if _, err := New(Options{Dir: dir}); err == nil {
			t.Errorf("%q accepted", dir)
		}
	}
}

func TestMissingProgram(t *testing.T) {
	b, _ := newBench(t, 1)
	p, err := New(Options{Dir: b.cfg.Dir, Binary: "haproxy-that-is-not-there"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.Set(within(t, 5*time.Second), b.cfg)
	if err == nil || st.Serving || !strings.Contains(err.Error(), "install the package haproxy") {
		t.Errorf("%+v %v", st, err)
	}
	other := b.cfg
	other.Dir = "/run/other"
	if _, err := p.Set(within(t, 5*time.Second), other); err == nil {
		t.Error("another directory was accepted")
	}
}
