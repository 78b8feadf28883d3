package kube

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"

	"mooring.dev/mooring/api/v1alpha1"
	"mooring.dev/mooring/internal/lb"
)

const (
	// controllerName is the Event's reportingController.
	controllerName = "mooring.dev/agent"
	// maxNotes is how many different notes wait while the API is away, unless
	// ReporterOptions.Room says otherwise.
	maxNotes = 64
	// maxSeries bounds what is remembered in order to count repetitions: four times
	// as many as may wait.
	maxSeries = 4 * maxNotes
	// maxNote is the API's limit for the note in bytes, maxReason for the
	// reason and the instance (events.k8s.io/v1 Event).
	maxNote   = 1024
	maxReason = 128
	// writeWait bounds one write.
	writeWait = 5 * time.Second
	// backoffFirst and backoffLast bound the pause after a failed write.
	backoffFirst = time.Second
	backoffLast  = time.Minute
	// seriesEvery is the pace at which a repeated note is counted up in the
	// API, seriesEnd the silence after which it is a new Event again.
	seriesEvery = 30 * time.Second
	seriesEnd   = 6 * time.Minute
)

// NoteType is the type of an Event.
type NoteType string

// The types Kubernetes knows.
const (
	Normal  = NoteType(corev1.EventTypeNormal)
	Warning = NoteType(corev1.EventTypeWarning)
)

// About is the object that an Event is about.
type About struct {
	APIVersion, Kind string
	// Namespace is empty for cluster-scoped objects.
	Namespace, Name, UID string
}

// AboutService is a Service, by its name and UID.
func AboutService(key lb.ServiceKey, uid string) About {
	namespace, name, _ := strings.Cut(string(key), "/")
	return About{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name, UID: uid}
}

// AboutPool is an AddressPool, by its name and UID.
func AboutPool(name, uid string) About {
	return About{APIVersion: v1alpha1.GroupVersion.String(), Kind: "AddressPool", Name: name, UID: uid}
}

// Note is something to tell as an Event.
type Note struct {
	// About is what it is about; the zero value is this node.
	About About
	Type  NoteType
	// Reason is one CamelCase word that machines look for, at most 128 bytes.
	Reason string
	// Message is for people, cut at 1024 bytes.
	Message string
}

// ReporterOptions is what NewReporter needs.
type ReporterOptions struct {
	// Node is the name of this node, which Events are about unless a Note says
	// otherwise.
	Node string
	// Room is how many different notes wait while the API is away; 0 is 64.
	Room int
	// Now is the time of day.
	Now func() time.Time
	Log *slog.Logger
}

// Reporter writes Events. Repeated notes become one Event with a count.
type Reporter struct {
	o      ReporterOptions
	client eventsclient.EventsGetter
	wake   chan struct{}

	mu sync.Mutex
	// series are the notes reported lately; waiting lists, oldest first,
	// those with something to write.
	series  map[Note]*series
	waiting []*series
}

// series is a note and how often it was reported.
type series struct {
	note        Note
	name        string
	first, last time.Time
	count       int32 // reported
	told        int32 // of count, written to the API
	wrote       time.Time
	queued      bool
}

// NewReporter prepares; it connects to nothing.
func NewReporter(config *rest.Config, o ReporterOptions) (*Reporter, error) {
	c, err := eventsclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for Events: %w", err)
	}
	if o.Room == 0 {
		o.Room = maxNotes
	}
	return &Reporter{
		o: o, client: c,
		wake: make(chan struct{}, 1), series: make(map[Note]*series),
	}, nil
}

// Report takes a note. It never blocks: of too many different notes the oldest
// are dropped.
func (r *Reporter) Report(n Note) {
	n.Message = clip(n.Message, maxNote)
	n.Reason = clip(n.Reason, maxReason)
	now := r.o.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.series[n]
	if s == nil || now.Sub(s.last) > seriesEnd && s.told == s.count {
		s = &series{note: n, first: now}
		s.name = eventName(r.o.Node, n, now)
		r.shrink()
		r.series[n] = s
	}
	s.last = now
	s.count++
	if s.queued {
		return // it is counted when its turn comes
	}
	s.queued = true
	r.waiting = append(r.waiting, s)
	if len(r.waiting) > r.o.Room {
		r.forget(r.waiting[0])
		r.waiting = r.waiting[1:]
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// shrink makes room: it forgets what is written, so that a flood of different
// notes costs no more than repetitions not being counted. r.mu is held.
func (r *Reporter) shrink() {
	if len(r.series) < maxSeries/maxNotes*r.o.Room {
		return
	}
	for _, s := range r.series {
		if !s.queued {
			r.forget(s)
		}
	}
}

// forget drops a series. r.mu is held.
func (r *Reporter) forget(s *series) {
	if r.series[s.note] == s {
		delete(r.series, s.note)
	}
}

// Run writes what is reported until ctx is done and returns nil. What is not
// written then is lost: Events are for people who look now.
func (r *Reporter) Run(ctx context.Context) error {
	// No jitter: one Event of each agent is no stampede, and a source of
	// randomness would have to be passed in.
	pause := backoffFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		next, err := r.writeDue(ctx)
		if err != nil {
			r.o.Log.Debug("Event not written", "error", err, "again", pause)
			if !sleep(ctx, pause) {
				return nil
			}
			pause = min(2*pause, backoffLast)
			next = 0
		} else {
			pause = backoffFirst
		}
		timer.Stop()
		if next >= 0 {
			timer.Reset(next)
		}
	}
}

// sleep waits and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// writeDue writes everything that is due and returns the time until the next
// is, negative if nothing waits. It ends at the first failure worth a retry.
func (r *Reporter) writeDue(ctx context.Context) (time.Duration, error) {
	for {
		s, work, next := r.take()
		if s == nil {
			return next, nil
		}
		err := r.write(ctx, work)
		if permanent(err) {
			r.o.Log.Warn("Event refused", "reason", s.note.Reason, "error", err)
			err = nil
		}
		if err != nil {
			return 0, err
		}
		r.wrote(s, work.count)
	}
}

// take returns the first series that is due, with a copy of it as it is now.
func (r *Reporter) take() (s *series, work series, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	// The first occurrence is told at once, repetitions are gathered.
	next = -1
	for _, s := range r.waiting {
		wait := s.wrote.Add(seriesEvery).Sub(now)
		if s.told == 0 || wait <= 0 {
			return s, *s, 0
		}
		if next < 0 || wait < next {
			next = wait
		}
	}
	return nil, series{}, next
}

// wrote notes that the API knows of count occurrences.
func (r *Reporter) wrote(s *series, count int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	s.told, s.wrote = count, now
	if s.count > count {
		return // reported again meanwhile: due later
	}
	s.queued = false
	for i, w := range r.waiting {
		if w == s {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			break
		}
	}
	// Here and not by a timer: at rest nothing runs.
	for _, old := range r.series {
		if !old.queued && now.Sub(old.last) > seriesEnd {
			r.forget(old)
		}
	}
}

// write creates the Event, or counts it up.
func (r *Reporter) write(ctx context.Context, s series) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	client := r.client.Events(s.note.About.home())
	if s.told > 0 {
		patch := fmt.Sprintf(`{"series":{"count":%d,"lastObservedTime":%q}}`,
			s.count, s.last.UTC().Format(metav1.RFC3339Micro))
		_, err := client.Patch(ctx, s.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		// The API server forgets Events (--event-ttl, 1 h): tell it anew.
	}
	_, err := client.Create(ctx, r.event(s), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier answer got lost
	}
	return err
}

// home is the namespace of an Event: its object's, and default for a
// cluster-scoped one (events.k8s.io/v1 validation).
func (a About) home() string {
	if a.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return a.Namespace
}

// event is the Event of a series. kubectl describe node looks for Events whose
// regarding.uid is the name of the Node.
func (r *Reporter) event(s series) *eventsv1.Event {
	about := s.note.About
	if about == (About{}) {
		about = About{APIVersion: "v1", Kind: "Node", Name: r.o.Node, UID: r.o.Node}
	}
	e := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: s.name, Namespace: about.home()},
		EventTime:           metav1.NewMicroTime(s.first),
		ReportingController: controllerName,
		ReportingInstance:   clip(r.o.Node, maxReason),
		Action:              s.note.Reason,
		Reason:              s.note.Reason,
		Regarding: corev1.ObjectReference{
			APIVersion: about.APIVersion, Kind: about.Kind, Namespace: about.Namespace, Name: about.Name,
			UID: types.UID(about.UID),
		},
		Note: s.note.Message,
		Type: string(s.note.Type),
	}
	if s.count > 1 {
		e.Series = &eventsv1.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}
	}
	return e
}

// permanent says that the API server understood and refused: writing the same
// again cannot help. Missing rights (403) may be granted later, but an Event
// then is no news.
func permanent(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusUnauthorized
}

// eventName is unique per node, note and start of the series, and a valid
// DNS-1123 subdomain because the node's name is one.
func eventName(node string, n Note, at time.Time) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%d", n.Type, n.Reason, n.Message, at.UnixNano())
	if n.About != (About{}) {
		// Both: two nodes may say the same about one object.
		fmt.Fprintf(h, "\x00%v\x00%s", n.About, node)
		node = n.About.Name
	}
	// 253 bytes are allowed, 17 are ours.
	return strings.TrimRight(clip(node, 230), ".-") + fmt.Sprintf(".%016x", h.Sum64())
}

// clip cuts text at a limit in bytes, not within a character.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
