package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"mooring.dev/mooring/manifests"
)

// cmdManifest prints what is embedded in the binary, so that an air-gapped site
// has the manifests that belong to the version it runs.
func cmdManifest(_ context.Context, args []string, out io.Writer) error {
	fs := flags("manifest", "prints one of "+strings.Join(manifests.Names(), ", "))
	image := fs.String("image", "", "the `IMAGE` to name in place of "+manifests.Image)
	if err := parse(fs, args, 1); err != nil {
		return err
	}
	text, err := manifests.Get(fs.Arg(0), *image)
	if err != nil {
		fs.Usage()
		return err
	}
	_, err = fmt.Fprint(out, text)
	return err
}
