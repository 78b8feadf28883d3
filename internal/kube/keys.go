package kube

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

const (
	// currentKey is the entry of the Secret whose key signs.
	currentKey = "current"
	// maxKeys is how many keys are passed on: each costs time at every datagram
	// that fits none.
	maxKeys = 8
	// minKey and maxKey bound the text of one key, in bytes.
	minKey = 16
	maxKey = 1024
	// newKey is the entropy of a key made here, in bytes, as much as the hash has
	// that it is used with.
	newKey = 32
)

// KeysOptions is what NewKeys needs.
type KeysOptions struct {
	// Namespace and Name are the Secret's.
	Namespace, Name string
	// Changed gets the keys at every change, one a line: the entry "current"
	// first, then all others in the order of their names. The text is never
	// empty. Calls do not overlap.
	Changed func(text string)
	Log     *slog.Logger
}

// Keys follows the Secret with the keys that agents sign their hellos with. To
// rotate: add an entry "next", wait, swap the values of "current" and "next",
// wait, remove "next".
type Keys struct {
	o      KeysOptions
	client coreclient.SecretInterface
	// text and entries are in force; only Run's goroutine uses what follows.
	text    string
	entries map[string][]byte
	pause   time.Duration
}

// NewKeys prepares; it connects to nothing.
func NewKeys(config *rest.Config, o KeysOptions) (*Keys, error) {
	c, err := coreclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for Secrets: %w", err)
	}
	return &Keys{o: o, client: c.Secrets(o.Namespace)}, nil
}

// Run follows until ctx is done and returns nil. A Secret that is missing is
// made: with a new random key, or, when it was deleted, with the keys in force,
// so that a slip ends no hello. While the API is away, or refuses, the last keys
// stay in force.
func (k *Keys) Run(ctx context.Context) error {
	// By name, which is all that the agents' Role allows.
	name := fields.OneTermEqualSelector(metav1.ObjectNameField, k.o.Name).String()
	f := &follow{
		what: "Secret " + k.o.Namespace + "/" + k.o.Name, log: k.o.Log, client: k.client, example: &corev1.Secret{},
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = name
			return k.client.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = name
			return k.client.Watch(ctx, o)
		},
	}
	return f.run(ctx, k.pass)
}

// pass takes the Secret as it is, or makes it; a positive time is when to try
// that again.
func (k *Keys) pass(ctx context.Context, objects []any) time.Duration {
	for _, o := range objects {
		if s, ok := o.(*corev1.Secret); ok && s.Name == k.o.Name {
			k.pause = 0
			k.take(s)
			return 0
		}
	}
	s, err := k.create(ctx)
	if err == nil {
		k.pause = 0
		k.take(s)
		return 0
	}
	if k.pause == 0 && ctx.Err() == nil {
		k.o.Log.Warn("Secret with the hello keys not made; trying again", "namespace", k.o.Namespace,
			"name", k.o.Name, "error", wayOut(err))
	}
	// No jitter, as for Events: of several agents one succeeds and all see it.
	k.pause = min(max(2*k.pause, backoffFirst), backoffLast)
	return k.pause
}

// wayOut adds to an error what to do about a Secret that cannot be made.
func wayOut(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w; make the namespace: mooring manifest namespace | kubectl apply -f -", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; give the agents their rights: mooring manifest rbac | kubectl apply -f -, "+
			"or set hello.keyFile", err)
	default:
		return err
	}
}

// create makes the Secret, or reads the one that another agent has made first.
func (k *Keys) create(ctx context.Context) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	data, which := k.entries, "those in force"
	if len(data) == 0 {
		which = "a new one"
		random := make([]byte, newKey)
		_, _ = rand.Read(random) // never fails (crypto/rand)
		data = map[string][]byte{currentKey: []byte(base64.StdEncoding.EncodeToString(random))}
	}
	s, err := k.client.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: k.o.Name, Namespace: k.o.Namespace, Labels: map[string]string{"app.kubernetes.io/name": "mooring"},
		},
		Type: corev1.SecretTypeOpaque, Data: data,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return k.client.Get(ctx, k.o.Name, metav1.GetOptions{})
	}
	if err == nil {
		k.o.Log.Info("made the Secret with the hello keys", "namespace", k.o.Namespace, "name", k.o.Name, "keys", which)
	}
	return s, err
}

// take hands the keys on if they are others than those in force. A Secret
// without any usable key changes nothing.
func (k *Keys) take(s *corev1.Secret) {
	text, entries := k.read(s.Data)
	switch {
	case text == "":
		k.o.Log.Warn("the Secret with the hello keys has no usable key; keeping those in force",
			"namespace", k.o.Namespace, "name", k.o.Name, "want", currentKey+": the output of head -c 32 /dev/urandom | base64")
	case text != k.text:
		k.text, k.entries = text, entries
		k.o.Changed(text)
	}
}

// read puts the entries in order, one a line, and leaves out those that are no
// keys.
func (k *Keys) read(data map[string][]byte) (string, map[string][]byte) {
	names := slices.Sorted(maps.Keys(data))
	if i := slices.Index(names, currentKey); i >= 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, currentKey)
	}
	var lines []string
	good := make(map[string][]byte)
	for _, name := range names {
		// What an entry holds is never logged: it may be a key after all.
		text := strings.TrimSpace(string(data[name]))
		why := unfit(text)
		if why == "" && len(lines) == maxKeys {
			why = fmt.Sprintf("is one more than the %d that are used; remove old ones", maxKeys)
		}
		if why != "" {
			k.o.Log.Warn("entry of the Secret with the hello keys is not used", "entry", name, "why", why)
			continue
		}
		lines = append(lines, text)
		good[name] = []byte(text)
	}
	return strings.Join(lines, "\n"), good
}

// unfit says why a text is no key, "" if it is one.
func unfit(text string) string {
	control := func(r rune) bool { return unicode.IsControl(r) }
	switch {
	case len(text) < minKey || len(text) > maxKey:
		return fmt.Sprintf("has %d bytes; a key has %d to %d", len(text), minKey, maxKey)
	// Bytes as they come from a generator would end a line, or begin a comment.
	case !utf8.ValidString(text) || strings.ContainsFunc(text, control):
		return "is not one line of text; put it through base64 once more"
	case strings.HasPrefix(text, "#"):
		return "begins with #, which makes it a comment"
	}
	return ""
}
