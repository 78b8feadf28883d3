package config

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var updatePage = flag.Bool("update", false, "write docs/configuration.md anew")

const pagePath = "../../docs/configuration.md"

// pageHead stands before the table.
const pageHead = `# Configuration

The agent reads one file, ` + "`/etc/mooring/mooring.yaml`" + `; ` + "`mooring config check`" + ` checks it, an edit or
` + "`systemctl reload mooring`" + ` takes it over while the agent runs. A bad file is refused and the old one stays in force. The shortest
complete file, and one for a node without an API server:

    apiVersion: mooring.dev/v1alpha1             apiVersion: mooring.dev/v1alpha1
    kind: AgentConfig                            kind: AgentConfig
    kubeconfig: /etc/kubernetes/mooring.conf     kubeconfig: /etc/kubernetes/mooring.conf
    apiServer:                                   interface: eth0
      vips: [192.0.2.10]                         services: {enabled: true}

` + "`mooring manifest config --vip 192.0.2.10 --interface eth0`" + ` writes one. Durations have a unit: ` + "`500ms`, `7s`, `1m`" + `. An unknown
field is an error.

This table is made from ` + "`mooring config reference`" + `, which prints the same as a file
(` + "`go test ./internal/config -run Page -update`" + ` makes it anew).

| field | default | what |
|---|---|---|
`

// page renders the reference as a table.
func page(t *testing.T) string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(reference), &doc); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString(pageHead)
	rows(&out, doc.Content[0], "")
	return out.String()
}

// rows writes a row for each field, and one for a section's own comment.
func rows(out *strings.Builder, section *yaml.Node, prefix string) {
	for i := 0; i+1 < len(section.Content); i += 2 {
		key, value := section.Content[i], section.Content[i+1]
		path, text := prefix+key.Value, comment(key.HeadComment)
		if value.Kind == yaml.MappingNode {
			if text != "" {
				fmt.Fprintf(out, "| **%s** | | %s |\n", path, text)
			}
			rows(out, value, path+".")
			continue
		}
		def := standard(reflect.ValueOf(defaults()), path)
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", path, def, text)
	}
}

// comment is a comment as one line of Markdown.
func comment(c string) string {
	var words []string
	for line := range strings.SplitSeq(c, "\n") {
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "#"))...)
	}
	return strings.ReplaceAll(strings.Join(words, " "), "|", `\|`)
}

// standard is a field's default as the file would say it; nothing if there is none.
func standard(v reflect.Value, path string) string {
	for name := range strings.SplitSeq(path, ".") {
		if v.Kind() != reflect.Struct {
			return ""
		}
		var next reflect.Value
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("yaml") == name {
				next = v.Field(i)
			}
		}
		if !next.IsValid() {
			return "" // the head of the file
		}
		v = next
	}
	// False, 0 and empty are defaults, too; lists and addresses have none.
	switch text := fmt.Sprint(v.Interface()); {
	case v.Kind() == reflect.Slice, text == "":
		return ""
	default:
		return "`" + short(text) + "`"
	}
}

// short writes a duration as people do: 1m and 1h, not 1m0s and 1h0m0s.
func short(s string) string {
	if m, ok := strings.CutSuffix(s, "m0s"); ok {
		s = m + "m"
	}
	if h, ok := strings.CutSuffix(s, "h0m"); ok {
		s = h + "h"
	}
	return s
}

// TestPage: docs/configuration.md says what the code does.
func TestPage(t *testing.T) {
	want := page(t)
	if *updatePage {
		if err := os.WriteFile(pagePath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("go test ./internal/config -run Page -update:\n%s", diff)
	}
	for path := range sample() {
		if !strings.Contains(want, "| `"+path+"` |") {
			t.Errorf("the page lacks %s", path)
		}
	}
}
