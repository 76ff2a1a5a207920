package fakegateway

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image says what an image is. Equal ones have equal digests.
type Image struct {
	// Platforms are those of its index, linux/amd64 if empty.
	Platforms []string
	// Layers is the number of layers, 1 if 0, none if negative.
	Layers int
	// Flat leaves the index out. Only the first platform counts then.
	Flat bool
	// Env and OnBuild are part of its config.
	Env     []string
	OnBuild []string
	// Content is what tells it from other images.
	Content string
}

type blobKind string

const (
	index    blobKind = "index"
	manifest blobKind = "manifest"
	config   blobKind = "config"
	layer    blobKind = "layer"
)

// blob is a piece of an image in a registry.
type blob struct {
	data []byte
	kind blobKind
	what string // kind and platform
}

// build returns the image's digest and its blobs.
func (img Image) build() (digest.Digest, map[digest.Digest]*blob) {
	blobs := map[digest.Digest]*blob{}
	put := func(kind blobKind, platform string, data []byte) ocispecs.Descriptor {
		d := digest.FromBytes(data)
		what := string(kind)
		if platform != "" {
			what += " " + platform
		}
		blobs[d] = &blob{data: data, kind: kind, what: what}
		return ocispecs.Descriptor{Digest: d, Size: int64(len(data))}
	}
	if len(img.Platforms) == 0 {
		img.Platforms = []string{"linux/amd64"}
	}
	if img.Layers == 0 {
		img.Layers = 1
	}
	idx := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex}
	for _, name := range img.Platforms {
		p := platforms.MustParse(name)
		cfg := dockerspec.DockerOCIImage{}
		cfg.Platform = p
		cfg.Config.Env = append([]string{"PATH=/bin"}, img.Env...)
		cfg.Config.OnBuild = img.OnBuild
		cfg.RootFS.Type = "layers"
		m := ocispecs.Manifest{Versioned: idx.Versioned, MediaType: ocispecs.MediaTypeImageManifest}
		for i := range img.Layers {
			desc := put(layer, name, fmt.Appendf(nil, "layer %d of %q for %s", i, img.Content, name))
			desc.MediaType = ocispecs.MediaTypeImageLayerGzip
			m.Layers = append(m.Layers, desc)
			cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromString("diff of "+desc.Digest.String()))
			cfg.History = append(cfg.History, ocispecs.History{CreatedBy: "a layer"})
		}
		m.Config = put(config, name, marshal(cfg))
		m.Config.MediaType = ocispecs.MediaTypeImageConfig
		desc := put(manifest, name, marshal(m))
		if img.Flat {
			return desc.Digest, blobs
		}
		desc.MediaType = m.MediaType
		desc.Platform = &p
		idx.Manifests = append(idx.Manifests, desc)
	}
	return put(index, "", marshal(idx)).Digest, blobs
}

func marshal(v any) []byte {
	dt, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return dt
}
