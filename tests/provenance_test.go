package tests

import (
	"encoding/json"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/in-toto/in-toto-golang/in_toto"

	"github.com/org/localfront/internal/testengine"
)

// materials returns the URIs of the materials in the provenance of an exported
// image.
func materials(t *testing.T, export *testengine.OCIExport) []string {
	t.Helper()
	var uris []string
	for _, statement := range statements(t, export) {
		uris = append(uris, materialURIs(t, statement)...)
	}
	return uris
}

// statements returns the attestations of an exported image.
func statements(t *testing.T, export *testengine.OCIExport) [][]byte {
	t.Helper()
	dir := layout.Path(export.Layout(t))
	top, err := dir.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	idx, err := top.ImageIndex(export.Descriptor(t).Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for _, d := range m.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			continue
		}
		img, err := idx.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		mf, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range mf.Layers {
			dt, err := dir.Bytes(l.Digest)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, dt)
		}
	}
	return all
}

// materialURIs reads an in-toto statement with SLSA provenance, v0.2 or v1.
func materialURIs(t *testing.T, statement []byte) []string {
	t.Helper()
	var st struct {
		in_toto.StatementHeader
		Predicate struct {
			Materials       []struct{ URI string }
			BuildDefinition struct {
				ResolvedDependencies []struct{ URI string }
			}
		}
	}
	if err := json.Unmarshal(statement, &st); err != nil {
		t.Fatal(err)
	}
	var uris []string
	for _, m := range append(st.Predicate.Materials, st.Predicate.BuildDefinition.ResolvedDependencies...) {
		uris = append(uris, m.URI)
	}
	return uris
}
