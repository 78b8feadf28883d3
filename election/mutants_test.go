package election

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var (
	withMutants = flag.Bool("mutants", false, "TestMutants: break the machine in known ways, the simulation must notice")
	mutantRuns  = flag.Int("mutantruns", 4000, "random runs for each mutant")
	mutantOnly  = flag.String("mutant", "", "TestMutants: only the one of this name")
)

// mutant is one mistake, made by some edits.
type mutant struct {
	name  string
	edits []edit
}

// edit is a snippet of a file and what takes its place.
type edit struct{ file, old, new string }

// caught is what a soak says of the first seed that fails.
var caught = regexp.MustCompile(`seed (\d+): (\w+): ([^\n]*)`)

// errNotCaught: the soak of a mutant found nothing.
var errNotCaught = errors.New("not caught")

// TestMutants shows that the simulation can fail: every mutant of the machine is
// compiled from an overlay, so that the code itself never holds one, and has to
// break an invariant within some thousand seeds.
func TestMutants(t *testing.T) {
	if !*withMutants {
		t.Skip("takes minutes: -mutants, or make mutants")
	}
	if how, err := (mutant{name: "none"}).try(t.TempDir()); !errors.Is(err, errNotCaught) {
		t.Fatalf("the machine as it is fails too, so nothing is shown: %s %v", how, err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	found, total := 0, 0
	free := make(chan struct{}, 2)
	for _, m := range mutants {
		if *mutantOnly != "" && m.name != *mutantOnly {
			continue
		}
		total++
		dir := t.TempDir()
		all.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			how, err := m.try(dir)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				return
			}
			found++
			fmt.Printf("%-28s caught by %s\n", m.name, how)
		})
	}
	all.Wait()
	fmt.Printf("%d of %d mutants caught\n", found, total)
}

// try compiles the package with the mutant and soaks it. It returns the invariant
// that broke first.
func (m mutant) try(dir string) (how string, err error) {
	bin, err := m.compile(dir)
	if err != nil {
		return "", err
	}
	out, err := exec.Command(bin, "-test.run", "^TestSoak$", "-soak", fmt.Sprint(*mutantRuns), "-failures", "1").CombinedOutput()
	hit := caught.FindStringSubmatch(string(out))
	switch {
	case err == nil:
		return "", fmt.Errorf("%w in %d runs: an invariant is missing, or the line is not needed", errNotCaught, *mutantRuns)
	case hit == nil:
		return "", fmt.Errorf("the soak ended otherwise: %v\n%.2000s", err, out)
	}
	return fmt.Sprintf("%s, seed %s: %s", hit[2], hit[1], hit[3]), nil
}

// compile builds the tests of this package with the edited files in the place of
// the true ones.
func (m mutant) compile(dir string) (bin string, err error) {
	code, replace := map[string]string{}, map[string]string{}
	for _, e := range m.edits {
		path, err := filepath.Abs(e.file)
		if err != nil {
			return "", err
		}
		if code[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			code[path], replace[path] = string(text), filepath.Join(dir, e.file)
		}
		if n := strings.Count(code[path], e.old); n != 1 {
			return "", fmt.Errorf("does not apply: %s has this %d times, write the mutant anew:\n%s", e.file, n, e.old)
		}
		code[path] = strings.Replace(code[path], e.old, e.new, 1)
	}
	for path, text := range code {
		if err := os.WriteFile(replace[path], []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	overlay := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, text, 0o644); err != nil {
		return "", err
	}
	bin = filepath.Join(dir, "mutant.test")
	out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", bin, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("does not compile: %v\n%s", err, out)
	}
	return bin, nil
}
