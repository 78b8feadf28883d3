package main

import (
	"context"
	"fmt"
	"io"

	"mooring.dev/mooring/internal/config"
)

// cmdConfig works without an agent: a file can be checked before it is rolled
// out, and on a machine that is no node.
func cmdConfig(_ context.Context, args []string, out io.Writer) error {
	fs := flags("config", "check FILE, or print a minimal or the reference file")
	if err := parse(fs, args, 2); err != nil {
		return err
	}
	switch fs.Arg(0) {
	case "minimal":
		_, err := fmt.Fprint(out, config.Minimal())
		return err
	case "reference":
		_, err := fmt.Fprint(out, config.Reference())
		return err
	case "check":
		path := fs.Arg(1)
		if path == "" {
			path = defaultConfig
		}
		if _, err := config.Load(path); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "%s: good\n", path)
		return err
	default:
		fs.Usage()
		return errUsage
	}
}
