package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"mooring.dev/mooring/election"
)

func term3() election.Record {
	return election.Record{Holder: "n1", Transitions: 3, Cause: election.CauseMove, From: "n2", UID: "u", Version: "42"}
}

// TestDisk: the stories of a file that survives restarts and boots.
func TestDisk(t *testing.T) {
	d := Disk{Path: filepath.Join(t.TempDir(), "not", "there", "yet", "state.json"), Boot: "this"}
	if r, known, same, err := d.Load(); known || same || err != nil || r != (election.Record{}) {
		t.Errorf("missing: %v, known %t, same boot %t, %v", r, known, same, err)
	}
	for range 2 { // it is idempotent
		if err := d.Save(term3()); err != nil {
			t.Fatal(err)
		}
	}
	if r, known, same, err := d.Load(); !known || !same || err != nil || r != term3() {
		t.Errorf("saved: %+v, known %t, same boot %t, %v", r, known, same, err)
	}
	other := Disk{Path: d.Path, Boot: "next"}
	if r, known, same, err := other.Load(); !known || same || err != nil || r != term3() {
		t.Errorf("after a boot: %+v, known %t, same boot %t, %v", r, known, same, err)
	}
	st, err := os.Stat(d.Path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestDiskGarbage: what holds no record is set aside, said once and kept for
// whoever wants to look.
func TestDiskGarbage(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "cut off": `{"boot":"this","record":{"hol`, "zeroes": "\x00\x00\x00", "null": "null",
		"a list": "[]", "no record": `{"boot":"this"}`, "no holder": `{"boot":"this","record":{"transitions":3}}`,
		"another type": `{"boot":"this","record":{"holder":7}}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := Disk{Path: filepath.Join(t.TempDir(), "state.json"), Boot: "this"}
			if err := os.WriteFile(d.Path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, known, same, err := d.Load()
			if known || same || err == nil || !strings.Contains(err.Error(), d.Path) || strings.Contains(err.Error(), "<nil>") {
				t.Errorf("known %t, same boot %t, error %v", known, same, err)
			}
			if kept, err := os.ReadFile(d.Path + ".bad"); err != nil || string(kept) != text {
				t.Errorf("set aside: %q, %v", kept, err)
			}
			if _, known, _, err := d.Load(); known || err != nil {
				t.Errorf("again: known %t, %v; want as if missing", known, err)
			}
			if err := d.Save(term3()); err != nil {
				t.Errorf("save after garbage: %v", err)
			}
		})
	}
}

// TestDiskRefuses: a place that cannot be written or read is an error with its
// path, and loses nothing.
func TestDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := Disk{Path: filepath.Join(file, "state.json")}
	if err := d.Save(term3()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("save below a file: %v", err)
	}
	if _, known, _, err := d.Load(); known || err == nil {
		t.Errorf("load below a file: known %t, %v", known, err)
	}
	d = Disk{Path: dir}
	if _, known, _, err := d.Load(); known || err == nil {
		t.Errorf("load of a directory: known %t, %v", known, err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("a directory was set aside: %v", err)
	}
}

// TestDiskIsAtomic: a reader sees a whole record, whatever a writer does.
func TestDiskIsAtomic(t *testing.T) {
	d := Disk{Path: filepath.Join(t.TempDir(), "state.json"), Boot: "this"}
	long, short := term3(), term3()
	long.UID = strings.Repeat("u", 4000)
	if err := d.Save(short); err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 300 {
			if err := d.Save(long); err != nil {
				t.Error(err)
			}
			if err := d.Save(short); err != nil {
				t.Error(err)
			}
		}
	})
	defer writer.Wait()
	for range 600 {
		r, known, _, err := d.Load()
		if err != nil || !known || r != long && r != short {
			t.Fatalf("torn: known %t, %v", known, err)
		}
	}
}

// TestBootID: the kernel's, the same at each look.
func TestBootID(t *testing.T) {
	id := BootID()
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) || id != BootID() {
		t.Errorf("boot id %q", id)
	}
}
