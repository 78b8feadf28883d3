package vip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mooring.dev/mooring/internal/lb"
)

// bootFile is the kernel's name for this boot (proc_sys_kernel(5)).
const bootFile = "/proc/sys/kernel/random/boot_id"

// stateFile is the book on disk. Instants mean nothing in another boot, and the
// kernel's rules and addresses are gone then.
type stateFile struct {
	Boot string `json:"boot"`
	book
}

// loadBook reads the book of this boot. A file of another boot is an empty book;
// so is a missing one, and none at all (path ""). One that cannot be read is an
// error beside an empty book.
func loadBook(path string, now lb.Instant) (book, error) {
	if path == "" {
		return book{}, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return book{}, nil
	}
	var s stateFile
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return book{}, fmt.Errorf("read what hand-overs left: %v: established connections may end; delete %s if it stays", err, path)
	}
	if s.Boot != bootID() {
		return book{}, nil
	}
	return s.settle(now), nil
}

// saveBook replaces the file at once, so that a reader sees the old or the new
// one. It is not synced to disk: /run is memory.
func saveBook(path string, b book) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(stateFile{bootID(), b}, "", " ")
	if err != nil {
		return fmt.Errorf("keep what hand-overs left: %v", err)
	}
	next := path + ".next"
	err = os.WriteFile(next, append(data, '\n'), 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.WriteFile(next, append(data, '\n'), 0o600)
		}
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return fmt.Errorf("keep what hand-overs left: %v: make %s writable, or a restarted agent ends established connections",
			err, filepath.Dir(path))
	}
	return nil
}

// bootID names this boot; "" where the kernel does not say.
func bootID() string {
	b, err := os.ReadFile(bootFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
