package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"time"
)

// The media types of OCI's image format; layers are not compressed, the bundle is.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// object is JSON, whose keys encoding/json sorts.
type object = map[string]any

// image is what one archive holds.
type image struct {
	// name is REPOSITORY:TAG, with a host, so that no program adds one.
	name, version, arch string
	created             time.Time
	layers              []tree
}

// write writes an archive that is an OCI layout and a Docker archive at once:
// containerd and k0s read the former, docker load and k3s either.
func (m image) write(w io.Writer) error {
	out := make(tree)
	var layers, diffs []any
	var paths []string
	for _, l := range m.layers {
		var buf bytes.Buffer
		if err := l.write(&buf, m.created); err != nil {
			return err
		}
		d := out.blob(typeLayer, buf.Bytes())
		layers, diffs = append(layers, d), append(diffs, d["digest"])
		paths = append(paths, blobPath(d))
	}
	config := out.json(typeConfig, m.config(diffs))
	manifest := out.json(typeManifest, object{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers,
	})
	// containerd takes the first annotation for the name, others the second.
	_, tag, _ := strings.Cut(m.name[strings.LastIndex(m.name, "/")+1:], ":")
	manifest["annotations"] = object{"io.containerd.image.name": m.name, "org.opencontainers.image.ref.name": tag}
	manifest["platform"] = object{"architecture": m.arch, "os": "linux"}
	for name, v := range map[string]any{
		"oci-layout": object{"imageLayoutVersion": "1.0.0"},
		"index.json": object{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []any{manifest}},
		"manifest.json": []any{object{
			"Config": blobPath(config), "RepoTags": []string{m.name}, "Layers": paths,
		}},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		out.put(name, 0o644, data)
	}
	return out.write(w, m.created)
}

// config says how the image is run. root, because capabilities of other users are
// lost at exec; the pod drops all but four.
func (m image) config(diffs []any) object {
	at := m.created.UTC().Format(time.RFC3339)
	history := make([]any, len(diffs))
	for i := range history {
		history[i] = object{"created": at, "created_by": "mooring build"}
	}
	return object{
		"architecture": m.arch, "os": "linux", "created": at, "history": history,
		"rootfs": object{"type": "layers", "diff_ids": diffs},
		"config": object{
			"User": "0:0", "WorkingDir": "/",
			"Env":        []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin"},
			"Entrypoint": []string{"/usr/local/bin/mooring"},
			"Cmd":        []string{"agent", "--config", "/etc/mooring/mooring.yaml"},
			"Labels": object{
				"org.opencontainers.image.title":    "mooring",
				"org.opencontainers.image.version":  m.version,
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
	}
}

// json adds a blob; what is marshalled here cannot fail.
func (t tree) json(kind string, v any) object {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return t.blob(kind, data)
}

// blob adds content under its digest and returns OCI's descriptor.
func (t tree) blob(kind string, data []byte) object {
	sum := sha256.Sum256(data)
	d := object{"mediaType": kind, "size": len(data), "digest": "sha256:" + hex.EncodeToString(sum[:])}
	t.put(blobPath(d), 0o644, data)
	return d
}

// blobPath is where a layout keeps what a descriptor names.
func blobPath(d object) string {
	return "blobs/sha256/" + strings.TrimPrefix(d["digest"].(string), "sha256:")
}
