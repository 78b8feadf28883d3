package lab

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Break is the end of a connection that should have lived on.
type Break struct {
	At    time.Time
	Class string // of the error, as in Report.Errors; "ended" for a regular end
}

// StreamReport is what a long-lived connection lived through.
type StreamReport struct {
	What       string
	Begin, End time.Time
	Messages   int   // events, echoes or pieces that arrived
	Bytes      int64 // of them
	Breaks     []Break
	Failed     int // attempts to open it again that failed
	// Silence is the longest time without a message, from the first message on,
	// and SilentFrom its begin: a connection that hangs does not break.
	Silence    time.Duration
	SilentFrom time.Time
	Complete   bool // everything that was asked for arrived on one connection
}

// String is one line for a test's log.
func (r StreamReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d messages, %d bytes in %s, %d breaks", r.What, r.Messages, r.Bytes,
		ms(r.End.Sub(r.Begin)), len(r.Breaks))
	for i, k := range r.Breaks {
		if i == 5 {
			b.WriteString(", …")
			break
		}
		fmt.Fprintf(&b, ", %s at +%s", k.Class, ms(k.At.Sub(r.Begin)))
	}
	if r.Failed > 0 {
		fmt.Fprintf(&b, ", %d times not opened", r.Failed)
	}
	fmt.Fprintf(&b, "; longest silence %s at +%s", ms(r.Silence), ms(r.SilentFrom.Sub(r.Begin)))
	return b.String()
}

// Stream is one long-lived connection, opened again when it breaks.
type Stream struct {
	// open connects and calls opened once, then got for each message, until the
	// connection ends: nil only if all that was asked for came.
	open func(ctx context.Context, opened func(), got func(bytes int)) error

	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once

	mu     sync.Mutex
	report StreamReport
	last   time.Time // of the last message
}

// reopenAfter is how long a stream waits before it opens its connection again.
const reopenAfter = 100 * time.Millisecond

// startStream returns when the first message has come: what is broken later was whole.
func (l *Lab) startStream(what string, open func(context.Context, func(), func(int)) error) *Stream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{open: open, cancel: cancel, ended: make(chan struct{})}
	s.report.What, s.report.Begin = what, time.Now()
	go s.run(ctx)
	l.onStop(func() { s.Stop() })
	l.Eventually(20*time.Second, "a first message on the "+what, func() bool { return s.Snapshot().Messages > 0 })
	return s
}

// run opens the connection until it was complete once or the stream is stopped.
func (s *Stream) run(ctx context.Context) {
	defer close(s.ended)
	for ctx.Err() == nil {
		isOpen := false
		err := s.open(ctx, func() { isOpen = true }, s.got)
		if ctx.Err() != nil {
			return
		}
		if s.note(isOpen, err) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopenAfter):
		}
	}
}

// note records how a connection ended and says whether that was the last.
func (s *Stream) note(isOpen bool, err error) (complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.report.Complete = len(s.report.Breaks) == 0
		return true
	case isOpen:
		s.report.Breaks = append(s.report.Breaks, Break{At: time.Now(), Class: class(err)})
	default:
		s.report.Failed++
	}
	return false
}

// got notes a message.
func (s *Stream) got(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.listen(now)
	s.last = now
	s.report.Messages++
	s.report.Bytes += int64(bytes)
}

// listen extends the longest silence; it wants mu held.
func (s *Stream) listen(now time.Time) {
	if !s.last.IsZero() && now.Sub(s.last) > s.report.Silence {
		s.report.Silence, s.report.SilentFrom = now.Sub(s.last), s.last
	}
}

// Done is closed when everything that was asked for has come; a watch never ends
// by itself.
func (s *Stream) Done() <-chan struct{} { return s.ended }

// Stop ends the stream and reports. Further calls return the same report.
func (s *Stream) Stop() StreamReport {
	s.once.Do(func() {
		select {
		case <-s.ended:
			s.close(s.last) // it was over: what came after is no silence
		default:
			s.close(time.Now())
		}
		s.cancel()
		<-s.ended
	})
	return s.Snapshot()
}

// close fixes the end.
func (s *Stream) close(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listen(at)
	s.report.End = at
}

// Snapshot reports so far.
func (s *Stream) Snapshot() StreamReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	r.Breaks = append([]Break(nil), r.Breaks...)
	if r.End.IsZero() {
		r.End = time.Now()
	}
	return r
}
