package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mooring.dev/mooring/election"
)

// Disk keeps the last record in a file, written atomically.
type Disk struct {
	// Path of the file, for example /var/lib/mooring/state.json.
	Path string
	// Boot tells this boot of the machine from others.
	Boot string
}

type saved struct {
	Boot   string          `json:"boot"`
	Record election.Record `json:"record"`
}

// Save replaces the file. It is idempotent.
func (d Disk) Save(r election.Record) error {
	data, err := json.MarshalIndent(saved{Boot: d.Boot, Record: r}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o755); err != nil {
		return err
	}
	next := d.Path + ".next"
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, d.Path)
}

// Load returns the record and whether it was saved since this boot. A file
// that is missing is no error; one that cannot be read is, and is set aside.
func (d Disk) Load() (r election.Record, known, sameBoot bool, err error) {
	data, err := os.ReadFile(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, false, nil
	}
	if err != nil {
		return r, false, false, err
	}
	var s saved
	err = json.Unmarshal(data, &s)
	if err == nil && s.Record.Holder == "" {
		err = errors.New("it names no holder")
	}
	if err != nil {
		_ = os.Rename(d.Path, d.Path+".bad")
		return r, false, false, fmt.Errorf("%s held no record and was set aside as .bad (%v)", d.Path, err)
	}
	return s.Record, true, s.Boot == d.Boot, nil
}

// BootID reads the kernel's identity of this boot (random(4), boot_id).
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
