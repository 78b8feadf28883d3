package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// raw is the file as written: text and line of every field, nothing judged.
// Its tags are the only names that exist.
type raw struct {
	APIVersion text         `yaml:"apiVersion"`
	Kind       text         `yaml:"kind"`
	Kubeconfig text         `yaml:"kubeconfig"`
	Interface  text         `yaml:"interface"`
	Node       text         `yaml:"node"`
	Namespace  text         `yaml:"namespace"`
	RunDir     text         `yaml:"runDir"`
	StateDir   text         `yaml:"stateDir"`
	Log        rawLog       `yaml:"log"`
	Metrics    rawMetrics   `yaml:"metrics"`
	APIServer  rawAPIServer `yaml:"apiServer"`
	Lease      rawLease     `yaml:"lease"`
	Fence      rawFence     `yaml:"fence"`
	Hello      rawHello     `yaml:"hello"`
	Moves      rawMoves     `yaml:"moves"`
	Priority   text         `yaml:"priority"`
	Witnesses  texts        `yaml:"witnesses"`
	Peers      rawPeers     `yaml:"peers"`
	Announce   rawAnnounce  `yaml:"announce"`
	Services   rawServices  `yaml:"services"`
}

type rawLog struct {
	Format text `yaml:"format"`
	Level  text `yaml:"level"`
}

type rawMetrics struct {
	Bind text `yaml:"bind"`
}

type rawAPIServer struct {
	VIPs               texts    `yaml:"vips"`
	Port               text     `yaml:"port"`
	ProxyPort          text     `yaml:"proxyPort"`
	Balance            text     `yaml:"balance"`
	Servers            texts    `yaml:"servers"`
	Check              rawCheck `yaml:"check"`
	MaxConnections     text     `yaml:"maxConnections"`
	AllowOutsideSubnet text     `yaml:"allowOutsideSubnet"`
}

type rawCheck struct {
	Path              text `yaml:"path"`
	ClientCertificate text `yaml:"clientCertificate"`
}

type rawLease struct {
	Duration text `yaml:"duration"`
	Renew    text `yaml:"renew"`
}

type rawFence struct {
	ValidLifetime text `yaml:"validLifetime"`
}

type rawHello struct {
	Interval   text `yaml:"interval"`
	Multiplier text `yaml:"multiplier"`
	Port       text `yaml:"port"`
	KeyFile    text `yaml:"keyFile"`
}

type rawMoves struct {
	DrainTimeout text `yaml:"drainTimeout"`
	Preempt      text `yaml:"preempt"`
	PreemptDelay text `yaml:"preemptDelay"`
}

type rawAnnounce struct {
	Rate    text `yaml:"rate"`
	Refresh text `yaml:"refresh"`
}

type rawServices struct {
	Enabled         text  `yaml:"enabled"`
	Class           text  `yaml:"class"`
	AcceptedClasses texts `yaml:"acceptedClasses"`
	MaxConnections  text  `yaml:"maxConnections"`
	PeersPort       text  `yaml:"peersPort"`
}

// text is one value as written. path is empty when the field is absent.
type text struct {
	path  string
	line  int
	value string
}

// given says that the field is in the file with a value.
func (t text) given() bool { return t.path != "" }

// texts is a list of values. path is empty when the field is absent.
type texts struct {
	path  string
	line  int
	items []text
}

// rawPeers is a list of mappings. Without tags it is a leaf like texts.
type rawPeers struct {
	path  string
	line  int
	items []rawPeer
}

// rawPeer is one of them. What has no tag stands last: a tag's place among the
// tags is its field's place.
type rawPeer struct {
	Node    text `yaml:"node"`
	Address text `yaml:"address"`
	MAC     text `yaml:"mac"`

	path string
	line int
}

// problems collects everything that is wrong with a file.
type problems struct {
	file string
	list []problem
}

// problem is one line of the error; line is 0 when no line is to blame.
type problem struct {
	line int
	text string
}

// add notes a problem at a line (0: none in particular) with a field ("":
// the file as a whole).
func (p *problems) add(line int, path, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if path != "" {
		msg = path + ": " + msg
	}
	p.list = append(p.list, problem{line, msg})
}

// at notes a problem of a value.
func (p *problems) at(t text, format string, args ...any) { p.add(t.line, t.path, format, args...) }

// missing notes a required field that is not there, unless something was
// already said about it.
func (p *problems) missing(path, format string, args ...any) {
	for _, q := range p.list {
		if strings.HasPrefix(q.text, path) {
			return
		}
	}
	p.add(0, path, "is missing; "+format, args...)
}

// err joins the problems in the order of the file.
// The sort is stable, so that a line's own problems keep the order of checks.
func (p *problems) err() error {
	slices.SortStableFunc(p.list, func(a, b problem) int { return a.line - b.line })
	var errs []error
	for _, q := range p.list {
		where := p.file
		if q.line > 0 {
			where = fmt.Sprintf("%s:%d", p.file, q.line)
		}
		errs = append(errs, errors.New(where+": "+q.text))
	}
	return errors.Join(errs...)
}

// names returns the tags of a struct's fields, in order.
func names(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "" {
			out = append(out, tag)
		}
	}
	return out
}

// paths returns the dotted path of every leaf below a struct type. A struct
// without tagged fields is a leaf.
func paths(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		switch {
		case tag == "":
		case f.Type.Kind() == reflect.Struct && len(names(f.Type)) > 0:
			out = append(out, paths(f.Type, prefix+tag+".")...)
		default:
			out = append(out, prefix+tag)
		}
	}
	return out
}

// suggest returns " (did you mean …?)" for an unknown name below prefix, or
// the list of what is known there.
func suggest(name, prefix string, known []string) string {
	// The right name in the wrong section is the likelier slip: sections are
	// easily lost when a snippet is pasted.
	for _, path := range paths(reflect.TypeFor[raw](), "") {
		last := path[strings.LastIndex(path, ".")+1:]
		if strings.EqualFold(last, name) && path != prefix+name {
			return fmt.Sprintf("did you mean %s?", path)
		}
	}
	best, distance := "", 1+max(2, len(name)/3)
	for _, k := range known {
		if d := lb.EditDistance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", prefix+best)
	}
	return "known here: " + strings.Join(known, ", ")
}
