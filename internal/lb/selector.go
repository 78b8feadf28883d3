package lb

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The operators of a Requirement (metav1.LabelSelectorOperator).
const (
	opIn           = "In"
	opNotIn        = "NotIn"
	opExists       = "Exists"
	opDoesNotExist = "DoesNotExist"
)

// Matches says whether the selector chooses an object with these labels. A
// requirement whose operator is not known chooses nothing: what is not understood
// must not widen who may have an address.
func (s Selector) Matches(labels map[string]string) bool {
	for key, want := range s.Labels {
		if has, ok := labels[key]; !ok || has != want {
			return false
		}
	}
	for _, r := range s.Requirements {
		if !r.holds(labels) {
			return false
		}
	}
	return true
}

// holds says whether the labels meet the requirement. As in Kubernetes, NotIn
// holds for an object without the key.
func (r Requirement) holds(labels map[string]string) bool {
	has, ok := labels[r.Key]
	switch r.Operator {
	case opIn:
		return ok && slices.Contains(r.Values, has)
	case opNotIn:
		return !ok || !slices.Contains(r.Values, has)
	case opExists:
		return ok
	case opDoesNotExist:
		return !ok
	}
	return false
}

// Valid says what is wrong with the selector, as Kubernetes would: an unknown
// operator, values missing or too many, or a key or value that no label can have.
func (s Selector) Valid() error {
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		if err := validKey(key); err != nil {
			return err
		}
		if err := validValue(s.Labels[key]); err != nil {
			return fmt.Errorf("label %s: %w", key, err)
		}
	}
	for _, r := range s.Requirements {
		if err := r.valid(); err != nil {
			return err
		}
	}
	return nil
}

// valid is Valid of one requirement.
func (r Requirement) valid() error {
	if err := validKey(r.Key); err != nil {
		return err
	}
	switch r.Operator {
	case opIn, opNotIn:
		if len(r.Values) == 0 {
			return fmt.Errorf("key %s: operator %s needs values; list at least one", r.Key, r.Operator)
		}
	case opExists, opDoesNotExist:
		if len(r.Values) > 0 {
			return fmt.Errorf("key %s: operator %s takes no values; remove them", r.Key, r.Operator)
		}
	default:
		return fmt.Errorf("key %s: operator %s is not known; use In, NotIn, Exists or DoesNotExist", r.Key, cut(r.Operator))
	}
	for _, v := range r.Values {
		if err := validValue(v); err != nil {
			return fmt.Errorf("key %s: %w", r.Key, err)
		}
	}
	return nil
}

// Names and values of labels, and the prefix of a name (RFC 1123 subdomain).
var (
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// validKey checks "name" or "prefix/name".
func validKey(key string) error {
	prefix, name, both := strings.Cut(key, "/")
	if !both {
		prefix, name = "", key
	}
	const longest = 253
	if !labelName.MatchString(name) || both && (len(prefix) > longest || !labelPrefix.MatchString(prefix)) {
		return fmt.Errorf("%s is no label key; write name or prefix/name, the name of at most 63 letters, digits, '-', '_', '.'",
			cut(key))
	}
	return nil
}

// validValue checks a label's value, which may be empty.
func validValue(v string) error {
	if v != "" && !labelName.MatchString(v) {
		return fmt.Errorf("%s is no label value; use at most 63 letters, digits, '-', '_', '.'", cut(v))
	}
	return nil
}

// cut quotes a user's text on one line, shortened.
func cut(text string) string {
	const longest = 63
	if len(text) > longest {
		return fmt.Sprintf("%q…", text[:longest])
	}
	return fmt.Sprintf("%q", text)
}
