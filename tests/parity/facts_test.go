package parity

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// recordImage turns an exported OCI layout into facts: index, manifests and
// configs by their bytes, layers by their digests.
func recordImage(r *run, st *stage, tell func(string) string) error {
	r.facts["image index.json"] = string(r.image["index.json"])
	var top ocispecs.Index
	if err := json.Unmarshal(r.image["index.json"], &top); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	for i, desc := range top.Manifests {
		if err := recordManifest(r, st, tell, fmt.Sprintf("image %d", i), desc); err != nil {
			return err
		}
	}
	return nil
}

func blob(r *run, desc ocispecs.Descriptor) []byte {
	return r.image["blobs/"+strings.Replace(desc.Digest.String(), ":", "/", 1)]
}

func recordManifest(r *run, st *stage, tell func(string) string, title string, desc ocispecs.Descriptor) error {
	data := blob(r, desc)
	if desc.MediaType == ocispecs.MediaTypeImageIndex {
		r.facts[title+" index"] = string(data)
		var idx ocispecs.Index
		if err := json.Unmarshal(data, &idx); err != nil {
			return fmt.Errorf("%s: %w", title, err)
		}
		for i, m := range idx.Manifests {
			if err := recordManifest(r, st, tell, fmt.Sprintf("%s.%d", title, i), m); err != nil {
				return err
			}
		}
		return nil
	}
	var m ocispecs.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	if desc.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
		for i, layer := range m.Layers {
			text, err := maskPredicate(blob(r, layer), tell)
			if err != nil {
				return err
			}
			r.facts[fmt.Sprintf("%s attestation %d", title, i)] = text
		}
		return nil
	}
	r.facts[title+" manifest"] = string(data)
	r.facts[title+" config"] = string(blob(r, m.Config))
	if st.has("no-epoch") {
		r.facts[title+" config"] = stamps.ReplaceAllString(digests.ReplaceAllString(r.facts[title+" config"], "DIGEST"), "TIME")
	}
	var layers []string
	for _, layer := range m.Layers {
		layers = append(layers, fmt.Sprintf("%s %d %s", layer.Digest, layer.Size, layer.MediaType))
	}
	r.facts[title+" layers"] = strings.Join(layers, "\n")
	return nil
}

// listLayers names every entry of every layer, to explain a differing digest.
func listLayers(r *run) string {
	var b strings.Builder
	for _, name := range sortedKeys(r.image) {
		z, err := gzip.NewReader(bytes.NewReader(r.image[name]))
		if err != nil {
			continue // a manifest or config
		}
		fmt.Fprintf(&b, "%s\n", name)
		for tr := tar.NewReader(z); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			data, _ := io.ReadAll(tr)
			fmt.Fprintf(&b, "  %o %d:%d %d %s %s %s %v\n", h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Name, h.Linkname,
				sha256Of(data)[:15], h.PAXRecords)
		}
	}
	return b.String()
}
