package haproxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxLog bounds HAProxy's log file; when it is longer it becomes
// haproxy.log.1 and starts anew.
const maxLog = 1 << 20

// writeAtomic replaces a file so that readers see the old or the new content
// and never a part, also after a crash.
func writeAtomic(name string, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("haproxy: %s cannot be written: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(content)
	// The directory is usually a tmpfs; on a disk the order of data and name
	// matters.
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("haproxy: %s cannot be written: %w", name, err)
	}
	return nil
}

// writeChanged is writeAtomic unless the file has the content already.
func writeChanged(name, content string) error {
	if have, err := os.ReadFile(name); err == nil && string(have) == content {
		return nil
	}
	return writeAtomic(name, content)
}

// filesDigest is a digest of the contents of all files the checks refer to. A
// missing one is an error, since HAProxy would refuse to start.
func filesDigest(c Config) (string, error) {
	var names []string
	for _, f := range c.Frontends {
		names = append(names, f.Check.CAFile)
		if f.Check.ClientPEM != "" {
			names = append(names, f.Check.ClientPEM)
		}
	}
	slices.Sort(names)
	sum := sha256.New()
	for _, name := range slices.Compact(names) {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("haproxy: a certificate file for health checks cannot be read: %w", err)
		}
		one := sha256.Sum256(content)
		sum.Write(one[:])
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// boundLog keeps the log file below maxLog. HAProxy has it open for appending,
// so cutting it to nothing is safe at any time; a line written in between
// copying and cutting is lost.
func boundLog(name string) error {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() <= maxLog {
		return err
	}
	tail, err := readFrom(name, info.Size()-maxLog)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(name+".1", tail, 0o600), os.Truncate(name, 0))
}

// readFrom reads at most maxLog bytes of a file from an offset on.
func readFrom(name string, offset int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, maxLog)
	n, err := f.ReadAt(buf, offset)
	if n > 0 {
		err = nil
	}
	return buf[:n], err
}
