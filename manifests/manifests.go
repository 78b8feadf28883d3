package manifests

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Image is the image named in the manifests; a release replaces it by its own.
const Image = "mooring:dev"

//go:embed *.yaml *.service *.json
var files embed.FS

// Names returns the names of the files, sorted.
func Names() []string {
	list, err := fs.Glob(files, "*")
	if err != nil {
		panic(err) // the pattern is constant
	}
	slices.Sort(list)
	return list
}

// Get returns a file by its name, with or without extension, with image in
// place of Image unless it is empty. The error lists the names there are.
func Get(name, image string) (string, error) {
	for _, n := range Names() {
		base := n[:strings.LastIndex(n, ".")]
		if n != name && base != name {
			continue
		}
		data, err := files.ReadFile(n)
		if err != nil {
			return "", err
		}
		text := string(data)
		if image != "" {
			text = strings.ReplaceAll(text, "image: "+Image+"\n", "image: "+image+"\n")
		}
		return text, nil
	}
	return "", fmt.Errorf("there is no manifest %q; there are %s", name, strings.Join(Names(), ", "))
}
