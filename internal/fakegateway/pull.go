package fakegateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// pulled is an image whose metadata is in the content store.
type pulled struct {
	root   digest.Digest
	config []byte
	layers []digest.Digest
	from   remote
}

// remote is where content comes from that the builder does not have.
type remote interface {
	// resolve returns the digest of the reference.
	resolve(ctx context.Context) (digest.Digest, error)
	// fetcher gets ready to fetch.
	fetcher(ctx context.Context)
	fetch(ctx context.Context, d digest.Digest) ([]byte, error)
}

// fromRegistry is util/resolver's pooled resolver.
type fromRegistry struct {
	b    *Builder
	ref  reference.Named
	mode string
}

func (r fromRegistry) resolve(ctx context.Context) (digest.Digest, error) {
	switch r.mode {
	case "", pb.AttrImageResolveModeDefault, pb.AttrImageResolveModeForcePull, pb.AttrImageResolveModePreferLocal:
	default:
		return "", fmt.Errorf("invalid resolvemode: %s", r.mode)
	}
	if r.mode == pb.AttrImageResolveModePreferLocal {
		if d, ok := r.b.stored(r.ref); ok {
			return d, nil
		}
	}
	d, err := r.b.Registry.head(ctx, r.ref)
	if err == nil {
		r.b.mu.Lock()
		r.b.warm[r.ref.Name()] = true
		r.b.mu.Unlock()
		return d, nil
	}
	if r.mode == "" || r.mode == pb.AttrImageResolveModeDefault {
		if d, ok := r.b.stored(r.ref); ok {
			return d, nil
		}
	}
	return "", err
}

// fetcher resolves where the pool is cold, and ignores what comes of it.
func (r fromRegistry) fetcher(ctx context.Context) {
	r.b.mu.Lock()
	warm := r.b.warm[r.ref.Name()]
	r.b.mu.Unlock()
	if !warm {
		_, _ = r.resolve(ctx)
	}
}

func (r fromRegistry) fetch(ctx context.Context, d digest.Digest) ([]byte, error) {
	return r.b.Registry.get(ctx, r.ref, d)
}

// stored looks a name up in the image store.
func (b *Builder) stored(ref reference.Named) (digest.Digest, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := ref
	if _, tagged := ref.(reference.Tagged); !tagged {
		name = reference.TagNameOnly(reference.TrimNamed(ref))
	} else if c, ok := ref.(reference.Canonical); ok {
		name, _ = reference.WithTag(reference.TrimNamed(ref), c.(reference.Tagged).Tag())
	}
	d, ok := b.images[name.String()]
	if c, pinned := ref.(reference.Canonical); pinned && c.Digest() != d {
		return "", false
	}
	return d, ok
}

// fromStore is a content store of the client's session.
type fromStore struct {
	ref   reference.Named
	blobs map[digest.Digest]*blob
}

func (r fromStore) resolve(context.Context) (digest.Digest, error) {
	c, ok := r.ref.(reference.Canonical)
	if !ok {
		return "", fmt.Errorf("reference %q must have digest", r.ref)
	}
	if _, ok := r.blobs[c.Digest()]; !ok {
		return "", fmt.Errorf("unable to get info about digest: %s: %w", c.Digest(), cerrdefs.ErrNotFound)
	}
	return c.Digest(), nil
}

func (r fromStore) fetcher(context.Context) {}

func (r fromStore) fetch(_ context.Context, d digest.Digest) ([]byte, error) {
	if bl, ok := r.blobs[d]; ok {
		return bl.data, nil
	}
	return nil, fmt.Errorf("content digest %s: %w", d, cerrdefs.ErrNotFound)
}

// pull brings manifest and config of a reference into the content store, as
// imageutil.Config and pull.PullManifests do.
func (b *Builder) pull(ctx context.Context, ref reference.Named, p ocispecs.Platform, from remote) (*pulled, error) {
	var root digest.Digest
	if c, ok := ref.(reference.Canonical); ok && b.holds(ref, c.Digest()) {
		root = c.Digest()
	} else {
		var err error
		if root, err = from.resolve(ctx); err != nil {
			return nil, err
		}
	}
	from.fetcher(ctx)
	m, err := b.manifest(ctx, ref, root, p, from)
	if err != nil {
		return nil, err
	}
	cfg, err := b.blob(ctx, ref, m.Config.Digest, from)
	if err != nil {
		return nil, err
	}
	img := &pulled{root: root, config: cfg, from: from}
	for _, l := range m.Layers {
		img.layers = append(img.layers, l.Digest)
	}
	return img, nil
}

// manifest returns the manifest of the best match for a platform.
func (b *Builder) manifest(ctx context.Context, ref reference.Named, root digest.Digest, p ocispecs.Platform, from remote) (*ocispecs.Manifest, error) {
	dt, err := b.blob(ctx, ref, root, from)
	if err != nil {
		return nil, err
	}
	var idx ocispecs.Index
	if err := json.Unmarshal(dt, &idx); err != nil {
		return nil, err
	}
	if idx.MediaType == ocispecs.MediaTypeImageIndex {
		want := platforms.Only(p)
		var best *ocispecs.Descriptor
		for _, d := range idx.Manifests {
			if want.Match(*d.Platform) && (best == nil || want.Less(*d.Platform, *best.Platform)) {
				best = &d
			}
		}
		if best == nil {
			return nil, fmt.Errorf("no match for platform in manifest %v: %w", root, cerrdefs.ErrNotFound)
		}
		if dt, err = b.blob(ctx, ref, best.Digest, from); err != nil {
			return nil, err
		}
	}
	m := &ocispecs.Manifest{}
	return m, json.Unmarshal(dt, m)
}

// holds reports whether a blob is in the content store and came from the
// repository of ref (util/contentutil.HasSource).
func (b *Builder) holds(ref reference.Named, d digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	st, ok := b.content[d]
	return ok && st.sources[ref.Name()]
}

// blob returns a blob from the content store, fetching it first where it is
// not there. Either way the repository becomes one of its sources.
func (b *Builder) blob(ctx context.Context, ref reference.Named, d digest.Digest, from remote) ([]byte, error) {
	b.mu.Lock()
	st, ok := b.content[d]
	b.mu.Unlock()
	if !ok {
		dt, err := from.fetch(ctx, d)
		if err != nil {
			return nil, err
		}
		st = &stored{data: dt, sources: map[string]bool{}}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if was, ok := b.content[d]; ok {
		st = was
	}
	b.content[d] = st
	st.sources[ref.Name()] = true
	return st.data, nil
}

// limit leaves the first layers only, see mainManifestKey in
// source/containerimage/pull.go.
func (img *pulled) limit(v string) error {
	if v == "" {
		return nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		return fmt.Errorf("invalid layer limit %s", v)
	}
	if n > len(img.layers) {
		return fmt.Errorf("layer limit %d is greater than the number of layers in the image %d", n, len(img.layers))
	}
	img.layers = img.layers[:n]
	return nil
}

// unlazy fetches the layers that the builder lacks.
func (b *Builder) unlazy(ctx context.Context, img *pulled) error {
	for _, l := range img.layers {
		b.mu.Lock()
		here := b.layers[l]
		b.mu.Unlock()
		if here {
			continue
		}
		if _, err := img.from.fetch(ctx, l); err != nil {
			return fmt.Errorf("failed to prepare extraction snapshot: %w", err)
		}
		b.mu.Lock()
		b.layers[l] = true
		b.mu.Unlock()
	}
	return nil
}

// remote returns where the content of a source op comes from.
func (s *Session) remote(src *pb.SourceOp, mode string) (reference.Named, remote, error) {
	scheme, name, _ := cutScheme(src.Identifier)
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, nil, err
	}
	if scheme == "docker-image" {
		return ref, fromRegistry{s.builder, ref, mode}, nil
	}
	session := src.Attrs[pb.AttrOCILayoutSessionID]
	if session != "" && session != s.id {
		return nil, nil, fmt.Errorf("no active session for %s: %w", session, context.DeadlineExceeded)
	}
	var blobs map[digest.Digest]*blob
	if img, ok := s.build.Stores[src.Attrs[pb.AttrOCILayoutStoreID]]; ok {
		_, blobs = img.build()
	}
	return ref, fromStore{ref, blobs}, nil
}

// checksum is the check of image.checksum.
func (img *pulled) checksum(ref reference.Named, want string) error {
	if want != "" && want != img.root.String() {
		return fmt.Errorf("image digest %s for %s does not match expected checksum %s", img.root, ref, want)
	}
	return nil
}

var errOpaque = errors.New("fakegateway: the files of this result are not modelled")
