package hello

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestSayNow: a refusal is logged once a minute, and what every restart brings
// only when it lasts.
func TestSayNow(t *testing.T) {
	for _, c := range []struct {
		reason Reason
		at     []time.Duration
		want   []bool
	}{
		{ErrKey, []time.Duration{0, time.Second, 59 * time.Second, time.Minute, 61 * time.Second, 3 * time.Minute},
			[]bool{true, false, false, true, false, true}},
		{ErrEcho, []time.Duration{0, time.Second, time.Minute + time.Second}, []bool{false, false, true}},
		{ErrRetired, []time.Duration{0}, []bool{false}},
		{ErrReplay, []time.Duration{0}, []bool{false}},
	} {
		var said [reasons]time.Duration
		for i, at := range c.at {
			if got := sayNow(time.Hour+at, &said, c.reason); got != c.want[i] {
				t.Errorf("%s at %v: %v", c.reason.Slug(), at, got)
			}
		}
		if other := sayNow(time.Hour, &said, ErrHops); !other {
			t.Errorf("%s keeps another reason from being logged", c.reason.Slug())
		}
	}
}

// TestHopsOf: the kernel's control message of either family, and none.
func TestHopsOf(t *testing.T) {
	message := func(level, kind int32, value byte) []byte {
		b := make([]byte, unix.CmsgSpace(4))
		h := unix.Cmsghdr{Level: level, Type: kind}
		h.SetLen(unix.CmsgLen(4))
		copy(b, (*[unix.SizeofCmsghdr]byte)(unsafe.Pointer(&h))[:])
		binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], uint32(value))
		return b
	}
	other := message(unix.SOL_SOCKET, 29, 7)
	for name, c := range map[string]struct {
		control []byte
		want    int
	}{
		"none":             {nil, 0},
		"IPv4":             {message(unix.IPPROTO_IP, unix.IP_TTL, 255), 255},
		"IPv6":             {message(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 64), 64},
		"behind another":   {append(other, message(unix.IPPROTO_IP, unix.IP_TTL, 254)...), 254},
		"another only":     {other, 0},
		"cut off":          {message(unix.IPPROTO_IP, unix.IP_TTL, 255)[:unix.CmsgLen(4)-1], 0},
		"a false length":   {append([]byte{255}, other[1:]...), 0},
		"an empty message": {make([]byte, unix.CmsgSpace(0)), 0},
	} {
		if got := hopsOf(c.control); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestLateThread: what waits in the socket is read before the time is told, so
// that a late thread takes nobody for dead; after a real sleep all get their time
// anew.
func TestLateThread(t *testing.T) {
	l := newLab(t, 2)
	now := time.Hour
	opt := l.hosts[0].options()
	opt.Interval, opt.Multiplier, opt.Now = 50*ms, 3, func() time.Duration { return now }
	a := &agent{t: t}
	opt.Changed = a.changed
	loop := New(opt)
	l.hosts[0].in(func() error {
		w := newWorker(loop, -1)
		defer w.close()
		w.keys = []Key{keyOf(t, secretA)}
		w.meet(now, []Target{l.hosts[1].target()})
		send := func(sequence uint64) {
			m := Message{Node: "n2", Incarnation: 9, Echo: w.self.Incarnation, Sequence: sequence,
				Interval: 50 * ms, Floor: MinInterval, Multiplier: 3}
			l.hosts[1].inject(l.hosts[0], hops, encoded(t, m, w.keys[0]))
		}
		arrived := func(p *peer, n uint64) {
			eventually(t, "the hello", func() bool { w.due = 0; w.receive(now); return p.got.Load() >= n })
		}
		p := w.peers[0]
		send(1)
		arrived(p, 1)
		// 140 ms late in all, with a hello in the queue.
		now += 90 * ms
		w.tick(now)
		send(2)
		fds := []unix.PollFd{{Fd: int32(p.via.sock.fd), Events: unix.POLLIN}}
		if n, err := unix.Ppoll(fds, &unix.Timespec{Sec: 10}, nil); n != 1 || err != nil {
			t.Errorf("the hello did not come: %v", err)
		}
		now += 80 * ms
		w.turn(now, now-20*ms)
		if got := a.states("n2"); len(got) != 3 || got[2] != up {
			t.Errorf("states %v, want up, late, up", got)
		}
		// A sleep of ten seconds, with an empty queue.
		now += 10 * time.Second
		w.turn(now, now-9*time.Second)
		if p.det.State() != up || w.stalls.Load() != 1 {
			t.Errorf("after a sleep: %v, %d stalls", p.det.State(), w.stalls.Load())
		}
		now += 150 * ms
		w.turn(now, now)
		if p.det.State() != down {
			t.Errorf("a dead peer after a sleep: %v", p.det.State())
		}
		return nil
	})
}

// TestAnswersAtOnce: who hears a new run echoes it at once, and recorded runs do
// not make it chatter.
func TestAnswersAtOnce(t *testing.T) {
	opt := Options{Node: "n1", Interval: MaxInterval, Port: port, Now: boottime}
	now := time.Hour
	w := newWorker(New(opt), -1)
	w.keys = []Key{keyOf(t, secretA)}
	p := &peer{tally: &tally{target: Target{Node: "n2"}}, det: NewDetector(w.self), sent: now - ms, send: now + MaxInterval}
	hear := func(run uint64) {
		m := from(run, 0, 1)
		m.Node = "n2"
		_, _ = w.hear(now, p, encoded(t, m, w.keys[0]), hops)
	}
	hear(7)
	if p.send != now-ms+MinInterval || w.due > p.send {
		t.Errorf("a new run is echoed %v after the last hello", p.send-p.sent)
	}
	p.sent, p.send = now, now+MaxInterval
	hear(7)
	if p.send != now+MaxInterval {
		t.Error("a run known already is echoed at once")
	}
}

// TestSockaddr: both families.
func TestSockaddr(t *testing.T) {
	if to, ok := sockaddr(netip.MustParseAddrPort("10.0.0.1:7")).(*unix.SockaddrInet4); !ok || to.Addr != [4]byte{10, 0, 0, 1} || to.Port != 7 {
		t.Errorf("IPv4: %+v", to)
	}
	if to, ok := sockaddr(netip.MustParseAddrPort("[fd00::1]:7")).(*unix.SockaddrInet6); !ok || to.Addr[15] != 1 || to.Port != 7 {
		t.Errorf("IPv6: %+v", to)
	}
}
