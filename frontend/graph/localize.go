package graph

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	imageScheme  = srctypes.DockerImageScheme + "://"
	layoutScheme = srctypes.OCIScheme + "://"
)

// Image is an image that a definition takes from a registry.
type Image struct {
	// Ref is the normalised reference, by digest or by tag.
	Ref reference.Named
	// Platform is the normalised platform.
	Platform ocispecs.Platform
	// Mounted is true where a step runs on the image or copies from it, so
	// that its layers are on the builder once the step has run.
	Mounted bool
}

// Images returns the images that def takes from a registry, in its order.
func Images(def *pb.Definition) ([]Image, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	mounted := map[string]bool{}
	for _, v := range vs {
		if v.op.GetExec() != nil || v.op.GetFile() != nil {
			for _, in := range v.op.GetInputs() {
				mounted[in.Digest] = true
			}
		}
	}
	var images []Image
	for _, v := range vs {
		img, ok := imageOf(v.op)
		if !ok {
			continue
		}
		img.Mounted = mounted[v.digest]
		images = append(images, img)
	}
	return images, nil
}

// imageOf returns the image that op takes from a registry.
func imageOf(op *pb.Op) (Image, bool) {
	name, ok := strings.CutPrefix(op.GetSource().GetIdentifier(), imageScheme)
	if !ok {
		return Image{}, false
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return Image{}, false
	}
	p := platforms.DefaultSpec()
	if op.GetPlatform() != nil {
		p = op.GetPlatform().Spec()
	}
	return Image{Ref: reference.TagNameOnly(ref), Platform: platforms.Normalize(p)}, true
}

// Store names a content store of a client's session.
type Store struct {
	SessionID string
	ID        string
}

// Localize returns def with every image for which local returns a reference
// taken by that reference from store instead of a registry. BuildKit looks into its own content store first
// and gives both forms one cache key (source/containerimage/pull.go), so with
// a store that holds nothing the image comes from the builder, and a registry
// is out of reach.
//
// Each form that was replaced is kept beside the graph, where nothing depends
// on it: the daemon evaluates source policies on every source op of a
// definition, so that a rule about the image still denies the build.
//
// Where there is nothing to replace, def itself is returned. An error of local
// is returned with the places in the Dockerfile that the image comes from.
func Localize(def *pb.Definition, store Store, local func(Image) (reference.Canonical, error)) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	var replaced []*pb.Op
	for _, v := range vs {
		img, ok := imageOf(v.op)
		if !ok {
			continue
		}
		ref, err := local(img)
		if err != nil {
			return nil, locate(def, v.digest, err)
		}
		if ref == nil || !convertible(v.op.GetSource().GetAttrs(), ref) {
			continue
		}
		replaced = append(replaced, v.op.CloneVT())
		src := v.op.GetSource()
		src.Identifier = layoutScheme + ref.String()
		attrs := map[string]string{
			pb.AttrOCILayoutSessionID: store.SessionID,
			pb.AttrOCILayoutStoreID:   store.ID,
		}
		if limit, ok := src.Attrs[pb.AttrImageLayerLimit]; ok {
			attrs[pb.AttrOCILayoutLayerLimit] = limit
		}
		src.Attrs = attrs
		v.meta = withCap(v.meta, string(pb.CapSourceOCILayout))
	}
	if len(replaced) == 0 {
		return def, nil
	}
	return assemble(def, vs, replaced)
}

// convertible reports whether an image with attrs means the same when it is
// taken from a store as ref: the mode of resolving and the type of the record
// say nothing of the content, a checksum says what ref says, all else might
// differ.
func convertible(attrs map[string]string, ref reference.Canonical) bool {
	for k, v := range attrs {
		switch k {
		case pb.AttrImageResolveMode, pb.AttrImageRecordType, pb.AttrImageLayerLimit:
		case pb.AttrImageChecksum:
			if v != ref.Digest().String() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Globalize undoes Localize in a definition that comes from another build:
// that build's session may be gone.
func Globalize(def *pb.Definition, storeID string) (*pb.Definition, error) {
	vs, err := parse(def)
	if err != nil {
		return nil, err
	}
	changed := false
	for _, v := range vs {
		src := v.op.GetSource()
		name, ok := strings.CutPrefix(src.GetIdentifier(), layoutScheme)
		if !ok || src.Attrs[pb.AttrOCILayoutStoreID] != storeID {
			continue
		}
		changed = true
		src.Identifier = imageScheme + name
		limit, limited := src.Attrs[pb.AttrOCILayoutLayerLimit]
		src.Attrs = nil
		if limited {
			src.Attrs = map[string]string{pb.AttrImageLayerLimit: limit}
		}
		v.meta = withCap(v.meta, string(pb.CapSourceImage))
		if limited {
			v.meta.Caps[string(pb.CapSourceImageLayerLimit)] = true
		}
	}
	if !changed {
		return def, nil
	}
	return assemble(def, slices.DeleteFunc(vs, apart(vs)), nil)
}

// apart returns a function that is true for the source ops of vs that no other
// vertex uses, save the last, which is the result.
func apart(vs []*vertex) func(*vertex) bool {
	used := map[string]bool{}
	for _, v := range vs {
		for _, in := range v.op.GetInputs() {
			used[in.Digest] = true
		}
	}
	return func(v *vertex) bool {
		return v.op.GetSource() != nil && !used[v.digest] && v != vs[len(vs)-1]
	}
}

// withCap returns meta with the capabilities of an image source replaced by c.
func withCap(meta *pb.OpMetadata, c string) *pb.OpMetadata {
	if meta == nil {
		meta = &pb.OpMetadata{}
	}
	meta = meta.CloneVT()
	caps := maps.Clone(meta.Caps)
	if caps == nil {
		caps = map[string]bool{}
	}
	for k := range caps {
		if k == string(pb.CapSourceImage) || strings.HasPrefix(k, string(pb.CapSourceImage)+".") || k == string(pb.CapSourceOCILayout) {
			delete(caps, k)
		}
	}
	caps[c] = true
	meta.Caps = caps
	return meta
}
