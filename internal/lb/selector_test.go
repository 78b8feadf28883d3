package lb

import (
	"strings"
	"testing"
)

// TestSelectorMatches: as metav1.LabelSelector does.
func TestSelectorMatches(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "", "example.com/zone": "z1"}
	need := func(key, operator string, values ...string) Selector {
		return Selector{Requirements: []Requirement{{Key: key, Operator: operator, Values: values}}}
	}
	for _, s := range []struct {
		name     string
		selector Selector
		want     bool
	}{
		{"the zero value chooses everything", Selector{}, true},
		{"a label", Selector{Labels: map[string]string{"app": "web"}}, true},
		{"another value", Selector{Labels: map[string]string{"app": "db"}}, false},
		{"an absent key is not an empty value", Selector{Labels: map[string]string{"none": ""}}, false},
		{"an empty value", Selector{Labels: map[string]string{"tier": ""}}, true},
		{"every label", Selector{Labels: map[string]string{"app": "web", "tier": "x"}}, false},
		{"In", need("app", "In", "db", "web"), true},
		{"In, another value", need("app", "In", "db"), false},
		{"In, absent", need("none", "In", ""), false},
		{"NotIn", need("app", "NotIn", "db"), true},
		{"NotIn, listed", need("app", "NotIn", "db", "web"), false},
		{"NotIn, absent", need("none", "NotIn", "db"), true},
		{"Exists", need("tier", "Exists"), true},
		{"Exists, absent", need("none", "Exists"), false},
		{"DoesNotExist", need("none", "DoesNotExist"), true},
		{"DoesNotExist, there", need("tier", "DoesNotExist"), false},
		{"an unknown operator chooses nothing", need("app", "in", "web"), false},
		{"no operator", need("app", ""), false},
		{"labels and requirements", Selector{Labels: map[string]string{"app": "web"},
			Requirements: []Requirement{{Key: "tier", Operator: "DoesNotExist"}}}, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			if got := s.selector.Matches(labels); got != s.want {
				t.Errorf("got %t", got)
			}
		})
	}
	if !need("app", "DoesNotExist").Matches(nil) || !(Selector{}).Matches(nil) || need("app", "Exists").Matches(nil) {
		t.Error("no labels at all are not as an empty set")
	}
}

// TestSelectorValid: what Kubernetes would refuse is refused, and the error says
// where and what to write.
func TestSelectorValid(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, s := range []struct {
		name     string
		selector Selector
		want     string
	}{
		{"the zero value", Selector{}, ""},
		{"all sorts", Selector{Labels: map[string]string{"a": "", "example.com/a_b.c-D": "X.y-z_0", long[:63]: long[:63]},
			Requirements: []Requirement{{"a", "In", []string{"b", ""}}, {"a", "NotIn", []string{"c"}}, {"b", "Exists", nil},
				{"c", "DoesNotExist", nil}}}, ""},
		{"no key", Selector{Labels: map[string]string{"": "x"}}, `"" is no label key`},
		{"a long key", Selector{Labels: map[string]string{long: "x"}}, `no label key`},
		{"a bad prefix", Selector{Labels: map[string]string{"Example.com/a": "x"}}, `"Example.com/a" is no label key`},
		{"an empty prefix", Selector{Labels: map[string]string{"/a": "x"}}, `"/a" is no label key`},
		{"a long prefix", Selector{Labels: map[string]string{strings.Repeat("x", 254) + "/a": ""}}, `no label key`},
		{"two slashes", Selector{Labels: map[string]string{"a/b/c": "x"}}, `"a/b/c" is no label key`},
		{"a bad value", Selector{Labels: map[string]string{"a": "-x"}}, `label a: "-x" is no label value`},
		{"a newline", Selector{Labels: map[string]string{"a": "x\n"}}, `label a: "x\n" is no label value`},
		{"a long value", Selector{Labels: map[string]string{"a": long}}, `no label value`},
		{"In without values", Selector{Requirements: []Requirement{{"a", "In", nil}}}, "operator In needs values"},
		{"NotIn without values", Selector{Requirements: []Requirement{{"a", "NotIn", nil}}}, "operator NotIn needs values"},
		{"Exists with values", Selector{Requirements: []Requirement{{"a", "Exists", []string{"b"}}}}, "takes no values"},
		{"an unknown operator", Selector{Requirements: []Requirement{{"a", "Gt", []string{"b"}}}},
			`operator "Gt" is not known; use In`},
		{"a requirement's key", Selector{Requirements: []Requirement{{"a b", "Exists", nil}}}, `"a b" is no label key`},
		{"a requirement's value", Selector{Requirements: []Requirement{{"a", "In", []string{"ok", "n ok"}}}},
			`key a: "n ok" is no label value`},
	} {
		t.Run(s.name, func(t *testing.T) {
			err := s.selector.Valid()
			switch {
			case s.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case s.want != "" && (err == nil || !strings.Contains(err.Error(), s.want)):
				t.Errorf("got %v, want %q in it", err, s.want)
			case err != nil && (len(err.Error()) > 300 || strings.Contains(err.Error(), "\n")):
				t.Errorf("not one short line: %q", err)
			}
		})
	}
}

// FuzzSelector: NotIn is the opposite of In, DoesNotExist of Exists, for labels
// that have the key; a label is In with one value.
func FuzzSelector(f *testing.F) {
	f.Add("app", "web", "app", "db")
	f.Add("app", "web", "app", "web")
	f.Add("", "\x00", "a/b", "\n")
	f.Fuzz(func(t *testing.T, has, as, key, value string) {
		labels := map[string]string{has: as}
		is := func(operator string, values ...string) bool {
			return Selector{Requirements: []Requirement{{key, operator, values}}}.Matches(labels)
		}
		if is("In", value) == is("NotIn", value) || is("Exists") == is("DoesNotExist") {
			t.Errorf("%q of %v: an operator and its opposite agree", key, labels)
		}
		if (Selector{Labels: map[string]string{key: value}}).Matches(labels) != is("In", value) {
			t.Errorf("%q of %v is not In %q", key, labels, value)
		}
		if err := (Selector{Labels: map[string]string{key: value}}).Valid(); err != nil && strings.Contains(err.Error(),
			"\n") {
			t.Errorf("not one line: %q", err)
		}
	})
}
