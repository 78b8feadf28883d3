package check

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/check.md anew")

// TestDocs: the table of docs/check.md is the list of the code.
func TestDocs(t *testing.T) {
	const file, head = "../../docs/check.md", "| check | what it looks at | why it matters |\n|---|---|---|\n"
	var b strings.Builder
	for _, c := range All() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Name, c.Looks, c.Why)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(data), head)
	if !found {
		t.Fatalf("%s has no table that begins with\n%s", file, head)
	}
	table, rest, _ := strings.Cut(after, "\n\n")
	if table+"\n" == b.String() {
		return
	}
	if !*update {
		t.Fatalf("%s differs from the code; run go test ./internal/check -run TestDocs -update", file)
	}
	if err := os.WriteFile(file, []byte(before+head+b.String()+"\n"+rest), 0o644); err != nil {
		t.Fatal(err)
	}
}
